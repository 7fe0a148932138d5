//! The development back end: keys in one encrypted file.
//!
//! It protects against somebody who gets the file without the key file. It does not protect against whoever can read
//! both, nor against an old copy of the file put in place of a newer one: that is why it is for development, and says so
//! at every start.

mod disk;
mod format;

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use keyferry_key_wrap::KeyMaterial;
use uuid::Uuid;

use self::{
    disk::{create_master_key, lock, read_master_key, read_private, replace, unusable},
    format::{Contents, MasterKey, StoredKey},
};
use crate::{
    Algorithm, DevConfig, KeyDescription, KeyForm, KeyRef, KeySpec, KeyState, Kms, KmsError, ReleaseRules, Revocation, material::generate,
};

/// Keys in one encrypted file.
#[derive(Clone)]
pub struct DevKms {
    shared: Arc<Shared>,
}

struct Shared {
    file: PathBuf,
    /// What the file holds: readers never wait for the disk.
    contents: ArcSwap<Contents>,
    /// Whoever writes; locked only off the runtime, since the disk may be slow.
    writer: Mutex<Writer>,
}

struct Writer {
    master: MasterKey,
    _lock: File,
}

impl DevKms {
    /// Opens the store, or makes store and key file if neither exists. Warns loudly either way.
    pub async fn open(config: &DevConfig) -> Result<Self, KmsError> {
        let config = config.clone();
        let shared = Arc::new(blocking(move || Shared::open(&config)).await?);
        let file = shared.file.display();
        tracing::warn!(%file, "THE DEVELOPMENT KEY STORE IS IN USE: keys are in one file on this machine; not for production");
        Ok(Self { shared })
    }

    /// How often the store was written. It never shrinks unless somebody put an old copy back: keep the number elsewhere
    /// and compare.
    pub fn generation(&self) -> u64 {
        self.shared.contents.load().generation
    }

    fn find(&self, id: Uuid) -> Result<StoredKey, KmsError> {
        self.shared.contents.load().keys.get(&id).cloned().ok_or(KmsError::KeyNotFound)
    }

    /// Applies a change and writes it to the disk, or does neither.
    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut BTreeMap<Uuid, StoredKey>) -> Result<T, KmsError> + Send + 'static,
    ) -> Result<T, KmsError> {
        let shared = Arc::clone(&self.shared);
        blocking(move || shared.change(change)).await
    }

    async fn add(&self, spec: &KeySpec, material: KeyMaterial) -> Result<KeyRef, KmsError> {
        let key = StoredKey {
            algorithm: spec.algorithm(),
            length_bits: spec.length_bits(),
            state: KeyState::Active,
            usage: spec.usage(),
            name: spec.name().map_or_else(String::new, |name| name.as_str().to_owned()),
            material: Some(Arc::new(material)),
        };
        let id = Uuid::new_v4();
        self.change(move |keys| Ok(keys.insert(id, key).is_none())).await?;
        KeyRef::parse(&id.to_string())
    }
}

impl fmt::Debug for DevKms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DevKms({})", self.shared.file.display())
    }
}

#[async_trait]
impl Kms for DevKms {
    fn kind(&self) -> &'static str {
        "dev"
    }

    async fn create(&self, spec: &KeySpec) -> Result<KeyRef, KmsError> {
        self.add(spec, generate(spec).await?).await
    }

    async fn register(&self, spec: &KeySpec, material: &KeyMaterial) -> Result<KeyRef, KmsError> {
        spec.check_material(material)?;
        let copy = KeyMaterial::new(material.expose().to_vec()).map_err(|_| KmsError::KeyMismatch { field: "length" })?;
        self.add(spec, copy).await
    }

    async fn inspect(&self, key: &KeyRef) -> Result<KeyDescription, KmsError> {
        self.find(parse(key)?).map(|found| describe(key, &found))
    }

    async fn fetch(&self, key: &KeyRef, spec: &KeySpec) -> Result<Arc<KeyMaterial>, KmsError> {
        let found = self.find(parse(key)?)?;
        ReleaseRules::default().check(key, spec, &describe(key, &found))?;
        let material = found.material.ok_or(KmsError::KeyDestroyed)?;
        spec.check_material(&material)?;
        Ok(material)
    }

    async fn revoke(&self, key: &KeyRef, why: Revocation) -> Result<(), KmsError> {
        let id = parse(key)?;
        self.change(move |keys| {
            let found = keys.get_mut(&id).ok_or(KmsError::KeyNotFound)?;
            found.state = match (found.state, why) {
                (KeyState::Destroyed, _) => return Err(KmsError::KeyDestroyed),
                (KeyState::Compromised, _) | (_, Revocation::Compromised) => KeyState::Compromised,
                (_, Revocation::Retired) => KeyState::Deactivated,
            };
            Ok(())
        })
        .await
    }

    async fn destroy(&self, key: &KeyRef) -> Result<(), KmsError> {
        let id = parse(key)?;
        self.change(move |keys| {
            let found = keys.get_mut(&id).ok_or(KmsError::KeyNotFound)?;
            if found.state == KeyState::Destroyed {
                return Err(KmsError::KeyDestroyed);
            }
            found.state = KeyState::Destroyed;
            found.material = None;
            Ok(())
        })
        .await
    }

    async fn health(&self) -> Result<(), KmsError> {
        let shared = Arc::clone(&self.shared);
        let gone = "is gone: restore it before anything is written";
        blocking(move || if shared.file.is_file() { Ok(()) } else { Err(unusable(&shared.file, gone)) }).await
    }
}

fn parse(key: &KeyRef) -> Result<Uuid, KmsError> {
    Uuid::try_parse(key.as_str()).map_err(|_| KmsError::Reference("the development store names its keys by UUID"))
}

fn describe(key: &KeyRef, found: &StoredKey) -> KeyDescription {
    KeyDescription {
        key: key.clone(),
        form: if found.algorithm == Algorithm::Aes { KeyForm::Symmetric } else { KeyForm::Private },
        algorithm: Some(found.algorithm),
        length_bits: Some(found.length_bits),
        state: Some(found.state),
        usage: Some(found.usage),
    }
}

impl Shared {
    fn open(config: &DevConfig) -> Result<Self, KmsError> {
        let (file, lock) = (config.file.clone(), lock(&config.file)?);
        let (sealed, master) = (read_private(&file)?, read_master_key(&config.key_file)?);
        match (sealed, master) {
            (Some(sealed), Some(master)) => {
                let contents = format::open(&sealed, &master).map_err(|what| unusable(&file, what))?;
                Ok(Self::new(file, contents, Writer { master, _lock: lock }))
            }
            (Some(_), None) => Err(unusable(&config.key_file, "is missing, and the store cannot be opened without it: restore it")),
            (None, master) => Self::create(config, lock, master),
        }
    }

    fn new(file: PathBuf, contents: Contents, writer: Writer) -> Self {
        Self { file, contents: ArcSwap::from_pointee(contents), writer: Mutex::new(writer) }
    }

    fn create(config: &DevConfig, lock: File, master: Option<MasterKey>) -> Result<Self, KmsError> {
        let master = if let Some(master) = master {
            master
        } else {
            tracing::warn!(key_file = %config.key_file.display(), "made a new key for the development key store; whoever reads this file reads every key");
            create_master_key(&config.key_file)?
        };
        let contents = Contents { store: Uuid::new_v4(), generation: 0, keys: BTreeMap::new() };
        let store = Self::new(config.file.clone(), contents, Writer { master, _lock: lock });
        store.change(|_| Ok(()))?;
        Ok(store)
    }

    fn change<T>(&self, change: impl FnOnce(&mut BTreeMap<Uuid, StoredKey>) -> Result<T, KmsError>) -> Result<T, KmsError> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = Contents::clone(&self.contents.load());
        let result = change(&mut next.keys)?;
        next.generation = next.generation.checked_add(1).ok_or(KmsError::Internal)?;
        let sealed = format::seal(&next, &writer.master).map_err(|what| unusable(&self.file, what))?;
        replace(&self.file, &sealed)?;
        self.contents.store(Arc::new(next));
        Ok(result)
    }
}

/// Disk work off the runtime.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, KmsError> + Send + 'static) -> Result<T, KmsError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(KmsError::Internal))
}
