//! The one model that is served. Whoever computes holds a share of it, so that a reset or a swap can never pull it away
//! under a running prediction; it is wiped when the last share is gone, and a reset waits for that.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use keyferry_identifiers::KeyId;
use keyferry_model_envelope::{ModelDigest, ModelName};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::{
    Refusal,
    runtime::{Model, Tensor},
};

/// Longer than the slowest prediction; a reset that waited this long says so.
const WIPED_WITHIN: Duration = Duration::from_secs(30);

/// A model that is being served.
#[derive(Debug)]
pub struct LoadedModel {
    /// The name it is served under.
    pub name: ModelName,
    /// Names the sealed file.
    pub digest: ModelDigest,
    /// The key it was opened with, where known.
    pub key_id: Option<KeyId>,
    /// The broker's audit record, where known.
    pub release_id: String,
    /// What answers. Declared before `_wiped`: fields are dropped in this order.
    pub runtime: Box<dyn Model>,
    predictions: AtomicU64,
    _wiped: oneshot::Sender<()>,
}

impl LoadedModel {
    /// One prediction per row. CPU work: call it on a blocking thread.
    pub(crate) fn infer(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, Refusal> {
        let outputs = self.runtime.infer(inputs)?;
        let rows = inputs.first().and_then(|input| input.shape.first()).copied().unwrap_or(1);
        self.predictions.fetch_add(u64::try_from(rows).unwrap_or(u64::MAX), Ordering::Relaxed);
        Ok(outputs)
    }
    pub(crate) fn take_predictions(&self) -> u64 {
        self.predictions.swap(0, Ordering::Relaxed)
    }
}

/// A model to be served, and the sign that it is gone.
pub(crate) struct Share {
    model: Arc<LoadedModel>,
    wiped: oneshot::Receiver<()>,
}

impl Share {
    pub(crate) fn new(name: ModelName, digest: ModelDigest, key_id: Option<KeyId>, release_id: String, runtime: Box<dyn Model>) -> Self {
        let (sender, wiped) = oneshot::channel();
        let model = LoadedModel { name, digest, key_id, release_id, runtime, predictions: AtomicU64::new(0), _wiped: sender };
        Self { model: Arc::new(model), wiped }
    }

    pub(crate) fn model(&self) -> &LoadedModel {
        &self.model
    }

    /// Tells whether it is still there, without keeping it.
    pub(crate) fn downgrade(&self) -> Weak<LoadedModel> {
        Arc::downgrade(&self.model)
    }

    /// Lets go of it and waits until everybody did. False if somebody still computes.
    pub(crate) async fn wiped(self) -> bool {
        drop(self.model);
        tokio::time::timeout(WIPED_WITHIN, self.wiped).await.is_ok()
    }
}

#[derive(Default)]
pub(crate) struct Slot(Mutex<State>);

#[derive(Default)]
struct State {
    served: Option<Share>,
    resets: u64,
    closed: bool,
}

/// When a load began, counted in resets.
#[derive(Clone, Copy)]
pub(crate) struct Begun(u64);

impl Slot {
    /// A share of the model that is served now.
    pub(crate) fn current(&self) -> Option<Arc<LoadedModel>> {
        self.0.lock().served.as_ref().map(|share| Arc::clone(&share.model))
    }
    /// A load begins.
    pub(crate) fn begin(&self) -> Begun {
        Begun(self.0.lock().resets)
    }
    /// Serves `share` from now on; the old one is returned. If a reset came after the load began, `share` is returned
    /// instead and never served: a reset is the last word on everything before it.
    pub(crate) fn replace(&self, share: Share, begun: Begun) -> Result<Option<Share>, Share> {
        let mut state = self.0.lock();
        if state.closed || state.resets != begun.0 { Err(share) } else { Ok(state.served.replace(share)) }
    }
    /// Whether `model` is the one that is served now.
    pub(crate) fn serves(&self, model: &Arc<LoadedModel>) -> bool {
        self.0.lock().served.as_ref().is_some_and(|share| Arc::ptr_eq(&share.model, model))
    }
    /// Serves nothing from now on; with `close`, never again.
    pub(crate) fn take(&self, close: bool) -> Option<Share> {
        let mut state = self.0.lock();
        state.resets += 1;
        state.closed |= close;
        state.served.take()
    }
}
