//! What the TD tells about its model: loaded, executed, reset. Claims of this TD, never a proof.
//!
//! Serving never waits for the bus: events go through a bounded queue to one task that publishes them. A full queue drops
//! the event with a warning, because a dead bus must not stop inference.

use keyferry_contract::model::v1::{ModelExecuted, ModelLoaded, ModelReset};
use keyferry_identifiers::TdId;
use keyferry_lifecycle::clock;
use prost_types::Timestamp;
use tokio::sync::mpsc;
use tracing::{Instrument, Span};

use crate::slot::LoadedModel;

const QUEUE: usize = 256;

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelEvent {
    /// A model is being served.
    Loaded(ModelLoaded),
    /// Predictions were made.
    Executed(ModelExecuted),
    /// A model was wiped.
    Reset(ModelReset),
}

/// Why a model was wiped, as `ModelReset.cause` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The service ends.
    Shutdown,
    /// Somebody asked for it, or another model took its place.
    Requested,
}

impl Cause {
    const fn label(self) -> &'static str {
        match self {
            Self::Shutdown => "shutdown",
            Self::Requested => "requested",
        }
    }
}

/// Where events are put.
#[derive(Clone, Debug)]
pub struct Events {
    td_id: TdId,
    queue: mpsc::Sender<(ModelEvent, Span)>,
}

/// Where they come out, each with the span it belongs to.
pub type EventQueue = mpsc::Receiver<(ModelEvent, Span)>;

impl Events {
    /// A queue of the TD called `td_id`.
    pub fn new(td_id: TdId) -> (Self, EventQueue) {
        let (queue, out) = mpsc::channel(QUEUE);
        (Self { td_id, queue }, out)
    }

    pub(crate) fn loaded(&self, model: &LoadedModel) {
        self.put(ModelEvent::Loaded(ModelLoaded {
            td_id: self.td_id.to_string(),
            model_name: model.name.to_string(),
            model_format: model.runtime.media_type().to_owned(),
            model_digest: model.digest.as_bytes().to_vec(),
            key_id: model.key_id.map(|id| id.to_string()).unwrap_or_default(),
            release_id: model.release_id.clone(),
            loaded_at: Some(now()),
        }));
    }

    pub(crate) fn executed(&self, model: &LoadedModel) {
        let predictions = model.take_predictions();
        if predictions > 0 {
            let (td_id, model_name) = (self.td_id.to_string(), model.name.to_string());
            self.put(ModelEvent::Executed(ModelExecuted { td_id, model_name, predictions, executed_at: Some(now()) }));
        }
    }

    pub(crate) fn reset(&self, model_name: String, cause: Cause) {
        let (td_id, cause) = (self.td_id.to_string(), cause.label().to_owned());
        self.put(ModelEvent::Reset(ModelReset { td_id, model_name, cause, reset_at: Some(now()) }));
    }

    fn put(&self, event: ModelEvent) {
        if self.queue.try_send((event, Span::current())).is_err() {
            tracing::warn!("an event about the model is dropped: the bus does not keep up, or the service ends");
        }
    }
}

/// Publishes until every [`Events`] is gone. Failures are told and not repeated: the bus already did.
pub(crate) async fn publish(bus: keyferry_bus::Bus, td_id: TdId, mut queue: EventQueue) {
    while let Some((event, span)) = queue.recv().await {
        let published = async {
            match &event {
                ModelEvent::Loaded(event) => bus.publish(&td_id, event).await,
                ModelEvent::Executed(event) => bus.publish(&td_id, event).await,
                ModelEvent::Reset(event) => bus.publish(&td_id, event).await,
            }
        };
        if let Err(error) = published.instrument(span).await {
            tracing::warn!(%error, "an event about the model is not published");
        }
    }
}

fn now() -> Timestamp {
    let now = clock::timestamp();
    Timestamp { seconds: now.as_second(), nanos: now.subsec_nanosecond() }
}
