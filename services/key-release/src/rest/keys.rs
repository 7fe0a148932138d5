//! `/keys`: Intel's JSON, over the functions of [`crate::administration`].

use axum::{http::StatusCode, response::IntoResponse};
use base64::{Engine, prelude::BASE64_STANDARD};
use keyferry_identifiers::{KeyId, PolicyId};
use keyferry_kms::{Curve, KeyRef, KmsError};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{
    Call, Rest, json, query,
    reply::{self, Answer, Refusal, time},
};
use crate::{
    Denial,
    administration::{NewKey, Source},
    records::{Algorithm, KeyFilter, KeyRecord},
    users::Admin,
};

const SEARCHED: [&str; 6] = ["algorithm", "keyLength", "curveType", "transferPolicyId", "after", "pageSize"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyRequest {
    key_information: Option<KeyInformation>,
    transfer_policy_id: Option<Uuid>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyInformation {
    algorithm: Option<String>,
    key_length: Option<u32>,
    curve_type: Option<String>,
    key_data: Option<String>,
    kmip_key_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyUpdate {
    transfer_policy_id: Option<Uuid>,
}

/// Asked as `key_information`, answered as `key_info`.
#[derive(Serialize)]
struct KeyBody {
    id: KeyId,
    key_info: KeyInfo,
    transfer_policy_id: Uuid,
    transfer_link: String,
    created_at: String,
}

#[derive(Serialize)]
struct KeyInfo {
    algorithm: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_length: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    curve_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kmip_key_id: Option<String>,
}

impl From<KeyRecord> for KeyBody {
    fn from(key: KeyRecord) -> Self {
        let curve_type = key.curve.map(Curve::name);
        Self {
            id: key.key_id,
            key_info: KeyInfo {
                algorithm: key.algorithm.name(),
                key_length: curve_type.is_none().then_some(key.length_bits),
                curve_type,
                kmip_key_id: (key.kms_kind == "kmip").then_some(key.kms_ref),
            },
            transfer_policy_id: key.policy_id.map_or_else(Uuid::nil, |id| *id.as_uuid()),
            transfer_link: format!("/kbs/v1/keys/{}/transfer", key.key_id),
            created_at: time(Some(key.created_at)),
        }
    }
}

pub(super) async fn create(rest: Rest, admin: Admin, call: Call) -> Answer {
    let request: KeyRequest = json::decode(&call.body.unwrap_or_default())?;
    let information = request.key_information.ok_or_else(|| Denial::malformed("key_information", "is missing"))?;
    let new = information.into_key(policy(request.transfer_policy_id)?)?;
    let key = rest.0.administration.create_key(&admin, new).await.map_err(|denial| match denial {
        // Mistakes in what was asked for: Intel does not look, and fails at the first release.
        Denial::PolicyNotFound
        | Denial::Kms(KmsError::KeyNotFound | KmsError::Reference(_) | KmsError::KeyMismatch { .. } | KmsError::KeyUsage { .. }) => {
            Refusal::As(StatusCode::BAD_REQUEST, denial)
        }
        other => other.into(),
    })?;
    Ok(reply::json(StatusCode::CREATED, KeyBody::from(key)))
}

impl KeyInformation {
    fn into_key(self, policy_id: Option<PolicyId>) -> Result<NewKey, Denial> {
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let algorithm = Algorithm::parse(&self.algorithm.unwrap_or_default())
            .ok_or_else(|| Denial::malformed("algorithm", "must be AES, RSA or EC"))?;
        let curve = match (algorithm, given(self.curve_type)) {
            (Algorithm::Ec, Some(name)) => Some(curve(&name)?),
            (Algorithm::Ec, None) => return Err(Denial::malformed("curve_type", "is missing")),
            (Algorithm::Aes | Algorithm::Rsa, _) => None,
        };
        let mut length_bits = self.key_length.unwrap_or_default();
        let source = match (given(self.key_data).map(Zeroizing::new), given(self.kmip_key_id)) {
            (Some(text), _) => {
                let bytes = Zeroizing::new(json::base64("key_data", Some(text.as_str()))?);
                if algorithm == Algorithm::Aes {
                    // What is registered is what is there, whatever length is said.
                    length_bits = u32::try_from(bytes.len().saturating_mul(8)).unwrap_or(u32::MAX);
                }
                Source::Bytes(bytes)
            }
            (None, Some(id)) => Source::Adopt(kmip_reference(&id)?),
            (None, None) => Source::Make,
        };
        Ok(NewKey { algorithm, length_bits, curve, policy_id, source })
    }
}

fn kmip_reference(id: &str) -> Result<KeyRef, Denial> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_ /.-".contains(&byte);
    if !id.bytes().all(is_allowed) {
        return Err(Denial::malformed("kmip_key_id", "has other characters than letters, digits and _ / . - and blanks"));
    }
    KeyRef::parse(id).map_err(|error| Denial::malformed("kmip_key_id", error))
}

fn curve(name: &str) -> Result<Curve, Denial> {
    Curve::parse(name).ok_or_else(|| Denial::malformed("curve_type", "must be secp256r1, prime256v1, secp384r1 or secp521r1"))
}

/// Go's zero UUID is none.
fn policy(id: Option<Uuid>) -> Result<Option<PolicyId>, Denial> {
    let unknown = |_| Denial::malformed("transfer_policy_id", "is no UUID");
    id.filter(|id| !id.is_nil()).map(|id| PolicyId::parse(&id.to_string()).map_err(unknown)).transpose()
}

pub(super) async fn find(rest: Rest, admin: Admin, call: Call) -> Answer {
    let query = query::parse(call.query.as_deref(), &SEARCHED)?;
    let value = |name: &str| query.get(name).map(String::as_str).filter(|value| !value.is_empty());
    let wrong = |field, what: &str| Denial::malformed(field, what);
    let algorithm = value("algorithm").map(|text| Algorithm::parse(text).ok_or_else(|| wrong("algorithm", "must be AES, RSA or EC")));
    let length_bits = value("keyLength").map(|text| text.parse().map_err(|_| wrong("keyLength", "must be a number of bits")));
    let policy = value("transferPolicyId").map(|text| match Uuid::parse_str(text) {
        Ok(id) => PolicyId::parse(&id.to_string()).map_err(|_| wrong("transferPolicyId", "is no UUID")),
        Err(_) => Err(wrong("transferPolicyId", "is no UUID")),
    });
    let filter = KeyFilter {
        algorithm: algorithm.transpose()?,
        length_bits: length_bits.transpose()?,
        curve: value("curveType").map(curve).transpose()?,
        policy_id: policy.transpose()?,
    };
    let mut page = query::page(&query, ("after", "pageSize"), KeyId::parse)?;
    let mut keys = Vec::new();
    loop {
        let part = rest.0.administration.keys(&admin, &filter, page.next()).await?;
        keys.extend(part.items.into_iter().map(KeyBody::from));
        if !page.goes_on(part.next) {
            return Ok(reply::json(StatusCode::OK, keys));
        }
    }
}

pub(super) async fn one(rest: Rest, admin: Admin, call: Call) -> Answer {
    let key = rest.0.administration.key(&admin, key_id(&call)?).await?;
    Ok(reply::json(StatusCode::OK, KeyBody::from(key)))
}

pub(super) async fn update(rest: Rest, admin: Admin, call: Call) -> Answer {
    let id = key_id(&call)?;
    let request: KeyUpdate = json::decode(&call.body.unwrap_or_default())?;
    let policy = policy(request.transfer_policy_id)?.ok_or_else(|| Denial::malformed("transfer_policy_id", "is missing"))?;
    let updated = Box::pin(rest.0.administration.update_key(&admin, id, policy)).await;
    let key = updated.map_err(|denial| match denial {
        Denial::PolicyNotFound => Refusal::As(StatusCode::BAD_REQUEST, denial),
        other => other.into(),
    })?;
    Ok(reply::json(StatusCode::CREATED, KeyBody::from(key)))
}

pub(super) async fn delete(rest: Rest, admin: Admin, call: Call) -> Answer {
    rest.0.administration.delete_key(&admin, key_id(&call)?).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The key under the administrator's own public key, to encrypt a model with.
pub(super) async fn export(rest: Rest, admin: Admin, call: Call) -> Answer {
    let body = call.body.unwrap_or_default();
    let pem = std::str::from_utf8(&body).map_err(|_| Denial::malformed("body:", "is no PEM"))?;
    let wrapped = rest.0.administration.export_key(&admin, key_id_of(call.id)?, pem).await?;
    Ok(reply::json(StatusCode::OK, serde_json::json!({ "wrapped_key": BASE64_STANDARD.encode(wrapped) })))
}

fn key_id(call: &Call) -> Result<KeyId, Denial> {
    key_id_of(call.id)
}

fn key_id_of(id: Uuid) -> Result<KeyId, Denial> {
    KeyId::parse(&id.to_string()).map_err(|_| Denial::KeyNotFound)
}
