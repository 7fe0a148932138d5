//! gRPC `KeyAdministration`: who asks, then the function of [`Administration`] of that name; nothing is decided here.

use std::future::Future;

use jiff::Timestamp;
use keyferry_contract::release::v1::{self as pb, KeyAlgorithm, key_administration_server::KeyAdministration};
use keyferry_identifiers::{KeyId, PolicyId};
use keyferry_kms::{Curve, KeyRef};
use tonic::{Request, Response, Status};

use super::{Administration, ChangedPolicy, ImportedKey, NewKey, Source};
use crate::{
    Denial,
    broker::{key_id, policy_id},
    records::{Algorithm, KeyFilter, KeyRecord, Page, PolicyRecord},
    users::{Admin, Permission, Users, authenticated},
};

/// The gRPC service.
pub(crate) struct AdministrationService {
    pub(crate) administration: Administration,
    pub(crate) users: Users,
}

impl AdministrationService {
    /// Asks who it is, and answers. Whoever lacks the permission is not told what is wrong with the request.
    async fn answer<M, T, F>(
        &self,
        permission: Permission,
        request: Request<M>,
        work: impl FnOnce(Administration, Admin, M) -> F,
    ) -> Result<Response<T>, Status>
    where
        F: Future<Output = Result<T, Denial>>,
    {
        let admin = authenticated(&self.users, &request).await?;
        admin.require(permission).map_err(|denial| denial.status())?;
        let answer = work(self.administration.clone(), admin, request.into_inner()).await;
        answer.map(Response::new).map_err(|denial| denial.status())
    }
}

#[tonic::async_trait]
impl KeyAdministration for AdministrationService {
    async fn create_policy(&self, request: Request<pb::CreatePolicyRequest>) -> Result<Response<pb::CreatePolicyResponse>, Status> {
        let work = |it: Administration, admin, message: pb::CreatePolicyRequest| async move {
            let ChangedPolicy { policy, warnings } = it.create_policy(&admin, message.document).await?;
            Ok(pb::CreatePolicyResponse { policy_id: policy.policy_id.to_string(), version: policy.version, warnings })
        };
        self.answer(Permission::PoliciesCreate, request, work).await
    }

    async fn get_policy(&self, request: Request<pb::GetPolicyRequest>) -> Result<Response<pb::GetPolicyResponse>, Status> {
        let work = |it: Administration, admin, message: pb::GetPolicyRequest| async move {
            let version = Some(message.version).filter(|version| *version > 0);
            it.policy(&admin, policy_id(&message.policy_id)?, version).await.map(policy_message)
        };
        self.answer(Permission::PoliciesSearch, request, work).await
    }

    async fn list_policies(&self, request: Request<pb::ListPoliciesRequest>) -> Result<Response<pb::ListPoliciesResponse>, Status> {
        let work = |it: Administration, admin, message: pb::ListPoliciesRequest| async move {
            let after = optional(&message.after, |text| PolicyId::parse(text).map_err(|error| Denial::malformed("after", error)))?;
            let listed = it.policies(&admin, Page { after, size: message.page_size }).await?;
            let next = listed.next.map(|id| id.to_string()).unwrap_or_default();
            Ok(pb::ListPoliciesResponse { policies: listed.items.into_iter().map(policy_message).collect(), next })
        };
        self.answer(Permission::PoliciesSearch, request, work).await
    }

    async fn update_policy(&self, request: Request<pb::UpdatePolicyRequest>) -> Result<Response<pb::UpdatePolicyResponse>, Status> {
        let work = |it: Administration, admin, message: pb::UpdatePolicyRequest| async move {
            let replaces = Some(message.replaces).filter(|version| *version > 0);
            it.update_policy(&admin, policy_id(&message.policy_id)?, message.document, replaces).await.map(changed_message)
        };
        self.answer(Permission::PoliciesUpdate, request, work).await
    }

    async fn rollback_policy(&self, request: Request<pb::RollbackPolicyRequest>) -> Result<Response<pb::UpdatePolicyResponse>, Status> {
        let work = |it: Administration, admin, message: pb::RollbackPolicyRequest| async move {
            it.rollback_policy(&admin, policy_id(&message.policy_id)?, message.version).await.map(changed_message)
        };
        self.answer(Permission::PoliciesUpdate, request, work).await
    }

    async fn list_policy_versions(
        &self,
        request: Request<pb::ListPolicyVersionsRequest>,
    ) -> Result<Response<pb::ListPolicyVersionsResponse>, Status> {
        let work = |it: Administration, admin, message: pb::ListPolicyVersionsRequest| async move {
            let versions = it.policy_versions(&admin, policy_id(&message.policy_id)?).await?;
            Ok(pb::ListPolicyVersionsResponse { versions: versions.iter().map(version_message).collect() })
        };
        self.answer(Permission::PoliciesSearch, request, work).await
    }

    async fn delete_policy(&self, request: Request<pb::DeletePolicyRequest>) -> Result<Response<pb::DeletePolicyResponse>, Status> {
        let work = |it: Administration, admin, message: pb::DeletePolicyRequest| async move {
            it.delete_policy(&admin, policy_id(&message.policy_id)?).await.map(|()| pb::DeletePolicyResponse {})
        };
        self.answer(Permission::PoliciesDelete, request, work).await
    }

    async fn create_key(&self, request: Request<pb::CreateKeyRequest>) -> Result<Response<pb::CreateKeyResponse>, Status> {
        let work = |it: Administration, admin, message: pb::CreateKeyRequest| async move {
            let key = it.create_key(&admin, new_key(message)?).await?;
            Ok(pb::CreateKeyResponse { key_id: key.key_id.to_string() })
        };
        self.answer(Permission::KeysCreate, request, work).await
    }

    async fn get_key(&self, request: Request<pb::GetKeyRequest>) -> Result<Response<pb::GetKeyResponse>, Status> {
        let work = |it: Administration, admin, message: pb::GetKeyRequest| async move {
            it.key(&admin, key_id(&message.key_id)?).await.map(key_message)
        };
        self.answer(Permission::KeysSearch, request, work).await
    }

    async fn list_keys(&self, request: Request<pb::ListKeysRequest>) -> Result<Response<pb::ListKeysResponse>, Status> {
        let work = |it: Administration, admin, message: pb::ListKeysRequest| async move {
            let filter = KeyFilter {
                algorithm: if message.algorithm == 0 { None } else { Some(algorithm(message.algorithm())?) },
                length_bits: Some(message.length_bits).filter(|bits| *bits > 0),
                curve: optional(&message.curve, curve)?,
                policy_id: optional(&message.policy_id, policy_id)?,
            };
            let after = optional(&message.after, |text| KeyId::parse(text).map_err(|error| Denial::malformed("after", error)))?;
            let listed = it.keys(&admin, &filter, Page { after, size: message.page_size }).await?;
            let next = listed.next.map(|id| id.to_string()).unwrap_or_default();
            Ok(pb::ListKeysResponse { keys: listed.items.into_iter().map(key_message).collect(), next })
        };
        self.answer(Permission::KeysSearch, request, work).await
    }

    async fn update_key(&self, request: Request<pb::UpdateKeyRequest>) -> Result<Response<pb::GetKeyResponse>, Status> {
        let work = |it: Administration, admin, message: pb::UpdateKeyRequest| async move {
            it.update_key(&admin, key_id(&message.key_id)?, policy_id(&message.policy_id)?).await.map(key_message)
        };
        self.answer(Permission::KeysUpdate, request, work).await
    }

    async fn delete_key(&self, request: Request<pb::DeleteKeyRequest>) -> Result<Response<pb::DeleteKeyResponse>, Status> {
        let work = |it: Administration, admin, message: pb::DeleteKeyRequest| async move {
            it.delete_key(&admin, key_id(&message.key_id)?).await.map(|()| pb::DeleteKeyResponse {})
        };
        self.answer(Permission::KeysDelete, request, work).await
    }

    async fn import_policy(&self, request: Request<pb::ImportPolicyRequest>) -> Result<Response<pb::ImportPolicyResponse>, Status> {
        let work = |it: Administration, admin, message: pb::ImportPolicyRequest| async move {
            let created_at = message.created_at.map(moment).transpose()?;
            let imported = it.import_policy(&admin, policy_id(&message.policy_id)?, message.document, created_at).await?;
            Ok(pb::ImportPolicyResponse { warnings: imported.warnings })
        };
        self.answer(Permission::PoliciesCreate, request, work).await
    }

    async fn import_key(&self, request: Request<pb::ImportKeyRequest>) -> Result<Response<pb::ImportKeyResponse>, Status> {
        let work = |it: Administration, admin, message: pb::ImportKeyRequest| async move {
            it.import_key(&admin, imported_key(&message)?).await.map(|_| pb::ImportKeyResponse {})
        };
        self.answer(Permission::KeysCreate, request, work).await
    }

    async fn export_key(&self, request: Request<pb::ExportKeyRequest>) -> Result<Response<pb::ExportKeyResponse>, Status> {
        let work = |it: Administration, admin, message: pb::ExportKeyRequest| async move {
            let wrapped_key = it.export_key(&admin, key_id(&message.key_id)?, &message.public_key_pem).await?;
            Ok(pb::ExportKeyResponse { wrapped_key })
        };
        self.answer(Permission::KeysTransfer, request, work).await
    }
}

fn new_key(message: pb::CreateKeyRequest) -> Result<NewKey, Denial> {
    let algorithm = algorithm(message.algorithm())?;
    let source = match (message.kms_key_ref.as_str(), message.key_data) {
        ("", bytes) if bytes.is_empty() => Source::Make,
        ("", bytes) => Source::Bytes(bytes.into()),
        (text, bytes) if bytes.is_empty() => Source::Adopt(reference(text)?),
        _ => return Err(Denial::malformed("key_data", "is given beside kms_key_ref: only one of them says where the key is")),
    };
    Ok(NewKey {
        algorithm,
        length_bits: message.length_bits,
        curve: optional(&message.curve, curve)?,
        policy_id: optional(&message.policy_id, policy_id)?,
        source,
    })
}

fn imported_key(message: &pb::ImportKeyRequest) -> Result<ImportedKey, Denial> {
    Ok(ImportedKey {
        key_id: key_id(&message.key_id)?,
        algorithm: algorithm(message.algorithm())?,
        length_bits: message.length_bits,
        curve: optional(&message.curve, curve)?,
        policy_id: optional(&message.policy_id, policy_id)?,
        kms_ref: reference(&message.kms_key_ref)?,
        created_at: message.created_at.map(moment).transpose()?,
    })
}

fn optional<T>(text: &str, parse: impl FnOnce(&str) -> Result<T, Denial>) -> Result<Option<T>, Denial> {
    if text.is_empty() { Ok(None) } else { parse(text).map(Some) }
}

fn algorithm(algorithm: KeyAlgorithm) -> Result<Algorithm, Denial> {
    match algorithm {
        KeyAlgorithm::Aes => Ok(Algorithm::Aes),
        KeyAlgorithm::Rsa => Ok(Algorithm::Rsa),
        KeyAlgorithm::Ec => Ok(Algorithm::Ec),
        KeyAlgorithm::Unspecified => Err(Denial::malformed("algorithm", "must be KEY_ALGORITHM_AES, _RSA or _EC")),
    }
}

fn curve(name: &str) -> Result<Curve, Denial> {
    Curve::parse(name).ok_or_else(|| Denial::malformed("curve", "must be secp256r1, prime256v1, secp384r1 or secp521r1"))
}

fn reference(text: &str) -> Result<KeyRef, Denial> {
    KeyRef::parse(text).map_err(|error| Denial::malformed("kms_key_ref", error))
}

fn moment(at: prost_types::Timestamp) -> Result<Timestamp, Denial> {
    Timestamp::new(at.seconds, at.nanos).map_err(|_| Denial::malformed("created_at", "is no time"))
}

fn moment_message(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() }
}

fn policy_message(policy: PolicyRecord) -> pb::GetPolicyResponse {
    pb::GetPolicyResponse {
        document: policy.document,
        version: policy.version,
        policy_id: policy.policy_id.to_string(),
        created_at: Some(moment_message(policy.created_at)),
        actor: policy.actor,
    }
}

fn version_message(policy: &PolicyRecord) -> pb::PolicyVersion {
    pb::PolicyVersion {
        version: policy.version,
        created_at: Some(moment_message(policy.created_at)),
        actor: policy.actor.clone(),
        document_digest: policy.document_digest(),
        rolled_back_to: policy.rolled_back_to.unwrap_or_default(),
    }
}

fn changed_message(changed: ChangedPolicy) -> pb::UpdatePolicyResponse {
    pb::UpdatePolicyResponse { version: changed.policy.version, warnings: changed.warnings }
}

fn key_message(key: KeyRecord) -> pb::GetKeyResponse {
    let algorithm = match key.algorithm {
        Algorithm::Aes => KeyAlgorithm::Aes,
        Algorithm::Rsa => KeyAlgorithm::Rsa,
        Algorithm::Ec => KeyAlgorithm::Ec,
    };
    pb::GetKeyResponse {
        key_id: key.key_id.to_string(),
        algorithm: algorithm.into(),
        length_bits: key.length_bits.into(),
        policy_id: key.policy_id.map(|id| id.to_string()).unwrap_or_default(),
        created_at: Some(moment_message(key.created_at)),
        curve: key.curve.map(Curve::name).unwrap_or_default().to_owned(),
        kms_kind: key.kms_kind,
        kms_key_ref: key.kms_ref,
    }
}
