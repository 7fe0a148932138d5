//! gRPC `KeyAdministration`: keys and policies. Each method begins with a proof of an administrator, and each change is
//! recorded before it takes effect, and finished though the caller may be gone: no key without a record stays in the KMS.

use keyferry_contract::release::v1 as pb;
use keyferry_contract::release::v1::{
    AuditDecision, AuditRecord, CreateKeyRequest, CreateKeyResponse, CreatePolicyRequest, CreatePolicyResponse, ExportKeyRequest,
    ExportKeyResponse, GetKeyRequest, GetKeyResponse, GetPolicyRequest, GetPolicyResponse, KeyAlgorithm,
    key_administration_server::KeyAdministration,
};
use keyferry_identifiers::{KeyId, PolicyId};
use keyferry_key_transfer_policy::{DOCUMENT_BYTES_MAX, Policy};
use keyferry_key_wrap::{ExportPublicKey, PEM_BYTES_MAX};
use keyferry_kms::{KeyRef, KeySpec};
use keyferry_lifecycle::clock;
use prost_types::Timestamp;
use tonic::{Request, Response, Status};

use crate::{
    Denial,
    broker::{bounded, key_id},
    records::{Algorithm, KeyRecord, PolicyRecord},
    release::Release,
    users::{Admin, Permission, Users, authenticated},
};

#[derive(Clone)]
pub(crate) struct Administration {
    pub(crate) release: Release,
    pub(crate) users: Users,
}

#[tonic::async_trait]
impl KeyAdministration for Administration {
    async fn create_policy(&self, request: Request<CreatePolicyRequest>) -> Result<Response<CreatePolicyResponse>, Status> {
        let admin = authenticated(&self.users, &request).await?;
        admin.require(Permission::PoliciesCreate).map_err(|denial| denial.status())?;
        let (this, request) = (self.clone(), request.into_inner());
        let created = self.release.to_its_end(async move { this.make_policy(&admin, request).await }).await;
        created.map(Response::new).map_err(|denial| denial.status())
    }

    async fn get_policy(&self, request: Request<GetPolicyRequest>) -> Result<Response<GetPolicyResponse>, Status> {
        let admin = authenticated(&self.users, &request).await?;
        admin.require(Permission::PoliciesSearch).map_err(|denial| denial.status())?;
        let policy = async { self.release.records().policy(policy_id(&request.get_ref().policy_id)?).await };
        let policy = policy.await.map_err(|denial| denial.status())?;
        Ok(Response::new(GetPolicyResponse { document: policy.document, version: policy.version, ..GetPolicyResponse::default() }))
    }

    async fn create_key(&self, request: Request<CreateKeyRequest>) -> Result<Response<CreateKeyResponse>, Status> {
        let admin = authenticated(&self.users, &request).await?;
        admin.require(Permission::KeysCreate).map_err(|denial| denial.status())?;
        let (this, request) = (self.clone(), request.into_inner());
        let created = self.release.to_its_end(async move { this.make_key(&admin, request).await }).await;
        created.map(|id| Response::new(CreateKeyResponse { key_id: id.to_string() })).map_err(|denial| denial.status())
    }

    async fn get_key(&self, request: Request<GetKeyRequest>) -> Result<Response<GetKeyResponse>, Status> {
        let admin = authenticated(&self.users, &request).await?;
        admin.require(Permission::KeysSearch).map_err(|denial| denial.status())?;
        let key = async { self.release.records().key(key_id(&request.get_ref().key_id)?).await };
        let key = key.await.map_err(|denial| denial.status())?;
        let Algorithm::Aes = key.algorithm;
        Ok(Response::new(GetKeyResponse {
            key_id: key.key_id.to_string(),
            algorithm: KeyAlgorithm::Aes.into(),
            length_bits: key.length_bits.into(),
            policy_id: key.policy_id.map(|id| id.to_string()).unwrap_or_default(),
            created_at: Some(Timestamp { seconds: i64::try_from(key.created_at).unwrap_or(i64::MAX), nanos: 0 }),
            ..GetKeyResponse::default()
        }))
    }

    async fn list_policies(&self, request: Request<pb::ListPoliciesRequest>) -> Result<Response<pb::ListPoliciesResponse>, Status> {
        let admin = authenticated(&self.users, &request).await?;
        admin.require(Permission::PoliciesSearch).map_err(|denial| denial.status())?;
        Err(Status::unimplemented("not offered by this version"))
    }

    async fn update_policy(&self, request: Request<pb::UpdatePolicyRequest>) -> Result<Response<pb::UpdatePolicyResponse>, Status> {
        let admin = authenticated(&self.users, &request).await?;
        admin.require(Permission::PoliciesUpdate).map_err(|denial| denial.status())?;
        Err(Status::unimplemented("not offered by this version"))
    }

    async fn rollback_policy(&self, request: Request<pb::RollbackPolicyRequest>) -> Result<Response<pb::UpdatePolicyResponse>, Status> {
        let admin = authenticated(&self.users, &request).await?;
        admin.require(Permission::PoliciesUpdate).map_err(|denial| denial.status())?;
        Err(Status::unimplemented("not offered by this version"))
    }

    async fn list_policy_versions(
        &self,
        request: Request<pb::ListPolicyVersionsRequest>,
    ) -> Result<Response<pb::ListPolicyVersionsResponse>, Status> {
        let admin = authenticated(&self.users, &request).await?;
        admin.require(Permission::PoliciesSearch).map_err(|denial| denial.status())?;
        Err(Status::unimplemented("not offered by this version"))
    }

    async fn delete_policy(&self, request: Request<pb::DeletePolicyRequest>) -> Result<Response<pb::DeletePolicyResponse>, Status> {
        let admin = authenticated(&self.users, &request).await?;
        admin.require(Permission::PoliciesDelete).map_err(|denial| denial.status())?;
        Err(Status::unimplemented("not offered by this version"))
    }

    async fn list_keys(&self, request: Request<pb::ListKeysRequest>) -> Result<Response<pb::ListKeysResponse>, Status> {
        let admin = authenticated(&self.users, &request).await?;
        admin.require(Permission::KeysSearch).map_err(|denial| denial.status())?;
        Err(Status::unimplemented("not offered by this version"))
    }

    async fn update_key(&self, request: Request<pb::UpdateKeyRequest>) -> Result<Response<GetKeyResponse>, Status> {
        let admin = authenticated(&self.users, &request).await?;
        admin.require(Permission::KeysUpdate).map_err(|denial| denial.status())?;
        Err(Status::unimplemented("not offered by this version"))
    }

    async fn delete_key(&self, request: Request<pb::DeleteKeyRequest>) -> Result<Response<pb::DeleteKeyResponse>, Status> {
        let admin = authenticated(&self.users, &request).await?;
        admin.require(Permission::KeysDelete).map_err(|denial| denial.status())?;
        Err(Status::unimplemented("not offered by this version"))
    }

    async fn import_policy(&self, request: Request<pb::ImportPolicyRequest>) -> Result<Response<pb::ImportPolicyResponse>, Status> {
        let admin = authenticated(&self.users, &request).await?;
        admin.require(Permission::PoliciesCreate).map_err(|denial| denial.status())?;
        Err(Status::unimplemented("not offered by this version"))
    }

    async fn import_key(&self, request: Request<pb::ImportKeyRequest>) -> Result<Response<pb::ImportKeyResponse>, Status> {
        let admin = authenticated(&self.users, &request).await?;
        admin.require(Permission::KeysCreate).map_err(|denial| denial.status())?;
        Err(Status::unimplemented("not offered by this version"))
    }

    async fn export_key(&self, request: Request<ExportKeyRequest>) -> Result<Response<ExportKeyResponse>, Status> {
        let admin = authenticated(&self.users, &request).await?;
        admin.require(Permission::KeysTransfer).map_err(|denial| denial.status())?;
        let exported = self.export(&admin, request.into_inner()).await;
        exported.map(|wrapped_key| Response::new(ExportKeyResponse { wrapped_key })).map_err(|denial| denial.status())
    }
}

impl Administration {
    async fn make_policy(&self, admin: &Admin, request: CreatePolicyRequest) -> Result<CreatePolicyResponse, Denial> {
        let document = bounded("document", request.document, DOCUMENT_BYTES_MAX)?;
        let policy = Policy::parse(&document)?;
        let record = PolicyRecord { policy_id: PolicyId::random(), version: 1, document, created_at: clock::now() };
        let audit = AuditRecord {
            decision: AuditDecision::PolicyChanged.into(),
            policy_id: record.policy_id.to_string(),
            policy_version: record.version,
            trust_anchor: policy.trust_anchors().join(" | "),
            ..AuditRecord::default()
        };
        self.release.audit().administered(admin, audit).await?;
        self.release.records().create_policy(&record).await?;
        self.release.events().policy_changed(&record, admin);
        let warnings = policy.lint().iter().map(ToString::to_string).collect();
        Ok(CreatePolicyResponse { policy_id: record.policy_id.to_string(), version: record.version, warnings })
    }

    async fn make_key(&self, admin: &Admin, request: CreateKeyRequest) -> Result<KeyId, Denial> {
        if request.algorithm() != KeyAlgorithm::Aes {
            return Err(Denial::malformed("algorithm", "must be KEY_ALGORITHM_AES"));
        }
        let key_id = KeyId::random();
        let length_bits = u16::try_from(request.length_bits).unwrap_or_default();
        let wrong_length = |_| Denial::malformed("length_bits", "must be 128, 192 or 256");
        let spec = KeySpec::aes(length_bits).map_err(wrong_length)?.named(&key_id.to_string())?;
        let policy_id = match request.policy_id.as_str() {
            "" => None,
            text => Some(self.release.records().policy(policy_id(text)?).await?.policy_id),
        };
        let keys = self.release.keys();
        let (reference, fingerprint, is_ours) = if request.kms_key_ref.is_empty() {
            let (reference, fingerprint) = keys.create(admin, &spec).await?;
            (reference, fingerprint, true)
        } else {
            let reference = KeyRef::parse(&request.kms_key_ref).map_err(|error| Denial::malformed("kms_key_ref", error))?;
            let fingerprint = keys.adopt(admin, &reference, &spec).await?;
            (reference, fingerprint, false)
        };
        let record = KeyRecord {
            key_id,
            algorithm: Algorithm::Aes,
            length_bits,
            kms_kind: keys.kind().to_owned(),
            kms_ref: reference.as_str().to_owned(),
            fingerprint,
            policy_id,
            created_at: clock::now(),
        };
        let recorded = self.record_key(admin, &record).await;
        if recorded.is_err() && is_ours {
            keys.discard(&reference).await;
        }
        recorded.map(|()| key_id)
    }

    async fn record_key(&self, admin: &Admin, record: &KeyRecord) -> Result<(), Denial> {
        let audit = AuditRecord {
            decision: AuditDecision::KeyCreated.into(),
            key_id: record.key_id.to_string(),
            policy_id: record.policy_id.map(|id| id.to_string()).unwrap_or_default(),
            ..AuditRecord::default()
        };
        self.release.audit().administered(admin, audit).await?;
        self.release.records().create_key(record).await
    }

    async fn export(&self, admin: &Admin, request: ExportKeyRequest) -> Result<Vec<u8>, Denial> {
        let pem = bounded("public_key_pem", request.public_key_pem, PEM_BYTES_MAX)?;
        let recipient = ExportPublicKey::from_spki_pem(&pem).map_err(Denial::ExportKey)?;
        let key = self.release.records().key(key_id(&request.key_id)?).await?;
        let exported = self.release.keys().export(admin, &key, &recipient).await?;
        let audit = AuditRecord {
            decision: AuditDecision::Exported.into(),
            key_id: key.key_id.to_string(),
            policy_id: key.policy_id.map(|id| id.to_string()).unwrap_or_default(),
            mode: "export".to_owned(),
            detail: format!("for an RSA public key of {} bits", recipient.bits()),
            ..AuditRecord::default()
        };
        let proof = self.release.audit().administered(admin, audit).await?;
        Ok(exported.recorded(proof))
    }
}

fn policy_id(text: &str) -> Result<PolicyId, Denial> {
    PolicyId::parse(text).map_err(|_| Denial::malformed("policy_id", "is not a UUID in canonical form (8-4-4-4-12 hex digits)"))
}
