//! Replies that both surfaces share: compact JSON and one final newline, which the sample's script needs to find its
//! status code on a line of its own.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::json;

use crate::Refusal;

pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// JSON and a newline.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(mut bytes) => {
            bytes.push(b'\n');
            (status, [(header::CONTENT_TYPE, JSON)], bytes).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// `{"error":"..."}`.
pub(super) fn error(status: StatusCode, text: &str) -> Response {
    json(status, &json!({ "error": text }))
}

/// `{"error":"...","reason":"..."}`: the reason is the label that metrics and events carry.
pub(super) fn refusal(status: StatusCode, refusal: &Refusal) -> Response {
    json(status, &json!({ "error": refusal.detail, "reason": refusal.reason.label() }))
}

/// An unknown path, in the sample's words.
pub(super) async fn not_found() -> Response {
    const NOSNIFF: (HeaderName, HeaderValue) = (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    const TEXT: (HeaderName, HeaderValue) = (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    (StatusCode::NOT_FOUND, [TEXT, NOSNIFF], Body::from("404 page not found\n")).into_response()
}
