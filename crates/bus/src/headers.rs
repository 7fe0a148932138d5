//! What travels beside a body: content type, schema, trace context. And the spans around a message.

use async_nats::{HeaderMap, HeaderValue};
use keyferry_telemetry::{
    RemoteContext,
    propagation::{self, TRACEPARENT, TRACESTATE},
    spans::{self, Delivered},
};
use tracing::Span;

/// Names the protobuf message in the body.
pub(crate) const SCHEMA: &str = "keyferry-schema";
pub(crate) const CONTENT_TYPE: &str = "content-type";

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
    propagation::inject(&mut |name, value| {
        let name = if name == TRACEPARENT { TRACEPARENT } else { TRACESTATE };
        set(headers, name, value);
    });
}

/// Reads the sender's trace context. A wrong one is possible on a hostile bus, and harmless: nothing is decided by it.
fn extract(headers: Option<&HeaderMap>) -> RemoteContext {
    propagation::extract(|name| {
        let mut values = headers?.get_all(name);
        let first = values.next()?.as_str().to_owned();
        // Two of a kind: ignore both.
        values.next().is_none().then_some(first)
    })
}

/// The trace id of the current span, 32 hex digits; empty if there is none.
pub(crate) fn current_trace_id() -> String {
    spans::current_trace_id().unwrap_or_default()
}

/// The span of a publish; its context is the creation context of the message.
pub(crate) fn producer_span(subject: &str, template: &str, id: &str) -> Span {
    spans::publish(template, subject, id)
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
    let message_id = headers.and_then(|headers| headers.get("Nats-Msg-Id")).map_or("", |value| value.as_str());
    let message = Delivered { template, subject, stream, consumer: durable, message_id, delivery_count: delivery.into(), replayed: false };
    spans::process(&message, &extract(headers))
}

/// The span of a call over the bus, at the caller.
pub(crate) fn client_span(method: &'static str) -> Span {
    spans::bus_request(method)
}

/// The span of a call over the bus, at the one who answers.
pub(crate) fn server_span(method: &'static str, headers: Option<&HeaderMap>) -> Span {
    spans::bus_serve(method, &extract(headers))
}
