//! What answers look like: statuses, headers and bodies as Intel's clients know them.

use axum::{
    Json,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use keyferry_contract::Retry;
use serde::Serialize;
use serde_json::json;

use crate::Denial;

pub(super) const ATTESTATION_TYPE: HeaderName = HeaderName::from_static("attestation-type");
pub(super) const JSON: &str = "application/json";
const NO_SNIFFING: (HeaderName, HeaderValue) = (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
const PLAIN: (HeaderName, HeaderValue) = (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
/// The connection ends: what is left of the request is not read.
const CLOSE: (HeaderName, HeaderValue) = (header::CONNECTION, HeaderValue::from_static("close"));

pub(super) type Answer = Result<Response, Refusal>;

/// Why a request got no answer of its own.
#[derive(Debug)]
pub(super) enum Refusal {
    /// There is no such address; a path id that is no version-4 UUID is none.
    NotFound,
    /// The address is there; `Allow` says for which methods.
    MethodNotAllowed(String),
    /// No valid bearer token, or one without the permission.
    Unauthorized,
    /// A header is not exactly what the address wants.
    Header { name: &'static str, wanted: &'static str },
    /// The body did not come in time.
    TooSlow,
    /// The body did not come whole.
    CutOff,
    /// As the reason's table says.
    Denied(Denial),
    /// With another status, where Intel's address has its own.
    As(StatusCode, Denial),
}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::NotFound => (StatusCode::NOT_FOUND, [PLAIN, NO_SNIFFING], "404 page not found\n").into_response(),
            Self::MethodNotAllowed(allow) => (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, allow)]).into_response(),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, [PLAIN, NO_SNIFFING], "Unauthorized\n").into_response(),
            Self::Header { name, wanted } => {
                let text = format!("the header {name} must be {wanted}");
                error(StatusCode::UNSUPPORTED_MEDIA_TYPE, &text, "request_malformed")
            }
            Self::TooSlow => {
                ([CLOSE], error(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time", "request_malformed")).into_response()
            }
            Self::CutOff => ([CLOSE], error(StatusCode::BAD_REQUEST, "the body was cut off", "request_malformed")).into_response(),
            Self::Denied(denial) => denied(status(&denial), &denial),
            Self::As(status, denial) => denied(status, &denial),
        }
    }
}

/// Intel answers 502 to whatever the verifier says; the reason in the body tells more.
fn status(denial: &Denial) -> StatusCode {
    let fixed = match denial {
        Denial::Verifier(_) | Denial::EvidenceIncomplete => StatusCode::BAD_GATEWAY.as_u16(),
        _ => denial.reason().advice().http,
    };
    StatusCode::from_u16(fixed).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn denied(status: StatusCode, denial: &Denial) -> Response {
    let reason = denial.reason();
    // Intel puts the code before the text of what its service refused, and not before mistakes in the request itself.
    let text = match status {
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => denial.public_text(),
        _ => format!("{}: {}", status.as_u16(), denial.public_text()),
    };
    let mut response = error(status, &text, reason.label());
    if let Retry::AfterSeconds(seconds) = reason.advice().retry {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    if status == StatusCode::PAYLOAD_TOO_LARGE {
        response.headers_mut().extend([CLOSE]);
    }
    response
}

/// `{"error":"<text>","reason":"<label>"}` and a line feed. Intel's has `error` alone; its clients read the status.
fn error(status: StatusCode, text: &str, reason: &str) -> Response {
    let body = format!("{}\n", json!({ "error": text, "reason": reason }));
    (status, [(header::CONTENT_TYPE, JSON)], body).into_response()
}

/// A JSON answer.
pub(super) fn json(status: StatusCode, body: impl Serialize) -> Response {
    (status, Json(body)).into_response()
}

/// RFC 3339 with as many digits as there are; Go's zero time for what never was.
pub(super) fn time(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |at| at.to_string())
}
