//! Keys: the record is here, the key in the KMS; no key of ours stays there without a record, and no record is left of a
//! key that was deleted.
//!
//! A key is made in the KMS first, and taken back if it cannot be recorded. It carries the id of its record as its name
//! there, where the KMS has names: so that the one a crash left between the two steps can be told. It is destroyed first,
//! too: what a crash leaves then is a record that the same deletion removes.

use jiff::Timestamp;
use keyferry_contract::release::v1::{AuditDecision, AuditRecord};
use keyferry_identifiers::{KeyId, PolicyId};
use keyferry_key_wrap::{ExportPublicKey, PEM_BYTES_MAX};
use keyferry_kms::{Curve, KeyRef, KeySpec};
use keyferry_lifecycle::clock;
use zeroize::Zeroizing;

use super::Administration;
use crate::{
    Denial,
    broker::bounded,
    records::{Algorithm, Fingerprint, KeyFilter, KeyRecord, Listed, Page},
    users::{Admin, Permission},
};

/// The largest key that somebody brings: RSA of 7680 bits in PEM has some 6 KiB.
const KEY_DATA_BYTES_MAX: usize = 16 * 1024;

/// A key that is wanted.
pub(crate) struct NewKey {
    pub(crate) algorithm: Algorithm,
    /// Not looked at for EC.
    pub(crate) length_bits: u32,
    /// For EC only.
    pub(crate) curve: Option<Curve>,
    /// `None`: an administrator may export it, no TD gets it.
    pub(crate) policy_id: Option<PolicyId>,
    pub(crate) source: Source,
}

/// Where a key comes from.
pub(crate) enum Source {
    /// The KMS makes it.
    Make,
    /// It is in the KMS already.
    Adopt(KeyRef),
    /// The administrator brings it: raw for AES, PKCS#8 in DER or PEM for RSA and EC.
    Bytes(Zeroizing<Vec<u8>>),
}

/// A key that is in the KMS already and was known to another broker.
pub(crate) struct ImportedKey {
    pub(crate) key_id: KeyId,
    pub(crate) algorithm: Algorithm,
    pub(crate) length_bits: u32,
    pub(crate) curve: Option<Curve>,
    pub(crate) policy_id: Option<PolicyId>,
    pub(crate) kms_ref: KeyRef,
    /// As it was there; `None`: now.
    pub(crate) created_at: Option<Timestamp>,
}

impl Administration {
    /// Makes a key, or takes one on.
    pub(crate) async fn create_key(&self, admin: &Admin, new: NewKey) -> Result<KeyRecord, Denial> {
        admin.require(Permission::KeysCreate)?;
        let key_id = KeyId::random();
        let spec = new.algorithm.spec(new.length_bits, new.curve)?.named(&key_id.to_string())?;
        if let Source::Bytes(bytes) = &new.source {
            bounded("key_data", bytes, KEY_DATA_BYTES_MAX)?;
        }
        let work = async move |this: Self, admin: Admin| {
            this.refuse_unknown_policy(new.policy_id).await?;
            let keys = this.release.keys();
            let (reference, fingerprint, made_by_us) = match new.source {
                Source::Make => with(keys.create(&admin, &spec).await?, true),
                Source::Bytes(bytes) => with(keys.register(&admin, &spec, bytes).await?, true),
                Source::Adopt(reference) => {
                    let fingerprint = keys.adopt(&admin, &reference, &spec).await?;
                    (reference, fingerprint, false)
                }
            };
            let key = this.record(key_id, new.algorithm, &spec, &reference, fingerprint, new.policy_id);
            let key = KeyRecord { made_by_us, ..key };
            let recorded = this.record_key(&admin, &key, "").await;
            if recorded.is_err() && made_by_us {
                this.take_back(&key, &reference).await;
            }
            recorded.map(|()| key)
        };
        self.to_its_end(admin, work).await
    }

    /// Takes over a key under its id. The same once more is nothing new.
    pub(crate) async fn import_key(&self, admin: &Admin, imported: ImportedKey) -> Result<KeyRecord, Denial> {
        admin.require(Permission::KeysCreate)?;
        let spec = imported.algorithm.spec(imported.length_bits, imported.curve)?;
        let work = async move |this: Self, admin: Admin| {
            let id = imported.key_id;
            this.refuse_unknown_policy(imported.policy_id).await?;
            let fingerprint = this.release.keys().adopt(&admin, &imported.kms_ref, &spec).await?;
            let key = this.record(id, imported.algorithm, &spec, &imported.kms_ref, fingerprint, imported.policy_id);
            let key = KeyRecord { created_at: imported.created_at.unwrap_or(key.created_at), ..key };
            match this.release.records().key(id).await {
                Ok(there) if there.is_same(&key) => return Ok(there),
                Ok(_) => return Err(Denial::AlreadyExists { what: "key" }),
                Err(Denial::KeyNotFound) => {}
                Err(denial) => return Err(denial),
            }
            this.record_key(&admin, &key, "imported").await.map(|()| key)
        };
        self.to_its_end(admin, work).await
    }

    /// What is known of a key.
    pub(crate) async fn key(&self, admin: &Admin, id: KeyId) -> Result<KeyRecord, Denial> {
        admin.require(Permission::KeysSearch)?;
        self.release.records().key(id).await
    }

    /// Keys in the order of ids.
    pub(crate) async fn keys(&self, admin: &Admin, filter: &KeyFilter, page: Page<KeyId>) -> Result<Listed<KeyRecord, KeyId>, Denial> {
        admin.require(Permission::KeysSearch)?;
        self.release.records().keys(filter, page).await
    }

    /// Puts a key under another policy. An unknown policy is refused before an unknown key.
    pub(crate) async fn update_key(&self, admin: &Admin, id: KeyId, policy_id: PolicyId) -> Result<KeyRecord, Denial> {
        admin.require(Permission::KeysUpdate)?;
        let work = async move |this: Self, admin: Admin| {
            let records = this.release.records();
            let policy = records.policy(policy_id).await?;
            let key = records.key(id).await?;
            let before = key.policy_id.map_or_else(|| "no policy".to_owned(), |id| format!("policy {id}"));
            let record = AuditRecord {
                policy_id: policy_id.to_string(),
                policy_version: policy.version,
                detail: format!("was under {before}"),
                ..about(AuditDecision::KeyChanged, &key)
            };
            this.recorded(&admin, record, records.move_key(id, policy_id, clock::timestamp())).await
        };
        self.to_its_end(admin, work).await
    }

    /// Deletes a key: in the KMS, if the broker put it there, and then its record. If the KMS does not do it, the key stays
    /// as it is.
    pub(crate) async fn delete_key(&self, admin: &Admin, id: KeyId) -> Result<(), Denial> {
        admin.require(Permission::KeysDelete)?;
        let work = async move |this: Self, admin: Admin| {
            let key = this.release.records().key(id).await?;
            let detail = if key.made_by_us { "destroyed in the KMS" } else { "left in the KMS" };
            let record = AuditRecord { detail: detail.to_owned(), ..about(AuditDecision::KeyDeleted, &key) };
            let delete = async {
                if key.made_by_us {
                    this.release.keys().destroy(&admin, &key).await?;
                }
                this.release.records().delete_key(id).await
            };
            this.recorded(&admin, record, delete).await
        };
        self.to_its_end(admin, work).await
    }

    /// The key, wrapped for the administrator's own RSA public key. No policy is asked.
    pub(crate) async fn export_key(&self, admin: &Admin, id: KeyId, public_key_pem: &str) -> Result<Vec<u8>, Denial> {
        admin.require(Permission::KeysTransfer)?;
        let pem = bounded("public_key_pem", public_key_pem, PEM_BYTES_MAX)?;
        let recipient = ExportPublicKey::from_spki_pem(pem).map_err(Denial::ExportKey)?;
        let key = self.release.records().key(id).await?;
        let exported = self.release.keys().export(admin, &key, &recipient).await?;
        let record = AuditRecord {
            mode: "export".to_owned(),
            detail: format!("for an RSA public key of {} bits", recipient.bits()),
            ..about(AuditDecision::Exported, &key)
        };
        let proof = self.release.audit().administered(admin, record).await?;
        Ok(exported.recorded(proof))
    }

    async fn refuse_unknown_policy(&self, policy: Option<PolicyId>) -> Result<(), Denial> {
        match policy {
            Some(policy) => self.release.records().policy(policy).await.map(drop),
            None => Ok(()),
        }
    }

    fn record(
        &self,
        key_id: KeyId,
        algorithm: Algorithm,
        spec: &KeySpec,
        reference: &KeyRef,
        fingerprint: Option<Fingerprint>,
        policy_id: Option<PolicyId>,
    ) -> KeyRecord {
        KeyRecord {
            key_id,
            algorithm,
            length_bits: spec.length_bits(),
            curve: spec.curve(),
            kms_kind: self.release.keys().kind().to_owned(),
            kms_ref: reference.as_str().to_owned(),
            fingerprint,
            policy_id,
            created_at: clock::timestamp(),
            updated_at: None,
            made_by_us: false,
        }
    }

    async fn record_key(&self, admin: &Admin, key: &KeyRecord, detail: &str) -> Result<(), Denial> {
        let record = AuditRecord { detail: detail.to_owned(), ..about(AuditDecision::KeyCreated, key) };
        self.recorded(admin, record, self.release.records().create_key(key)).await
    }

    /// If the store did not say whether the record is there, the key stays: a record may point to it.
    async fn take_back(&self, key: &KeyRecord, reference: &KeyRef) {
        if self.release.records().is_without_key(key.key_id).await {
            self.release.keys().discard(reference).await;
        } else {
            tracing::warn!(key_id = %key.key_id, kms_ref = reference.as_str(), "a key is left in the KMS: it may have a record");
        }
    }
}

fn with((reference, fingerprint): (KeyRef, Option<Fingerprint>), made_by_us: bool) -> (KeyRef, Option<Fingerprint>, bool) {
    (reference, fingerprint, made_by_us)
}

fn about(decision: AuditDecision, key: &KeyRecord) -> AuditRecord {
    AuditRecord {
        decision: decision.into(),
        key_id: key.key_id.to_string(),
        policy_id: key.policy_id.map(|id| id.to_string()).unwrap_or_default(),
        ..AuditRecord::default()
    }
}
