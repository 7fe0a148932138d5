//! Setting telemetry up at start and flushing it at the end.

use std::{env, time::Duration};

use opentelemetry::{KeyValue, metrics::MeterProvider, trace::TracerProvider};
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::{
    Resource,
    metrics::{PeriodicReader, SdkMeterProvider},
    propagation::TraceContextPropagator,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, Tracer},
};
use serde::Deserialize;
use tracing::{Level, Metadata, Subscriber};
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::{EnvFilter, Layer, filter::filter_fn, layer::SubscriberExt, registry::LookupSpan, util::SubscriberInitExt};

use crate::{log, metrics};

/// The instrumentation scope of every span and metric of ours.
const SCOPE: &str = "keyferry";
/// How long the last flush may take: a dead collector must not hold a service up.
const SHUTDOWN_MAX: Duration = Duration::from_secs(3);
/// Spans that wait for export. The SDK's 2048 overflow at a few hundred releases per second.
const SPAN_QUEUE: usize = 65_536;
const SPAN_BATCH: usize = 4096;
const SPAN_DELAY: Duration = Duration::from_millis(500);
/// Libraries whose spans and events are noise, or would make export produce telemetry about export.
const NOISY: [&str; 12] =
    ["hyper", "h2", "tonic", "tower", "reqwest", "opentelemetry", "rustls", "async_nats", "axum", "tokio", "mio", "tract"];

/// How a service reports about itself.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where spans and metrics go over OTLP/gRPC, e.g. `http://127.0.0.1:4317`: a collector on this machine. Absent: the
    /// variable `OTEL_EXPORTER_OTLP_ENDPOINT`; absent too: nowhere, and only Prometheus text and logs are left.
    pub otlp_endpoint: Option<String>,
    /// Which log lines are written, in the syntax of `RUST_LOG`.
    pub log: String,
    /// The value of `deployment.environment.name`.
    pub environment: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            otlp_endpoint: None,
            log: "info,async_nats=warn,h2=warn,hyper=warn,rustls=warn,tower=warn,tract=warn".to_owned(),
            environment: "development".to_owned(),
        }
    }
}

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log filter does not parse.
    #[error("telemetry.log: \"{filter}\" is no log filter: use the syntax of RUST_LOG, e.g. info,keyferry_bus=debug")]
    Filter {
        /// What was configured.
        filter: String,
    },
    /// The exporter could not be built.
    #[error("telemetry.otlp_endpoint: \"{endpoint}\" cannot be used ({reason}): expected http://host:port of a collector on this machine")]
    Endpoint {
        /// What was configured.
        endpoint: String,
        /// Why not.
        reason: String,
    },
    /// The Prometheus reader could not be built.
    #[error("metrics cannot be set up: {reason}")]
    Metrics {
        /// Why not.
        reason: String,
    },
}

/// What was set up; [`Telemetry::shutdown`] flushes it.
#[derive(Debug)]
#[must_use = "call shutdown, else the last spans are lost"]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    metrics: SdkMeterProvider,
}

impl Telemetry {
    /// Sends what still waits, within 3 seconds. Never run on the runtime's own threads: there the flush would wait for itself.
    pub async fn shutdown(self) {
        let flush = tokio::task::spawn_blocking(move || {
            let traces = self.traces.map(|traces| traces.shutdown_with_timeout(SHUTDOWN_MAX));
            (traces, self.metrics.shutdown_with_timeout(SHUTDOWN_MAX))
        });
        // Even `Ok` does not mean delivered; there is nobody left to tell.
        let _flushed = tokio::time::timeout(SHUTDOWN_MAX, flush).await;
    }
}

/// Sets up logs, traces and metrics for the process. Must be called inside a Tokio runtime (the exporter needs one). A
/// second call in one process keeps the first one's subscriber and metrics.
pub fn init(service: &'static str, config: &Config) -> Result<Telemetry, TelemetryError> {
    let filter = EnvFilter::try_new(&config.log).map_err(|_| TelemetryError::Filter { filter: config.log.clone() })?;
    let endpoint = endpoint(config);
    let resource = resource(service, config);
    let traces = endpoint.as_deref().map(|endpoint| traces(endpoint, resource.clone())).transpose()?;
    let registry = prometheus::Registry::new();
    let metrics = meter_provider(endpoint.as_deref(), &registry, resource.clone())?;
    metrics::install(metrics.meter(SCOPE), registry);

    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).event_format(log::Json { service }).with_filter(filter);
    // Our own carriers do not need it; libraries of others that ask for the global one get ours and not a no-op.
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    // A trace exists even where nobody collects it: logs carry its ids, and peers that do collect see one trace.
    let provider = traces.clone().unwrap_or_else(|| provider_builder(resource).build());
    let _first_wins = tracing_subscriber::registry().with(trace_layer(provider.tracer(SCOPE))).with(lines).try_init();
    Ok(Telemetry { traces, metrics })
}

/// The layer that turns `tracing` spans into OpenTelemetry spans, without source paths, threads and timings of polls.
pub(crate) fn trace_layer<S>(tracer: Tracer) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    OpenTelemetryLayer::new(tracer)
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_level(false)
        .with_tracked_inactivity(false)
        .with_error_events_to_status(false)
        .with_error_fields_to_exceptions(false)
        .with_filter(filter_fn(is_ours))
}

pub(crate) fn provider_builder(resource: Resource) -> opentelemetry_sdk::trace::TracerProviderBuilder {
    // A remote `not sampled` hides nothing and a remote `sampled` costs nothing: sampling is the collector's job.
    let sampler = Sampler::parent_based(Sampler::AlwaysOn).with_remote_parent_not_sampled(Sampler::AlwaysOn);
    SdkTracerProvider::builder().with_sampler(sampler).with_resource(resource)
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    let root = metadata.target().split("::").next().unwrap_or_default();
    let noisy = NOISY.iter().any(|name| root == *name || (root.starts_with(name) && root.as_bytes().get(name.len()) == Some(&b'_')));
    !noisy && *metadata.level() <= Level::INFO
}

fn endpoint(config: &Config) -> Option<String> {
    let from_environment = || {
        let names = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
        names.iter().find_map(|name| env::var(name).ok())
    };
    config.otlp_endpoint.clone().or_else(from_environment).filter(|endpoint| !endpoint.is_empty())
}

fn resource(service: &'static str, config: &Config) -> Resource {
    Resource::builder()
        .with_service_name(service)
        .with_attributes([
            KeyValue::new("service.namespace", SCOPE),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", uuid::Uuid::new_v4().to_string()),
            KeyValue::new("deployment.environment.name", config.environment.clone()),
        ])
        .build()
}

fn traces(endpoint: &str, resource: Resource) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_retry_policy(no_retries())
        .build()
        .map_err(|error| TelemetryError::Endpoint { endpoint: endpoint.to_owned(), reason: error.to_string() })?;
    // The SDK's own variables win over our defaults.
    let mut batch = BatchConfigBuilder::default();
    if env::var_os("OTEL_BSP_MAX_QUEUE_SIZE").is_none() {
        batch = batch.with_max_queue_size(SPAN_QUEUE);
    }
    if env::var_os("OTEL_BSP_MAX_EXPORT_BATCH_SIZE").is_none() {
        batch = batch.with_max_export_batch_size(SPAN_BATCH);
    }
    if env::var_os("OTEL_BSP_SCHEDULE_DELAY").is_none() {
        batch = batch.with_scheduled_delay(SPAN_DELAY);
    }
    let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batch.build()).build();
    Ok(provider_builder(resource).with_span_processor(processor).build())
}

fn meter_provider(endpoint: Option<&str>, registry: &prometheus::Registry, resource: Resource) -> Result<SdkMeterProvider, TelemetryError> {
    let reader = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .scope_info_enabled(false)
        .build()
        .map_err(|error| TelemetryError::Metrics { reason: error.to_string() })?;
    let mut builder = SdkMeterProvider::builder().with_reader(reader).with_resource(resource);
    if let Some(endpoint) = endpoint {
        let exporter = MetricExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_retry_policy(no_retries())
            .build()
            .map_err(|error| TelemetryError::Endpoint { endpoint: endpoint.to_owned(), reason: error.to_string() })?;
        builder = builder.with_reader(PeriodicReader::builder(exporter).build());
    }
    Ok(builder.build())
}

/// With retries a shutdown beside a dead collector takes over 4 s and reports success; without, milliseconds.
fn no_retries() -> opentelemetry_otlp::RetryPolicy {
    opentelemetry_otlp::RetryPolicy::disabled()
}
