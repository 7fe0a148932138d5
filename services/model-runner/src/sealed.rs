//! The sealed file: what it says without a key, and how it is opened into a model.

use std::{fs::File, io::Read, path::Path};

use keyferry_contract::Reason;
use keyferry_identifiers::KeyId;
use keyferry_key_wrap::KeyMaterial;
use keyferry_model_envelope::{Kfm1, MediaType, ModelDigest, ModelName, is_kfm1, one_shot};

use crate::{
    Refusal,
    config::ModelConfig,
    memory::LockedMemory,
    runtime::{LINEAR, Model, Runtimes},
};

/// A sealed file in memory. Ciphertext: nothing secret.
pub(crate) struct SealedFile {
    bytes: Vec<u8>,
    pub(crate) name: ModelName,
    pub(crate) media_type: String,
    /// The key it asks for, where it or the configuration says so.
    pub(crate) key_id: Option<KeyId>,
    pub(crate) digest: ModelDigest,
}

impl SealedFile {
    /// Reads and checks what can be checked without a key, so that nobody is asked for a key in vain. Blocking.
    pub(crate) fn read(config: &ModelConfig) -> Result<Self, Refusal> {
        let bytes = read_bounded(&config.file, config.bytes_max)?;
        if !is_kfm1(&bytes) {
            one_shot::plaintext_length(&bytes)?;
            let unnamed = || Refusal::new(Reason::ModelMalformed, "model.name is needed: this format does not carry one");
            let name = config.name.clone().ok_or_else(unnamed)?;
            let media_type = config.media_type.as_ref().map_or(LINEAR, MediaType::as_str).to_owned();
            return Ok(Self { name, media_type, key_id: config.key_id, digest: one_shot::digest(&bytes), bytes });
        }
        let sealed = Kfm1::parse(&bytes)?;
        let (header, digest) = (sealed.header().clone(), sealed.digest());
        let key_id = KeyId::parse(&header.key_id.to_string()).map_err(|error| Refusal::new(Reason::ModelMalformed, error.to_string()))?;
        if config.key_id.is_some_and(|configured| configured != key_id) {
            let detail = format!("the model is sealed with key {key_id}, and model.key_id is another one");
            return Err(Refusal::new(Reason::ModelKeyWrong, detail));
        }
        Ok(Self { name: header.name, media_type: header.media_type.to_string(), key_id: Some(key_id), digest, bytes })
    }

    /// Decrypts into locked memory, builds the model, wipes the plaintext. Blocking.
    pub(crate) fn open(&self, key: &KeyMaterial, require_lock: bool, runtimes: &Runtimes) -> Result<Box<dyn Model>, Refusal> {
        let plaintext = self.decrypt(key, require_lock)?;
        Ok(runtimes.load(&self.media_type, &plaintext)?)
    }

    fn decrypt(&self, key: &KeyMaterial, require_lock: bool) -> Result<LockedMemory, Refusal> {
        if is_kfm1(&self.bytes) {
            let sealed = Kfm1::parse(&self.bytes)?;
            let mut plaintext = LockedMemory::allocate(sealed.plaintext_length(), require_lock)?;
            sealed.open_into(key, &mut plaintext)?;
            return Ok(plaintext);
        }
        let mut plaintext = LockedMemory::allocate(one_shot::plaintext_length(&self.bytes)?, require_lock)?;
        one_shot::open_into(key, &self.bytes, &mut plaintext)?;
        Ok(plaintext)
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// The path is the operator's business, not the caller's: it is logged and not told.
fn read_bounded(path: &Path, bytes_max: u64) -> Result<Vec<u8>, Refusal> {
    let unreadable = |error: std::io::Error| {
        tracing::warn!(path = %path.display(), %error, "the sealed model cannot be read");
        Refusal::new(Reason::ModelMalformed, format!("model.file cannot be read: {}", error.kind()))
    };
    let too_large = || Refusal::new(Reason::RequestTooLarge, format!("model.file has more than the {bytes_max} bytes of model.bytes_max"));
    let file = File::open(path).map_err(unreadable)?;
    let announced = file.metadata().map_err(unreadable)?.len();
    if announced > bytes_max {
        return Err(too_large());
    }
    // What is announced is no bound: the file may grow, or be none.
    let mut bytes = Vec::with_capacity(usize::try_from(announced).unwrap_or(0));
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > bytes_max { Err(too_large()) } else { Ok(bytes) }
}
