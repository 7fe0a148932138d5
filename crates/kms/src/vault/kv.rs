//! The key-value engines: version 1 as Intel's KBS uses it, and version 2 with versions and soft deletion.

use std::{collections::BTreeMap, sync::Arc};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use keyferry_key_wrap::KeyMaterial;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{
    VaultEngine,
    asker::Asker,
    entry::{self, Entry, NewEntry},
    http::{Answer, Call, below},
    json::{self, Secret},
    reference::Reference,
};
use crate::{KeyDescription, KeyRef, KeySpec, KeyState, KmsError, Revocation, check::check_identity};

/// A KV engine at a mount.
pub(crate) struct Kv {
    version: Version,
    mount: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// What is under a reference.
enum Found {
    Entry(Entry),
    /// Version 2: the entry cannot be read any more, and is in this state.
    Ended(KeyState),
}

impl Kv {
    pub(crate) const fn one(mount: String) -> Self {
        Self { version: Version::One, mount }
    }
    pub(crate) const fn two(mount: String) -> Self {
        Self { version: Version::Two, mount }
    }

    const fn engine(&self) -> VaultEngine {
        match self.version {
            Version::One => VaultEngine::Kv1,
            Version::Two => VaultEngine::Kv2,
        }
    }

    pub(crate) async fn register(&self, asker: &Asker, spec: &KeySpec, material: &KeyMaterial) -> Result<KeyRef, KmsError> {
        let reference = Reference::for_new(spec);
        let text = entry::encode(material);
        let record = NewEntry::new(reference.id, spec, material, &text)?;
        let written = match self.version {
            Version::One => self.write_first(asker, reference, &json::write(&record, text.len())?).await,
            Version::Two => self.write_versioned(asker, reference, &record, text.len()).await,
        };
        match written {
            Ok(()) => {}
            // The answer got lost; or the entry is there, perhaps because an earlier answer got lost, and a policy that only
            // permits making entries denies a second time: it is ours if it is the same key.
            Err(error) if error.connection_failed() || error == EXISTS || error == KmsError::Denied => {
                let found = self.fetch(asker, &reference.key_ref(self.engine())?, spec).await.map_err(|_| error)?;
                if verify_slices_are_equal(found.expose(), material.expose()).is_err() {
                    return Err(EXISTS);
                }
            }
            Err(error) => return Err(error),
        }
        reference.key_ref(self.engine())
    }

    /// Version 1 overwrites without asking, so we ask.
    async fn write_first(&self, asker: &Asker, reference: Reference, record: &[u8]) -> Result<(), KmsError> {
        match self.read_one(asker, reference).await {
            Err(KmsError::KeyNotFound) => self.write_one(asker, reference, record).await,
            Err(error) => Err(error),
            Ok(_) => Err(EXISTS),
        }
    }

    async fn write_one(&self, asker: &Asker, reference: Reference, record: &[u8]) -> Result<(), KmsError> {
        let text = std::str::from_utf8(record).map_err(|_| KmsError::Internal)?;
        let body = json::write(&BTreeMap::from([(reference.id, text)]), record.len())?;
        let answer = asker.call(&Call::post(below(&self.mount, &[&reference.id]), body)).await?;
        self.written(&answer)
    }

    async fn write_versioned(
        &self,
        asker: &Asker,
        reference: Reference,
        record: &NewEntry<'_>,
        secret_bytes: usize,
    ) -> Result<(), KmsError> {
        #[derive(Serialize)]
        struct Body<'a> {
            options: CheckAndSet,
            data: &'a NewEntry<'a>,
        }
        #[derive(Serialize)]
        struct CheckAndSet {
            cas: u32,
        }
        #[derive(Deserialize)]
        struct Written {
            version: u32,
        }
        // An engine of version 1 would store the key under another path and say nothing.
        if let Some(error) = asker.engine_error(&self.mount, self.engine()).await {
            return Err(error);
        }
        let body = json::write(&Body { options: CheckAndSet { cas: 0 }, data: record }, secret_bytes)?;
        let answer = asker.call(&Call::post(below(&self.mount, &[&"data", &reference.id]), body)).await?;
        if answer.status == 400 {
            return Err(EXISTS);
        }
        self.written(&answer)?;
        let Written { version } = json::data(&answer.body).map_err(|_| OTHER_VERSION)?;
        if version == reference.version.get() { Ok(()) } else { Err(EXISTS) }
    }

    fn written(&self, answer: &Answer) -> Result<(), KmsError> {
        match answer.status {
            200..=299 => Ok(()),
            404 if self.is_other_engine(answer) => Err(OTHER_VERSION),
            404 => Err(NO_ENGINE),
            405 => Err(OTHER_ENGINE),
            _ => Err(KmsError::Protocol("it refused a field of the request")),
        }
    }

    pub(crate) async fn inspect(&self, asker: &Asker, key: &KeyRef) -> Result<KeyDescription, KmsError> {
        let found = self.read(asker, Reference::parse(self.engine(), key)?).await?;
        Ok(describe(key, &found))
    }

    pub(crate) async fn fetch(&self, asker: &Asker, key: &KeyRef, spec: &KeySpec) -> Result<Arc<KeyMaterial>, KmsError> {
        let found = self.read(asker, Reference::parse(self.engine(), key)?).await?;
        let state = match &found {
            Found::Entry(entry) => entry.state,
            Found::Ended(state) => *state,
        };
        match state {
            KeyState::Deactivated => return Err(KmsError::KeyDeactivated),
            KeyState::Compromised => return Err(KmsError::KeyCompromised),
            KeyState::Destroyed => return Err(KmsError::KeyDestroyed),
            KeyState::PreActive => return Err(KmsError::KeyPreActive),
            KeyState::Active => {}
        }
        check_identity(key, spec, &describe(key, &found))?;
        let Found::Entry(entry) = found else { return Err(KmsError::KeyDestroyed) };
        spec.check_material(&entry.material)?;
        Ok(Arc::new(entry.material))
    }

    pub(crate) async fn revoke(&self, asker: &Asker, key: &KeyRef, why: Revocation) -> Result<(), KmsError> {
        let reference = Reference::parse(self.engine(), key)?;
        if self.version == Version::Two {
            return self.delete_softly(asker, reference, why).await;
        }
        let record = self.read_one(asker, reference).await?;
        let former = Entry::read(record.expose().as_bytes())?.state;
        let next = match (former, why) {
            (KeyState::Compromised, _) | (_, Revocation::Compromised) => KeyState::Compromised,
            _ => KeyState::Deactivated,
        };
        self.write_one(asker, reference, &entry::with_state(record.expose().as_bytes(), next)?).await
    }

    async fn delete_softly(&self, asker: &Asker, reference: Reference, why: Revocation) -> Result<(), KmsError> {
        let (_, metadata) = self.read_two(asker, reference).await?;
        if metadata.destroyed {
            return Err(KmsError::KeyDestroyed);
        }
        if why == Revocation::Compromised {
            // First, so that an undeleted key is still known to have leaked.
            self.mark_compromised(asker, reference, metadata).await?;
        }
        self.change_version(asker, "delete", reference).await
    }

    async fn mark_compromised(&self, asker: &Asker, reference: Reference, metadata: Metadata) -> Result<(), KmsError> {
        #[derive(Serialize)]
        struct Body {
            custom_metadata: BTreeMap<String, String>,
        }
        let mut custom_metadata = metadata.custom.unwrap_or_default();
        custom_metadata.insert(compromised_mark(reference), "true".to_owned());
        let body = json::write(&Body { custom_metadata }, 0)?;
        let answer = asker.call(&Call::post(below(&self.mount, &[&"metadata", &reference.id]), body)).await?;
        self.written(&answer)
    }

    /// `delete` or `destroy` of one version.
    async fn change_version(&self, asker: &Asker, what: &'static str, reference: Reference) -> Result<(), KmsError> {
        #[derive(Serialize)]
        struct Body {
            versions: [u32; 1],
        }
        let body = json::write(&Body { versions: [reference.version.get()] }, 0)?;
        let answer = asker.call(&Call::post(below(&self.mount, &[&what, &reference.id]), body)).await?;
        self.written(&answer)
    }

    pub(crate) async fn destroy(&self, asker: &Asker, key: &KeyRef) -> Result<(), KmsError> {
        let reference = Reference::parse(self.engine(), key)?;
        match self.version {
            Version::One => {
                self.read_one(asker, reference).await?;
                let answer = asker.call(&Call::delete(below(&self.mount, &[&reference.id]))).await?;
                self.written(&answer)
            }
            Version::Two => {
                let (_, metadata) = self.read_two(asker, reference).await?;
                if metadata.destroyed {
                    return Err(KmsError::KeyDestroyed);
                }
                self.change_version(asker, "destroy", reference).await?;
                self.forget(asker, reference).await
            }
        }
    }

    /// Removes the history of a key of which no version is left; other versions may have records of their own.
    async fn forget(&self, asker: &Asker, reference: Reference) -> Result<(), KmsError> {
        #[derive(Deserialize)]
        struct History {
            versions: BTreeMap<String, VersionState>,
        }
        #[derive(Deserialize)]
        struct VersionState {
            destroyed: bool,
        }
        let path = below(&self.mount, &[&"metadata", &reference.id]);
        let answer = match asker.call(&Call::get(path.clone())).await {
            // The version is gone, which is what was asked for; whether its history goes is the operator's policy.
            Err(KmsError::Denied) => return Ok(()),
            answer => answer?,
        };
        self.written(&answer)?;
        let history: History = json::data(&answer.body)?;
        if history.versions.values().any(|version| !version.destroyed) {
            return Ok(());
        }
        match asker.call(&Call::delete(path)).await {
            Err(KmsError::Denied) => Ok(()),
            answer => self.written(&answer?),
        }
    }

    async fn read(&self, asker: &Asker, reference: Reference) -> Result<Found, KmsError> {
        if self.version == Version::One {
            let record = self.read_one(asker, reference).await?;
            return Entry::read(record.expose().as_bytes()).map(Found::Entry);
        }
        let (record, metadata) = self.read_two(asker, reference).await?;
        let compromised = metadata.custom.is_some_and(|custom| custom.contains_key(&compromised_mark(reference)));
        match record {
            None if metadata.destroyed => Ok(Found::Ended(KeyState::Destroyed)),
            None if compromised => Ok(Found::Ended(KeyState::Compromised)),
            None => Ok(Found::Ended(KeyState::Deactivated)),
            Some(record) => {
                let mut entry = Entry::read(&record)?;
                if compromised {
                    entry.state = KeyState::Compromised;
                }
                Ok(Found::Entry(entry))
            }
        }
    }

    /// The record, in the one member that has the key's name.
    async fn read_one(&self, asker: &Asker, reference: Reference) -> Result<Secret, KmsError> {
        let answer = asker.call(&Call::get(below(&self.mount, &[&reference.id]))).await?;
        if !answer.succeeded() {
            return Err(self.absent(asker, &answer).await);
        }
        let mut members: BTreeMap<Uuid, Secret> = json::data(&answer.body).map_err(|_| NOT_INTELS)?;
        members.remove(&reference.id).ok_or(NOT_INTELS)
    }

    async fn read_two(&self, asker: &Asker, reference: Reference) -> Result<(Option<Zeroizing<Vec<u8>>>, Metadata), KmsError> {
        #[derive(Deserialize)]
        struct Versioned<'a> {
            #[serde(borrow)]
            data: Option<&'a RawValue>,
            metadata: Metadata,
        }
        let path = format!("{}?version={}", below(&self.mount, &[&"data", &reference.id]), reference.version);
        let answer = asker.call(&Call::get(path)).await?;
        // A deleted version is answered with 404, and with all that is left of it.
        let Ok(Versioned { data, metadata }) = json::data(&answer.body) else {
            return Err(if answer.succeeded() { OTHER_VERSION } else { self.absent(asker, &answer).await });
        };
        if metadata.version != reference.version.get() {
            return Err(KmsError::KeyMismatch { field: "version" });
        }
        let record = data.filter(|data| data.get() != "null").map(|data| Zeroizing::new(data.get().as_bytes().to_vec()));
        Ok((record, metadata))
    }

    fn is_other_engine(&self, answer: &Answer) -> bool {
        #[derive(Deserialize)]
        struct Warned {
            warnings: Vec<serde::de::IgnoredAny>,
        }
        self.version == Version::One && json::read_plain::<Warned>(&answer.body).is_some_and(|body| !body.warnings.is_empty())
    }

    /// Why nothing is there. The engine may be another one, which only the list of mounts tells.
    async fn absent(&self, asker: &Asker, answer: &Answer) -> KmsError {
        match answer.status {
            404 if self.is_other_engine(answer) => OTHER_VERSION,
            404 => asker.why_absent(answer, &self.mount, self.engine()).await,
            405 => OTHER_ENGINE,
            _ => KmsError::Protocol("it refused to read"),
        }
    }
}

const EXISTS: KmsError = KmsError::KeyMismatch { field: "name (the KMS has another key under it)" };
const NOT_INTELS: KmsError = KmsError::Protocol("an entry is not of the form of Intel's KBS: one member, named by the key's id");
const OTHER_VERSION: KmsError = KmsError::Protocol("the mount is a KV engine of the other version: set engine to kv1 or kv2 as it is");
pub(crate) const OTHER_ENGINE: KmsError = KmsError::Protocol("the mount is another engine than the configured one: check mount and engine");
pub(crate) const NO_ENGINE: KmsError = KmsError::Protocol("there is no engine at the configured mount: check mount and namespace");

#[derive(Deserialize)]
struct Metadata {
    version: u32,
    destroyed: bool,
    #[serde(default, rename = "custom_metadata")]
    custom: Option<BTreeMap<String, String>>,
}

/// Custom metadata belong to all versions of a key; the mark names one.
fn compromised_mark(reference: Reference) -> String {
    format!("compromised-v{}", reference.version)
}

fn describe(key: &KeyRef, found: &Found) -> KeyDescription {
    let (algorithm, length_bits, state) = match found {
        Found::Entry(entry) => (entry.algorithm, entry.length_bits, entry.state),
        Found::Ended(state) => (None, None, *state),
    };
    let (form, usage) = (entry::form(algorithm), entry::usage(algorithm));
    KeyDescription { key: key.clone(), form, algorithm, length_bits, state: Some(state), usage }
}
