//! The collector's three services and its store.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::{
            ExportLogsServiceRequest, ExportLogsServiceResponse,
            logs_service_server::{LogsService, LogsServiceServer},
        },
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    trace::v1::ResourceSpans,
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use super::{Span, TraceReport};
use crate::StartFailure;

/// A full batch of 4096 spans is several MiB, more than gRPC's default of 4.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The oldest spans go when a long-running stack exceeds this.
const SPANS_MAX: usize = 200_000;

/// Receives until it is dropped.
#[derive(Debug)]
pub struct OtlpReceiver {
    endpoint: String,
    store: Store,
    server: JoinHandle<()>,
}

#[derive(Clone, Debug)]
struct Store {
    spans: Arc<watch::Sender<Vec<Span>>>,
    metrics: Arc<Mutex<BTreeSet<String>>>,
}

impl OtlpReceiver {
    /// Listens on a free port of 127.0.0.1.
    pub async fn start() -> Result<Self, StartFailure> {
        let failed = |error: std::io::Error| {
            StartFailure::new(format!("the span collector cannot listen on 127.0.0.1: {error}"), "check that the loopback interface is up")
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed)?;
        let endpoint = format!("http://{}", listener.local_addr().map_err(failed)?);
        let store = Store { spans: Arc::new(watch::Sender::new(Vec::new())), metrics: Arc::default() };
        let router = Server::builder()
            .add_service(TraceServiceServer::new(store.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX))
            .add_service(MetricsServiceServer::new(store.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX))
            .add_service(LogsServiceServer::new(store.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX));
        let server = tokio::spawn(async move {
            if let Err(error) = router.serve_with_incoming(TcpListenerStream::new(listener)).await {
                tracing::error!(%error, "the span collector ended");
            }
        });
        Ok(Self { endpoint, store, server })
    }

    /// The value for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Everything received so far.
    pub fn spans(&self) -> Vec<Span> {
        self.store.spans.borrow().clone()
    }

    /// The names of all metrics received so far.
    pub fn metric_names(&self) -> BTreeSet<String> {
        self.store.metrics.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until `wanted` holds of the received spans; false when `limit` passes first.
    pub async fn wait_until(&self, limit: Duration, mut wanted: impl FnMut(&[Span]) -> bool) -> bool {
        let mut spans = self.store.spans.subscribe();
        tokio::time::timeout(limit, spans.wait_for(|spans| wanted(spans))).await.is_ok_and(|found| found.is_ok())
    }

    /// What is known of one trace now.
    pub fn trace(&self, trace_id: &str) -> TraceReport {
        TraceReport::new(trace_id, &self.store.spans.borrow())
    }

    /// The trace once `wanted` holds of it, or what is known of it when `limit` passes first: its waterfall says what is missing.
    pub async fn wait_for_trace(&self, trace_id: &str, limit: Duration, mut wanted: impl FnMut(&TraceReport) -> bool) -> TraceReport {
        self.wait_until(limit, |spans| wanted(&TraceReport::new(trace_id, spans))).await;
        self.trace(trace_id)
    }
}

impl Drop for OtlpReceiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[tonic::async_trait]
impl TraceService for Store {
    async fn export(&self, request: Request<ExportTraceServiceRequest>) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let new: Vec<Span> = request.into_inner().resource_spans.into_iter().flat_map(spans_of).collect();
        self.spans.send_modify(|spans| {
            spans.extend(new);
            let excess = spans.len().saturating_sub(SPANS_MAX);
            spans.drain(..excess);
        });
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn spans_of(group: ResourceSpans) -> impl Iterator<Item = Span> {
    let resource = group.resource.unwrap_or_default();
    group.scope_spans.into_iter().flat_map(|scope| scope.spans).map(move |span| Span::new(&resource, span))
}

#[tonic::async_trait]
impl MetricsService for Store {
    async fn export(&self, request: Request<ExportMetricsServiceRequest>) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let scopes = request.into_inner().resource_metrics.into_iter().flat_map(|resource| resource.scope_metrics);
        let names = scopes.flat_map(|scope| scope.metrics).map(|metric| metric.name);
        self.metrics.lock().unwrap_or_else(PoisonError::into_inner).extend(names);
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Store {
    async fn export(&self, _: Request<ExportLogsServiceRequest>) -> Result<Response<ExportLogsServiceResponse>, Status> {
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}
