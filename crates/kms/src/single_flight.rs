//! Many callers who ask for the same thing at the same moment share one exchange.
//!
//! Not a cache: a result is given to those who were waiting for it and then forgotten.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Mutex, PoisonError},
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};

type Flight<T> = BoxFuture<'static, T>;

/// Calls in progress, by key. An entry holds a call only weakly: when its last caller gives up, the call is dropped.
pub(crate) struct SingleFlight<T: Clone + Send + 'static>(Mutex<HashMap<String, WeakShared<Flight<T>>>>);

impl<T: Clone + Send + Sync + 'static> SingleFlight<T> {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(HashMap::new()))
    }

    /// Joins the call in progress for `key`, or makes one.
    pub(crate) async fn run<F: Future<Output = T> + Send + 'static>(&self, key: String, call: impl FnOnce() -> F) -> T {
        let flight = self.join(key, call);
        flight.await
    }

    fn join<F: Future<Output = T> + Send + 'static>(&self, key: String, call: impl FnOnce() -> F) -> Shared<Flight<T>> {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&key).and_then(WeakShared::upgrade)
            && flight.peek().is_none()
        {
            return flight;
        }
        flights.retain(|_, flight| flight.upgrade().is_some_and(|flight| flight.peek().is_none()));
        let flight = call().boxed().shared();
        if let Some(weak) = flight.downgrade() {
            flights.insert(key, weak);
        }
        flight
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn callers_at_the_same_moment_share_a_call_and_later_ones_do_not() {
        let (flights, calls, go) = (SingleFlight::new(), Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let call = |key: &str| {
            let (calls, go) = (calls.clone(), go.clone());
            flights.run(key.to_owned(), move || async move {
                calls.fetch_add(1, Ordering::SeqCst);
                go.notified().await;
                calls.load(Ordering::SeqCst)
            })
        };
        // The first poll of all of them comes before the one that lets the call end.
        let many = futures::future::join_all((0..500).map(|_| call("a")));
        let (results, ()) = futures::future::join(many, async { go.notify_one() }).await;
        assert_eq!(results, vec![1; 500]);
        go.notify_one();
        assert_eq!(call("a").await, 2, "nothing is kept");
    }

    #[tokio::test]
    async fn a_call_that_everybody_gave_up_is_not_joined() {
        let flights = SingleFlight::<u8>::new();
        assert_eq!(flights.run("a".to_owned(), std::future::pending::<u8>).now_or_never(), None);
        assert_eq!(flights.run("a".to_owned(), || async { 1 }).await, 1);
    }
}
