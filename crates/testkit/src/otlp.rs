//! A small OTLP/gRPC collector in the caller's own process: it keeps spans, names the metrics it saw, and accepts logs.
//!
//! Start it before the services, give them [`OtlpReceiver::endpoint`], and wait for a state of the store, never for a time.

mod receiver;
mod report;
mod waterfall;

pub use receiver::OtlpReceiver;
pub use report::{Span, SpanKind, TraceReport};
