//! What travels beside a body: content type, schema, trace context. And the spans around a message.

use async_nats::{HeaderMap, HeaderValue};
use opentelemetry::{
    Context, global,
    propagation::{Extractor, Injector},
    trace::TraceContextExt,
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Names the protobuf message in the body.
pub(crate) const SCHEMA: &str = "keyferry-schema";
pub(crate) const CONTENT_TYPE: &str = "content-type";
const TRACE_STATE: &str = "tracestate";
/// A longer `tracestate` is dropped: everybody downstream would repeat it.
const TRACE_STATE_CHARACTERS_MAX: usize = 512;

pub(crate) fn describe(headers: &mut HeaderMap, content_type: &str, schema: &str) {
    set(headers, CONTENT_TYPE, content_type);
    set(headers, SCHEMA, schema);
}

/// Sets a header unless its value cannot be one: `HeaderMap::insert` panics on a line break.
pub(crate) fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = value.parse::<HeaderValue>() {
        headers.insert(name, value);
    }
}

/// Writes the current trace context.
pub(crate) fn inject(headers: &mut HeaderMap) {
    struct Carrier<'a>(&'a mut HeaderMap);
    impl Injector for Carrier<'_> {
        fn set(&mut self, key: &str, value: String) {
            if value.is_empty() || (key == TRACE_STATE && value.len() > TRACE_STATE_CHARACTERS_MAX) {
                return;
            }
            if let Ok(value) = value.parse::<HeaderValue>() {
                self.0.insert(key, value);
            }
        }
    }
    let context = Span::current().context();
    global::get_text_map_propagator(|propagator| propagator.inject_context(&context, &mut Carrier(headers)));
}

/// Reads the sender's trace context. A wrong one is possible on a hostile bus, and harmless: nothing is decided by it.
pub(crate) fn extract(headers: Option<&HeaderMap>) -> Context {
    struct Carrier<'a>(&'a HeaderMap);
    impl Extractor for Carrier<'_> {
        fn get(&self, key: &str) -> Option<&str> {
            let mut values = self.0.get_all(key);
            let first = values.next()?.as_str();
            // Two of a kind: ignore both.
            (values.next().is_none() && first.len() <= TRACE_STATE_CHARACTERS_MAX).then_some(first)
        }
        fn keys(&self) -> Vec<&str> {
            self.0.iter().map(|(name, _)| name.as_ref()).collect()
        }
    }
    let Some(headers) = headers else { return Context::new() };
    global::get_text_map_propagator(|propagator| propagator.extract_with_context(&Context::new(), &Carrier(headers)))
}

/// The trace id of the current span, 32 hex digits; empty if there is none.
pub(crate) fn current_trace_id() -> String {
    let context = Span::current().context();
    let span_context = context.span().span_context().clone();
    if span_context.is_valid() { span_context.trace_id().to_string() } else { String::new() }
}

/// The span of a publish; its context is the creation context of the message.
pub(crate) fn producer_span(subject: &str, template: &str, id: &str) -> Span {
    tracing::info_span!(
        "publish",
        otel.name = format!("publish {template}"),
        otel.kind = "producer",
        messaging.system = "nats",
        messaging.operation.name = "publish",
        messaging.operation.type = "send",
        messaging.destination.name = subject,
        messaging.destination.template = template,
        messaging.message.id = id,
    )
}

/// The span of one delivery: child of the creation context, and linked to it.
pub(crate) fn consumer_span(
    subject: &str,
    template: &str,
    stream: &str,
    durable: &str,
    delivery: u32,
    headers: Option<&HeaderMap>,
) -> Span {
    let id = headers.and_then(|headers| headers.get("Nats-Msg-Id")).map_or("", |value| value.as_str());
    let span = tracing::info_span!(
        "process",
        otel.name = format!("process {template}"),
        otel.kind = "consumer",
        messaging.system = "nats",
        messaging.operation.name = "process",
        messaging.operation.type = "process",
        messaging.destination.name = subject,
        messaging.destination.template = template,
        messaging.destination.subscription.name = stream,
        messaging.consumer.group.name = durable,
        messaging.message.id = id,
        messaging.nats.message.delivery_count = delivery,
    );
    adopt(&span, headers);
    span
}

/// The span of a call over the bus, at the caller.
pub(crate) fn client_span(method: &'static str) -> Span {
    tracing::info_span!("call", otel.name = method, otel.kind = "client", rpc.system.name = "nats", rpc.method = method)
}

/// The span of a call over the bus, at the one who answers.
pub(crate) fn server_span(method: &'static str, headers: Option<&HeaderMap>) -> Span {
    let span = tracing::info_span!("answer", otel.name = method, otel.kind = "server", rpc.system.name = "nats", rpc.method = method);
    adopt(&span, headers);
    span
}

fn adopt(span: &Span, headers: Option<&HeaderMap>) {
    let context = extract(headers);
    let remote = context.span().span_context().clone();
    if remote.is_valid() {
        span.add_link(remote);
        if let Err(error) = span.set_parent(context) {
            tracing::trace!(%error, "the trace context of a message was not adopted");
        }
    }
}
