//! Dead letters: copies of messages that nobody could handle, with the reason in their headers.

use async_nats::{HeaderMap, jetstream::message::PublishMessage};
use bytes::Bytes;
use keyferry_contract::Reason;
use sha2::{Digest, Sha256};

use crate::{Bus, PublishError, Stored, headers, publish::Attempt};

/// Headers of a dead letter, beside those of the original message.
pub mod header {
    /// The stream it left.
    pub const STREAM: &str = "keyferry-dead-stream";
    /// The subject it had.
    pub const SUBJECT: &str = "keyferry-dead-subject";
    /// The sequence it had.
    pub const SEQUENCE: &str = "keyferry-dead-sequence";
    /// How often it was delivered.
    pub const DELIVERIES: &str = "keyferry-dead-deliveries";
    /// Why, as a reason label.
    pub const REASON: &str = "keyferry-dead-reason";
    /// Which field or check.
    pub const DETAIL: &str = "keyferry-dead-detail";
}

/// The longest detail that is written into a header.
const DETAIL_CHARACTERS_MAX: usize = 200;

/// A message on its way to the dead letters.
#[derive(Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The stream it leaves.
    pub stream: String,
    /// Its subject, as the sender chose it.
    pub subject: String,
    /// Its sequence in the stream.
    pub sequence: u64,
    /// How often it was delivered.
    pub deliveries: u32,
    /// Why nobody could handle it.
    pub reason: Reason,
    /// Which field or check; never a secret.
    pub detail: String,
    /// Its body, unchanged.
    pub body: Bytes,
}

impl std::fmt::Debug for DeadLetter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeadLetter")
            .field("subject", &self.subject)
            .field("sequence", &self.sequence)
            .field("reason", &self.reason)
            .field("detail", &self.detail)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

impl Bus {
    /// Stores a dead letter under `keyferry.v1.dlq.<stream>.<service>`; repeating it stores it once.
    pub(crate) async fn publish_dead_letter(&self, letter: &DeadLetter, original: Option<&HeaderMap>) -> Result<Stored, PublishError> {
        let subject = format!("keyferry.v1.dlq.{}.{}", letter.stream.to_lowercase(), self.service);
        let mut headers = HeaderMap::new();
        for name in [headers::CONTENT_TYPE, headers::SCHEMA, "traceparent", "tracestate"] {
            if let Some(value) = original.and_then(|original| original.get(name)) {
                headers::set(&mut headers, name, value.as_str());
            }
        }
        headers::set(&mut headers, header::STREAM, &letter.stream);
        headers::set(&mut headers, header::SUBJECT, &letter.subject);
        headers::set(&mut headers, header::SEQUENCE, &letter.sequence.to_string());
        headers::set(&mut headers, header::DELIVERIES, &letter.deliveries.to_string());
        headers::set(&mut headers, header::REASON, letter.reason.label());
        let detail: String = letter.detail.chars().filter(|c| !c.is_control()).take(DETAIL_CHARACTERS_MAX).collect();
        headers::set(&mut headers, header::DETAIL, &detail);
        let message = PublishMessage::build().headers(headers).message_id(letter.id()).payload(letter.body.clone());
        self.publish_raw(subject, message, Attempt::WITHIN_DEFAULT).await
    }
}

impl DeadLetter {
    /// One id for one message of one stream: two messages with the same body are two letters.
    fn id(&self) -> String {
        let digest = Sha256::new().chain_update(&self.stream).chain_update(self.sequence.to_be_bytes()).chain_update(&self.body);
        hex::encode(digest.finalize())
    }
}
