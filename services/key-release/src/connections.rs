//! A bound on connections. Each takes a file descriptor, and without descriptors this service could not reach its own KMS:
//! strangers must not be able to take the last one.

use std::{
    future::{Ready, ready},
    io,
    sync::Arc,
    task::{Context, Poll},
};

use axum_server::accept::Accept;
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tower::Service;

/// Accepts so many connections at the same time; more are closed at once, before TLS.
#[derive(Clone, Debug)]
pub(crate) struct Bounded(Arc<Semaphore>);

impl Bounded {
    pub(crate) fn new(connections: usize) -> Self {
        Self(Arc::new(Semaphore::new(connections)))
    }
}

impl<S> Accept<TcpStream, S> for Bounded {
    type Stream = TcpStream;
    type Service = Counted<S>;
    type Future = Ready<io::Result<(TcpStream, Counted<S>)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let Ok(place) = Arc::clone(&self.0).try_acquire_owned() else {
            tracing::debug!("a connection is closed: there are too many");
            return ready(Err(io::ErrorKind::ConnectionRefused.into()));
        };
        let _ = stream.set_nodelay(true); // a hint; without it answers are only slower
        ready(Ok((stream, Counted { service, _place: Arc::new(place) })))
    }
}

/// The service of one connection; with its last copy the connection's place is free again.
#[derive(Clone, Debug)]
pub(crate) struct Counted<S> {
    service: S,
    _place: Arc<OwnedSemaphorePermit>,
}

impl<S: Service<R>, R> Service<R> for Counted<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }
    fn call(&mut self, request: R) -> S::Future {
        self.service.call(request)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn one_connection_too_many_is_closed_until_another_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let bounded = Bounded::new(1);
        let connect = async || {
            let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            bounded.accept(listener.accept().await.unwrap().0, ()).await
        };
        let (_stream, service) = connect().await.unwrap();
        assert!(connect().await.is_err(), "there is one place");
        let request_under_way = service.clone();
        drop(service);
        assert!(connect().await.is_err(), "the last copy counts");
        drop(request_under_way);
        assert!(connect().await.is_ok(), "the place is free again");
    }
}
