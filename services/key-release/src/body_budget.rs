//! A bound on the memory that bodies take, before anybody knows whose they are. What a small request brings is free: every
//! key transfer of a model runner is one. What comes above that is taken from one budget, as it arrives, so large requests
//! of strangers can delay other large requests and nothing else.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::Request,
};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of a body that cost nothing: a token around an RSA-3072 key has 7 kB, evidence in base64 8 kB.
const FREE_BYTES: usize = 16 * 1024;
/// What all bodies together may have above that: 30 of the largest. Decoding, checking and answering one takes up to six
/// times its bytes, so this bounds them to some 400 MiB.
const BUDGET_BYTES: usize = 64 * 1024 * 1024;
/// What one permit stands for.
const UNIT_BYTES: usize = 1024;

/// The budget.
#[derive(Clone, Debug)]
pub(crate) struct BodyBudget(Arc<Semaphore>);

impl BodyBudget {
    pub(crate) fn new() -> Self {
        Self::of(BUDGET_BYTES)
    }

    fn of(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes / UNIT_BYTES)))
    }

    /// The request with its body counted, and what it holds of the budget: keep that until the request is answered.
    pub(crate) fn count(&self, request: Request) -> (Request, Arc<Share>) {
        let share = Arc::new(Share { budget: Arc::clone(&self.0), held: Mutex::new(None), refused: AtomicBool::new(false) });
        let counted = Arc::clone(&share);
        (request.map(|body| Body::new(Counted { body, received: 0, share: counted })), share)
    }
}

/// What one request holds of the budget.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Semaphore>,
    held: Mutex<Option<OwnedSemaphorePermit>>,
    refused: AtomicBool,
}

impl Share {
    /// Whether the budget had no room for the whole body: whatever became of the request, this is why.
    pub(crate) fn was_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    fn covers(&self, received: usize) -> bool {
        let mut held = self.held.lock();
        let wanted = received.saturating_sub(FREE_BYTES).div_ceil(UNIT_BYTES);
        let missing = wanted.saturating_sub(held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits));
        let Ok(missing) = u32::try_from(missing) else { return false };
        if missing == 0 {
            return true;
        }
        let Ok(more) = Arc::clone(&self.budget).try_acquire_many_owned(missing) else { return false };
        match held.as_mut() {
            Some(held) => held.merge(more),
            None => *held = Some(more),
        }
        true
    }
}

/// The budget has no room.
#[derive(Debug, thiserror::Error)]
#[error("too many large requests are under way")]
struct Crowded;

struct Counted {
    body: Body,
    received: usize,
    share: Arc<Share>,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(data) = frame.as_ref().and_then(|frame| frame.as_ref().ok()).and_then(http_body::Frame::data_ref) {
            self.received = self.received.saturating_add(data.len());
            if !self.share.covers(self.received) {
                self.share.refused.store(true, Ordering::Relaxed);
                return Poll::Ready(Some(Err(axum::Error::new(Crowded))));
            }
        }
        Poll::Ready(frame)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn request(bytes: usize) -> Request {
        Request::new(Body::from(vec![b' '; bytes]))
    }

    #[tokio::test]
    async fn large_bodies_share_a_budget_and_small_ones_need_none() {
        let budget = BodyBudget::of(100 * 1024);
        let (large, share) = budget.count(request(FREE_BYTES + 60 * 1024));
        assert_eq!(large.into_body().collect().await.unwrap().to_bytes().len(), FREE_BYTES + 60 * 1024);
        let (second, refused) = budget.count(request(FREE_BYTES + 60 * 1024));
        assert!(second.into_body().collect().await.is_err() && refused.was_refused());
        let (small, unharmed) = budget.count(request(FREE_BYTES));
        assert!(small.into_body().collect().await.is_ok() && !unharmed.was_refused());
        drop(share);
        let (third, _share) = budget.count(request(FREE_BYTES + 60 * 1024));
        assert!(third.into_body().collect().await.is_ok(), "given back with the answer");
    }

    #[tokio::test]
    async fn many_small_pieces_cost_what_they_weigh() {
        let budget = BodyBudget::of(100 * 1024);
        let pieces = (0..FREE_BYTES + 90 * 1024).map(|_| Ok::<_, std::io::Error>(Bytes::from_static(b"x")));
        let (request, share) = budget.count(Request::new(Body::from_stream(futures::stream::iter(pieces))));
        assert!(request.into_body().collect().await.is_ok() && !share.was_refused());
    }
}
