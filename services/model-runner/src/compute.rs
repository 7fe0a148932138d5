//! Predictions run on a bounded number of threads, and a bounded number may wait: a refusal beats an endless queue.

use std::sync::Arc;

use keyferry_contract::Reason;
use keyferry_telemetry::{SpanAttributes, names, spans};
use tokio::sync::Semaphore;

use crate::{Refusal, config::ComputeConfig, runner::blocking, slot::LoadedModel};

pub(crate) struct Compute {
    admitted: Arc<Semaphore>,
    workers: Arc<Semaphore>,
}

impl Compute {
    pub(crate) fn new(config: ComputeConfig) -> Self {
        Self { admitted: Arc::new(Semaphore::new(config.queue)), workers: Arc::new(Semaphore::new(config.workers)) }
    }

    /// Predictions of `model` and the work around them. The permits travel with the work: a caller that goes away does not
    /// free them early.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        model: Arc<LoadedModel>,
        work: impl FnOnce(&LoadedModel) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let overloaded = |_| Refusal::new(Reason::Overloaded, "too many predictions are waiting: retry later");
        let admitted = Arc::clone(&self.admitted).try_acquire_owned().map_err(overloaded)?;
        let closed = |_| Refusal::new(Reason::Internal, "the service ends");
        let worker = Arc::clone(&self.workers).acquire_owned().await.map_err(closed)?;
        let span = spans::step(names::INFER);
        span.attribute(names::MODEL_NAME, model.name.as_str());
        let outcome = blocking(span, move || {
            let _permits = (admitted, worker);
            work(&model)
        });
        let outcome = outcome.await.and_then(std::convert::identity);
        let result = outcome.as_ref().map_or_else(|refusal| refusal.reason.decision().label(), |_| "ok");
        names::MODEL_PREDICTIONS.add(1, &[(names::RESULT, result)]);
        outcome
    }
}
