//! Traces, metrics and logs: set-up, context propagation, and every name in one place.
//!
//! `tracing` makes the spans, OpenTelemetry carries them. Names are declared in [`names`] and nowhere else; [`spans`]
//! makes spans that carry them; [`propagation`] takes the context over bus headers, gRPC metadata and HTTP headers;
//! the tower layers ([`grpc_server_layer`], [`grpc_client_layer`], [`http_server_layer`]) do it for whole listeners.
//!
//! It knows nothing of Keyferry's decisions, messages or services, and no secret passes through it: attributes go by
//! declared names, and texts are capped. Telemetry is never a reason to fail: a dead collector slows nothing and stops
//! nothing. Why not the ready-made helper crates: they emit superseded names, record query strings, and always adopt the
//! caller's trace context, which a key broker must not do.

pub mod names;
pub mod propagation;
pub mod spans;

mod grpc;
mod http_server;
mod log;
mod metrics;
mod setup;
mod text;

pub use grpc::{CallBody, GrpcLayer, GrpcService, grpc_client_layer, grpc_server_layer};
pub use http_server::{HttpServerLayer, HttpServerService, REQUEST_ID, http_server_layer, request_id};
pub use metrics::{Counter, Gauge, Histogram, Instrument, Label, render};
pub use propagation::{RemoteContext, Trust, extract, inject};
pub use setup::{Config, Telemetry, TelemetryError, init};
pub use spans::SpanAttributes;
