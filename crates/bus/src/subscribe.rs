//! Hearing events as they happen, and reading back the last one.

use std::pin::Pin;

use async_nats::StatusCode;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use keyferry_contract::Event;
use keyferry_identifiers::TdId;

use crate::{Bus, consume::decode};

/// Why events are not heard or not read.
#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    /// The client could not subscribe.
    #[error("cannot subscribe to {subject}: {detail}")]
    Subscribe {
        /// To what.
        subject: String,
        /// Why.
        detail: String,
    },
    /// The last event cannot be read.
    #[error("the last event of {subject} cannot be read ({detail}): retry")]
    Read {
        /// Of what.
        subject: String,
        /// Why.
        detail: String,
    },
    /// What is stored there is not an event of this type and identity.
    #[error("what is stored for {subject} is not an event of this type: it is ignored")]
    Foreign {
        /// Of what.
        subject: String,
    },
}

/// Events as they arrive.
pub type Events<E> = Pin<Box<dyn Stream<Item = E> + Send>>;

impl Bus {
    /// Events of one identity from now on. What is not an event of this type and identity is dropped. Nothing is replayed:
    /// subscribe first, then publish what you want an answer to, and read [`Self::latest`] after every reconnect.
    pub async fn subscribe<E: Event + 'static>(&self, identity: &TdId) -> Result<Events<E>, SubscribeError> {
        self.subscribe_subject(E::subject(identity)).await
    }

    /// Events of every identity from now on, where the permissions allow it.
    pub async fn subscribe_all<E: Event + 'static>(&self) -> Result<Events<E>, SubscribeError> {
        self.subscribe_subject(format!("{}.*", E::KIND.prefix)).await
    }

    async fn subscribe_subject<E: Event + 'static>(&self, subject: String) -> Result<Events<E>, SubscribeError> {
        let subscribed = self.client.subscribe(subject.clone()).await;
        let messages = subscribed.map_err(|error| SubscribeError::Subscribe { subject, detail: error.to_string() })?;
        Ok(Box::pin(messages.filter_map(|message| async move {
            match decode::<E>(&message) {
                Ok((event, _)) => Some(event),
                Err((reason, detail)) => {
                    tracing::warn!(keyferry.reason = reason.label(), detail, "dropped a message that is not what its subject says");
                    None
                }
            }
        })))
    }

    /// The last event of one identity that the stream still has. Needs a stream with direct get: RESULTS.
    pub async fn latest<E: Event>(&self, identity: &TdId) -> Result<Option<E>, SubscribeError> {
        let subject = E::subject(identity);
        let api = format!("$JS.API.DIRECT.GET.{}.{subject}", E::KIND.stream.name());
        let answer = self.ask_repeatedly(&api, Bytes::new()).await;
        let mut message = answer.map_err(|detail| SubscribeError::Read { subject: subject.clone(), detail })?;
        match message.status {
            None => {}
            Some(StatusCode::NOT_FOUND) => return Ok(None),
            Some(status) => return Err(SubscribeError::Read { subject, detail: format!("status {status}") }),
        }
        // The answer arrives on our inbox; its subject is in a header, and must be the one asked for.
        let stored = message.headers.as_ref().and_then(|headers| headers.get("Nats-Subject")).map(|value| value.as_str().to_owned());
        if stored.as_deref() != Some(subject.as_str()) {
            return Err(SubscribeError::Foreign { subject });
        }
        message.subject = subject.clone().into();
        decode(&message).map(|(event, _)| Some(event)).map_err(|_| SubscribeError::Foreign { subject })
    }
}
