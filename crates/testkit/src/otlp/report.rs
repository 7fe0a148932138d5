//! One span, and what can be said of a whole trace.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{Span as WireSpan, span::SpanKind as WireKind, status::StatusCode},
};

use super::waterfall;

/// The role of a span in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// A step inside a service.
    Internal,
    /// The receiving end of a call.
    Server,
    /// The calling end.
    Client,
    /// The sending end of a message.
    Producer,
    /// The handling end.
    Consumer,
}

/// One received span.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// 32 lower-case hex digits.
    pub trace_id: String,
    /// 16 lower-case hex digits.
    pub span_id: String,
    /// The parent's span id; `None` for a root.
    pub parent_id: Option<String>,
    /// `service.name` of the process.
    pub service: String,
    /// `service.instance.id` of the process: tells replicas apart.
    pub instance: String,
    /// The span's name.
    pub name: String,
    /// Its role.
    pub kind: SpanKind,
    /// Start, nanoseconds since 1970.
    pub start_nanoseconds: u64,
    /// How long it took.
    pub duration: Duration,
    /// Whether its status is an error.
    pub failed: bool,
    /// Its attributes, as text.
    pub attributes: BTreeMap<String, String>,
    /// The spans it links to, as `(trace id, span id)`.
    pub links: Vec<(String, String)>,
}

impl Span {
    pub(super) fn new(resource: &Resource, span: WireSpan) -> Self {
        let resource = texts(&resource.attributes);
        let of_resource = |name: &str| resource.get(name).cloned().unwrap_or_default();
        Self {
            trace_id: hex::encode(&span.trace_id),
            span_id: hex::encode(&span.span_id),
            parent_id: (!span.parent_span_id.is_empty()).then(|| hex::encode(&span.parent_span_id)),
            service: of_resource("service.name"),
            instance: of_resource("service.instance.id"),
            kind: kind(span.kind()),
            start_nanoseconds: span.start_time_unix_nano,
            duration: Duration::from_nanos(span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano)),
            failed: span.status.is_some_and(|status| status.code() == StatusCode::Error),
            attributes: texts(&span.attributes),
            links: span.links.iter().map(|link| (hex::encode(&link.trace_id), hex::encode(&link.span_id))).collect(),
            name: span.name,
        }
    }

    /// An attribute's text.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(String::as_str)
    }

    fn end_nanoseconds(&self) -> u64 {
        self.start_nanoseconds.saturating_add(u64::try_from(self.duration.as_nanos()).unwrap_or(u64::MAX))
    }
}

fn kind(kind: WireKind) -> SpanKind {
    match kind {
        WireKind::Server => SpanKind::Server,
        WireKind::Client => SpanKind::Client,
        WireKind::Producer => SpanKind::Producer,
        WireKind::Consumer => SpanKind::Consumer,
        WireKind::Internal | WireKind::Unspecified => SpanKind::Internal,
    }
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    attributes.iter().map(|attribute| (attribute.key.clone(), attribute.value.as_ref().map(text).unwrap_or_default())).collect()
}

fn text(value: &AnyValue) -> String {
    match &value.value {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::BoolValue(truth)) => truth.to_string(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}

/// What is known of one trace.
#[derive(Clone, Debug)]
pub struct TraceReport {
    /// 32 lower-case hex digits.
    pub trace_id: String,
    /// Spans without a parent; a whole trace has exactly one.
    pub roots: Vec<Span>,
    /// Spans whose parent was not received (yet); a whole trace has none.
    pub orphans: Vec<Span>,
    /// The services that took part, sorted.
    pub services: Vec<String>,
    /// Every span, by start.
    pub spans: Vec<Span>,
}

impl TraceReport {
    /// The report on the trace `trace_id` among `all` spans.
    pub fn new(trace_id: &str, all: &[Span]) -> Self {
        let mut spans: Vec<Span> = all.iter().filter(|span| span.trace_id == trace_id).cloned().collect();
        spans.sort_by(|a, b| a.start_nanoseconds.cmp(&b.start_nanoseconds).then_with(|| a.span_id.cmp(&b.span_id)));
        let known: BTreeSet<&str> = spans.iter().map(|span| span.span_id.as_str()).collect();
        let roots = spans.iter().filter(|span| span.parent_id.is_none()).cloned().collect();
        let orphaned = |span: &&Span| span.parent_id.as_deref().is_some_and(|parent| !known.contains(parent));
        let orphans = spans.iter().filter(orphaned).cloned().collect();
        let services: BTreeSet<String> = spans.iter().map(|span| span.service.clone()).collect();
        Self { trace_id: trace_id.to_owned(), roots, orphans, services: services.into_iter().collect(), spans }
    }

    /// One root and nobody's parent missing.
    pub fn is_whole(&self) -> bool {
        self.roots.len() == 1 && self.orphans.is_empty()
    }

    /// Whether a span of this name was received.
    pub fn has(&self, name: &str) -> bool {
        self.spans.iter().any(|span| span.name == name)
    }

    /// From the first start to the last end.
    pub fn total(&self) -> Duration {
        let start = self.spans.iter().map(|span| span.start_nanoseconds).min().unwrap_or_default();
        let end = self.spans.iter().map(Span::end_nanoseconds).max().unwrap_or_default();
        Duration::from_nanos(end.saturating_sub(start))
    }

    /// What is wrong with the calls between services: each sentence names a child whose parent lives in another process
    /// and is not the other end of a call or message, or that starts before its parent (on one machine, one clock).
    pub fn call_mistakes(&self) -> Vec<String> {
        let by_id: HashMap<&str, &Span> = self.spans.iter().map(|span| (span.span_id.as_str(), span)).collect();
        let with_parent = self.spans.iter().filter_map(|span| Some((span, *by_id.get(span.parent_id.as_deref()?)?)));
        let mut mistakes = Vec::new();
        for (child, parent) in with_parent {
            let ends = (parent.kind, child.kind);
            let other_process = (&child.service, &child.instance) != (&parent.service, &parent.instance);
            if other_process && !matches!(ends, (SpanKind::Client, SpanKind::Server) | (SpanKind::Producer, SpanKind::Consumer)) {
                mistakes.push(format!(
                    "{} of {} is {:?} under {:?} {} of {}",
                    child.name, child.service, child.kind, parent.kind, parent.name, parent.service
                ));
            }
            if child.start_nanoseconds < parent.start_nanoseconds {
                mistakes.push(format!("{} of {} starts before its parent {}", child.name, child.service, parent.name));
            }
        }
        mistakes
    }

    /// The trace as lines for a terminal of about `columns` columns: offset, duration, service, indented name, bar. Only names,
    /// decisions and reasons are shown.
    pub fn waterfall(&self, columns: usize) -> String {
        waterfall::render(self, columns)
    }
}
