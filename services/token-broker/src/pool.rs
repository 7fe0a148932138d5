//! CPU work off the async runtime, bounded: a refusal beats an endless queue.

use std::sync::Arc;

use keyferry_contract::Reason;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::Span;

use crate::refusal::Refusal;

/// At most so many pieces of work that run or wait for a core.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    permits: Arc<Semaphore>,
}

impl Pool {
    /// With room for `size` pieces.
    pub(crate) fn new(size: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(size)) }
    }

    /// Runs `work` on a blocking thread, inside the current span, if there is room.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T, Refusal> + Send + 'static) -> Result<T, Refusal> {
        let permit = Arc::clone(&self.permits).try_acquire_owned();
        run_with(permit.map_err(|_| busy())?, work).await
    }

    /// As [`Self::run`], but waits for room, before all who do not. For callers whose own number is bounded.
    pub(crate) async fn run_in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        run_with(permit.map_err(|_| busy())?, work).await
    }
}

fn busy() -> Refusal {
    Refusal::new(Reason::Overloaded, "every appraisal worker is busy")
}

async fn run_with<T: Send + 'static>(
    permit: OwnedSemaphorePermit,
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let span = Span::current();
    let done = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        span.in_scope(work)
    });
    done.await.unwrap_or_else(|_| Err(Refusal::new(Reason::Internal, "an appraisal panicked")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_does_not_fit_is_refused() {
        let pool = Pool::new(1);
        let (release, wait) = std::sync::mpsc::sync_channel::<()>(0);
        let first = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run(move || wait.recv().map_err(|_| Refusal::new(Reason::Internal, "never"))).await }
        });
        while pool.permits.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(pool.run(|| Ok(())).await.unwrap_err().reason, Reason::Overloaded);
        release.send(()).unwrap();
        assert_eq!(first.await.unwrap(), Ok(()));
        assert_eq!(pool.run(|| Ok(1)).await, Ok(1));
    }

    #[tokio::test]
    async fn who_waits_is_served_before_who_does_not() {
        let pool = Pool::new(1);
        let (release, wait) = std::sync::mpsc::sync_channel::<()>(0);
        let block = move || wait.recv().map_err(|_| Refusal::new(Reason::Internal, "never"));
        let mut first = Box::pin(pool.run(block));
        assert!(futures::poll!(&mut first).is_pending());
        let mut queued = Box::pin(pool.run_in_turn(|| Ok(2)));
        assert!(futures::poll!(&mut queued).is_pending());
        release.send(()).unwrap();
        assert_eq!(first.await, Ok(()));
        assert_eq!(pool.run(|| Ok(3)).await.unwrap_err().reason, Reason::Overloaded, "the place is promised");
        assert_eq!(queued.await, Ok(2));
    }

    #[tokio::test]
    async fn a_panic_is_an_answer() {
        let refusal = Pool::new(1).run::<()>(|| panic!("boom")).await.unwrap_err();
        assert_eq!(refusal.reason, Reason::Internal);
    }
}
