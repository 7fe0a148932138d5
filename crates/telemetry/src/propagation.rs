//! Trace context over any carrier of names and values: bus headers, gRPC metadata, HTTP headers.
//!
//! What arrives is a claim. The format is W3C's; the sizes are capped here because the SDK caps only the number of
//! members, and every downstream call would repeat them. Baggage is never read or written.

use std::{collections::HashMap, fmt};

use opentelemetry::{
    Context,
    propagation::{Extractor, Injector, TextMapPropagator},
    trace::TraceContextExt,
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::spans::SpanAttributes;

/// The header with trace and span id.
pub const TRACEPARENT: &str = "traceparent";
/// The header with vendors' additions.
pub const TRACESTATE: &str = "tracestate";
/// W3C's 55 characters, and room for a later version's additions.
const TRACEPARENT_BYTES_MAX: usize = 128;
/// W3C asks to carry at least this much; nobody gets more from us.
const TRACESTATE_BYTES_MAX: usize = 512;

/// What a peer's trace context is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// An authenticated peer, or the same machine: its ids become ours. Its sampling flag never counts.
    Adopt,
    /// Anyone: we begin a trace of our own and link to the claimed one.
    Link,
}

/// A trace context as a peer claims it; may be absent or nonsense.
#[derive(Clone, Default)]
pub struct RemoteContext(Context);

impl RemoteContext {
    /// Whether there is a context at all.
    pub fn is_valid(&self) -> bool {
        self.0.span().span_context().is_valid()
    }

    /// The claimed trace id in lower-case hex.
    pub fn trace_id(&self) -> Option<String> {
        self.is_valid().then(|| self.0.span().span_context().trace_id().to_string())
    }

    /// Relates a fresh `span` (not entered yet, made with `parent: None`) to the claimed context: as its child, or as a
    /// root that links to it.
    pub fn relate(&self, span: &Span, trust: Trust) {
        if !self.is_valid() {
            return;
        }
        let claimed = self.0.span().span_context().clone();
        match trust {
            Trust::Adopt => {
                // Fails only for a span that has begun or is filtered out; then the link still tells.
                if span.set_parent(self.0.clone()).is_err() {
                    span.add_link(claimed);
                }
            }
            Trust::Link => {
                span.attribute(crate::names::REMOTE_TRACE_ID, claimed.trace_id().to_string().as_str());
                span.add_link(claimed);
            }
        }
    }

    /// As [`Self::relate`] with [`Trust::Adopt`], and a link as well: messaging conventions correlate by links, service
    /// graphs by parents.
    pub(crate) fn relate_with_link(&self, span: &Span) {
        self.relate(span, Trust::Adopt);
        if self.is_valid() {
            span.add_link(self.0.span().span_context().clone());
        }
    }
}

impl fmt::Debug for RemoteContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RemoteContext({})", self.trace_id().as_deref().unwrap_or("none"))
    }
}

/// Calls `set` with each header that carries the current span's context; not at all outside a trace.
pub fn inject(set: &mut impl FnMut(&str, &str)) {
    inject_from(&Span::current(), set);
}

/// Calls `set` with each header that carries the context of `span`.
pub fn inject_from(span: &Span, set: &mut impl FnMut(&str, &str)) {
    let mut headers = HashMap::<String, String>::with_capacity(2);
    TraceContextPropagator::new().inject_context(&span.context(), &mut headers);
    for (name, limit) in [(TRACEPARENT, TRACEPARENT_BYTES_MAX), (TRACESTATE, TRACESTATE_BYTES_MAX)] {
        // The SDK writes an empty tracestate; a header without a value tells nothing.
        if let Some(value) = headers.get(name).filter(|value| !value.is_empty() && value.len() <= limit) {
            set(name, value);
        }
    }
}

/// Reads the context that `get` finds under `traceparent` and `tracestate`. Anything malformed or oversized is no context.
pub fn extract(get: impl Fn(&str) -> Option<String>) -> RemoteContext {
    let Some(parent) = get(TRACEPARENT).filter(|value| value.len() <= TRACEPARENT_BYTES_MAX) else {
        return RemoteContext::default();
    };
    let state = get(TRACESTATE).filter(|value| value.len() <= TRACESTATE_BYTES_MAX);
    let claimed = Claimed { parent, state };
    RemoteContext(TraceContextPropagator::new().extract_with_context(&Context::new(), &claimed))
}

struct Claimed {
    parent: String,
    state: Option<String>,
}

impl Extractor for Claimed {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            TRACEPARENT => Some(&self.parent),
            TRACESTATE => self.state.as_deref(),
            _ => None,
        }
    }
    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT, TRACESTATE]
    }
}

/// Reads the context of HTTP or gRPC headers: exactly one `traceparent` counts, several are a sign of forgery and count as none.
pub fn extract_http(headers: &http::HeaderMap) -> RemoteContext {
    extract(|name| {
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => value.to_str().ok().map(str::to_owned),
            _ => None,
        }
    })
}

/// Writes the context of `span` into HTTP or gRPC headers.
pub fn inject_http(span: &Span, headers: &mut http::HeaderMap) {
    let mut http = HttpHeaders(headers);
    inject_from(span, &mut |name, value| http.set(name, value.to_owned()));
}

struct HttpHeaders<'a>(&'a mut http::HeaderMap);

impl Injector for HttpHeaders<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(name), Ok(value)) = (http::HeaderName::try_from(key), http::HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}
