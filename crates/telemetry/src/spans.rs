//! Spans with the right names, kinds and attributes. Code outside this crate makes its spans here.
//!
//! Each function returns a span that has not begun: run the work with `.instrument(span)` (never a guard across an
//! `.await`), and carry `Span::current()` into every spawned task.

use opentelemetry::{Value, trace::Status};
use tracing::{Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::{
    names::{self, Attribute, SpanName},
    propagation::{RemoteContext, Trust},
    text,
};

/// The value of an attribute: a capped text, a number or a truth.
#[derive(Clone, Debug)]
pub struct AttributeValue(Value);

impl From<&str> for AttributeValue {
    fn from(value: &str) -> Self {
        Self(text::attribute(value).into())
    }
}
impl From<&String> for AttributeValue {
    fn from(value: &String) -> Self {
        value.as_str().into()
    }
}
impl From<i64> for AttributeValue {
    fn from(value: i64) -> Self {
        Self(value.into())
    }
}
impl From<u64> for AttributeValue {
    fn from(value: u64) -> Self {
        Self(i64::try_from(value).unwrap_or(i64::MAX).into())
    }
}
impl From<usize> for AttributeValue {
    fn from(value: usize) -> Self {
        Self(i64::try_from(value).unwrap_or(i64::MAX).into())
    }
}
impl From<u16> for AttributeValue {
    fn from(value: u16) -> Self {
        Self(i64::from(value).into())
    }
}
impl From<bool> for AttributeValue {
    fn from(value: bool) -> Self {
        Self(value.into())
    }
}

/// Attributes on a `tracing` span, by declared names only.
pub trait SpanAttributes {
    /// Sets one attribute. Texts are cut at 256 bytes. Never give it key material, a token, a nonce or a peer's error text.
    fn attribute(&self, name: Attribute, value: impl Into<AttributeValue>);
    /// Marks a decision: `released`, `denied` or `error`, with the reason unless released. Not an error of the span.
    fn decision(&self, decision: &str, reason: Option<&str>);
    /// Marks the span as failed, with a low-cardinality class of failure.
    fn failed(&self, error_type: &str);
}

impl SpanAttributes for Span {
    fn attribute(&self, name: Attribute, value: impl Into<AttributeValue>) {
        self.set_attribute(name.as_str(), value.into().0);
    }
    fn decision(&self, decision: &str, reason: Option<&str>) {
        self.attribute(names::DECISION, decision);
        if let Some(reason) = reason {
            self.attribute(names::REASON, reason);
        }
    }
    fn failed(&self, error_type: &str) {
        self.attribute(names::ERROR_TYPE, error_type);
        self.set_status(Status::error(""));
    }
}

/// One step inside a service (INTERNAL), child of the current span.
pub fn step(name: SpanName) -> Span {
    info_span!("step", otel.name = name.as_str(), otel.kind = "internal")
}

/// A step that begins a trace of its own, e.g. a job nobody asked for.
pub fn root(name: SpanName) -> Span {
    info_span!(parent: None, "root", otel.name = name.as_str(), otel.kind = "internal")
}

/// One call of the key management system: `operation` is `get`, `create`, `destroy` and the like, `backend` its kind.
pub fn kms(operation: &str, backend: &str) -> Span {
    let span = info_span!("kms", otel.name = format!("{operation} {backend}"), otel.kind = "client");
    span.attribute(names::KMS_OPERATION, operation);
    span.attribute(names::KMS_BACKEND, backend);
    span
}

/// One HTTP request to another server; `route` is the path with placeholders. The caller decides whether to send the
/// context along ([`crate::propagation::inject_http`]): never to third parties.
pub fn http_client(method: &str, route: &str, host: &str) -> Span {
    let span = info_span!("http_client", otel.name = format!("{method} {route}"), otel.kind = "client");
    span.attribute(names::HTTP_METHOD, method);
    span.attribute(names::HTTP_ROUTE, route);
    span.attribute(names::SERVER_ADDRESS, host);
    span
}

/// Publishing one event: `template` is the subject with placeholders, `subject` the real one.
pub fn publish(template: &str, subject: &str, message_id: &str) -> Span {
    let span = info_span!("publish", otel.name = format!("publish {template}"), otel.kind = "producer");
    messaging(&span, "publish", "send", template);
    span.attribute(names::MESSAGING_DESTINATION, subject);
    span.attribute(names::MESSAGING_MESSAGE_ID, message_id);
    span
}

/// What a consumer knows about a delivered message.
#[derive(Clone, Copy, Debug)]
pub struct Delivered<'a> {
    /// The subject with placeholders.
    pub template: &'a str,
    /// The real subject.
    pub subject: &'a str,
    /// The stream; empty for a core subscription.
    pub stream: &'a str,
    /// The durable consumer; empty for a core subscription.
    pub consumer: &'a str,
    /// The `Nats-Msg-Id`.
    pub message_id: &'a str,
    /// How often it was delivered, this time included.
    pub delivery_count: u64,
    /// A replay, a dead letter, or older than a trace is kept: a trace of its own that links to the origin.
    pub replayed: bool,
}

/// Handling one event: a child of the publisher's span, and linked to it. Every delivery is a span of its own.
pub fn process(message: &Delivered<'_>, origin: &RemoteContext) -> Span {
    let span = info_span!(parent: None, "process", otel.name = format!("process {}", message.template), otel.kind = "consumer");
    if message.replayed {
        origin.relate(&span, Trust::Link);
    } else {
        origin.relate_with_link(&span);
    }
    messaging(&span, "process", "process", message.template);
    span.attribute(names::MESSAGING_DESTINATION, message.subject);
    span.attribute(names::MESSAGING_MESSAGE_ID, message.message_id);
    span.attribute(names::MESSAGING_DELIVERY_COUNT, message.delivery_count);
    for (name, value) in [(names::MESSAGING_SUBSCRIPTION, message.stream), (names::MESSAGING_CONSUMER_GROUP, message.consumer)] {
        if !value.is_empty() {
            span.attribute(name, value);
        }
    }
    span
}

/// A request over the bus whose reply is awaited; `name` is `<service>/<method>`.
pub fn bus_request(name: &str) -> Span {
    let span = info_span!("bus_request", otel.name = name, otel.kind = "client");
    bus_rpc(&span, name);
    span
}

/// Serving a request that came over the bus.
pub fn bus_serve(name: &str, caller: &RemoteContext) -> Span {
    let span = info_span!(parent: None, "bus_serve", otel.name = name, otel.kind = "server");
    caller.relate(&span, Trust::Adopt);
    bus_rpc(&span, name);
    span
}

fn bus_rpc(span: &Span, name: &str) {
    span.attribute(names::RPC_SYSTEM, "nats");
    span.attribute(names::RPC_METHOD, name);
}

fn messaging(span: &Span, operation: &str, kind: &str, template: &str) {
    span.attribute(names::MESSAGING_SYSTEM, "nats");
    span.attribute(names::MESSAGING_OPERATION, operation);
    span.attribute(names::MESSAGING_OPERATION_TYPE, kind);
    span.attribute(names::MESSAGING_TEMPLATE, template);
}

/// The trace id of the current span in lower-case hex, if there is one.
pub fn current_trace_id() -> Option<String> {
    use opentelemetry::trace::TraceContextExt;
    let context = Span::current().context();
    let span = context.span();
    span.span_context().is_valid().then(|| span.span_context().trace_id().to_string())
}
