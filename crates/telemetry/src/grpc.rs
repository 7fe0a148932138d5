//! Tower layers for gRPC: a SERVER or CLIENT span and a duration for each call.
//!
//! A layer and no interceptor, because an interceptor sees neither the method nor the status. The status of a call is in
//! its trailers, so the span lives as long as the response body.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use http::{HeaderMap, Request, Response};
use hyper::body::{Body, Frame, SizeHint};
use tower::{Layer, Service};
use tracing::{Instrument, Span, info_span};

use crate::{
    names::{self, RPC_CLIENT_DURATION, RPC_SERVER_DURATION},
    propagation::{Trust, extract_http, inject_http},
    spans::SpanAttributes,
    text,
};

/// What a method is called that no service of ours has; callers must not be able to invent label values.
const OTHER: &str = "_OTHER";
const METHOD_BYTES_MAX: usize = 96;
/// The statuses for which a server is to blame, by the rpc conventions. A denial is none of them.
const SERVER_FAILURES: [&str; 6] = ["UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"];

/// For gRPC servers, over TLS or a Unix socket. `trust` says what a caller's trace context is worth.
pub fn grpc_server_layer(trust: Trust) -> GrpcLayer {
    GrpcLayer { side: Side::Server(trust) }
}

/// For gRPC channels. `server` is the URL of the peer, or the path of its Unix socket. Every call carries our context: use
/// it only for peers of ours.
pub fn grpc_client_layer(server: &str) -> GrpcLayer {
    GrpcLayer { side: Side::Client(Arc::new(Peer::new(server))) }
}

/// Made by [`grpc_server_layer`] and [`grpc_client_layer`].
#[derive(Clone, Debug)]
pub struct GrpcLayer {
    side: Side,
}

#[derive(Clone, Debug)]
enum Side {
    Server(Trust),
    Client(Arc<Peer>),
}

#[derive(Debug)]
struct Peer {
    address: String,
    port: Option<u16>,
    transport: &'static str,
}

impl Peer {
    fn new(server: &str) -> Self {
        if server.starts_with('/') {
            return Self { address: server.to_owned(), port: None, transport: "unix" };
        }
        let uri = server.parse::<http::Uri>().ok();
        let address = uri.as_ref().and_then(http::Uri::host).unwrap_or(server).to_owned();
        Self { address, port: uri.as_ref().and_then(http::Uri::port_u16), transport: "tcp" }
    }
}

impl<S> Layer<S> for GrpcLayer {
    type Service = GrpcService<S>;
    fn layer(&self, inner: S) -> Self::Service {
        GrpcService { inner, side: self.side.clone() }
    }
}

/// Made by [`GrpcLayer`].
#[derive(Clone, Debug)]
pub struct GrpcService<S> {
    inner: S,
    side: Side,
}

impl<S, A, B> Service<Request<A>> for GrpcService<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    B: 'static,
{
    type Response = Response<CallBody<B>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<A>) -> Self::Future {
        let method = method(request.uri().path());
        let (span, client) = match &self.side {
            Side::Server(trust) => (server_span(&method, *trust, request.headers()), false),
            Side::Client(peer) => {
                let span = client_span(&method, peer);
                inject_http(&span, request.headers_mut());
                (span, true)
            }
        };
        let call = Call { span: span.clone(), client, method, started: Instant::now(), finished: false };
        let future = span.in_scope(|| self.inner.call(request));
        Box::pin(answer(future, call).instrument(span))
    }
}

async fn answer<B, E>(future: impl Future<Output = Result<Response<B>, E>>, mut call: Call) -> Result<Response<CallBody<B>>, E> {
    let response = match future.await {
        Ok(response) => response,
        Err(error) => {
            call.finish("UNAVAILABLE");
            return Err(error);
        }
    };
    if let Some(status) = status(response.headers()) {
        call.finish(status);
    }
    Ok(response.map(|inner| CallBody { inner, call }))
}

fn server_span(method: &str, trust: Trust, headers: &HeaderMap) -> Span {
    let span = info_span!(parent: None, "grpc_server", otel.name = method, otel.kind = "server");
    extract_http(headers).relate(&span, trust);
    span.attribute(names::RPC_SYSTEM, "grpc");
    span.attribute(names::RPC_METHOD, method);
    span
}

fn client_span(method: &str, peer: &Peer) -> Span {
    let span = info_span!("grpc_client", otel.name = method, otel.kind = "client");
    span.attribute(names::RPC_SYSTEM, "grpc");
    span.attribute(names::RPC_METHOD, method);
    span.attribute(names::SERVER_ADDRESS, &peer.address);
    span.attribute(names::NETWORK_TRANSPORT, peer.transport);
    if let Some(port) = peer.port {
        span.attribute(names::SERVER_PORT, port);
    }
    span
}

/// `/keyferry.release.v1.KeyBroker/TransferKey` without its leading slash; anything that is no method name is `_OTHER`.
fn method(path: &str) -> String {
    let name = path.strip_prefix('/').unwrap_or(path);
    let sound = name.matches('/').count() == 1 && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '/'));
    if sound && name.len() <= METHOD_BYTES_MAX { name.to_owned() } else { OTHER.to_owned() }
}

/// One call: its span and clock. Whoever drops it unfinished cancelled the call.
struct Call {
    span: Span,
    client: bool,
    method: String,
    started: Instant,
    finished: bool,
}

impl Call {
    fn finish(&mut self, status: &str) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        self.span.attribute(names::RPC_STATUS, status);
        let failed = if self.client { status != "OK" } else { SERVER_FAILURES.contains(&status) };
        if failed {
            self.span.failed(status);
        }
        let (metric, known) = if self.client { (&RPC_CLIENT_DURATION, true) } else { (&RPC_SERVER_DURATION, status != "UNIMPLEMENTED") };
        let method = if known { text::label(&self.method) } else { OTHER.to_owned() };
        let labels = [(names::RPC_SYSTEM, "grpc"), (names::RPC_METHOD, method.as_str()), (names::RPC_STATUS, status)];
        metric.record(self.started.elapsed().as_secs_f64(), &labels);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.finish("CANCELLED");
    }
}

/// A response body that sees the trailers go by, and with them the status of the call.
pub struct CallBody<B> {
    inner: B,
    call: Call,
}

impl<B: Body + Unpin> Body for CallBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let span = self.call.span.clone();
        let polled = span.in_scope(|| Pin::new(&mut self.inner).poll_frame(context));
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(status) = frame.trailers_ref().and_then(status) {
                    self.call.finish(status);
                }
            }
            Poll::Ready(Some(Err(_))) => self.call.finish("UNAVAILABLE"),
            // gRPC always ends in a status; a body without one came from something else.
            Poll::Ready(None) => self.call.finish("UNKNOWN"),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

fn status(headers: &HeaderMap) -> Option<&'static str> {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    let code = headers.get("grpc-status")?.to_str().ok()?;
    Some(code.parse::<usize>().ok().and_then(|code| NAMES.get(code)).copied().unwrap_or("UNKNOWN"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_paths_are_no_method_names() {
        assert_eq!(method("/keyferry.release.v1.KeyBroker/TransferKey"), "keyferry.release.v1.KeyBroker/TransferKey");
        for path in ["/", "", "/a/b/c", "/a b/c", "/a/\u{e9}", &format!("/a/{}", "x".repeat(200))] {
            assert_eq!(method(path), OTHER, "{path}");
        }
    }

    #[test]
    fn statuses_are_names() {
        let headers = |code: &str| HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), code.parse().unwrap())]);
        assert_eq!(status(&headers("0")), Some("OK"));
        assert_eq!(status(&headers("7")), Some("PERMISSION_DENIED"));
        assert_eq!(status(&headers("16")), Some("UNAUTHENTICATED"));
        assert_eq!(status(&headers("99")), Some("UNKNOWN"));
        assert_eq!(status(&HeaderMap::new()), None);
    }
}
