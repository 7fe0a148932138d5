//! Publishing: a message is published when its stream acknowledged it, and is repeated under the same id until then.

use std::time::{Duration, Instant};

use async_nats::{
    HeaderMap,
    jetstream::{self, ErrorCode, context::PublishErrorKind, message::PublishMessage},
};
use bytes::Bytes;
use keyferry_contract::{CONTENT_TYPE, Event, message_id};
use keyferry_identifiers::TdId;
use keyferry_telemetry::SpanAttributes;
use tokio::sync::broadcast;
use tracing::Instrument;

use crate::{Bus, connection::jittered, headers, metrics};

/// How long an event is tried for, unless the caller says otherwise. Far inside the window in which the stream
/// recognises a repetition.
pub const PUBLISH_WITHIN_DEFAULT: Duration = Duration::from_secs(10);
/// The longest a publish may be tried for: a repetition outside the stream's window would be stored twice.
pub const PUBLISH_WITHIN_MAX: Duration = Duration::from_secs(100);
const RETRY_DELAY_MIN: Duration = Duration::from_millis(50);
const RETRY_DELAY_MAX: Duration = Duration::from_millis(800);

/// Why a message is not known to be stored.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The event names another identity than its subject. A mistake of the caller: nothing was sent.
    #[error("the event's identity is not the one in its subject; nothing was sent")]
    Identity,
    /// The permissions of this identity do not include the subject.
    #[error("the bus forbids publishing to {subject}: the credentials are not this service's, or older than it")]
    Forbidden {
        /// Where it was to go.
        subject: String,
    },
    /// Another write came first.
    #[error("another write came first")]
    Conflict,
    /// The stream is full and refuses new messages.
    #[error("the stream for {subject} takes no more messages ({detail}): drain it or raise its limit")]
    Full {
        /// Where it was to go.
        subject: String,
        /// What the server said.
        detail: String,
    },
    /// The server refused the message itself.
    #[error("the bus refuses a message for {subject} ({detail})")]
    Refused {
        /// Where it was to go.
        subject: String,
        /// What the server said.
        detail: String,
    },
    /// No acknowledgement in time: it may be stored or not. A repetition with the same body is safe for two minutes.
    #[error("no acknowledgement for {subject} within {milliseconds} ms ({detail}): it may be stored; retry with the same content")]
    Unacknowledged {
        /// Where it was to go.
        subject: String,
        /// How long it was tried for.
        milliseconds: u128,
        /// The last failure.
        detail: String,
    },
}

impl PublishError {
    /// A label for metrics and spans.
    const fn class(&self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Forbidden { .. } => "forbidden",
            Self::Conflict => "conflict",
            Self::Full { .. } => "full",
            Self::Refused { .. } => "refused",
            Self::Unacknowledged { .. } => "unacknowledged",
        }
    }
}

/// Where a message is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// The stream had the same id already, so this copy was dropped.
    ///
    /// The id is the hash of the body, so the stream holds these very bytes: from an earlier attempt of ours, from an
    /// earlier run that died before its acknowledgement, or from somebody who knew them. None of these is an error for an
    /// event, whose body is the whole fact.
    pub duplicate: bool,
}

/// How long to try.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    within: Duration,
}

impl Attempt {
    pub(crate) const WITHIN_DEFAULT: Self = Self { within: PUBLISH_WITHIN_DEFAULT };
    pub(crate) fn within(within: Duration) -> Self {
        Self { within: within.min(PUBLISH_WITHIN_MAX) }
    }
}

impl Bus {
    /// Publishes an event and waits until its stream has it, for at most [`PUBLISH_WITHIN_DEFAULT`].
    pub async fn publish<E: Event>(&self, identity: &TdId, event: &E) -> Result<Stored, PublishError> {
        self.publish_within(identity, event, PUBLISH_WITHIN_DEFAULT).await
    }

    /// As [`Self::publish`], for at most `within` (at most [`PUBLISH_WITHIN_MAX`]).
    pub async fn publish_within<E: Event>(&self, identity: &TdId, event: &E, within: Duration) -> Result<Stored, PublishError> {
        if event.identity() != identity.as_str() {
            return Err(PublishError::Identity);
        }
        self.publish_body(E::subject(identity), &E::subject_template(), E::KIND.schema, event.encode_to_vec().into(), within).await
    }

    /// Publishes a body of the contract under its own hash, inside a PRODUCER span.
    pub(crate) async fn publish_body(
        &self,
        subject: String,
        template: &str,
        schema: &'static str,
        body: Bytes,
        within: Duration,
    ) -> Result<Stored, PublishError> {
        let id = message_id(&body);
        let span = headers::producer_span(&subject, template, &id);
        let started = Instant::now();
        let stored = async {
            let mut headers = HeaderMap::new();
            headers::describe(&mut headers, CONTENT_TYPE, schema);
            headers::inject(&mut headers);
            let message = PublishMessage::build().headers(headers).message_id(&id).payload(body);
            self.publish_raw(subject, message, Attempt::within(within)).await
        }
        .instrument(span.clone())
        .await;
        let failure = stored.as_ref().err().map_or("", PublishError::class);
        if !failure.is_empty() {
            span.failed(failure);
        }
        metrics::sent(template, failure, started.elapsed());
        stored
    }

    /// Publishes until acknowledged; the message must carry an id, or a repetition is stored twice.
    pub(crate) async fn publish_raw(&self, subject: String, message: PublishMessage, attempt: Attempt) -> Result<Stored, PublishError> {
        let mut violations = self.violations.subscribe();
        let started = Instant::now();
        let mut delay = RETRY_DELAY_MIN;
        loop {
            let left = attempt.within.saturating_sub(started.elapsed());
            let failure = tokio::select! {
                result = tokio::time::timeout(left, publish_once(&self.jetstream, &subject, message.clone())) => match result {
                    Ok(Ok(ack)) => return Ok(Stored { sequence: ack.sequence, duplicate: ack.duplicate }),
                    Ok(Err(error)) => error,
                    Err(_elapsed) => return Err(unacknowledged(subject, started, "the time is over")),
                },
                () = forbidden(&mut violations, &subject) => return Err(PublishError::Forbidden { subject }),
            };
            let detail = failure.to_string();
            if let Some(final_error) = verdict(&failure, &subject, &detail) {
                return Err(final_error);
            }
            let pause = jittered(delay);
            if started.elapsed() + pause >= attempt.within {
                return Err(unacknowledged(subject, started, &detail));
            }
            tracing::debug!(detail, "publish not acknowledged; repeating under the same id");
            tokio::time::sleep(pause).await;
            delay = (delay * 2).min(RETRY_DELAY_MAX);
        }
    }
}

async fn publish_once(
    jetstream: &jetstream::Context,
    subject: &str,
    message: PublishMessage,
) -> Result<jetstream::publish::PublishAck, jetstream::context::PublishError> {
    jetstream.send_publish(subject.to_owned(), message).await?.await
}

/// Ends when the server says that `subject` is forbidden; otherwise never.
async fn forbidden(violations: &mut broadcast::Receiver<String>, subject: &str) {
    loop {
        match violations.recv().await {
            Ok(text) if text.contains(&format!("\"{subject}\"")) => return,
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

fn verdict(error: &jetstream::context::PublishError, subject: &str, detail: &str) -> Option<PublishError> {
    let subject = subject.to_owned();
    match error.kind() {
        // "Stream not found" is really "no responders": JetStream is starting, or a leader is being elected.
        PublishErrorKind::StreamNotFound | PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe | PublishErrorKind::MaxAckPending => {
            None
        }
        PublishErrorKind::WrongLastSequence | PublishErrorKind::WrongLastMessageId => Some(PublishError::Conflict),
        PublishErrorKind::MaxPayloadExceeded => Some(PublishError::Refused { subject, detail: detail.to_owned() }),
        PublishErrorKind::Other => match server_code(error) {
            Some(ErrorCode::STREAM_STORE_FAILED) => Some(PublishError::Full { subject, detail: detail.to_owned() }),
            Some(ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT) => Some(PublishError::Conflict),
            Some(ErrorCode::CLUSTER_NOT_AVAILABLE) | None => None,
            Some(_) => Some(PublishError::Refused { subject, detail: detail.to_owned() }),
        },
    }
}

/// The code JetStream gave, if the failure is an answer of JetStream.
fn server_code(error: &jetstream::context::PublishError) -> Option<ErrorCode> {
    let source = std::error::Error::source(error)?;
    source.downcast_ref::<jetstream::Error>().map(jetstream::Error::error_code)
}

fn unacknowledged(subject: String, started: Instant, detail: &str) -> PublishError {
    PublishError::Unacknowledged { subject, milliseconds: started.elapsed().as_millis(), detail: detail.to_owned() }
}
