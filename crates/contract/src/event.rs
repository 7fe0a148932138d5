//! Events: past-tense facts, each tied to one subject, one stream and one schema name.

use std::fmt;

use keyferry_identifiers::TdId;
use prost::{Message, Name};
use sha2::{Digest, Sha256};

use crate::{attestation, fleet, model, release};

/// The `content-type` header of every message.
pub const CONTENT_TYPE: &str = "application/protobuf";

/// A JetStream stream. Settings are provisioned by the admin identity only; see `keyferry_bus::provision`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Work queue of evidence that waits for appraisal; discard new, short age.
    Evidence,
    /// The last answers for each TD; read back by direct get.
    Results,
    /// Audit records; append only.
    Audit,
    /// What happened: key, policy and model events, for readers that come later; never a proof.
    Events,
    /// Messages that could not be handled, with the reason in their headers.
    Dlq,
    /// JetStream's own advisories about exhausted deliveries.
    Advisory,
}

impl Stream {
    /// Every stream.
    pub const ALL: [Self; 6] = [Self::Evidence, Self::Results, Self::Audit, Self::Events, Self::Dlq, Self::Advisory];

    /// The name on the server.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Evidence => "EVIDENCE",
            Self::Results => "RESULTS",
            Self::Audit => "AUDIT",
            Self::Events => "EVENTS",
            Self::Dlq => "DLQ",
            Self::Advisory => "ADVISORY",
        }
    }

    /// The subjects it captures.
    pub const fn subjects(self) -> &'static [&'static str] {
        match self {
            Self::Evidence => &["keyferry.v1.evidence.collected.*"],
            Self::Results => &["keyferry.v1.token.issued.*", "keyferry.v1.attestation.rejected.*", "keyferry.v1.td.reattest.*"],
            Self::Audit => &["keyferry.v1.audit.>"],
            Self::Events => &["keyferry.v1.key.*.*", "keyferry.v1.policy.changed.*", "keyferry.v1.model.*.*"],
            Self::Dlq => &["keyferry.v1.dlq.>"],
            Self::Advisory => {
                &["$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.EVIDENCE.>", "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.EVIDENCE.>"]
            }
        }
    }
}

/// One event type of the contract: what ties a message to its subject and stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventKind {
    /// Subject without the last token, e.g. `keyferry.v1.evidence.collected`.
    pub prefix: &'static str,
    /// The stream that stores it.
    pub stream: Stream,
    /// The protobuf full name, sent in the `keyferry-schema` header.
    pub schema: &'static str,
}

/// A protobuf message that is published as an event.
pub trait Event: Message + Name + Default + fmt::Debug {
    /// Where it goes.
    const KIND: EventKind;
    /// The identity in the body: the last token of the subject must equal it.
    fn identity(&self) -> &str;
    /// The subject for `identity`, e.g. `keyferry.v1.token.issued.UABC...`.
    fn subject(identity: &TdId) -> String {
        format!("{}.{}", Self::KIND.prefix, identity.as_str())
    }
    /// The subject with a placeholder, for span names and dashboards.
    fn subject_template() -> String {
        format!("{}.{{td_id}}", Self::KIND.prefix)
    }
}

/// `Nats-Msg-Id` of a body: its SHA-256 in lower-case hex. De-duplication is stream-wide, so an id that can be guessed
/// or chosen lets one publisher swallow another's message; the content's own hash cannot.
pub fn message_id(body: &[u8]) -> String {
    hex::encode(Sha256::digest(body))
}

macro_rules! event {
    ($message:path, $prefix:literal, $stream:ident, $schema:literal, $identity:ident) => {
        impl Event for $message {
            const KIND: EventKind = EventKind { prefix: $prefix, stream: Stream::$stream, schema: $schema };
            fn identity(&self) -> &str {
                &self.$identity
            }
        }
    };
}

event!(attestation::v1::EvidenceCollected, "keyferry.v1.evidence.collected", Evidence, "keyferry.attestation.v1.EvidenceCollected", td_id);
event!(attestation::v1::TokenIssued, "keyferry.v1.token.issued", Results, "keyferry.attestation.v1.TokenIssued", td_id);
event!(
    attestation::v1::AttestationRejected,
    "keyferry.v1.attestation.rejected",
    Results,
    "keyferry.attestation.v1.AttestationRejected",
    td_id
);
event!(fleet::v1::ReattestationRequired, "keyferry.v1.td.reattest", Results, "keyferry.fleet.v1.ReattestationRequired", td_id);
event!(release::v1::KeyReleased, "keyferry.v1.key.released", Events, "keyferry.release.v1.KeyReleased", td_id);
event!(release::v1::KeyDenied, "keyferry.v1.key.denied", Events, "keyferry.release.v1.KeyDenied", td_id);
event!(release::v1::PolicyChanged, "keyferry.v1.policy.changed", Events, "keyferry.release.v1.PolicyChanged", policy_id);
event!(model::v1::ModelLoaded, "keyferry.v1.model.loaded", Events, "keyferry.model.v1.ModelLoaded", td_id);
event!(model::v1::ModelExecuted, "keyferry.v1.model.executed", Events, "keyferry.model.v1.ModelExecuted", td_id);
event!(model::v1::ModelReset, "keyferry.v1.model.reset", Events, "keyferry.model.v1.ModelReset", td_id);

impl EventKind {
    /// Every event of the contract; a test compares this with the descriptors.
    pub const ALL: [Self; 10] = [
        <attestation::v1::EvidenceCollected as Event>::KIND,
        <attestation::v1::TokenIssued as Event>::KIND,
        <attestation::v1::AttestationRejected as Event>::KIND,
        <fleet::v1::ReattestationRequired as Event>::KIND,
        <release::v1::KeyReleased as Event>::KIND,
        <release::v1::KeyDenied as Event>::KIND,
        <release::v1::PolicyChanged as Event>::KIND,
        <model::v1::ModelLoaded as Event>::KIND,
        <model::v1::ModelExecuted as Event>::KIND,
        <model::v1::ModelReset as Event>::KIND,
    ];
}

/// A request/reply endpoint on the bus: a command with one owner and an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rpc {
    /// [`attestation::v1::GetNonceRequest`] -> [`attestation::v1::GetNonceResponse`].
    TokenBrokerNonce,
    /// [`attestation::v1::GetJwksRequest`] -> [`attestation::v1::GetJwksResponse`].
    TokenBrokerJwks,
}

impl Rpc {
    /// The subject it listens on.
    pub const fn subject(self) -> &'static str {
        match self {
            Self::TokenBrokerNonce => "keyferry.v1.rpc.token-broker.nonce",
            Self::TokenBrokerJwks => "keyferry.v1.rpc.token-broker.jwks",
        }
    }
    /// The span name of a call.
    pub const fn span_name(self) -> &'static str {
        match self {
            Self::TokenBrokerNonce => "token-broker/nonce",
            Self::TokenBrokerJwks => "token-broker/jwks",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_name_is_the_messages_own() {
        assert_eq!(attestation::v1::EvidenceCollected::full_name(), attestation::v1::EvidenceCollected::KIND.schema);
        let pool = prost_reflect::DescriptorPool::decode(crate::DESCRIPTORS).unwrap();
        for kind in EventKind::ALL {
            assert!(pool.get_message_by_name(kind.schema).is_some(), "{} is not in proto/", kind.schema);
        }
    }

    #[test]
    fn every_event_subject_is_captured_by_its_stream() {
        for kind in EventKind::ALL {
            let subject = format!("{}.UABC", kind.prefix);
            let owners: Vec<_> =
                Stream::ALL.into_iter().filter(|stream| stream.subjects().iter().any(|pattern| matches(pattern, &subject))).collect();
            assert_eq!(owners, [kind.stream], "{subject}");
        }
    }

    fn matches(pattern: &str, subject: &str) -> bool {
        let (mut wanted, mut got) = (pattern.split('.'), subject.split('.'));
        loop {
            match (wanted.next(), got.next()) {
                (None, None) | (Some(">"), Some(_)) => return true,
                (Some("*"), Some(_)) => {}
                (Some(a), Some(b)) if a == b => {}
                _ => return false,
            }
        }
    }
}
