//! `/health/live`, `/health/ready` and `/metrics` over plain HTTP.

use std::sync::Arc;

use axum::{
    Json, Router,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::scope::State;

/// Serves until `stop`; a drain still answers, so that an orchestrator sees `not ready` and not silence.
pub(crate) async fn serve(listener: TcpListener, state: Arc<State>, stop: CancellationToken) {
    let ready = move || async move { readiness(&state) };
    let router =
        Router::new().route("/health/live", get(|| async { "live\n" })).route("/health/ready", get(ready)).route("/metrics", get(metrics));
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await {
        tracing::error!(%error, "the health listener ended");
    }
}

fn readiness(state: &State) -> impl IntoResponse + use<> {
    let (ready, checks) = state.readiness();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(serde_json::json!({ "ready": ready, "checks": checks })))
}

async fn metrics() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], keyferry_telemetry::render())
}
