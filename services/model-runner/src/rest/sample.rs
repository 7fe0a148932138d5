//! `/taa/v1`: the REST API of Intel's sample workload. Source: trustauthority-samples, `transport/http`.
//!
//! Statuses, header rules and the order of checks are the sample's: headers are compared exactly (a charset is refused),
//! every failure of the service is 500. What differs is deliberate: `key_transfer_url` may only name the configured key
//! broker, bodies are bounded, errors are JSON and carry a reason, and numbers are accepted beside texts.

use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State, rejection::BytesRejection},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

use super::reply;
use crate::{
    Refusal, Runner,
    events::Cause,
    key_pairs::SentKey,
    runtime::{FEATURES, LINEAR, Tensor, Values},
};

/// A token, or a wrapped key, and what is around it. Read on the runtime's threads: a millisecond at most.
const BODY_BYTES_MAX: usize = 128 * 1024;
/// A token that holds this service's own public key, whatever else the verifier says in it. Longer ones hold other user data,
/// for which no key is released: anybody may call, so no memory is given to them.
const TOKEN_BYTES_MAX: usize = 64 * 1024;
const APPLICATION_JSON: &[u8] = b"application/json";
/// On the successful replies of these endpoints and on their OPTIONS replies.
const CORS: [(HeaderName, HeaderValue); 3] = [
    (header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
    (header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE")),
    (
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static(
            "Accept, Content-Type, Content-Length, Accept-Encoding, X-CSRF-Token, Authorization, Access-Control-Allow-Origin",
        ),
    ),
];

pub(super) fn routes() -> Router<Arc<Runner>> {
    Router::new()
        .route("/taa/v1/version", get(version))
        .route("/taa/v1/token", get(token).options(options))
        .route("/taa/v1/key", post(key).options(options))
        .route("/taa/v1/decrypt", post(decrypt).options(options))
        .route("/taa/v1/execute", post(execute).options(options))
        .route("/taa/v1/reset", post(reset).options(options))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

type Body = Result<Bytes, BytesRejection>;

async fn version() -> Response {
    let version = env!("CARGO_PKG_VERSION");
    let body = json!({ "name": "TrustAuthority Demo App", "version": version, "gitHash": "", "buildDate": "" });
    reply::json(StatusCode::OK, &body)
}

async fn options() -> Response {
    (CORS, reply::json(StatusCode::OK, &json!({}))).into_response()
}

async fn token(State(runner): State<Arc<Runner>>) -> Response {
    answer(runner.token().await.map(|token| json!({ "attestation_token": token })))
}

async fn key(State(runner): State<Arc<Runner>>, headers: HeaderMap, body: Body) -> Response {
    let request = accepts_json(&headers).and_then(|()| KeyRequest::read(&runner, &headers, body));
    let request = match request {
        Ok(request) => request,
        Err(bad) => return bad.into_response(),
    };
    let (key_id, token) = match request {
        KeyRequest { key_id: Some(key_id), token } => (key_id, token),
        KeyRequest { key_id: None, .. } => {
            return Bad(StatusCode::BAD_REQUEST, "key_transfer_url: only the configured key broker is asked").into_response();
        }
    };
    answer(runner.key(key_id, token).await.map(|sent| match sent {
        SentKey::Broker(wrapped) => json!({
            "wrapped_key": BASE64_STANDARD.encode(wrapped.wrapped_key()),
            "wrapped_swk": BASE64_STANDARD.encode(wrapped.wrapped_swk())
        }),
        SentKey::Kms(wrapped) => json!({ "kms_wrapped_key": BASE64_STANDARD.encode(wrapped.as_bytes()) }),
    }))
}

struct KeyRequest {
    /// None: the URL names another server, or no key.
    key_id: Option<keyferry_identifiers::KeyId>,
    /// None: evidence is to be shown instead.
    token: Option<String>,
}

impl KeyRequest {
    fn read(runner: &Runner, headers: &HeaderMap, body: Body) -> Result<Self, Bad> {
        let members = members(headers, body, &["attestation_token", "key_transfer_url"])?;
        let token = text(&members, "attestation_token", "attestation_token: a text is wanted")?;
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Bad(StatusCode::BAD_REQUEST, "attestation_token: longer than 65536 bytes"));
        }
        let url = text(&members, "key_transfer_url", "key_transfer_url: a text is wanted")?;
        Ok(Self { key_id: runner.key_of_url(url), token: Some(token.to_owned()).filter(|token| !token.is_empty()) })
    }
}

async fn decrypt(State(runner): State<Arc<Runner>>, headers: HeaderMap, body: Body) -> Response {
    let members = members(&headers, body, &["wrapped_key", "wrapped_swk", "kms_wrapped_key"]).and_then(|members| {
        let wrapped_key = bytes(&members, "wrapped_key", "wrapped_key: standard base64 is wanted")?;
        let wrapped_swk = bytes(&members, "wrapped_swk", "wrapped_swk: standard base64 is wanted")?;
        let kms_wrapped_key = bytes(&members, "kms_wrapped_key", "kms_wrapped_key: standard base64 is wanted")?;
        Ok((wrapped_key, wrapped_swk, kms_wrapped_key))
    });
    let (wrapped_key, wrapped_swk, kms_wrapped_key) = match members {
        Ok(members) => members,
        Err(bad) => return bad.into_response(),
    };
    match SentKey::from_members(wrapped_key, wrapped_swk, kms_wrapped_key) {
        Ok(sent) => done(runner.decrypt(sent).await),
        Err(refusal) => done(Err(refusal)),
    }
}

async fn execute(State(runner): State<Arc<Runner>>, headers: HeaderMap, body: Body) -> Response {
    let row = match members(&headers, body, &FEATURES.map(|feature| feature.name)).and_then(|members| row(&members)) {
        Ok(row) => row,
        Err(bad) => return bad.into_response(),
    };
    let Some(model) = runner.model().filter(|model| model.runtime.media_type() == LINEAR) else {
        return reply::error(StatusCode::INTERNAL_SERVER_ERROR, "no linear model is loaded: decrypt one first");
    };
    let input = Tensor { name: "features".to_owned(), shape: vec![1, FEATURES.len()], values: Values::Fp32(row) };
    let outputs = runner.infer(model, vec![input]).await;
    answer(outputs.map(|outputs| match outputs.first().map(|output| &output.values) {
        Some(Values::Int64(answers)) => json!({ "high-risk": answers.first() }),
        _ => json!({ "high-risk": null }),
    }))
}

async fn reset(State(runner): State<Arc<Runner>>) -> Response {
    runner.reset(Cause::Requested).await;
    done(Ok(()))
}

fn answer(result: Result<Value, Refusal>) -> Response {
    match result {
        Ok(body) => (CORS, reply::json(StatusCode::OK, &body)).into_response(),
        Err(refusal) => reply::refusal(StatusCode::INTERNAL_SERVER_ERROR, &refusal),
    }
}

fn done(result: Result<(), Refusal>) -> Response {
    match result {
        Ok(()) => (StatusCode::NO_CONTENT, CORS, [(header::CONTENT_TYPE, reply::JSON)]).into_response(),
        Err(refusal) => reply::refusal(StatusCode::INTERNAL_SERVER_ERROR, &refusal),
    }
}

/// A request that is not understood.
struct Bad(StatusCode, &'static str);

impl IntoResponse for Bad {
    fn into_response(self) -> Response {
        reply::error(self.0, self.1)
    }
}

fn accepts_json(headers: &HeaderMap) -> Result<(), Bad> {
    is_json(headers, &header::ACCEPT, "Accept: application/json is wanted")
}

fn is_json(headers: &HeaderMap, name: &HeaderName, problem: &'static str) -> Result<(), Bad> {
    let given = headers.get(name).map(HeaderValue::as_bytes);
    if given == Some(APPLICATION_JSON) { Ok(()) } else { Err(Bad(StatusCode::UNSUPPORTED_MEDIA_TYPE, problem)) }
}

/// The members of a JSON object, under their known names. As Go's decoder: names in any case, the last one wins, only the
/// first JSON value is read, null counts as absent; a member of another name is refused.
fn members(headers: &HeaderMap, body: Body, known: &[&'static str]) -> Result<Map<String, Value>, Bad> {
    is_json(headers, &header::CONTENT_TYPE, "Content-Type: application/json is wanted")?;
    let body = body.map_err(|rejection| Bad(rejection.status(), "the body cannot be read, or is over 128 KiB"))?;
    if body.is_empty() {
        return Err(Bad(StatusCode::BAD_REQUEST, "the body is empty"));
    }
    let first = serde_json::Deserializer::from_slice(&body).into_iter::<Map<String, Value>>().next();
    let Some(Ok(given)) = first else { return Err(Bad(StatusCode::BAD_REQUEST, "the body is no JSON object")) };
    let mut members = Map::new();
    for (name, value) in given {
        let Some(known) = known.iter().find(|known| known.eq_ignore_ascii_case(&name)) else {
            return Err(Bad(StatusCode::BAD_REQUEST, "the body has an unknown member"));
        };
        if !value.is_null() {
            members.insert((*known).to_owned(), value);
        }
    }
    Ok(members)
}

fn text<'a>(members: &'a Map<String, Value>, name: &str, problem: &'static str) -> Result<&'a str, Bad> {
    match members.get(name) {
        None => Ok(""),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(Bad(StatusCode::BAD_REQUEST, problem)),
    }
}

fn bytes(members: &Map<String, Value>, name: &str, problem: &'static str) -> Result<Vec<u8>, Bad> {
    BASE64_STANDARD.decode(text(members, name, problem)?).map_err(|_| Bad(StatusCode::BAD_REQUEST, problem))
}

/// The eight inputs in the model's order; absent ones are 0.
fn row(members: &Map<String, Value>) -> Result<Vec<f32>, Bad> {
    FEATURES.iter().map(|feature| members.get(feature.name).map_or(Ok(0.0), number)).collect()
}

/// A finite 32-bit float, as a text or as a number.
fn number(value: &Value) -> Result<f32, Bad> {
    let parsed = match value {
        Value::String(text) => text.parse::<f32>().ok(),
        Value::Number(number) => number.to_string().parse::<f32>().ok(),
        _ => None,
    };
    let problem = Bad(StatusCode::BAD_REQUEST, "an input is no finite number in a text, like \"28.4\"");
    parsed.filter(|number| number.is_finite()).ok_or(problem)
}
