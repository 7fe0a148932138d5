//! `GET /version` and `POST /token`.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::IntoResponse,
};
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{
    Call, Rest, json,
    reply::{self, Answer},
};
use crate::Denial;

/// Two years, as Intel's.
const HSTS: HeaderValue = HeaderValue::from_static("max-age=63072000; includeSubDomains");

pub(super) async fn version(_rest: Rest, _call: Call) -> Answer {
    Ok(reply::json(StatusCode::OK, version_document()))
}

fn version_document() -> Value {
    json!({
        "name": "Key Broker Service",
        "version": concat!("v", env!("CARGO_PKG_VERSION")),
        "gitHash": option_env!("KEYFERRY_GIT_HASH").unwrap_or_default(),
        "buildDate": option_env!("KEYFERRY_BUILD_DATE").unwrap_or_default(),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    username: Option<String>,
    password: Option<String>,
}

/// The bare token, without a line feed: scripts keep the body in a variable.
pub(super) async fn token(rest: Rest, call: Call) -> Answer {
    let login: Login = json::decode(&call.body.unwrap_or_default())?;
    let username = login.username.filter(|name| !name.is_empty()).ok_or_else(|| Denial::malformed("username", "is missing"))?;
    let password = login.password.map(Zeroizing::new);
    let password = password.filter(|word| !word.is_empty()).ok_or_else(|| Denial::malformed("password", "is missing"))?;
    let token = rest.0.users.login(&username, &password, call.client).await?;
    let content = (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok((StatusCode::OK, [content, (header::STRICT_TRANSPORT_SECURITY, HSTS)], token).into_response())
}
