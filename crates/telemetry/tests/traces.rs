//! Spans and metrics as a collector and a Prometheus server see them, over real OTLP and real HTTP/2.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "the helpers below are test code; clippy exempts only functions marked #[test]"
)]

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, HeaderValue, Request, Response},
    routing::{get, post},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use keyferry_telemetry::{
    Config, RemoteContext, SpanAttributes, Telemetry, Trust, extract, grpc_client_layer, grpc_server_layer, http_server_layer, init, names,
    propagation, render, spans,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
    trace::v1::{Span as ProtoSpan, span::SpanKind, status::StatusCode},
};
use tokio::sync::watch;
use tower::{Service, ServiceBuilder, ServiceExt};
use tracing::Instrument;

/// One runtime and one subscriber for the whole binary: a process has one of each.
static RUNTIME: LazyLock<tokio::runtime::Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap());

struct Collector {
    spans: watch::Receiver<Vec<ProtoSpan>>,
    _telemetry: Telemetry,
}

static COLLECTOR: LazyLock<Collector> = LazyLock::new(|| RUNTIME.block_on(Collector::start()));

#[derive(Clone)]
struct Receiver(Arc<watch::Sender<Vec<ProtoSpan>>>);

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let scopes = request.into_inner().resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        let new: Vec<_> = scopes.flat_map(|scope| scope.spans).collect();
        self.0.send_modify(|spans| spans.extend(new));
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, spans) = watch::channel(Vec::new());
        let service = TraceServiceServer::new(Receiver(Arc::new(sender)));
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        let config = Config { otlp_endpoint: Some(format!("http://{address}")), ..Config::default() };
        let telemetry = init("telemetry-test", &config).unwrap();
        Self { spans, _telemetry: telemetry }
    }

    /// The spans of one trace, once all `wanted` names have arrived, each as often as it is listed.
    async fn trace(&self, trace_id: &str, wanted: &[&str]) -> Vec<ProtoSpan> {
        let mut spans = self.spans.clone();
        let of_trace = |all: &[ProtoSpan]| -> Vec<ProtoSpan> { all.iter().filter(|s| hex(&s.trace_id) == trace_id).cloned().collect() };
        let complete = |all: &Vec<ProtoSpan>| {
            let found = of_trace(all);
            let times = |name: &str| wanted.iter().filter(|wanted| **wanted == name).count();
            wanted.iter().all(|name| found.iter().filter(|span| span.name == *name).count() >= times(name))
        };
        let found = tokio::time::timeout(Duration::from_secs(20), spans.wait_for(complete)).await;
        of_trace(&found.expect("the spans should arrive").unwrap())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn named<'a>(spans: &'a [ProtoSpan], name: &str, kind: SpanKind) -> &'a ProtoSpan {
    spans.iter().find(|span| span.name == name && span.kind == kind as i32).unwrap()
}

fn text(span: &ProtoSpan, name: names::Attribute) -> Option<String> {
    let attribute = span.attributes.iter().find(|attribute| attribute.key == name.as_str())?;
    match attribute.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        _ => None,
    }
}

fn status_code(span: &ProtoSpan) -> i32 {
    span.status.as_ref().map_or(0, |status| status.code)
}

const RELEASE: &str = "keyferry.release.v1.KeyBroker/TransferKey";
const POLICY: &str = "keyferry.release.v1.KeyBroker/GetPolicy";

async fn released() -> Response<Body> {
    async {}.instrument(spans::step(names::VERIFY_TOKEN)).await;
    let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    let body = Full::new(Bytes::from_static(b"\0\0\0\0\0")).with_trailers(async move { Some(Ok(trailers)) });
    Response::builder().header("content-type", "application/grpc").body(Body::new(body)).unwrap()
}

async fn denied() -> Response<Body> {
    tracing::Span::current().decision("denied", Some("tcb_out_of_date"));
    Response::builder().header("grpc-status", "7").body(Body::empty()).unwrap()
}

async fn serve(trust: Trust) -> SocketAddr {
    let grpc = Router::new()
        .route(&format!("/{RELEASE}"), post(released))
        .route(&format!("/{POLICY}"), post(denied))
        .layer(grpc_server_layer(trust));
    let rest = Router::new()
        .route("/kbs/v1/keys/{id}/transfer", post(|| async { "ok" }))
        .route("/broken", get(|| async { http::StatusCode::SERVICE_UNAVAILABLE }))
        .layer(http_server_layer(trust));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, grpc.merge(rest)).await });
    address
}

/// A call through a real channel, body read to its end; returns the trace id of the job around it.
async fn job(address: SocketAddr, path: &str, headers: &[(&'static str, &str)]) -> String {
    let url = format!("http://{address}");
    let channel = tonic::transport::Endpoint::from_shared(url.clone()).unwrap().connect_lazy();
    let mut service = ServiceBuilder::new().layer(grpc_client_layer(&url)).service(channel);
    let mut request = Request::post(format!("/{path}")).body(tonic::body::Body::empty()).unwrap();
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    let root = spans::root(names::LOAD_MODEL);
    async move {
        let response = service.ready().await.unwrap().call(request).await.unwrap();
        response.into_body().collect().await.unwrap();
        spans::current_trace_id().unwrap()
    }
    .instrument(root)
    .await
}

#[test]
fn one_trace_covers_client_server_and_step() {
    let collector = &*COLLECTOR;
    RUNTIME.block_on(async {
        let trace_id = job(serve(Trust::Adopt).await, RELEASE, &[]).await;
        let trace = collector.trace(&trace_id, &["load_model", RELEASE, RELEASE, "verify_token"]).await;
        let (root, step) = (named(&trace, "load_model", SpanKind::Internal), named(&trace, "verify_token", SpanKind::Internal));
        let (client, server) = (named(&trace, RELEASE, SpanKind::Client), named(&trace, RELEASE, SpanKind::Server));
        assert_eq!(root.parent_span_id, b"");
        assert_eq!(client.parent_span_id, root.span_id);
        assert_eq!(server.parent_span_id, client.span_id);
        assert_eq!(step.parent_span_id, server.span_id);
        for span in [client, server] {
            assert_eq!(text(span, names::RPC_SYSTEM).unwrap(), "grpc");
            assert_eq!(text(span, names::RPC_METHOD).unwrap(), RELEASE);
            assert_eq!(text(span, names::RPC_STATUS).unwrap(), "OK");
            assert_eq!(status_code(span), StatusCode::Unset as i32);
        }
        assert_eq!(text(client, names::SERVER_ADDRESS).unwrap(), "127.0.0.1");
        assert_eq!(text(client, names::NETWORK_TRANSPORT).unwrap(), "tcp");
    });
}

#[test]
fn a_denial_is_no_error_of_the_server() {
    let collector = &*COLLECTOR;
    RUNTIME.block_on(async {
        let trace_id = job(serve(Trust::Adopt).await, POLICY, &[]).await;
        let trace = collector.trace(&trace_id, &["load_model", POLICY, POLICY]).await;
        let (client, server) = (named(&trace, POLICY, SpanKind::Client), named(&trace, POLICY, SpanKind::Server));
        assert_eq!(status_code(server), StatusCode::Unset as i32);
        assert_eq!(status_code(client), StatusCode::Error as i32);
        assert_eq!(text(server, names::RPC_STATUS).unwrap(), "PERMISSION_DENIED");
        assert_eq!(text(server, names::DECISION).unwrap(), "denied");
        assert_eq!(text(server, names::REASON).unwrap(), "tcb_out_of_date");
    });
}

const CLAIMED_ID: &str = "0af7651916cd43dd8448eb211c80319c";
const CLAIMED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

#[test]
fn a_public_listener_links_to_the_claimed_context_and_does_not_join_it() {
    let collector = &*COLLECTOR;
    RUNTIME.block_on(async {
        let address = serve(Trust::Link).await;
        plain_request(address, "POST", "/kbs/v1/keys/7/transfer", CLAIMED).await;
        let span = wait_for(collector, |span| text(span, names::REMOTE_TRACE_ID).as_deref() == Some(CLAIMED_ID)).await;
        assert_eq!(span.name, "POST /kbs/v1/keys/{id}/transfer");
        assert_eq!(span.parent_span_id, b"");
        assert_ne!(hex(&span.trace_id), CLAIMED_ID);
        assert_eq!(hex(&span.links[0].trace_id), CLAIMED_ID);
        assert_eq!(text(&span, names::HTTP_STATUS).unwrap(), "200");
    });
}

#[test]
fn a_callers_flag_hides_nothing_and_only_5xx_is_an_error() {
    let collector = &*COLLECTOR;
    RUNTIME.block_on(async {
        let hidden = "00-11111111111111111111111111111111-2222222222222222-00";
        plain_request(serve(Trust::Adopt).await, "GET", "/broken", hidden).await;
        let span = wait_for(collector, |span| hex(&span.trace_id) == "1".repeat(32)).await;
        assert_eq!(hex(&span.parent_span_id), "2222222222222222");
        assert_eq!(status_code(&span), StatusCode::Error as i32);
    });
}

/// A request by hand, so that no client of ours adds or removes headers.
async fn plain_request(address: SocketAddr, method: &str, path: &str, traceparent: &str) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let head =
        format!("{method} {path} HTTP/1.1\r\nhost: x\r\ntraceparent: {traceparent}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
}

async fn wait_for(collector: &Collector, wanted: impl Fn(&ProtoSpan) -> bool) -> ProtoSpan {
    let mut spans = collector.spans.clone();
    let found = tokio::time::timeout(Duration::from_secs(20), spans.wait_for(|all| all.iter().any(&wanted))).await;
    found.expect("the span should arrive").unwrap().iter().find(|span| wanted(span)).unwrap().clone()
}

fn headers_of(span: &tracing::Span) -> HashMap<String, String> {
    let mut headers = HashMap::new();
    propagation::inject_from(span, &mut |name, value| {
        headers.insert(name.to_owned(), value.to_owned());
    });
    headers
}

const TEMPLATE: &str = "keyferry.v1.evidence.collected.{td_id}";

fn delivered(replayed: bool) -> spans::Delivered<'static> {
    spans::Delivered {
        template: TEMPLATE,
        subject: "keyferry.v1.evidence.collected.UABC",
        stream: "EVIDENCE",
        consumer: "token-broker",
        message_id: "ab12",
        delivery_count: 2,
        replayed,
    }
}

#[test]
fn a_consumer_is_child_of_its_publisher_unless_it_replays() {
    let collector = &*COLLECTOR;
    RUNTIME.block_on(async {
        let publish = spans::publish(TEMPLATE, "keyferry.v1.evidence.collected.UABC", "ab12");
        let headers = headers_of(&publish);
        assert!(!headers.contains_key("tracestate"), "an empty tracestate must not be sent");
        let origin = extract(|name| headers.get(name).cloned());
        let trace_id = origin.trace_id().unwrap();
        drop(spans::process(&delivered(false), &origin));
        let replay = spans::process(&delivered(true), &origin);
        let replay_id = extract(|name| headers_of(&replay).get(name).cloned()).trace_id().unwrap();
        drop((publish, replay));

        let (sent, handled) = (format!("publish {TEMPLATE}"), format!("process {TEMPLATE}"));
        let trace = collector.trace(&trace_id, &[&sent, &handled]).await;
        let (producer, consumer) = (named(&trace, &sent, SpanKind::Producer), named(&trace, &handled, SpanKind::Consumer));
        assert_eq!(consumer.parent_span_id, producer.span_id);
        assert_eq!(consumer.links[0].span_id, producer.span_id);
        assert_eq!(text(consumer, names::MESSAGING_DELIVERY_COUNT).unwrap(), "2");
        assert_eq!(text(consumer, names::MESSAGING_CONSUMER_GROUP).unwrap(), "token-broker");
        let replayed = collector.trace(&replay_id, &[&handled]).await;
        assert_ne!(replay_id, trace_id);
        assert_eq!(replayed[0].parent_span_id, b"");
        assert_eq!(replayed[0].links[0].span_id, producer.span_id);
    });
}

#[test]
fn a_request_over_the_bus_is_a_call() {
    let collector = &*COLLECTOR;
    RUNTIME.block_on(async {
        let request = spans::bus_request("token-broker/nonce");
        let headers = headers_of(&request);
        let caller = extract(|name| headers.get(name).cloned());
        drop((spans::bus_serve("token-broker/nonce", &caller), request));
        let trace_id = caller.trace_id().unwrap();
        let trace = collector.trace(&trace_id, &["token-broker/nonce"; 2]).await;
        let (client, server) =
            (named(&trace, "token-broker/nonce", SpanKind::Client), named(&trace, "token-broker/nonce", SpanKind::Server));
        assert_eq!(server.parent_span_id, client.span_id);
        assert_eq!(text(server, names::RPC_SYSTEM).unwrap(), "nats");
    });
}

#[test]
fn a_kms_call_fails_without_the_peers_words() {
    let collector = &*COLLECTOR;
    RUNTIME.block_on(async {
        let span = spans::kms("get", "kmip");
        span.failed("kms_unavailable");
        span.attribute(names::KEY_ID, "x".repeat(10_000).as_str());
        let trace_id = extract(|name| headers_of(&span).get(name).cloned()).trace_id().unwrap();
        drop(span);
        let trace = collector.trace(&trace_id, &["get kmip"]).await;
        assert_eq!(status_code(&trace[0]), StatusCode::Error as i32);
        assert_eq!(trace[0].status.as_ref().unwrap().message, "");
        assert_eq!(text(&trace[0], names::KEY_ID).unwrap().len(), 256, "attribute values are capped");
    });
}

#[test]
fn malformed_and_oversized_contexts_are_no_contexts() {
    let valid = |parent: &str, state: Option<String>| -> RemoteContext {
        extract(|name| if name == "traceparent" { Some(parent.to_owned()) } else { state.clone() })
    };
    assert!(valid(CLAIMED, None).is_valid());
    assert!(valid(CLAIMED, Some("x".repeat(20_000))).is_valid(), "an oversized tracestate is dropped, the ids stay");
    for parent in [
        "",
        "junk",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-01",
        &format!("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-{}", "x".repeat(100)),
    ] {
        assert!(!valid(parent, None).is_valid(), "{parent}");
    }
    let mut twice = HeaderMap::new();
    twice.append("traceparent", HeaderValue::from_static(CLAIMED));
    assert!(propagation::extract_http(&twice).is_valid());
    twice.append("traceparent", HeaderValue::from_static("00-33333333333333333333333333333333-b7ad6b7169203331-01"));
    assert!(!propagation::extract_http(&twice).is_valid(), "two contexts are none");
}

#[test]
fn metrics_appear_under_their_declared_names_in_prometheus_text() {
    let collector = &*COLLECTOR;
    RUNTIME.block_on(async {
        names::RELEASE_DECISIONS.add(
            0,
            &[(names::DECISION, "denied"), (names::REASON, "token_expired"), (names::MODE, "passport")],
        );
        let trace_id = job(serve(Trust::Adopt).await, RELEASE, &[]).await;
        collector.trace(&trace_id, &[RELEASE, RELEASE]).await;
        let text = render();
        let counter = r#"keyferry_key_release_decisions_total{keyferry_decision="denied",keyferry_mode="passport",keyferry_reason="token_expired"} 0"#;
        assert!(text.contains(counter), "{text}");
        assert!(text.contains("rpc_server_call_duration_seconds_bucket{") && text.contains(r#"le="0.001""#), "{text}");
        assert!(text.contains(RELEASE) && !text.contains("otel_scope_name"), "{text}");
        let declared: Vec<String> = names::METRICS.iter().map(|metric| metric.prometheus_name()).collect();
        for line in text.lines().filter(|line| line.starts_with("# TYPE ") && !line.contains("target_info")) {
            let name = line.split(' ').nth(2).unwrap();
            assert!(declared.iter().any(|declared| declared == name), "{name} is not declared");
        }
    });
}

#[test]
fn an_identifier_cannot_become_a_label() {
    let _subscriber = &*COLLECTOR;
    names::NONCE_VERIFICATIONS.add(1, &[(names::RESULT, "replayed"), (names::TD_ID, "UABC")]);
    let text = render();
    assert!(text.contains(r#"keyferry_nonce_verifications_total{keyferry_result="replayed"} 1"#), "{text}");
    assert!(!text.contains("keyferry_td_id"), "{text}");
}

#[test]
fn a_dead_or_silent_collector_does_not_hold_the_end_up() {
    let _first = &*COLLECTOR; // the subscriber of this process
    RUNTIME.block_on(async {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        for address in [silent.local_addr().unwrap(), gone] {
            let config = Config { otlp_endpoint: Some(format!("http://{address}")), ..Config::default() };
            let telemetry = init("telemetry-test", &config).unwrap();
            let started = Instant::now();
            telemetry.shutdown().await;
            assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
        }
    });
}

#[test]
fn bad_settings_are_named() {
    let _runtime = RUNTIME.enter();
    let filter = init("telemetry-test", &Config { log: "=loud=".to_owned(), ..Config::default() }).unwrap_err();
    assert!(filter.to_string().starts_with("telemetry.log: "), "{filter}");
    let endpoint = init("telemetry-test", &Config { otlp_endpoint: Some("not a url".to_owned()), ..Config::default() }).unwrap_err();
    assert!(endpoint.to_string().starts_with("telemetry.otlp_endpoint: "), "{endpoint}");
}

#[test]
fn no_two_names_are_the_same() {
    let mut names: Vec<&str> = names::ATTRIBUTES.iter().map(|name| name.as_str()).collect();
    names.extend(names::STEPS.iter().map(|name| name.as_str()));
    names.extend(names::METRICS.iter().map(|metric| metric.name()));
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}
