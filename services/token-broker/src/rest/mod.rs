//! The HTTPS surface: the appraisal API of Intel Trust Authority over the same decisions.
//!
//! What its clients insist on shapes this module: status 200 and nothing else for success, replies with exactly the
//! documented members, `trace-id` and `request-id` headers in lower case without quotes in their values, a tolerant
//! base64, a flat body at a v2 address, and a nonce of either version at either address. Denials are 400, not the 401 of
//! the key broker: those clients read 401 as "wrong API key".

mod body;
mod callers;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Extension, Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, Request, State, rejection::BytesRejection},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use keyferry_attestation_token::{Algorithm, Shape};
use keyferry_contract::Reason;
use keyferry_telemetry::{REQUEST_ID, Trust, http_server_layer, request_id};
use serde_json::json;
use tokio::sync::Semaphore;

pub(crate) use self::callers::Callers;
use self::{body::Form, callers::Admission};
use crate::{broker::Broker, refusal::Refusal};

/// The documented bound of a request body.
const BODY_BYTES_MAX: usize = 500_000;
/// From a request's headers to its answer. Longer than the slowest decision and its record, so that only a caller whose
/// body never ends meets it; it would keep its place among the requests under way for ever.
const REQUEST_WITHIN: Duration = Duration::from_secs(30);
const API_KEY: &str = "x-api-key";
const TRACE_ID: HeaderName = HeaderName::from_static("trace-id");

/// Every address, with its path as clients know it.
pub(crate) fn router(broker: Arc<Broker>, callers: Arc<Callers>, requests: usize) -> Router {
    let guard = Guard { callers, requests: Arc::new(Semaphore::new(requests)) };
    let appraisal = Router::new()
        .route("/appraisal/v1/nonce", get(nonce))
        .route("/appraisal/v2/nonce", get(nonce))
        .route("/appraisal/v1/attest", post(attest_v1))
        .route("/appraisal/v1/attest/azure/tdxvm", post(attest_v1_azure))
        .route("/appraisal/v2/attest", post(attest_v2))
        .route("/appraisal/v2/attest/{cloud}", post(attest_cloud))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        // Whoever has the API key is a peer whose trace we join; the key is checked before there is a span.
        .layer(http_server_layer(Trust::Adopt))
        .layer(middleware::from_fn_with_state(guard, admit));
    let public = Router::new()
        .route("/certs", get(certs))
        .route("/crl/{name}", get(revocation_list))
        .route("/.well-known/openid-configuration", get(discovery))
        .layer(http_server_layer(Trust::Link));
    appraisal
        .merge(public)
        .method_not_allowed_fallback(async || {
            refused(StatusCode::METHOD_NOT_ALLOWED, Reason::RequestMalformed, "the address is asked in another way")
        })
        .fallback(async || refused(StatusCode::NOT_FOUND, Reason::RequestMalformed, "no such address"))
        .layer(middleware::from_fn(identify))
        .layer(Extension(Arc::clone(&broker)))
        .with_state(broker)
}

/// Who may ask, and how many at a time.
#[derive(Clone)]
struct Guard {
    callers: Arc<Callers>,
    requests: Arc<Semaphore>,
}

async fn admit(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let given = request.headers().get(API_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
    match guard.callers.admit(given, Instant::now()) {
        Admission::Admitted => {}
        Admission::Unknown => return refused(StatusCode::UNAUTHORIZED, Reason::Unauthenticated, "x-api-key is missing or wrong"),
        Admission::Throttled(wait) => return throttled(wait),
    }
    let Ok(_permit) = guard.requests.try_acquire() else {
        return refused(StatusCode::SERVICE_UNAVAILABLE, Reason::Overloaded, "too many requests under way");
    };
    let late = |_| refused(StatusCode::SERVICE_UNAVAILABLE, Reason::DeadlineExceeded, "the request took too long to arrive or to answer");
    tokio::time::timeout(REQUEST_WITHIN, next.run(request)).await.unwrap_or_else(late)
}

/// Echoes the caller's request id and names our trace.
async fn identify(request: Request, next: Next) -> Response {
    let request_id = request_id(request.headers());
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    if let Some(request_id) = request_id {
        headers.insert(REQUEST_ID, request_id);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The trace of the answer; set where the request's span is the current one.
fn traced(response: impl IntoResponse) -> Response {
    let mut response = response.into_response();
    let trace_id = keyferry_telemetry::spans::current_trace_id().and_then(|id| HeaderValue::from_str(&id).ok());
    if let Some(trace_id) = trace_id {
        response.headers_mut().insert(TRACE_ID, trace_id);
    }
    response
}

async fn nonce(State(broker): State<Arc<Broker>>) -> Response {
    match broker.nonce().await {
        Ok((nonce, _ends)) => {
            let text = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
            traced(Json(json!({ "val": text(&nonce.val), "iat": text(&nonce.iat), "signature": text(&nonce.signature) })))
        }
        Err(refusal) => denied(&refusal),
    }
}

async fn certs(State(broker): State<Arc<Broker>>) -> Response {
    let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    match broker.jwks().await {
        Ok(jwks) => traced((json, jwks)),
        Err(refusal) => denied(&refusal),
    }
}

/// A revocation list of the signing chain, in DER and nothing else.
async fn revocation_list(State(broker): State<Arc<Broker>>, Path(name): Path<String>) -> Response {
    match broker.revocation_list(&name) {
        Some(der) => traced(([(header::CONTENT_TYPE, HeaderValue::from_static("application/pkix-crl"))], der)),
        None => refused(StatusCode::NOT_FOUND, Reason::RequestMalformed, "no such revocation list"),
    }
}

/// Where everything is, for whoever knows the issuer only.
async fn discovery(State(broker): State<Arc<Broker>>) -> Response {
    let Some(issuer) = broker.issuer().filter(|issuer| issuer.starts_with("https://")) else {
        return refused(StatusCode::NOT_FOUND, Reason::RequestMalformed, "the issuer is no https:// URL");
    };
    let base = issuer.trim_end_matches('/');
    let algorithms: Vec<_> = broker.algorithms().into_iter().map(Algorithm::name).collect();
    traced(Json(json!({
        "issuer": issuer,
        "jwks_uri": format!("{base}/certs"),
        "revocation_endpoint": format!("{base}/crl/signing-ca.der"),
        "response_types_supported": ["id_token"],
        "id_token_signing_alg_values_supported": algorithms,
    })))
}

type Body = Result<Bytes, BytesRejection>;

/// Flat claims.
const V1: Form = Form { shape: Shape::V1Flat, azure: false };
/// Nested claims.
const V2: Form = Form { shape: Shape::V2Nested, azure: false };

async fn attest_v1(State(broker): State<Arc<Broker>>, headers: HeaderMap, body: Body) -> Response {
    attest(&broker, V1, &headers, body).await
}

async fn attest_v1_azure(State(broker): State<Arc<Broker>>, headers: HeaderMap, body: Body) -> Response {
    attest(&broker, Form { azure: true, ..V1 }, &headers, body).await
}

async fn attest_v2(State(broker): State<Arc<Broker>>, headers: HeaderMap, body: Body) -> Response {
    attest(&broker, V2, &headers, body).await
}

/// Clients append their `cloud_provider` whatever it is; only Azure means other evidence.
async fn attest_cloud(State(broker): State<Arc<Broker>>, Path(cloud): Path<String>, headers: HeaderMap, body: Body) -> Response {
    attest(&broker, Form { azure: cloud.eq_ignore_ascii_case("azure"), ..V2 }, &headers, body).await
}

async fn attest(broker: &Broker, form: Form, headers: &HeaderMap, body: Body) -> Response {
    if !is_json(headers) {
        return refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, Reason::RequestMalformed, "the content-type has to be application/json");
    }
    let parsed = match &body {
        Ok(bytes) => body::parse(bytes, form, &broker.algorithms()),
        Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            Err(Refusal::new(Reason::RequestTooLarge, format!("the body is larger than {BODY_BYTES_MAX} bytes")))
        }
        Err(_) => Err(Refusal::new(Reason::RequestMalformed, "the body was cut off")),
    };
    let answer = match parsed {
        Ok(evidence) => broker.attest(evidence).await,
        Err(refusal) => Err(broker.refuse(refusal, &crate::broker::Subject::default()).await),
    };
    match answer {
        Ok(token) => traced(Json(json!({ "token": token.token }))),
        Err(refusal) => denied(&refusal),
    }
}

/// A missing type is taken for JSON.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(given) = headers.get(header::CONTENT_TYPE) else { return true };
    let essence = given.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/json")
}

/// Nothing was decided.
fn throttled(wait: Duration) -> Response {
    let mut response = refused(StatusCode::TOO_MANY_REQUESTS, Reason::RateLimited, "this API key has no requests left for now");
    let seconds = wait.as_secs().saturating_add(1);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response
}

fn denied(refusal: &Refusal) -> Response {
    let status = match refusal.reason {
        Reason::RequestTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Reason::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        Reason::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        // Named by the caller; elsewhere a policy that is missing is ours.
        Reason::PolicyNotFound => StatusCode::BAD_REQUEST,
        // Not the caller's fault: out of reach, or collateral that an operator has to renew.
        reason if refusal.is_outage() || reason.advice().http >= 500 => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_REQUEST,
    };
    traced(refused(status, refusal.reason, &refusal.detail))
}

/// `{"error":"<label>: <what and what to do>"}`: the one member those clients know.
fn refused(status: StatusCode, reason: Reason, detail: &str) -> Response {
    let text = format!("{}: {detail}; {}", reason.label(), reason.advice().text);
    let mut headers = HeaderMap::new();
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
    }
    (status, headers, Json(json!({ "error": text }))).into_response()
}
