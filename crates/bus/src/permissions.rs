//! Who may publish and subscribe to what: the whole matrix in one place.
//!
//! Two things follow from how NATS treats the reply subject, which no permission checks: TDs live in an account of their
//! own and reach ours only through imported subjects, and services that answer requests may publish to inboxes
//! (`_INBOX.>` and `_R_.>`) instead of to whatever reply subject a request names. No runtime identity may create, update,
//! delete or purge a stream.

use keyferry_contract::{EVENT_LOG_BYTES_MAX, QUOTE_BYTES_MAX, Stream, TOKEN_BYTES_MAX, USER_DATA_BYTES_MAX};
use serde::Serialize;

use crate::Bucket;

/// The queue of evidence and its one durable consumer.
pub const EVIDENCE_CONSUMER: &str = "token-broker";
/// The most evidence may weigh: quote, user data and event log at their own limits, and nonce, ids and headers.
pub const EVIDENCE_BYTES_MAX: i32 = bytes(QUOTE_BYTES_MAX + USER_DATA_BYTES_MAX + EVENT_LOG_BYTES_MAX + 32 * 1024);
/// The most any message may weigh: the longest token, its ids and headers.
pub const MESSAGE_BYTES_MAX: i32 = bytes(TOKEN_BYTES_MAX + 32 * 1024);
/// The most that weighs which carries neither evidence nor a token: records, other events and advisories.
pub const RECORD_BYTES_MAX: i32 = 96 * 1024;
/// The server's bound for any message: what it refuses before it reads it. Room for a stored message in base64, as the
/// server's API answers with it.
pub(crate) const SERVER_PAYLOAD_BYTES_MAX: i32 = 4 * 1024 * 1024;

/// A limit as NATS has it.
#[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "evaluated at compile time, where the assertion is")]
const fn bytes(limit: usize) -> i32 {
    assert!(limit <= i32::MAX as usize);
    limit as i32
}

/// A TD needs five subscriptions: an inbox and four subjects of its own, and its two programs may each hold them.
const TD_SUBSCRIPTIONS_MAX: i64 = 16;

/// Who connects to the bus and is no TD.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Appraises evidence and issues tokens.
    TokenBroker,
    /// Releases keys.
    KeyRelease,
    /// Provisions streams and buckets; asks TDs to attest anew.
    Admin,
    /// Reads audit, events and dead letters, and alters nothing.
    Auditor,
    /// Makes the mirror of the audit, where nobody of the services' account reaches it.
    Archivist,
}

/// Whose subjects and streams a user sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Account {
    /// The services, with their streams.
    App,
    /// The fleet, and the auditor. No streams.
    Tds,
    /// The mirror of the audit, and nothing else.
    Mirror,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 5] = [Self::TokenBroker, Self::KeyRelease, Self::Admin, Self::Auditor, Self::Archivist];

    /// The name: of the credentials file, of the user, and the service's part of audit and dead-letter subjects.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TokenBroker => "token-broker",
            Self::KeyRelease => "key-release",
            Self::Admin => "admin",
            Self::Auditor => "auditor",
            Self::Archivist => "archivist",
        }
    }

    /// The user's account. The auditor is with the TDs and reaches the services' account only through imported subjects: a
    /// request's reply subject is checked by nobody, and inside that account, whoever may read a stream could have what it
    /// reads stored over the record of a key.
    pub(crate) const fn account(self) -> Account {
        match self {
            Self::TokenBroker | Self::KeyRelease | Self::Admin => Account::App,
            Self::Auditor => Account::Tds,
            Self::Archivist => Account::Mirror,
        }
    }

    /// What the user with this public nkey may do in this role.
    pub fn permissions(self, nkey: &str) -> Permissions {
        let matrix = match self {
            Self::TokenBroker => token_broker(),
            Self::KeyRelease => key_release(),
            Self::Admin => admin(),
            Self::Auditor => auditor().publish(MIRROR_READS),
            Self::Archivist => archivist(),
        };
        // Under its key, and under its role's name, which a person at the `nats` tool can type.
        matrix.subscribe([format!("{}.>", inbox_prefix(nkey)), format!("{}.>", inbox_prefix(self.name()))])
    }
}

/// Where answers to the user with this public nkey, or in this role, arrive. Its own: a shared `_INBOX` lets everybody
/// read every answer.
pub fn inbox_prefix(owner: &str) -> String {
    format!("_INBOX.{owner}")
}

/// Subjects a user may publish to and subscribe to, in the shape of a NATS user claim. Nothing else is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Permissions {
    /// May publish to.
    #[serde(rename = "pub")]
    pub publish: Subjects,
    /// May subscribe to.
    #[serde(rename = "sub")]
    pub subscribe: Subjects,
}

/// A list of subjects, wildcards included.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Subjects {
    /// Those allowed.
    pub allow: Vec<String>,
}

impl Permissions {
    fn publish<S: Into<String>>(mut self, subjects: impl IntoIterator<Item = S>) -> Self {
        self.publish.allow.extend(subjects.into_iter().map(Into::into));
        self
    }
    fn subscribe<S: Into<String>>(mut self, subjects: impl IntoIterator<Item = S>) -> Self {
        self.subscribe.allow.extend(subjects.into_iter().map(Into::into));
        self
    }
    /// Reads records of a bucket from the leader, and lists their names.
    fn read_bucket(self, bucket: Bucket) -> Self {
        let stream = bucket.stream();
        self.publish([format!("$JS.API.STREAM.MSG.GET.{stream}"), format!("$JS.API.STREAM.INFO.{stream}")])
    }
    fn write_bucket(self, bucket: Bucket) -> Self {
        self.publish([format!("$KV.{}.>", bucket.name())])
    }
    /// Appends to the audit and to the dead letters under its own name.
    fn record_as(self, role: Role) -> Self {
        self.publish([format!("keyferry.v1.audit.{}.*", role.name()), format!("keyferry.v1.dlq.*.{}", role.name())])
    }
}

fn token_broker() -> Permissions {
    let (stream, durable) = (Stream::Evidence.name(), EVIDENCE_CONSUMER);
    Permissions::default()
        .publish([
            format!("$JS.API.CONSUMER.INFO.{stream}.{durable}"),
            format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"),
            // Acknowledgements: nine tokens today, eleven once a server sends the second version.
            format!("$JS.ACK.{stream}.{durable}.>"),
            format!("$JS.ACK.*.*.{stream}.{durable}.>"),
        ])
        .publish(["keyferry.v1.token.issued.*", "keyferry.v1.attestation.rejected.*", "keyferry.v1.td.reattest.*"])
        .record_as(Role::TokenBroker)
        .read_bucket(Bucket::Fleet)
        .write_bucket(Bucket::Fleet)
        .read_bucket(Bucket::Seen)
        .write_bucket(Bucket::Seen)
        .publish(["_INBOX.>", "_R_.>"])
        .subscribe(["keyferry.v1.rpc.token-broker.*", "$SRV.PING", "$SRV.INFO", "$SRV.STATS"])
        .subscribe(["$SRV.*.token-broker", "$SRV.*.token-broker.*"])
}

fn key_release() -> Permissions {
    [Bucket::Policies, Bucket::Keys, Bucket::Users]
        .into_iter()
        .fold(Permissions::default(), |permissions, bucket| permissions.read_bucket(bucket).write_bucket(bucket))
        .read_bucket(Bucket::Fleet)
        .publish(["keyferry.v1.key.released.*", "keyferry.v1.key.denied.*", "keyferry.v1.policy.changed.*"])
        .publish(["keyferry.v1.rpc.token-broker.nonce", "keyferry.v1.rpc.token-broker.jwks"])
        .record_as(Role::KeyRelease)
        .subscribe(["keyferry.v1.policy.changed.*"])
}

fn admin() -> Permissions {
    Permissions::default()
        .publish(["$JS.API.>", "$JS.ACK.>", "$KV.>", "keyferry.v1.td.reattest.*"])
        .publish(["$SRV.PING", "$SRV.PING.>", "$SRV.INFO", "$SRV.INFO.>", "$SRV.STATS", "$SRV.STATS.>"])
        .subscribe(["keyferry.v1.>", "$JS.EVENT.ADVISORY.>"])
}

fn auditor() -> Permissions {
    let readable = [Stream::Audit, Stream::Events, Stream::Dlq, Stream::Advisory];
    let reads = ["STREAM.INFO.{}", "STREAM.MSG.GET.{}", "CONSUMER.CREATE.{}.>", "CONSUMER.INFO.{}.>", "CONSUMER.MSG.NEXT.{}.>"];
    let api = readable.iter().flat_map(|stream| reads.iter().map(|read| format!("$JS.API.{}", read.replace("{}", stream.name()))));
    Permissions::default()
        .publish(api)
        .publish(["$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST"])
        .publish(["$SRV.PING", "$SRV.PING.>", "$SRV.INFO", "$SRV.INFO.>", "$SRV.STATS", "$SRV.STATS.>"])
        .subscribe(["keyferry.v1.audit.>", "keyferry.v1.key.>", "keyferry.v1.policy.>", "keyferry.v1.model.>", "keyferry.v1.dlq.>"])
}

fn archivist() -> Permissions {
    Permissions::default().publish(["STREAM.CREATE", "STREAM.UPDATE", "STREAM.INFO"].map(|api| format!("$JS.API.{api}.{MIRROR}")))
}

/// The mirror of the audit.
pub(crate) const MIRROR: &str = "AUDIT_MIRROR";
/// Under this name the mirror's account reaches the API of the services' account.
pub(crate) const MIRROR_API: &str = "app.api";
/// Where the services' account sends what is to be mirrored.
pub(crate) const MIRROR_DELIVERY: &str = "keyferry.v1.mirror.audit";
/// What the auditor may do with it.
const MIRROR_READS: [&str; 2] = ["$JS.API.STREAM.INFO.AUDIT_MIRROR", "$JS.API.STREAM.MSG.GET.AUDIT_MIRROR"];

/// What the mirror's account takes from the services' account: subject there, subject here, and how. The server uses it to
/// keep the mirror; no user of that account may.
pub(crate) fn feeds_mirror() -> [(&'static str, String, Shared); 4] {
    let api = |operation: &str| format!("{MIRROR_API}.{operation}");
    [
        ("$JS.API.CONSUMER.CREATE.AUDIT", api("CONSUMER.CREATE.AUDIT"), Shared::Answers),
        ("$JS.API.CONSUMER.CREATE.AUDIT.>", api("CONSUMER.CREATE.AUDIT.>"), Shared::Answers),
        ("$JS.FC.AUDIT.>", "$JS.FC.AUDIT.>".to_owned(), Shared::Service),
        ("keyferry.v1.mirror.audit.>", "keyferry.v1.mirror.audit.>".to_owned(), Shared::Stream),
    ]
}

/// What the auditor's account takes from the mirror's.
pub(crate) fn mirror_reads() -> [(&'static str, Shared); 2] {
    MIRROR_READS.map(|subject| (subject, Shared::Answers))
}

/// What every TD may do. The server fills in `{{subject()}}`: the TD's public nkey, which cannot hold a wildcard.
pub(crate) fn td_template() -> serde_json::Value {
    let own = |subject: &str| format!("{subject}.{{{{subject()}}}}");
    let permissions = Permissions::default()
        .publish([own("keyferry.v1.evidence.collected")])
        .publish([own("keyferry.v1.model.loaded"), own("keyferry.v1.model.executed"), own("keyferry.v1.model.reset")])
        .publish(["keyferry.v1.rpc.token-broker.nonce", "keyferry.v1.rpc.token-broker.jwks"])
        .publish(TD_RESULTS.map(|result| own(&format!("$JS.API.DIRECT.GET.{}.{result}", Stream::Results.name()))))
        .subscribe(TD_RESULTS.map(own))
        .subscribe([own("keyferry.v1.td.reattest"), "_INBOX.{{subject()}}.>".to_owned()]);
    serde_json::json!({
        "pub": permissions.publish, "sub": permissions.subscribe,
        "subs": TD_SUBSCRIPTIONS_MAX, "data": -1, "payload": EVIDENCE_BYTES_MAX,
    })
}

/// The two answers a TD waits for, and may read back.
const TD_RESULTS: [&str; 2] = ["keyferry.v1.token.issued", "keyferry.v1.attestation.rejected"];

/// What the services' account shows to the TDs' account: subject, and whether it is answered (a service) or only heard
/// (a stream).
pub(crate) fn shared_with_tds() -> Vec<(String, Shared)> {
    let mut shared = vec![
        ("keyferry.v1.evidence.collected.*".to_owned(), Shared::Service),
        ("keyferry.v1.model.*.*".to_owned(), Shared::Service),
        ("keyferry.v1.rpc.token-broker.*".to_owned(), Shared::Service),
        ("keyferry.v1.td.reattest.*".to_owned(), Shared::Stream),
    ];
    for result in TD_RESULTS {
        shared.push((format!("$JS.API.DIRECT.GET.{}.{result}.*", Stream::Results.name()), Shared::Service));
        shared.push((format!("{result}.*"), Shared::Stream));
    }
    // The auditor's user is in that account too; what a TD may do is decided by its template alone.
    let auditor = auditor();
    shared.extend(auditor.publish.allow.into_iter().map(|subject| (subject, Shared::Answers)));
    shared.extend(auditor.subscribe.allow.into_iter().map(|subject| (subject, Shared::Stream)));
    shared
}

/// How a subject is shared between accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shared {
    /// Requests go in, one answer comes out.
    Service,
    /// Requests go in, any number of answers comes out.
    Answers,
    /// Messages come out.
    Stream,
}

impl Shared {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Service | Self::Answers => "service",
            Self::Stream => "stream",
        }
    }
}
