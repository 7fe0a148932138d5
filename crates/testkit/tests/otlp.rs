//! The collector, and what it says about whole and broken traces.
#![allow(clippy::unwrap_used, reason = "the helpers below are test code; clippy exempts only functions marked #[test]")]

use std::time::Duration;

use keyferry_testkit::otlp::{OtlpReceiver, TraceReport};
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::{ExportLogsServiceRequest, logs_service_client::LogsServiceClient},
        metrics::v1::{ExportMetricsServiceRequest, metrics_service_client::MetricsServiceClient},
        trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
    metrics::v1::{Metric, ResourceMetrics, ScopeMetrics},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span::SpanKind, status::StatusCode},
};
use tonic::transport::Channel;

const TRACE: &str = "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a";
const LIMIT: Duration = Duration::from_secs(20);

fn attribute(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) }), ..KeyValue::default() }
}

fn span(id: u8, parent: Option<u8>, name: &str, kind: SpanKind, start_ms: u64, end_ms: u64) -> Span {
    Span {
        trace_id: vec![10; 16],
        span_id: vec![id; 8],
        parent_span_id: parent.map(|parent| vec![parent; 8]).unwrap_or_default(),
        name: name.to_owned(),
        kind: kind as i32,
        start_time_unix_nano: (1_000_000 + start_ms) * 1_000_000,
        end_time_unix_nano: (1_000_000 + end_ms) * 1_000_000,
        ..Span::default()
    }
}

fn group(service: &str, spans: Vec<Span>) -> ResourceSpans {
    let resource = Resource { attributes: vec![attribute("service.name", service)], ..Resource::default() };
    ResourceSpans { resource: Some(resource), scope_spans: vec![ScopeSpans { spans, ..ScopeSpans::default() }], ..ResourceSpans::default() }
}

async fn channel(receiver: &OtlpReceiver) -> Channel {
    Channel::from_shared(receiver.endpoint().to_owned()).unwrap().connect().await.unwrap()
}

async fn send(receiver: &OtlpReceiver, groups: Vec<ResourceSpans>) {
    let request = ExportTraceServiceRequest { resource_spans: groups };
    TraceServiceClient::new(channel(receiver).await).export(request).await.unwrap();
}

fn runner() -> ResourceSpans {
    let spans =
        vec![span(1, None, "load_model", SpanKind::Internal, 0, 100), span(2, Some(1), "KeyBroker/TransferKey", SpanKind::Client, 10, 60)];
    group("model-runner", spans)
}

fn broker(decision: &str, reason: &str) -> ResourceSpans {
    let mut server = span(3, Some(2), "KeyBroker/TransferKey", SpanKind::Server, 20, 50);
    server.attributes = vec![attribute("keyferry.decision", decision), attribute("keyferry.reason", reason)];
    group("key-release", vec![server])
}

#[tokio::test]
async fn a_whole_trace_is_told_from_one_that_still_misses_a_span() {
    let receiver = OtlpReceiver::start().await.unwrap();
    send(&receiver, vec![broker("denied", "token_expired")]).await;
    let early = receiver.trace(TRACE);
    assert!(!early.is_whole());
    assert_eq!((early.roots.len(), early.orphans.len()), (0, 1));
    assert!(early.waterfall(120).contains("(parent missing) <- KeyBroker/TransferKey"));

    send(&receiver, vec![runner()]).await;
    let report = receiver.wait_for_trace(TRACE, LIMIT, TraceReport::is_whole).await;
    assert!(report.is_whole() && report.has("load_model"));
    assert_eq!(report.services, ["key-release", "model-runner"]);
    assert_eq!(report.total(), Duration::from_millis(100));
    assert_eq!(report.call_mistakes(), Vec::<String>::new());
    assert!(!receiver.wait_until(Duration::ZERO, |spans| spans.len() > 3).await);
}

#[tokio::test]
async fn the_waterfall_shows_names_times_and_decisions_in_order() {
    let receiver = OtlpReceiver::start().await.unwrap();
    send(&receiver, vec![runner(), broker("denied", "token_expired")]).await;
    assert_eq!(
        receiver.trace(TRACE).waterfall(110),
        "trace 0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a: 3 spans, 2 services, 100.0 ms\n\
         \x20    0.0 ms    100.0 ms  model-runner  load_model                                            ██████████████████\n\
         \x20   10.0 ms     50.0 ms  model-runner    -> KeyBroker/TransferKey                              █████████\n\
         \x20   20.0 ms     30.0 ms  key-release       <- KeyBroker/TransferKey [denied: token_expired]      █████\n"
    );
}

#[tokio::test]
async fn hostile_names_cannot_move_the_cursor() {
    let receiver = OtlpReceiver::start().await.unwrap();
    let mut failed = span(1, None, "a\u{1b}[2Jb\nc", SpanKind::Internal, 0, 1);
    failed.status = Some(Status { code: StatusCode::Error as i32, ..Status::default() });
    send(&receiver, vec![group("x", vec![failed])]).await;
    let text = receiver.trace(TRACE).waterfall(80);
    assert!(text.contains("a?[2Jb?c [error: unknown]") && text.lines().count() == 2, "{text}");
}

#[tokio::test]
async fn calls_that_do_not_fit_together_are_named() {
    let receiver = OtlpReceiver::start().await.unwrap();
    let consumer = group("token-broker", vec![span(4, Some(2), "process x", SpanKind::Consumer, 5, 8)]);
    send(&receiver, vec![runner(), consumer]).await;
    let mistakes = receiver.trace(TRACE).call_mistakes();
    assert_eq!(mistakes.len(), 2, "{mistakes:?}");
    assert!(mistakes[0].contains("process x of token-broker is Consumer under Client"), "{mistakes:?}");
    assert!(mistakes[1].contains("starts before its parent"), "{mistakes:?}");
}

#[tokio::test]
async fn metrics_and_logs_are_accepted() {
    let receiver = OtlpReceiver::start().await.unwrap();
    let metric = Metric { name: "keyferry.dead_letters".to_owned(), ..Metric::default() };
    let scope = ScopeMetrics { metrics: vec![metric], ..ScopeMetrics::default() };
    let request = ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics { scope_metrics: vec![scope], ..ResourceMetrics::default() }],
    };
    MetricsServiceClient::new(channel(&receiver).await).export(request).await.unwrap();
    assert!(receiver.metric_names().contains("keyferry.dead_letters"));
    LogsServiceClient::new(channel(&receiver).await).export(ExportLogsServiceRequest::default()).await.unwrap();
}
