//! gRPC `KeyBroker`: bounds first, then the decision; nothing is decided here.

use keyferry_attestation_token::Nonce;
use keyferry_contract::{
    EVENT_LOG_BYTES_MAX, QUOTE_BYTES_MAX, Reason, TOKEN_BYTES_MAX, USER_DATA_BYTES_MAX,
    attestation::v1::{Evidence as EvidenceMessage, VerifierNonce},
    release::v1::{
        ExplainPolicyRequest, ExplainPolicyResponse, GetNonceRequest, GetNonceResponse, TransferKeyRequest, TransferKeyResponse,
        key_broker_server::KeyBroker, transfer_key_request,
    },
};
use keyferry_identifiers::{KeyId, PolicyId};
use keyferry_key_transfer_policy::AttestationType;
use keyferry_key_transfer_policy::DOCUMENT_BYTES_MAX;
use keyferry_trust_authority::Evidence;
use tonic::{Request, Response, Status};

use crate::{
    Denial,
    audit::claim_result,
    fetched::ReleasedKey,
    release::{Asked, Credential, Release},
    users::{Permission, Users, authenticated},
};

/// The bounds of a nonce's members, as the contract states them.
pub(crate) const NONCE_VAL_BYTES_MAX: usize = 256;
pub(crate) const NONCE_IAT_BYTES_MAX: usize = 64;
pub(crate) const NONCE_SIGNATURE_BYTES_MAX: usize = 1024;

pub(crate) struct Broker {
    pub(crate) release: Release,
    pub(crate) users: Users,
}

#[tonic::async_trait]
impl KeyBroker for Broker {
    async fn get_nonce(&self, _request: Request<GetNonceRequest>) -> Result<Response<GetNonceResponse>, Status> {
        let nonce = self.release.nonce().await.map_err(|denial| denial.status())?;
        let nonce = VerifierNonce { val: nonce.val, iat: nonce.iat, signature: nonce.signature };
        Ok(Response::new(GetNonceResponse { nonce: Some(nonce) }))
    }

    async fn transfer_key(&self, request: Request<TransferKeyRequest>) -> Result<Response<TransferKeyResponse>, Status> {
        let request = request.into_inner();
        let released = async {
            let credential = credential(request.credential)?;
            self.release.transfer(key_id(&request.key_id)?, credential).await
        };
        let released = released.await.map_err(|denial| denial.status())?;
        let mut response = TransferKeyResponse { release_id: released.release_id.to_string(), ..TransferKeyResponse::default() };
        match released.key.into_key() {
            ReleasedKey::Swk(wrapped) => (response.wrapped_key, response.wrapped_swk) = wrapped.into_parts(),
            ReleasedKey::Kms(wrapped) => response.kms_wrapped_key = wrapped.into_bytes(),
        }
        Ok(Response::new(response))
    }

    async fn explain_policy(&self, request: Request<ExplainPolicyRequest>) -> Result<Response<ExplainPolicyResponse>, Status> {
        let admin = authenticated(&self.users, &request).await?;
        let request = request.into_inner();
        let explanation = async {
            admin.require(Permission::PoliciesSearch)?;
            let asked = asked(&request.key_id, &request.policy_id, request.policy_version, request.document)?;
            let token = bounded("token", request.token, TOKEN_BYTES_MAX)?;
            self.release.explain(&admin, asked, &token).await
        };
        let explanation = explanation.await.map_err(|denial| denial.status())?;
        let (policy_id, policy_version) = explanation.policy.map(|(id, version)| (id.to_string(), version)).unwrap_or_default();
        Ok(Response::new(ExplainPolicyResponse {
            permitted: explanation.reason.is_none(),
            reason: explanation.reason.unwrap_or(Reason::Unspecified).into(),
            claims: explanation.comparisons.iter().map(claim_result).collect(),
            policy_id,
            policy_version,
        }))
    }
}

/// Exactly one of three.
fn asked(key: &str, policy: &str, version: u32, document: String) -> Result<Asked, Denial> {
    match (key, policy, document.as_str()) {
        (key, "", "") if !key.is_empty() => key_id(key).map(Asked::Key),
        ("", policy, "") if !policy.is_empty() => Ok(Asked::Policy(policy_id(policy)?, Some(version).filter(|version| *version > 0))),
        ("", "", text) if !text.is_empty() => bounded("document", document, DOCUMENT_BYTES_MAX).map(Asked::Document),
        _ => Err(Denial::malformed("policy", "is not one: give exactly one of key_id, policy_id and document")),
    }
}

pub(crate) fn policy_id(text: &str) -> Result<PolicyId, Denial> {
    PolicyId::parse(text).map_err(|_| Denial::malformed("policy_id", "is not a UUID in canonical form (8-4-4-4-12 hex digits)"))
}

pub(crate) fn key_id(text: &str) -> Result<KeyId, Denial> {
    KeyId::parse(text).map_err(|_| Denial::malformed("key_id", "is not a UUID in canonical form (8-4-4-4-12 hex digits)"))
}

fn credential(credential: Option<transfer_key_request::Credential>) -> Result<Credential, Denial> {
    match credential {
        Some(transfer_key_request::Credential::Token(token)) => bounded("token", token, TOKEN_BYTES_MAX).map(Credential::Token),
        Some(transfer_key_request::Credential::Evidence(message)) => {
            evidence(message).map(|evidence| Credential::Evidence(AttestationType::Tdx, Box::new(evidence)))
        }
        None => Err(Denial::malformed("credential", "is missing: send a token or evidence")),
    }
}

fn evidence(message: EvidenceMessage) -> Result<Evidence, Denial> {
    let nonce = message.nonce.ok_or(Denial::NonceMissing)?;
    let nonce = Nonce {
        val: required("nonce.val", nonce.val, NONCE_VAL_BYTES_MAX)?,
        iat: required("nonce.iat", nonce.iat, NONCE_IAT_BYTES_MAX)?,
        signature: required("nonce.signature", nonce.signature, NONCE_SIGNATURE_BYTES_MAX)?,
    };
    let quote = required("quote", message.quote, QUOTE_BYTES_MAX)?;
    Ok(Evidence {
        user_data: bounded("user_data", message.user_data, USER_DATA_BYTES_MAX)?,
        event_log: bounded("event_log", message.event_log, EVENT_LOG_BYTES_MAX)?,
        nonce: Some(nonce),
        ..Evidence::of(quote)
    })
}

fn required(field: &'static str, value: Vec<u8>, max: usize) -> Result<Vec<u8>, Denial> {
    if value.is_empty() { Err(Denial::malformed(field, "is missing")) } else { bounded(field, value, max) }
}

/// Refuses before anything is parsed.
pub(crate) fn bounded<T: AsRef<[u8]>>(field: &'static str, value: T, max: usize) -> Result<T, Denial> {
    let bytes = value.as_ref().len();
    if bytes > max { Err(Denial::TooLarge { field, bytes, max }) } else { Ok(value) }
}
