//! The HTTPS surface: the appraisal API of Intel Trust Authority over the same decisions.
//!
//! What its clients insist on shapes this module: status 200 and nothing else for success, replies with exactly the
//! documented members, `trace-id` and `request-id` headers in lower case without quotes in their values, a tolerant
//! base64, a flat body at a v2 address, and a nonce of either version at either address. Denials are 400, not the 401 of
//! the key broker: those clients read 401 as "wrong API key".

mod body;

use std::{sync::Arc, time::Duration};

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
use keyferry_attestation_token::Shape;
use keyferry_contract::Reason;
use keyferry_lifecycle::Secret;
use keyferry_telemetry::{REQUEST_ID, Trust, http_server_layer, request_id};
use serde_json::json;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

use self::body::Form;
use crate::{broker::Broker, refusal::Refusal};

/// The documented bound of a request body.
const BODY_BYTES_MAX: usize = 500_000;
/// From a request's headers to its answer. Longer than the slowest decision and its record, so that only a caller whose
/// body never ends meets it; it would keep its place among the requests under way for ever.
const REQUEST_WITHIN: Duration = Duration::from_secs(30);
const API_KEY: &str = "x-api-key";
const TRACE_ID: HeaderName = HeaderName::from_static("trace-id");

/// Every address, with its path as clients know it.
pub(crate) fn router(broker: Arc<Broker>, api_key: &Secret, requests: usize) -> Router {
    let guard = Guard { api_key: Sha256::digest(api_key.expose().as_bytes()).into(), requests: Arc::new(Semaphore::new(requests)) };
    let appraisal = Router::new()
        .route("/appraisal/v1/nonce", get(nonce))
        .route("/appraisal/v2/nonce", get(nonce))
        .route("/appraisal/v1/attest", post(attest_v1))
        .route("/appraisal/v2/attest", post(attest_v2))
        .route("/appraisal/v2/attest/{cloud}", post(attest_cloud))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        // Whoever has the API key is a peer whose trace we join; the key is checked before there is a span.
        .layer(http_server_layer(Trust::Adopt))
        .layer(middleware::from_fn_with_state(guard, admit));
    let public = Router::new().route("/certs", get(certs)).layer(http_server_layer(Trust::Link));
    appraisal
        .merge(public)
        .fallback(async || refused(StatusCode::NOT_FOUND, Reason::RequestMalformed, "no such address"))
        .layer(middleware::from_fn(identify))
        .layer(Extension(Arc::clone(&broker)))
        .with_state(broker)
}

/// Who may ask, and how many at a time.
#[derive(Clone)]
struct Guard {
    api_key: [u8; 32],
    requests: Arc<Semaphore>,
}

async fn admit(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let given = request.headers().get(API_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
    let digest: [u8; 32] = Sha256::digest(given).into();
    if !bool::from(digest.ct_eq(&guard.api_key)) {
        return refused(StatusCode::UNAUTHORIZED, Reason::Unauthenticated, "x-api-key is missing or wrong");
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

type Body = Result<Bytes, BytesRejection>;

/// Flat claims.
const V1: Form = Form { shape: Shape::V1Flat, azure: false };
/// Nested claims.
const V2: Form = Form { shape: Shape::V2Nested, azure: false };

async fn attest_v1(State(broker): State<Arc<Broker>>, body: Body) -> Response {
    attest(&broker, V1, body).await
}

async fn attest_v2(State(broker): State<Arc<Broker>>, body: Body) -> Response {
    attest(&broker, V2, body).await
}

/// Clients append their `cloud_provider` whatever it is; only Azure means other evidence.
async fn attest_cloud(State(broker): State<Arc<Broker>>, Path(cloud): Path<String>, body: Body) -> Response {
    if cloud.eq_ignore_ascii_case("azure") {
        return denied(&Refusal::new(Reason::RequestMalformed, "evidence of Azure's paravisor is not supported"));
    }
    attest(&broker, V2, body).await
}

async fn attest(broker: &Broker, form: Form, body: Body) -> Response {
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

fn denied(refusal: &Refusal) -> Response {
    let status = match refusal.reason {
        Reason::RequestTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Reason::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        Reason::Internal => StatusCode::INTERNAL_SERVER_ERROR,
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
