//! The inference listener: HTTPS, with the sample's `/taa/v1` beside the Open Inference Protocol's `/v2`. Both are adapters
//! over [`Runner`](crate::Runner); neither knows the other.

mod inference;
mod reply;
mod sample;

use std::{net::TcpListener, sync::Arc, time::Duration};

use axum::{Router, extract::DefaultBodyLimit};
use axum_server::{Handle, tls_rustls::RustlsConfig};
use hyper_util::rt::TokioTimer;
use keyferry_telemetry::{Trust, http_server_layer};
use rustls::ServerConfig;

use crate::Runner;

/// Ample for thousands of rows; an unbounded body is somebody else's memory.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// As the sample: headers that take longer come from nobody who wants an answer.
const HEADERS_WITHIN: Duration = Duration::from_secs(10);
/// Requests of one HTTP/2 connection at the same time.
const STREAMS_MAX: u32 = 64;
const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// An idle HTTP/2 connection is asked whether its peer is still there.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// Every route of the listener.
pub fn router(runner: Arc<Runner>) -> Router {
    sample::routes()
        .merge(inference::routes())
        .fallback(reply::not_found)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        // Anybody may call: a caller's trace is linked to, never adopted.
        .layer(http_server_layer(Trust::Link))
        .with_state(runner)
}

/// Serves `router` on `listener` over TLS 1.3 until `handle` ends it.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    router: Router,
    handle: Handle<std::net::SocketAddr>,
) -> std::io::Result<()> {
    let server = axum_server::from_tcp_rustls(listener, RustlsConfig::from_config(tls))?;
    let mut server = server.handle(handle).first_request_timeout(HEADERS_WITHIN);
    server.http_builder().http1().timer(TokioTimer::new()).header_read_timeout(HEADERS_WITHIN);
    server
        .http_builder()
        .http2()
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(HEADERS_WITHIN);
    server.serve(router.into_make_service()).await
}
