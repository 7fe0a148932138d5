//! The one listener, TLS 1.3 alone: gRPC over HTTP/2, with health and reflection, and REST over HTTP/1.1 or HTTP/2. A
//! request is gRPC if it says so in its content type; tonic's own server could not serve both, so its routes run in axum.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderValue, Version, header::CONTENT_TYPE},
    middleware::{Next, from_fn_with_state, map_response},
    response::Response,
};
use axum_server::{Handle, tls_rustls::RustlsConfig};
use keyferry_contract::{
    DESCRIPTORS, TOKEN_BYTES_MAX,
    release::v1::{
        key_administration_server::KeyAdministrationServer, key_broker_server::KeyBrokerServer,
        user_administration_server::UserAdministrationServer,
    },
};
use keyferry_telemetry::{Trust, grpc_server_layer};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tonic::{Status, server::NamedService, service::Routes};
use tower::{ServiceExt, service_fn};

use crate::{
    Denial,
    administration::{Administration, AdministrationService},
    body_budget::BodyBudget,
    broker::Broker,
    connections::Bounded,
    release::Release,
    rest::{self, ClientLimits},
    users::{UserService, Users},
};

/// The largest request: the longest token, or evidence with every member at its bound, and what is around it. Well over the
/// bounds of those, so that what is over them is refused by name.
pub const REQUEST_BYTES_MAX: usize = TOKEN_BYTES_MAX + 64 * 1024;
/// What tonic answers to more, and nothing of ours does: `Code::OutOfRange` as it is written.
const OUT_OF_RANGE: &str = "11";
/// Connections at the same time: half of the file descriptors that a process has by default.
const CONNECTIONS_MAX: usize = 512;
/// Calls of one connection at the same time.
const STREAMS_MAX: u32 = 128;
const HEADER_BYTES_MAX: u32 = 16 * 1024;
/// Headers of one HTTP/1.1 request.
const HEADERS_MAX: usize = 64;
/// Intel's `HTTP_READ_HEADER_TIMEOUT`.
const HEADERS_WITHIN: Duration = Duration::from_secs(10);
/// A connection that sends nothing is closed.
const FIRST_REQUEST_WITHIN: Duration = Duration::from_secs(10);
/// An idle connection is asked whether its peer is still there, and closed if it does not say so in time.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PONG_WITHIN: Duration = Duration::from_secs(10);
/// From a call's headers to the beginning of its answer. Longer than the longest decision and its record, so that only a
/// caller who does not send what it announced meets it.
const CALL_WITHIN: Duration = Duration::from_mins(1);
/// What a drain leaves to calls under way.
const DRAIN: Duration = Duration::from_secs(19);

/// Everything this process serves: gRPC and REST.
pub async fn router(
    release: &Release,
    users: &Users,
    limits: ClientLimits,
    trust: Trust,
) -> Result<Router, tonic_reflection::server::Error> {
    let grpc = grpc(release, users, trust).await?;
    let rest = rest::router(release, users, limits, trust).layer(from_fn_with_state(CALL_WITHIN, rest::in_time));
    let budget = BodyBudget::new();
    let doors = service_fn(move |request: Request| {
        let is_grpc = is_grpc(&request);
        let door = if is_grpc { grpc.clone() } else { rest.clone() };
        let (request, share) = budget.count(request);
        async move {
            let answer = door.oneshot(request).await?;
            if !share.was_refused() {
                return Ok(answer);
            }
            Ok(if is_grpc { Denial::Overloaded.status().into_http() } else { rest::overloaded() })
        }
    });
    Ok(Router::new().fallback_service(doors))
}

fn is_grpc(request: &Request) -> bool {
    let content = request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    request.version() == Version::HTTP_2 && content.starts_with(b"application/grpc")
}

/// Every gRPC service.
async fn grpc(release: &Release, users: &Users, trust: Trust) -> Result<Router, tonic_reflection::server::Error> {
    let broker = Broker { release: release.clone(), users: users.clone() };
    let broker = KeyBrokerServer::new(broker).max_decoding_message_size(REQUEST_BYTES_MAX);
    let administration = AdministrationService { administration: Administration::new(release), users: users.clone() };
    let administration = KeyAdministrationServer::new(administration).max_decoding_message_size(REQUEST_BYTES_MAX);
    let user_administration = UserAdministrationServer::new(UserService(users.clone())).max_decoding_message_size(REQUEST_BYTES_MAX);
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<KeyBrokerServer<Broker>>().await;
    reporter.set_serving::<KeyAdministrationServer<AdministrationService>>().await;
    reporter.set_serving::<UserAdministrationServer<UserService>>().await;
    // The descriptors hold the whole contract; only what is served here is listed.
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name(KeyBrokerServer::<Broker>::NAME)
            .with_service_name(KeyAdministrationServer::<AdministrationService>::NAME)
            .with_service_name(UserAdministrationServer::<UserService>::NAME)
            .with_service_name("grpc.health.v1.Health")
    };
    let routes = Routes::new(broker)
        .add_service(administration)
        .add_service(user_administration)
        .add_service(health)
        .add_service(reflection().with_service_name("grpc.reflection.v1.ServerReflection").build_v1()?)
        .add_service(reflection().with_service_name("grpc.reflection.v1alpha.ServerReflection").build_v1alpha()?);
    Ok(routes
        .prepare()
        .into_axum_router()
        .layer(map_response(with_reason))
        .layer(from_fn_with_state(CALL_WITHIN, in_time))
        .layer(grpc_server_layer(trust)))
}

/// tonic refuses a message over its bound before a service sees it; the caller learns the reason as with any other refusal.
async fn with_reason(response: Response) -> Response {
    let refused_unread = response.headers().get(Status::GRPC_STATUS).is_some_and(|code| code == OUT_OF_RANGE);
    if refused_unread { Denial::RequestTooLarge { max: REQUEST_BYTES_MAX }.status().into_http() } else { response }
}

/// Bounds a call from its headers to the beginning of its answer, the arrival of the request's body included.
async fn in_time(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    let late = |_| Denial::DeadlineExceeded.status().into_http();
    tokio::time::timeout(limit, next.run(request)).await.unwrap_or_else(late)
}

/// Serves until `stop`, then lets calls under way finish.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    router: Router,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let handle = Handle::new();
    let mut server = axum_server::from_tcp_rustls(listener.into_std()?, RustlsConfig::from_config(tls))?
        .map(|tls| tls.acceptor(Bounded::new(CONNECTIONS_MAX)))
        .handle(handle.clone())
        .first_request_timeout(FIRST_REQUEST_WITHIN);
    // The time for headers begins when a connection falls idle: it is the idle time as well.
    server.http_builder().http1().header_read_timeout(HEADERS_WITHIN).max_headers(HEADERS_MAX).max_buf_size(HEADER_BYTES_MAX as usize);
    server
        .http_builder()
        .http2()
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PONG_WITHIN);
    let drain = tokio::spawn(async move {
        stop.await;
        handle.graceful_shutdown(Some(DRAIN));
    });
    let result = server.serve(router.into_make_service_with_connect_info::<SocketAddr>()).await;
    drain.abort();
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{body::Body, routing::get};

    #[tokio::test]
    async fn a_call_that_is_never_completed_ends() {
        let stalled = get(std::future::pending::<()>);
        let router = Router::new().route("/", stalled).layer(from_fn_with_state(Duration::from_millis(10), in_time));
        let answer = router.oneshot(Request::new(Body::empty())).await.unwrap();
        assert_eq!(answer.headers()[Status::GRPC_STATUS], "4", "DEADLINE_EXCEEDED");
    }
}
