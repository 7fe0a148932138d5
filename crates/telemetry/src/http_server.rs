//! Tower layer for HTTP servers: a SERVER span and a duration for each request, named by method and matched route.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use axum::extract::MatchedPath;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};
use tower::{Layer, Service};
use tracing::{Instrument, Span, info_span};

use crate::{
    names::{self, HTTP_SERVER_DURATION},
    propagation::{Trust, extract_http},
    spans::SpanAttributes,
};

/// The header that ties a request to its answer, on every REST surface.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
const REQUEST_ID_CHARACTERS_MAX: usize = 128;

/// The caller's request id, if it may be echoed: `[A-Za-z0-9_ /.-]`, 1 to 128, nothing that could break a log, a header, or
/// a client that pastes headers into JSON.
pub fn request_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let is_harmless = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=REQUEST_ID_CHARACTERS_MAX).contains(&bytes.len())
            && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_ /.-".contains(byte))
    };
    headers.get(REQUEST_ID).filter(is_harmless).cloned()
}

/// For axum routers: add it with `Router::layer` after the routes, so that the matched route is known. Paths, queries and
/// headers are not recorded: they may hold identifiers and credentials.
pub fn http_server_layer(trust: Trust) -> HttpServerLayer {
    HttpServerLayer { trust }
}

/// Made by [`http_server_layer`].
#[derive(Clone, Copy, Debug)]
pub struct HttpServerLayer {
    trust: Trust,
}

impl<S> Layer<S> for HttpServerLayer {
    type Service = HttpServerService<S>;
    fn layer(&self, inner: S) -> Self::Service {
        HttpServerService { inner, trust: self.trust }
    }
}

/// Made by [`HttpServerLayer`].
#[derive(Clone, Debug)]
pub struct HttpServerService<S> {
    inner: S,
    trust: Trust,
}

impl<S, A, B> Service<Request<A>> for HttpServerService<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    B: 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let method = method(request.method());
        let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
        let span = span(method, route.as_deref(), &request, self.trust);
        let started = Instant::now();
        let future = span.in_scope(|| self.inner.call(request));
        let recorded = span.clone();
        let answer = async move {
            let result = future.await;
            if let Ok(response) = &result {
                finish(&recorded, method, route.as_deref().unwrap_or_default(), response.status(), started);
            }
            result
        };
        Box::pin(answer.instrument(span))
    }
}

fn span<A>(method: &str, route: Option<&str>, request: &Request<A>, trust: Trust) -> Span {
    let name = route.map_or_else(|| method.to_owned(), |route| format!("{method} {route}"));
    let span = info_span!(parent: None, "http_server", otel.name = name, otel.kind = "server");
    extract_http(request.headers()).relate(&span, trust);
    span.attribute(names::HTTP_METHOD, method);
    span.attribute(names::URL_SCHEME, request.uri().scheme_str().unwrap_or("https"));
    if let Some(route) = route {
        span.attribute(names::HTTP_ROUTE, route);
    }
    span
}

fn finish(span: &Span, method: &str, route: &str, status: http::StatusCode, started: Instant) {
    span.attribute(names::HTTP_STATUS, status.as_u16());
    if status.is_server_error() {
        span.failed(status.as_str());
    }
    let labels = [(names::HTTP_METHOD, method), (names::HTTP_ROUTE, route), (names::HTTP_STATUS, status.as_str())];
    HTTP_SERVER_DURATION.record(started.elapsed().as_secs_f64(), &labels);
}

/// Callers must not be able to invent label values.
fn method(method: &Method) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("_OTHER")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_harmless() {
        let given = |text: &str| {
            let value = HeaderValue::from_str(text).unwrap();
            request_id(&HeaderMap::from_iter([(REQUEST_ID, value)])).is_some()
        };
        assert!(given("a b/c_1.-") && given(&"x".repeat(128)));
        for text in ["", "a\"b", "a{b", &"x".repeat(129)] {
            assert!(!given(text), "{text}");
        }
        assert!(request_id(&HeaderMap::new()).is_none());
    }
}
