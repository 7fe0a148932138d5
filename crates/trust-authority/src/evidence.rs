//! The JSON of requests and answers. Base64 is decoded exactly once.

use std::fmt;

use base64::{Engine, prelude::BASE64_STANDARD};
use keyferry_attestation_token::{Nonce, TOKEN_CHARACTERS_MAX};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::TrustAuthorityError;

/// Of each of a nonce's members; Intel's signature has 384.
const NONCE_MEMBER_BYTES_MAX: usize = 1024;

/// Which form of the API is spoken: it decides the form of the token. A nonce of either is good at either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ApiVersion {
    /// Flat requests and tokens.
    V1,
    /// Composite requests and nested tokens.
    #[default]
    V2,
}

impl ApiVersion {
    /// The address of nonces.
    pub const fn nonce_path(self) -> &'static str {
        match self {
            Self::V1 => "/appraisal/v1/nonce",
            Self::V2 => "/appraisal/v2/nonce",
        }
    }
}

/// Evidence of a TD or an enclave, as bytes.
#[derive(Clone)]
pub struct Evidence {
    /// The quote as the platform returned it.
    pub quote: Vec<u8>,
    /// What the TD bound into the quote beside the nonce; empty = nothing.
    pub user_data: Vec<u8>,
    /// The paravisor's runtime JSON, byte for byte, where the quote is that of an Azure TD.
    pub azure_runtime: Option<Vec<u8>>,
    /// The verifier's nonce, as received.
    pub nonce: Option<Nonce>,
    /// Raw CCEL; empty = none.
    pub event_log: Vec<u8>,
    /// Appraisal policies to match; empty = those of the API key.
    pub policy_ids: Vec<Uuid>,
    /// Whether a policy that does not match ends in an error rather than in a token that says so.
    pub policy_must_match: bool,
    /// `PS384` or `RS256`; `None` leaves it to the service.
    pub token_signing_alg: Option<String>,
}

impl Evidence {
    /// A quote and nothing else.
    pub fn of(quote: Vec<u8>) -> Self {
        Self {
            quote,
            user_data: Vec::new(),
            azure_runtime: None,
            nonce: None,
            event_log: Vec::new(),
            policy_ids: Vec::new(),
            policy_must_match: false,
            token_signing_alg: None,
        }
    }
}

impl fmt::Debug for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Evidence(quote of {} bytes, user data of {} bytes)", self.quote.len(), self.user_data.len())
    }
}

/// Composite (v2): evidence inside `tdx` or `sgx`. Flat (v1): its members at the top.
#[derive(Serialize)]
struct AttestRequest<'a> {
    #[serde(skip_serializing_if = "<[Uuid]>::is_empty")]
    policy_ids: &'a [Uuid],
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    policy_must_match: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_signing_alg: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tdx: Option<QuoteEvidence>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sgx: Option<QuoteEvidence>,
    #[serde(flatten)]
    flat: Option<QuoteEvidence>,
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
    user_data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verifier_nonce: Option<NonceText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_log: Option<String>,
}

/// Exactly these members, as Intel's clients demand.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NonceText {
    val: String,
    iat: String,
    signature: String,
}

/// Exactly this member.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenAnswer {
    token: String,
}

impl Evidence {
    /// Where it goes and what is sent.
    pub(crate) fn request(&self, version: ApiVersion, quoted: Quoted) -> Result<(&'static str, Vec<u8>), TrustAuthorityError> {
        let path = match (version, self.azure_runtime.is_some()) {
            (ApiVersion::V1, false) => "/appraisal/v1/attest",
            (ApiVersion::V1, true) => "/appraisal/v1/attest/azure/tdxvm",
            (ApiVersion::V2, false) => "/appraisal/v2/attest",
            (ApiVersion::V2, true) => "/appraisal/v2/attest/azure",
        };
        let evidence = Some(self.quoted());
        let (tdx, sgx, flat) = match (version, quoted) {
            (ApiVersion::V1, _) => (None, None, evidence),
            (ApiVersion::V2, Quoted::TrustDomain) => (evidence, None, None),
            (ApiVersion::V2, Quoted::Enclave) => (None, evidence, None),
        };
        let request = AttestRequest {
            policy_ids: &self.policy_ids,
            policy_must_match: self.policy_must_match,
            token_signing_alg: self.token_signing_alg.as_deref(),
            tdx,
            sgx,
            flat,
        };
        let body = serde_json::to_vec(&request).map_err(|_| TrustAuthorityError::Malformed { field: "request" })?;
        Ok((path, body))
    }

    /// On Azure the quote binds the runtime JSON, and that binds the user data.
    fn quoted(&self) -> QuoteEvidence {
        let present = |bytes: &[u8]| (!bytes.is_empty()).then(|| BASE64_STANDARD.encode(bytes));
        let verifier_nonce = self.nonce.as_ref().map(|nonce| NonceText {
            val: BASE64_STANDARD.encode(&nonce.val),
            iat: BASE64_STANDARD.encode(&nonce.iat),
            signature: BASE64_STANDARD.encode(&nonce.signature),
        });
        let (runtime_data, user_data) = match &self.azure_runtime {
            Some(runtime) => (present(runtime), present(&self.user_data)),
            None => (present(&self.user_data), None),
        };
        QuoteEvidence {
            quote: BASE64_STANDARD.encode(&self.quote),
            runtime_data,
            user_data,
            verifier_nonce,
            event_log: present(&self.event_log),
        }
    }
}

pub(crate) fn nonce_from_json(json: &[u8]) -> Result<Nonce, TrustAuthorityError> {
    let text: NonceText = serde_json::from_slice(json).map_err(|_| TrustAuthorityError::Malformed { field: "nonce" })?;
    let decoded = |text: &str, field| match BASE64_STANDARD.decode(text) {
        Ok(bytes) if (1..=NONCE_MEMBER_BYTES_MAX).contains(&bytes.len()) => Ok(bytes),
        _ => Err(TrustAuthorityError::Malformed { field }),
    };
    Ok(Nonce { val: decoded(&text.val, "val")?, iat: decoded(&text.iat, "iat")?, signature: decoded(&text.signature, "signature")? })
}

pub(crate) fn token_from_json(json: &[u8]) -> Result<String, TrustAuthorityError> {
    match serde_json::from_slice::<TokenAnswer>(json) {
        Ok(answer) if (1..=TOKEN_CHARACTERS_MAX).contains(&answer.token.len()) => Ok(answer.token),
        _ => Err(TrustAuthorityError::Malformed { field: "token" }),
    }
}
