//! `POST /keys/{id}/transfer`: the attested release. Without a body a challenge; with one, passport mode or, if the header
//! `Attestation-Type` names a type, background check. The newer shape nests the evidence under `tdx` or `sgx`.

use std::time::Instant;

use axum::{
    http::{HeaderValue, StatusCode},
    response::Response,
};
use base64::{Engine, prelude::BASE64_STANDARD};
use keyferry_attestation_token::Nonce;
use keyferry_contract::{EVENT_LOG_BYTES_MAX, QUOTE_BYTES_MAX, TOKEN_BYTES_MAX, USER_DATA_BYTES_MAX};
use keyferry_identifiers::KeyId;
use keyferry_key_transfer_policy::AttestationType;
use keyferry_trust_authority::Evidence;
use serde::Deserialize;
use serde_json::json;

use super::{
    Call, Rest, json,
    reply::{self, ATTESTATION_TYPE, Answer},
};
use crate::{
    Denial,
    broker::{NONCE_IAT_BYTES_MAX, NONCE_SIGNATURE_BYTES_MAX, NONCE_VAL_BYTES_MAX, bounded},
    fetched::ReleasedKey,
    release::Credential,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TransferRequest {
    attestation_token: Option<String>,
    quote: Option<String>,
    user_data: Option<String>,
    event_log: Option<String>,
    nonce: Option<NonceText>,
    tdx: Option<EvidenceText>,
    sgx: Option<EvidenceText>,
}

/// The nested shape, with the names of Intel's key broker and those of its verifier.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct EvidenceText {
    quote: Option<String>,
    #[serde(alias = "runtime_data")]
    user_data: Option<String>,
    event_log: Option<String>,
    #[serde(alias = "verifier_nonce")]
    nonce: Option<NonceText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NonceText {
    val: Option<String>,
    iat: Option<String>,
    signature: Option<String>,
}

/// Longer bodies take more than half a millisecond to read, which is not done on the runtime's threads.
const READ_AT_ONCE_BYTES_MAX: usize = 64 * 1024;

pub(super) async fn transfer(rest: Rest, call: Call) -> Answer {
    let key_id = KeyId::parse(&call.id.to_string()).map_err(|_| Denial::KeyNotFound)?;
    let header = attestation_type(call.headers.get(ATTESTATION_TYPE))?;
    let credential = match (&call.body, header) {
        (None, None) => return challenge(&rest, key_id, &call).await,
        (None, Some(kind)) => Credential::Evidence(kind, Box::new(evidence(EvidenceText::default())?)),
        (Some(body), header) if body.len() > READ_AT_ONCE_BYTES_MAX => {
            let body = body.clone();
            let read = tokio::task::spawn_blocking(move || credential(json::decode(&body)?, header));
            read.await.unwrap_or(Err(Denial::Internal("reading a body did not end")))?
        }
        (Some(body), header) => credential(json::decode(body)?, header)?,
    };
    let released = rest.0.release.transfer(key_id, credential).await?;
    let body = match released.key.into_key() {
        ReleasedKey::Swk(wrapped) => {
            let text = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
            json!({ "wrapped_key": text(wrapped.wrapped_key()), "wrapped_swk": text(wrapped.wrapped_swk()) })
        }
        ReleasedKey::Kms(wrapped) => {
            json!({ "kms_wrapped_key": BASE64_STANDARD.encode(wrapped.as_bytes()), "wrapping": "RSA_OAEP_SHA256_AES_KWP" })
        }
    };
    let mut response = answered("", &body);
    if let Ok(id) = HeaderValue::from_str(&released.release_id.to_string()) {
        response.headers_mut().insert("release-id", id);
    }
    Ok(response)
}

/// A nonce of the verifier, and the type of evidence that the key's policy asks for.
async fn challenge(rest: &Rest, key_id: KeyId, call: &Call) -> Answer {
    let taken = |address| rest.0.challenges.take(address, Instant::now());
    if !call.client.is_none_or(taken) {
        return Err(Denial::RateLimited.into());
    }
    let (kind, nonce) = rest.0.release.challenge(key_id).await?;
    let text = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
    let body = json!({ "val": text(&nonce.val), "iat": text(&nonce.iat), "signature": text(&nonce.signature) });
    Ok(answered(kind.label(), &body))
}

/// In an answer with a key the header is there and empty, as Intel's is.
fn answered(kind: &'static str, body: &serde_json::Value) -> Response {
    let mut response = reply::json(StatusCode::OK, body);
    response.headers_mut().insert(ATTESTATION_TYPE, HeaderValue::from_static(kind));
    response
}

/// Intel's passport clients send the header empty.
fn attestation_type(header: Option<&HeaderValue>) -> Result<Option<AttestationType>, Denial> {
    match header.map(HeaderValue::as_bytes) {
        None | Some(b"") => Ok(None),
        Some(b"TDX") => Ok(Some(AttestationType::Tdx)),
        Some(b"SGX") => Ok(Some(AttestationType::Sgx)),
        Some(_) => Err(Denial::malformed("the header Attestation-Type", "must be TDX or SGX, or be absent")),
    }
}

fn credential(request: TransferRequest, header: Option<AttestationType>) -> Result<Credential, Denial> {
    let flat = EvidenceText { quote: request.quote, user_data: request.user_data, event_log: request.event_log, nonce: request.nonce };
    let nested = match (request.tdx, request.sgx) {
        (None, None) => None,
        (Some(tdx), None) => Some((AttestationType::Tdx, tdx)),
        (None, Some(sgx)) => Some((AttestationType::Sgx, sgx)),
        (Some(_), Some(_)) => return Err(Denial::malformed("body:", "has both tdx and sgx: one of them is needed")),
    };
    let token = request.attestation_token.filter(|token| !token.is_empty());
    let (kind, text) = match (header, nested) {
        (None, None) => {
            let token = token.ok_or_else(|| Denial::malformed("attestation_token", "is missing"))?;
            return bounded("attestation_token", token, TOKEN_BYTES_MAX).map(Credential::Token);
        }
        (None, Some(_)) if token.is_some() => {
            return Err(Denial::malformed("body:", "has both a token and evidence: one of them is needed"));
        }
        (Some(header), Some((kind, _))) if header != kind => {
            return Err(Denial::malformed("body:", "has evidence of another type than the header Attestation-Type says"));
        }
        (_, Some(_)) if !flat.is_empty() => return Err(Denial::malformed("body:", "has evidence twice, flat and nested")),
        (_, Some((kind, text))) => (kind, text),
        (Some(kind), None) => (kind, flat),
    };
    Ok(Credential::Evidence(kind, Box::new(evidence(text)?)))
}

/// What is missing is for the verifier to miss: Intel's key broker passes evidence on as it is.
fn evidence(text: EvidenceText) -> Result<Evidence, Denial> {
    let nonce = match text.nonce {
        None => None,
        Some(nonce) => Some(Nonce {
            val: bounded("nonce.val", json::base64("nonce.val", nonce.val.as_deref())?, NONCE_VAL_BYTES_MAX)?,
            iat: bounded("nonce.iat", json::base64("nonce.iat", nonce.iat.as_deref())?, NONCE_IAT_BYTES_MAX)?,
            signature: bounded("nonce.signature", json::base64("nonce.signature", nonce.signature.as_deref())?, NONCE_SIGNATURE_BYTES_MAX)?,
        }),
    };
    let quote = bounded("quote", json::base64("quote", text.quote.as_deref())?, QUOTE_BYTES_MAX)?;
    Ok(Evidence {
        user_data: bounded("user_data", json::base64("user_data", text.user_data.as_deref())?, USER_DATA_BYTES_MAX)?,
        event_log: bounded("event_log", json::base64("event_log", text.event_log.as_deref())?, EVENT_LOG_BYTES_MAX)?,
        nonce,
        ..Evidence::of(quote)
    })
}

impl EvidenceText {
    fn is_empty(&self) -> bool {
        self.quote.is_none() && self.user_data.is_none() && self.event_log.is_none() && self.nonce.is_none()
    }
}
