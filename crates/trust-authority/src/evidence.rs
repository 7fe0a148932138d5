//! The JSON of requests and answers. Base64 is decoded exactly once.

use std::fmt;

use base64::{Engine, prelude::BASE64_STANDARD};
use keyferry_attestation_token::Nonce;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::TrustAuthorityError;

/// Evidence of a TD or an enclave, as bytes.
#[derive(Clone)]
pub struct Evidence {
    /// The quote as the platform returned it.
    pub quote: Vec<u8>,
    /// What the TD bound into the quote beside the nonce; empty = nothing.
    pub user_data: Vec<u8>,
    /// The verifier's nonce, as received.
    pub nonce: Option<Nonce>,
    /// Raw CCEL; empty = none.
    pub event_log: Vec<u8>,
    /// Appraisal policies to match; empty = those of the API key.
    pub policy_ids: Vec<Uuid>,
    /// Whether a policy that does not match ends in an error rather than in a token that says so.
    pub policy_must_match: bool,
}

impl fmt::Debug for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Evidence(quote of {} bytes, user data of {} bytes)", self.quote.len(), self.user_data.len())
    }
}

#[derive(Serialize)]
struct AttestRequest<'a> {
    #[serde(skip_serializing_if = "<[Uuid]>::is_empty")]
    policy_ids: &'a [Uuid],
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    policy_must_match: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    tdx: Option<QuoteEvidence>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sgx: Option<QuoteEvidence>,
}

/// Whose quote it is.
#[derive(Clone, Copy)]
pub(crate) enum Quoted {
    TrustDomain,
    Enclave,
}

#[derive(Serialize)]
struct QuoteEvidence {
    quote: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime_data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verifier_nonce: Option<NonceText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_log: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct NonceText {
    val: String,
    iat: String,
    signature: String,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: String,
}

impl Evidence {
    /// The composite (v2) request body.
    pub(crate) fn to_json(&self, quoted: Quoted) -> Result<Vec<u8>, TrustAuthorityError> {
        let present = |bytes: &[u8]| (!bytes.is_empty()).then(|| BASE64_STANDARD.encode(bytes));
        let verifier_nonce = self.nonce.as_ref().map(|nonce| NonceText {
            val: BASE64_STANDARD.encode(&nonce.val),
            iat: BASE64_STANDARD.encode(&nonce.iat),
            signature: BASE64_STANDARD.encode(&nonce.signature),
        });
        let evidence = QuoteEvidence {
            quote: BASE64_STANDARD.encode(&self.quote),
            runtime_data: present(&self.user_data),
            verifier_nonce,
            event_log: present(&self.event_log),
        };
        let (tdx, sgx) = match quoted {
            Quoted::TrustDomain => (Some(evidence), None),
            Quoted::Enclave => (None, Some(evidence)),
        };
        let request = AttestRequest { policy_ids: &self.policy_ids, policy_must_match: self.policy_must_match, tdx, sgx };
        serde_json::to_vec(&request).map_err(|_| TrustAuthorityError::Malformed { field: "request" })
    }
}

pub(crate) fn nonce_from_json(json: &[u8]) -> Result<Nonce, TrustAuthorityError> {
    let text: NonceText = serde_json::from_slice(json).map_err(|_| TrustAuthorityError::Malformed { field: "nonce" })?;
    let decoded = |text: &str, field| match BASE64_STANDARD.decode(text) {
        Ok(bytes) if !bytes.is_empty() => Ok(bytes),
        _ => Err(TrustAuthorityError::Malformed { field }),
    };
    Ok(Nonce { val: decoded(&text.val, "val")?, iat: decoded(&text.iat, "iat")?, signature: decoded(&text.signature, "signature")? })
}

pub(crate) fn token_from_json(json: &[u8]) -> Result<String, TrustAuthorityError> {
    match serde_json::from_slice::<TokenAnswer>(json) {
        Ok(answer) if !answer.token.is_empty() => Ok(answer.token),
        _ => Err(TrustAuthorityError::Malformed { field: "token" }),
    }
}
