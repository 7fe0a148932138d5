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

use crate::runtime::Model;

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
    pub(crate) fn count(&self, predictions: u64) {
        self.predictions.fetch_add(predictions, Ordering::Relaxed);
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
pub(crate) struct Slot(Mutex<Option<Share>>);

impl Slot {
    /// A share of the model that is served now.
    pub(crate) fn current(&self) -> Option<Arc<LoadedModel>> {
        self.0.lock().as_ref().map(|share| Arc::clone(&share.model))
    }
    /// Serves `share` from now on; the old one is returned.
    pub(crate) fn replace(&self, share: Share) -> Option<Share> {
        self.0.lock().replace(share)
    }
    /// Whether `model` is the one that is served now.
    pub(crate) fn serves(&self, model: &Arc<LoadedModel>) -> bool {
        self.0.lock().as_ref().is_some_and(|share| Arc::ptr_eq(&share.model, model))
    }
    /// Serves nothing from now on.
    pub(crate) fn take(&self) -> Option<Share> {
        self.0.lock().take()
    }
}
