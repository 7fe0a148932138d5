//! Keys out of the KMS: the only module that touches key material, and the types that keep it on its path.

use std::{future::Future, sync::Arc, time::Instant};

use keyferry_key_transfer_policy::Permitted;
use keyferry_key_wrap::{ExportPublicKey, HeldPublicKey, KeyMaterial, KmsWrappedKey, WrappedKey, export, wrap};
use keyferry_kms::{AttestedTd, FetchedKey, KeyRef, KeySpec, Kms, KmsError, ReleaseRules, fingerprint, fingerprint_matches};
use keyferry_sealed_store::StoreKey;
use keyferry_telemetry::{SpanAttributes, names, spans};
use tracing::Instrument;
use zeroize::Zeroizing;

use crate::{
    Denial,
    audit::Acknowledged,
    records::{Fingerprint, KeyRecord},
    users::Admin,
};

const FINGERPRINT_PURPOSE: &str = "key fingerprints, HMAC-SHA-256";

/// The KMS, and the key that fingerprints are made under.
pub(crate) struct Keys {
    kms: Arc<dyn Kms>,
    fingerprint_key: Zeroizing<[u8; 32]>,
}

/// A key that a policy permits one TD to have.
pub(crate) struct Fetched {
    permitted: Permitted,
    key: FetchedKey,
}

/// The same key, opening only with that TD's private key; not yet recorded.
pub(crate) struct Wrapped(ReleasedKey);

/// The same, after the audit stream acknowledged: the only thing a surface can send.
pub(crate) struct Releasable(ReleasedKey);

/// What opens only with the TD's private key.
pub(crate) enum ReleasedKey {
    /// In Intel's form: wrapped by this service.
    Swk(WrappedKey),
    /// Wrapped by the KMS, which did not show the key to this service.
    Kms(KmsWrappedKey),
}

/// A key under an administrator's public key; not yet recorded.
pub(crate) struct Exported(Vec<u8>);

impl Keys {
    pub(crate) fn new(kms: Arc<dyn Kms>, store_key: &StoreKey) -> Self {
        Self { kms, fingerprint_key: store_key.derive(FINGERPRINT_PURPOSE) }
    }

    pub(crate) fn kind(&self) -> &'static str {
        self.kms.kind()
    }

    /// The key that was permitted, if the KMS still has the bytes that were recorded.
    pub(crate) async fn fetch(&self, permitted: Permitted, recipient: &Recipient, record: &KeyRecord) -> Result<Fetched, Denial> {
        if permitted.key_id() != record.key_id {
            return Err(Denial::Internal("a policy permitted another key"));
        }
        self.refuse_other_kms(record)?;
        let td = AttestedTd { token: permitted.token().compact().to_owned().into(), public_key_pem: recipient.key.to_spki_pem() };
        let (reference, spec) = (record.reference()?, record.spec()?);
        let key = self.call("get", self.kms.release(&reference, &spec, &td)).await?;
        if let FetchedKey::Material(material) = &key {
            self.refuse_other_bytes(record, material)?;
        }
        Ok(Fetched { permitted, key })
    }

    /// A key for the administrator's own public key. No policy is asked.
    pub(crate) async fn export(&self, _proof: &Admin, record: &KeyRecord, recipient: &ExportPublicKey) -> Result<Exported, Denial> {
        let material = self.recorded(record).await?;
        Ok(Exported(export(&material, recipient)?))
    }

    async fn recorded(&self, record: &KeyRecord) -> Result<Arc<KeyMaterial>, Denial> {
        self.refuse_other_kms(record)?;
        let material = self.material(&record.reference()?, &record.spec()?).await?;
        self.refuse_other_bytes(record, &material)?;
        Ok(material)
    }

    fn refuse_other_kms(&self, record: &KeyRecord) -> Result<(), Denial> {
        let connected = self.kms.kind();
        if record.kms_kind == connected { Ok(()) } else { Err(Denial::OtherKms { recorded: record.kms_kind.clone(), connected }) }
    }

    /// A key without a fingerprint is one that the KMS never shows: bytes of it are a surprise.
    fn refuse_other_bytes(&self, record: &KeyRecord, material: &KeyMaterial) -> Result<(), Denial> {
        let recorded = record.fingerprint.ok_or(Denial::FingerprintMismatch)?;
        let same = fingerprint_matches(&self.fingerprint_key, material, &recorded.0);
        if same { Ok(()) } else { Err(Denial::FingerprintMismatch) }
    }

    async fn material(&self, key: &KeyRef, spec: &KeySpec) -> Result<Arc<KeyMaterial>, Denial> {
        Ok(self.call("get", self.kms.fetch(key, spec)).await?)
    }

    /// Makes a key. One that cannot be fetched is taken back.
    pub(crate) async fn create(&self, _proof: &Admin, spec: &KeySpec) -> Result<(KeyRef, Option<Fingerprint>), Denial> {
        let key = self.call("create", self.kms.create(spec)).await?;
        match self.seen(&key, spec).await {
            Ok(fingerprint) => Ok((key, fingerprint)),
            Err(denial) => {
                self.discard(&key).await;
                Err(denial)
            }
        }
    }

    /// Brings a key into the KMS: raw bytes for AES, PKCS#8 in DER or PEM for RSA and EC.
    pub(crate) async fn register(
        &self,
        _proof: &Admin,
        spec: &KeySpec,
        bytes: Zeroizing<Vec<u8>>,
    ) -> Result<(KeyRef, Option<Fingerprint>), Denial> {
        let reader = spec.clone();
        let read = tokio::task::spawn_blocking(move || reader.read_material(&bytes)).await;
        let material = read.map_err(|_| Denial::Internal("reading a key ended without a result"))?.map_err(|error| match error {
            KmsError::KeyMismatch { field } => Denial::malformed("key_data", format_args!("is not such a key: see its {field}")),
            other => other.into(),
        })?;
        let key = self.call("register", self.kms.register(spec, &material)).await?;
        Ok((key, Some(self.fingerprint(&material))))
    }

    /// Takes on a key that is in the KMS already, if it is what the record will say.
    pub(crate) async fn adopt(&self, _proof: &Admin, key: &KeyRef, spec: &KeySpec) -> Result<Option<Fingerprint>, Denial> {
        self.seen(key, spec).await
    }

    /// That the key is there and what it should be. A KMS that keeps its keys to itself can only be asked about them.
    async fn seen(&self, key: &KeyRef, spec: &KeySpec) -> Result<Option<Fingerprint>, Denial> {
        match self.material(key, spec).await {
            Ok(material) => Ok(Some(self.fingerprint(&material))),
            Err(Denial::Kms(KmsError::KeyNotReleasable)) if self.kms.releases_unseen() => {
                let found = self.call("inspect", self.kms.inspect(key)).await?;
                ReleaseRules { accept_missing_usage_mask: true, ..ReleaseRules::default() }.check(key, spec, &found)?;
                Ok(None)
            }
            Err(denial) => Err(denial),
        }
    }

    fn fingerprint(&self, material: &KeyMaterial) -> Fingerprint {
        Fingerprint(fingerprint(&self.fingerprint_key, material))
    }

    /// Destroys a key that the broker made. That it is gone already is what was wanted.
    pub(crate) async fn destroy(&self, _proof: &Admin, record: &KeyRecord) -> Result<(), Denial> {
        self.refuse_other_kms(record)?;
        match self.call("destroy", self.kms.destroy(&record.reference()?)).await {
            Ok(()) | Err(KmsError::KeyNotFound | KmsError::KeyDestroyed) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes back a key that was just made and could not be recorded.
    pub(crate) async fn discard(&self, key: &KeyRef) {
        if let Err(error) = self.call("destroy", self.kms.destroy(key)).await {
            tracing::warn!(kms_ref = key.as_str(), %error, "a key that could not be recorded is left in the KMS");
        }
    }

    /// Whether the KMS answers.
    pub(crate) async fn health(&self) -> Result<(), KmsError> {
        self.kms.health().await
    }

    async fn call<T>(&self, operation: &str, call: impl Future<Output = Result<T, KmsError>>) -> Result<T, KmsError> {
        let backend = self.kms.kind();
        let span = spans::kms(operation, backend);
        let started = Instant::now();
        let result = call.instrument(span.clone()).await;
        let mut labels = vec![(names::KMS_BACKEND, backend), (names::KMS_OPERATION, operation)];
        if let Err(error) = &result {
            span.failed(error.label());
            labels.push((names::ERROR_TYPE, error.label()));
        }
        names::KMS_DURATION.record(started.elapsed().as_secs_f64(), &labels);
        result
    }
}

impl Fetched {
    /// Wraps for the public key in the token that was permitted, and for no other.
    pub(crate) fn wrap(self, recipient: &Recipient) -> Result<Wrapped, Denial> {
        if recipient.token_id != self.permitted.token().token_id() {
            return Err(Denial::Internal("a key was fetched for another token"));
        }
        Ok(Wrapped(match self.key {
            FetchedKey::Material(material) => ReleasedKey::Swk(wrap(&material, &recipient.key)?),
            FetchedKey::WrappedForTd(wrapped) => ReleasedKey::Kms(wrapped),
        }))
    }
}

/// The public key that a TD had quoted, and the token it came in.
pub(crate) struct Recipient {
    key: HeldPublicKey,
    token_id: String,
}

impl Recipient {
    /// Reads the held data of a permitted token, before anything is fetched for it.
    pub(crate) fn of(permitted: &Permitted) -> Result<Self, Denial> {
        let token = permitted.token();
        let held_data = token.held_data().ok_or(Denial::HeldDataAbsent)?;
        // The policy matched the attester's type: it is one of the two.
        let read = if token.claims().attester_type == "SGX" { HeldPublicKey::from_intel_sgx } else { HeldPublicKey::from_intel };
        let key = read(held_data).map_err(Denial::HeldData)?;
        Ok(Self { key, token_id: token.token_id().to_owned() })
    }
}

impl Wrapped {
    /// No audit, no release.
    pub(crate) fn recorded(self, _proof: Acknowledged) -> Releasable {
        Releasable(self.0)
    }
}

impl Releasable {
    /// For a surface to send.
    pub(crate) fn into_key(self) -> ReleasedKey {
        self.0
    }
}

impl Exported {
    /// No audit, no export.
    pub(crate) fn recorded(self, _proof: Acknowledged) -> Vec<u8> {
        self.0
    }
}
