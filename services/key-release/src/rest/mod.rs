//! REST `/kbs/v1`: the API of Intel's Key Broker Service over the same decisions.
//!
//! [`ROUTES`] is the one list of addresses: the router, the OpenAPI document and the tests are made from it. Each request
//! goes the same way, in the order Intel's server has: address (404), method (405), credential and permission (401),
//! headers (415), body (400, 408, 413), and then its handler, which decodes and asks. Nothing is decided here.
//!
//! Where Intel's clients depend on a detail it is as theirs, however odd: 401 for a missing permission, header values that
//! must be equal byte for byte, 201 for `PUT`. Where nothing depends on it, it is stricter; `docs/kbs.md` lists both.

mod body;
mod clients;
mod json;
mod keys;
mod openapi;
mod policies;
mod query;
mod reply;
mod routes;
mod session;
mod transfer;
mod users;

use std::{
    net::IpAddr,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Bytes,
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue, Method, Version, header},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::any,
};
pub use clients::ClientLimits;
use futures::FutureExt;
use keyferry_telemetry::{REQUEST_ID, SpanAttributes, Trust, http_server_layer, names, request_id};
pub use routes::{ROUTES, Route};
use tokio::sync::Semaphore;
use tracing::Span;
use uuid::Uuid;

use self::{
    clients::Clients,
    reply::{Answer, Refusal},
    routes::{Access, Consumes, Produces},
};
use crate::{
    Denial,
    administration::Administration,
    release::Release,
    users::{Admin, Caller, Users},
};

/// Requests under way at the same time; each may hold one body in memory.
const REQUESTS_MAX: usize = 1024;

/// What the handlers ask. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Rest(Arc<Inner>);

struct Inner {
    release: Release,
    users: Users,
    administration: Administration,
    refused_transfers: Clients,
    challenges: Clients,
    under_way: Semaphore,
}

/// A request whose headers were found good, with its body.
struct Call {
    /// Of the path; [`Uuid::nil`] where there is none.
    id: Uuid,
    client: Option<IpAddr>,
    headers: HeaderMap,
    query: Option<String>,
    /// `None`: there is none, where one is optional.
    body: Option<Bytes>,
}

/// The REST surface.
pub(crate) fn router(release: &Release, users: &Users, limits: ClientLimits, trust: Trust) -> Router {
    let rest = Rest(Arc::new(Inner {
        release: release.clone(),
        users: users.clone(),
        administration: Administration::new(release),
        refused_transfers: Clients::new(limits.refused_transfers_per_second),
        challenges: Clients::new(limits.challenges_per_second),
        under_way: Semaphore::new(REQUESTS_MAX),
    }));
    let mut router = Router::new();
    let mut paths: Vec<_> = ROUTES.iter().map(|route| route.path).collect();
    paths.sort_unstable();
    paths.dedup();
    for path in paths {
        router = router.route(path, any(answer));
    }
    router.fallback(async || Refusal::NotFound).layer(from_fn(identify)).layer(http_server_layer(trust)).with_state(rest)
}

/// Bounds a request from its headers to the beginning of its answer; bodies have their own, shorter time.
pub(crate) async fn in_time(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    let late = |_| Refusal::Denied(Denial::DeadlineExceeded).into_response();
    tokio::time::timeout(limit, next.run(request)).await.unwrap_or_else(late)
}

/// What came needs more memory than there is room for.
pub(crate) fn overloaded() -> Response {
    Refusal::Denied(Denial::Overloaded).into_response()
}

/// Echoes the caller's request id, or gives the request one, and names our trace.
async fn identify(request: Request, next: Next) -> Response {
    let given = request_id(request.headers());
    let request_id = given.or_else(|| HeaderValue::from_str(&Uuid::new_v4().to_string()).ok());
    let span = Span::current();
    if let Some(text) = request_id.as_ref().and_then(|value| value.to_str().ok()) {
        span.attribute(names::REQUEST_ID, text);
    }
    let version = request.version();
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    if version >= Version::HTTP_2 {
        headers.remove(header::CONNECTION); // that protocol has none
    }
    if let Some(request_id) = request_id {
        headers.insert(REQUEST_ID, request_id);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Any request to a path of [`ROUTES`]. A defect of ours ends one request, not a connection.
async fn answer(State(rest): State<Rest>, path: MatchedPath, request: Request) -> Response {
    let answer = AssertUnwindSafe(rest.answer(path.as_str(), request)).catch_unwind().await;
    let answer = answer.unwrap_or(Err(Refusal::Denied(Denial::Internal("a handler did not end"))));
    answer.unwrap_or_else(IntoResponse::into_response)
}

impl Rest {
    async fn answer(&self, path: &str, request: Request) -> Answer {
        let id = path_id(path, request.uri().path())?;
        let route = found(path, request.method())?;
        let caller = Caller::of(request.headers(), request.extensions());
        match route.access {
            Access::Anybody(handler) => {
                let call = self.read(route, id, caller.address, request).await?;
                handler(self.clone(), call).await
            }
            // The budget is taken before anything is read, and given back for what was a release.
            Access::Attested(handler) => {
                let taken = |address| self.0.refused_transfers.take(address, Instant::now());
                if !caller.address.is_none_or(taken) {
                    return Err(Denial::RateLimited.into());
                }
                let call = self.read(route, id, caller.address, request).await?;
                let answer = handler(self.clone(), call).await;
                if let (Ok(_), Some(address)) = (&answer, caller.address) {
                    self.0.refused_transfers.give_back(address);
                }
                answer
            }
            Access::Administrator(permission, handler) => {
                let admin = self.authenticated(caller).await?;
                if admin.require(permission).is_err() {
                    return Err(Refusal::Unauthorized);
                }
                let call = self.read(route, id, admin.client(), request).await?;
                handler(self.clone(), admin, call).await
            }
        }
    }

    /// Bearer tokens alone: `Bearer`, one blank, the token.
    async fn authenticated(&self, caller: Caller) -> Result<Admin, Refusal> {
        let authorization = caller.authorization.filter(|text| text.starts_with("Bearer "));
        let caller = Caller { authorization, address: caller.address };
        self.0.users.authenticate(&caller).await.map_err(|denial| match denial {
            Denial::Unauthenticated => Refusal::Unauthorized,
            other => other.into(),
        })
    }

    /// Checks the headers, then reads the body.
    async fn read(&self, route: &Route, id: Uuid, client: Option<IpAddr>, request: Request) -> Result<Call, Refusal> {
        let (parts, body) = request.into_parts();
        let absent = body::is_absent(&body);
        route.check_headers(&parts.headers, absent)?;
        let body = match route.consumes {
            Consumes::Nothing => None,
            Consumes::OptionalJson { .. } if absent => None,
            Consumes::Json { .. } | Consumes::Pem { .. } if absent => {
                return Err(Denial::malformed("body:", "is empty").into());
            }
            Consumes::Json { max, .. } | Consumes::OptionalJson { max, .. } | Consumes::Pem { max } => {
                let _place = self.0.under_way.try_acquire().map_err(|_| Denial::Overloaded)?;
                Some(body::read(body, max).await?)
            }
        };
        Ok(Call { id, client, headers: parts.headers, query: parts.uri.query().map(str::to_owned), body })
    }
}

impl Route {
    /// Exact equality of the first value, in the order this route checks them.
    fn check_headers(&self, headers: &HeaderMap, body_absent: bool) -> Result<(), Refusal> {
        let content = match self.consumes {
            Consumes::Nothing => None,
            Consumes::OptionalJson { .. } if body_absent => None,
            Consumes::Json { .. } | Consumes::OptionalJson { .. } => Some(reply::JSON),
            Consumes::Pem { .. } => Some(routes::PEM),
        };
        let accept = match self.produces {
            Produces::Json(_) => Some(reply::JSON),
            Produces::Jwt => Some(routes::JWT),
            Produces::Nothing | Produces::JsonForAnybody(_) => None,
        };
        let content = ("Content-Type", header::CONTENT_TYPE, content);
        let accept = ("Accept", header::ACCEPT, accept);
        let order = if self.accept_first { [accept, content] } else { [content, accept] };
        for (name, header, wanted) in order {
            let Some(wanted) = wanted else { continue };
            if headers.get(header).map(HeaderValue::as_bytes) != Some(wanted.as_bytes()) {
                return Err(Refusal::Header { name, wanted });
            }
        }
        Ok(())
    }
}

/// The id in a path: a version-4 UUID, or there is no such address.
fn path_id(pattern: &str, path: &str) -> Result<Uuid, Refusal> {
    let place = pattern.split('/').position(|segment| segment == routes::ID);
    let Some(place) = place else { return Ok(Uuid::nil()) };
    let text = path.split('/').nth(place).filter(|text| text.len() == 36).ok_or(Refusal::NotFound)?;
    let id = Uuid::try_parse(text).map_err(|_| Refusal::NotFound)?;
    let is_v4 = id.get_version_num() == 4 && id.get_variant() == uuid::Variant::RFC4122;
    if is_v4 { Ok(id) } else { Err(Refusal::NotFound) }
}

fn found(path: &str, method: &Method) -> Result<&'static Route, Refusal> {
    let here = || ROUTES.iter().filter(|route| route.path == path);
    let allow = || here().map(|route| route.method.as_str()).collect::<Vec<_>>().join(", ");
    here().find(|route| route.method == *method).ok_or_else(|| Refusal::MethodNotAllowed(allow()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_id_is_a_version_4_uuid() {
        let id = |text: &str| path_id("/kbs/v1/keys/{id}/transfer", &format!("/kbs/v1/keys/{text}/transfer")).ok();
        assert!(id("5f1c7a52-3c0e-4f0b-9f43-5d1d2a6f7b10").is_some() && id("5F1C7A52-3C0E-4F0B-9F43-5D1D2A6F7B10").is_some());
        for text in [
            "5f1c7a52-3c0e-1f0b-9f43-5d1d2a6f7b10",
            "5f1c7a52-3c0e-4f0b-cf43-5d1d2a6f7b10",
            "5f1c7a52-3c0e-4f0b-|f43-5d1d2a6f7b10",
            "5f1c7a523c0e4f0b9f435d1d2a6f7b10",
            "{5f1c7a52-3c0e-4f0b-9f43-5d1d2a6f7b10}",
            "x",
        ] {
            assert!(id(text).is_none(), "{text}");
        }
    }
}
