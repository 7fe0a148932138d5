//! Every span, metric and attribute name, declared once. Dashboards, alerts and code name nothing else; `cargo xtask
//! tidy` checks it.
//!
//! Attributes of the OpenTelemetry conventions carry their conventional names (1.42); ours begin with `keyferry.`. A
//! metric's labels are bounded sets: an identifier of a TD, key or token is a span attribute and never a label.

/// The name of a span attribute or metric label. Only this module can make one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attribute(pub(crate) &'static str);

impl Attribute {
    /// The name as exported.
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

/// The name of an INTERNAL span: one step inside a service. Only this module can make one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpanName(pub(crate) &'static str);

impl SpanName {
    /// The name as exported.
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

macro_rules! declare {
    ($type:ident, $all:ident, $($(#[doc = $doc:literal])+ $name:ident = $text:literal;)+) => {
        $($(#[doc = $doc])+ pub const $name: $type = $type($text);)+
        /// Every declared name of this kind.
        pub const $all: &[$type] = &[$($name),+];
    };
}

declare! { SpanName, STEPS,
    /// One attestation as the attester sees it: nonce, quote, token.
    ATTEST = "attest";
    /// The platform makes a quote.
    QUOTE = "quote";
    /// The verifier checks a quote against collateral.
    VERIFY_QUOTE = "verify_quote";
    /// The verifier appraises a verified quote by its policy.
    APPRAISE = "appraise";
    /// The verifier signs an attestation token.
    SIGN_TOKEN = "sign_token";
    /// The relying party authenticates an attestation token.
    VERIFY_TOKEN = "verify_token";
    /// The relying party evaluates a key transfer policy.
    EVALUATE_POLICY = "evaluate_policy";
    /// The key is wrapped for the TD.
    WRAP_KEY = "wrap_key";
    /// The decision is recorded in the audit stream and acknowledged.
    RECORD_AUDIT = "record_audit";
    /// The TD unwraps a released key.
    UNWRAP_KEY = "unwrap_key";
    /// A model is loaded from an encrypted file: key, decryption, runtime.
    LOAD_MODEL = "load_model";
    /// A model file is decrypted into locked memory.
    DECRYPT_MODEL = "decrypt_model";
    /// A loaded model computes a prediction.
    INFER = "infer";
    /// An RSA key pair is generated in the TD.
    GENERATE_KEY_PAIR = "generate_key_pair";
    /// Collateral is fetched or refreshed.
    FETCH_COLLATERAL = "fetch_collateral";
}

declare! { Attribute, ATTRIBUTES,
    /// `released`, `denied` or `error`. A denial is good service and no error span.
    DECISION = "keyferry.decision";
    /// Why something was refused: the contract's closed set of reasons.
    REASON = "keyferry.reason";
    /// `passport` or `background_check`.
    MODE = "keyferry.mode";
    /// The step of a job a duration belongs to.
    STEP = "keyferry.step";
    /// `accepted`, `rejected` or `error`.
    APPRAISAL_RESULT = "keyferry.appraisal.result";
    /// The TCB status of a platform.
    TCB_STATUS = "keyferry.tcb.status";
    /// Which verifier appraised: `dcap` or `ita`.
    VERIFIER = "keyferry.verifier";
    /// `intel-sgx-root` or `simulator:<fingerprint>`; spans only.
    TRUST_ANCHOR = "keyferry.trust_anchor";
    /// A TD's public identity; spans and logs only.
    TD_ID = "keyferry.td.id";
    /// A key's identifier; spans and logs only.
    KEY_ID = "keyferry.key.id";
    /// A key transfer policy's identifier; spans only.
    POLICY_ID = "keyferry.policy.id";
    /// A key transfer policy's version; spans only.
    POLICY_VERSION = "keyferry.policy.version";
    /// A token's identifier (`jti`), never the token; spans only.
    TOKEN_ID = "keyferry.token.id";
    /// One attestation's identifier; spans only.
    ATTESTATION_ID = "keyferry.attestation.id";
    /// The key management back end: `dev`, `kmip` or `vault`.
    KMS_BACKEND = "keyferry.kms.backend";
    /// `get`, `create`, `locate`, `destroy`, `health`.
    KMS_OPERATION = "keyferry.kms.operation";
    /// The result of a check with a bounded set of outcomes.
    RESULT = "keyferry.result";
    /// `attested`, `due`, `stale`, `rejected` or `revoked`.
    TD_STATE = "keyferry.td.state";
    /// A stream of the bus.
    STREAM = "keyferry.stream";
    /// What a gauge about an expiry is about.
    KIND = "keyferry.kind";
    /// The id a caller gave its request, or was given; spans only.
    REQUEST_ID = "keyferry.request.id";
    /// A trace id that a caller claimed and we did not adopt.
    REMOTE_TRACE_ID = "keyferry.remote.trace_id";
    /// A model's name; spans only.
    MODEL_NAME = "keyferry.model.name";
    /// A model's media type.
    MODEL_MEDIA_TYPE = "keyferry.model.media_type";
    /// Bytes handled by a step.
    SIZE_BYTES = "keyferry.size_bytes";
    /// A cryptographic algorithm's name.
    ALGORITHM = "keyferry.algorithm";
    /// A low-cardinality class of failure.
    ERROR_TYPE = "error.type";
    /// The rpc system: `grpc` or `nats`.
    RPC_SYSTEM = "rpc.system.name";
    /// Fully qualified method without a leading slash.
    RPC_METHOD = "rpc.method";
    /// A gRPC status as its name, e.g. `PERMISSION_DENIED`.
    RPC_STATUS = "rpc.response.status_code";
    /// Host, or path of a Unix socket, of the server.
    SERVER_ADDRESS = "server.address";
    /// Port of the server.
    SERVER_PORT = "server.port";
    /// `tcp` or `unix`.
    NETWORK_TRANSPORT = "network.transport";
    /// Application protocol below a client span, e.g. `kmip`.
    NETWORK_PROTOCOL = "network.protocol.name";
    /// An HTTP method of the standard set, or `_OTHER`.
    HTTP_METHOD = "http.request.method";
    /// The matched route with placeholders.
    HTTP_ROUTE = "http.route";
    /// The HTTP status.
    HTTP_STATUS = "http.response.status_code";
    /// `http` or `https`.
    URL_SCHEME = "url.scheme";
    /// Always `nats`.
    MESSAGING_SYSTEM = "messaging.system";
    /// `publish`, `process` or `ack`.
    MESSAGING_OPERATION = "messaging.operation.name";
    /// `send`, `process` or `settle`.
    MESSAGING_OPERATION_TYPE = "messaging.operation.type";
    /// The full subject; spans only.
    MESSAGING_DESTINATION = "messaging.destination.name";
    /// The subject with placeholders.
    MESSAGING_TEMPLATE = "messaging.destination.template";
    /// The stream a consumer reads.
    MESSAGING_SUBSCRIPTION = "messaging.destination.subscription.name";
    /// The durable consumer.
    MESSAGING_CONSUMER_GROUP = "messaging.consumer.group.name";
    /// The `Nats-Msg-Id`; spans only.
    MESSAGING_MESSAGE_ID = "messaging.message.id";
    /// How often the message was delivered, this time included.
    MESSAGING_DELIVERY_COUNT = "messaging.nats.message.delivery_count";
}

/// Buckets for durations in seconds. OpenTelemetry's defaults are meant for milliseconds and start too coarse for a 1 ms release.
pub const SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Buckets for ages in seconds.
pub const AGES: &[f64] = &[1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0];

use crate::metrics::{Counter, Gauge, Histogram, Instrument};

macro_rules! metrics {
    ($($(#[doc = $doc:literal])+ $name:ident: $type:ident = $text:literal, $unit:literal, $description:literal, [$($label:expr),*] $(, $buckets:expr)?;)+) => {
        $($(#[doc = $doc])+ pub static $name: $type = $type::new($text, $unit, $description, &[$($label),*] $(, $buckets)?);)+
        /// Every declared metric.
        pub static METRICS: &[&dyn Instrument] = &[$(&$name),+];
    };
}

metrics! {
    /// Appraisals of evidence by their result.
    APPRAISALS: Counter = "keyferry.attestation.appraisals", "{appraisal}", "Appraisals of evidence", [APPRAISAL_RESULT, TCB_STATUS, REASON, VERIFIER];
    /// From the request for a nonce to the token.
    ATTESTATION_DURATION: Histogram = "keyferry.attestation.duration", "s", "From the request for a nonce to the token", [APPRAISAL_RESULT], SECONDS;
    /// One step of an attestation.
    ATTESTATION_STEP_DURATION: Histogram = "keyferry.attestation.step.duration", "s", "One step of an attestation", [STEP], SECONDS;
    /// Answers on the bus that did not prove to be the verifier's for our evidence.
    RESULTS_IGNORED: Counter = "keyferry.attestation.results.ignored", "{result}", "Answers that did not prove to be the verifier's for our evidence", [REASON];
    /// Decisions about a key release.
    RELEASE_DECISIONS: Counter = "keyferry.key_release.decisions", "{decision}", "Decisions about a key release", [DECISION, REASON, MODE];
    /// From the request to the answer of a key release.
    RELEASE_DURATION: Histogram = "keyferry.key_release.duration", "s", "From the request to the answer of a key release", [DECISION], SECONDS;
    /// One step of a key release.
    RELEASE_STEP_DURATION: Histogram = "keyferry.key_release.step.duration", "s", "One step of a key release", [STEP], SECONDS;
    /// How old the token was when it was presented.
    RELEASE_TOKEN_AGE: Histogram = "keyferry.key_release.token.age", "s", "Age of the presented token", [], AGES;
    /// One operation of the key management system.
    KMS_DURATION: Histogram = "keyferry.kms.operation.duration", "s", "One operation of the key management system", [KMS_BACKEND, KMS_OPERATION, ERROR_TYPE], SECONDS;
    /// Redeemed and refused nonces.
    NONCE_VERIFICATIONS: Counter = "keyferry.nonce.verifications", "{nonce}", "Nonces presented for redemption", [RESULT];
    /// TDs by state.
    FLEET_TDS: Gauge = "keyferry.fleet.tds", "{td}", "TDs by state", [TD_STATE, TCB_STATUS];
    /// Age of the oldest attestation in force.
    FLEET_OLDEST_AGE: Gauge = "keyferry.fleet.attestation.oldest_age", "s", "Age of the oldest attestation in force", [];
    /// Time left until collateral expires.
    COLLATERAL_EXPIRY: Gauge = "keyferry.collateral.expiry", "s", "Time left until collateral expires", [KIND];
    /// Age of the oldest collateral in force.
    COLLATERAL_AGE: Gauge = "keyferry.collateral.age", "s", "Age of the oldest collateral in force", [KIND];
    /// Attempts to fetch collateral, by what came of them.
    COLLATERAL_REFRESHES: Counter = "keyferry.collateral.refreshes", "{refresh}", "Attempts to fetch collateral", [RESULT];
    /// Age of the verifier's key set.
    JWKS_AGE: Gauge = "keyferry.jwks.age", "s", "Age of the verifier's key set", [];
    /// Time left until a certificate expires.
    CERTIFICATE_EXPIRY: Gauge = "keyferry.certificate.expiry", "s", "Time left until a certificate expires", [KIND];
    /// Audit records that could not be stored.
    AUDIT_FAILURES: Counter = "keyferry.audit.publish.failures", "{record}", "Audit records that could not be stored", [STREAM];
    /// Messages that were given up.
    DEAD_LETTERS: Counter = "keyferry.dead_letters", "{message}", "Messages that were given up", [STREAM, REASON];
    /// Models loaded, by result.
    MODEL_LOADS: Counter = "keyferry.model.loads", "{load}", "Models loaded", [RESULT, REASON, MODEL_MEDIA_TYPE];
    /// Predictions, by result.
    MODEL_PREDICTIONS: Counter = "keyferry.model.predictions", "{prediction}", "Predictions", [RESULT];
    /// Messages sent to the bus.
    MESSAGES_SENT: Counter = "messaging.client.sent.messages", "{message}", "Messages sent", [MESSAGING_SYSTEM, MESSAGING_OPERATION, MESSAGING_TEMPLATE, ERROR_TYPE];
    /// Messages taken from the bus.
    MESSAGES_CONSUMED: Counter = "messaging.client.consumed.messages", "{message}", "Messages consumed", [MESSAGING_SYSTEM, MESSAGING_OPERATION, MESSAGING_TEMPLATE, ERROR_TYPE];
    /// One publish or request on the bus, acknowledgement included.
    MESSAGING_DURATION: Histogram = "messaging.client.operation.duration", "s", "One operation on the bus", [MESSAGING_SYSTEM, MESSAGING_OPERATION, MESSAGING_TEMPLATE, ERROR_TYPE], SECONDS;
    /// Handling of one message.
    MESSAGING_PROCESS_DURATION: Histogram = "messaging.process.duration", "s", "Handling of one message", [MESSAGING_SYSTEM, MESSAGING_TEMPLATE, ERROR_TYPE], SECONDS;
    /// gRPC calls served.
    RPC_SERVER_DURATION: Histogram = "rpc.server.call.duration", "s", "gRPC calls served", [RPC_SYSTEM, RPC_METHOD, RPC_STATUS], SECONDS;
    /// gRPC calls made.
    RPC_CLIENT_DURATION: Histogram = "rpc.client.call.duration", "s", "gRPC calls made", [RPC_SYSTEM, RPC_METHOD, RPC_STATUS], SECONDS;
    /// HTTP requests served.
    HTTP_SERVER_DURATION: Histogram = "http.server.request.duration", "s", "HTTP requests served", [HTTP_METHOD, HTTP_ROUTE, HTTP_STATUS], SECONDS;
}
