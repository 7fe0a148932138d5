//! The transit engine: keys are made in the server. They leave it exported to the broker, or wrapped for a TD by the
//! server itself, in which case the broker never sees them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use keyferry_key_wrap::{KeyMaterial, KmsWrappedKey};
use openssl::{pkey::PKey, rsa::Rsa};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tracing::Instrument;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{
    VaultEngine,
    asker::Asker,
    config::configuration,
    entry,
    http::{Answer, Call, below},
    import::wrap_for_import,
    json::{self, Secret},
    kv::{NO_ENGINE, OTHER_ENGINE},
    reference::Reference,
};
use crate::{Algorithm, AttestedTd, Curve, KeyDescription, KeyRef, KeySpec, KeyState, KmsError, Stage, Usage, check::check_identity};

/// A transit engine at a mount.
#[derive(Clone)]
pub(crate) struct Transit {
    mount: String,
}

/// What the server says about a key.
#[derive(Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "the members of the server's answer")]
struct Told {
    r#type: String,
    exportable: bool,
    #[expect(clippy::zero_sized_map_values, reason = "which versions there are matters, not what is said about them")]
    keys: BTreeMap<u32, serde::de::IgnoredAny>,
    latest_version: u32,
    min_decryption_version: u32,
    #[serde(default)]
    min_available_version: u32,
    #[serde(default)]
    soft_deleted: bool,
    #[serde(default)]
    supports_encryption: bool,
    #[serde(default)]
    supports_decryption: bool,
    #[serde(default)]
    supports_signing: bool,
}

/// An export: one version of one key.
#[derive(Deserialize)]
struct Exported {
    name: String,
    r#type: String,
    keys: BTreeMap<u32, Secret>,
}

impl Transit {
    pub(crate) const fn new(mount: String) -> Self {
        Self { mount }
    }

    fn path(&self, reference: Reference, rest: &str) -> String {
        format!("{}{rest}", below(&self.mount, &[&"keys", &reference.id]))
    }

    pub(crate) async fn create(&self, asker: &Asker, spec: &KeySpec) -> Result<KeyRef, KmsError> {
        #[derive(Serialize)]
        struct Body {
            r#type: &'static str,
            exportable: bool,
        }
        let reference = self.unused(asker, spec).await?;
        let body = json::write(&Body { r#type: key_type(spec)?, exportable: true }, 0)?;
        let made = asker.call(&Call::post(self.path(reference, ""), body)).await;
        self.made(asker, reference, made).await
    }

    pub(crate) async fn register(&self, asker: &Asker, spec: &KeySpec, material: &KeyMaterial) -> Result<KeyRef, KmsError> {
        #[derive(Serialize)]
        struct Body<'a> {
            r#type: &'static str,
            ciphertext: &'a str,
            hash_function: &'static str,
            exportable: bool,
            allow_rotation: bool,
        }
        #[derive(Deserialize)]
        struct WrappingKey {
            public_key: String,
        }
        let (reference, r#type) = (self.unused(asker, spec).await?, key_type(spec)?);
        let answer = asker.call(&Call::get(below(&self.mount, &[&"wrapping_key"]))).await?;
        accepted(&answer)?;
        let WrappingKey { public_key } = json::data(&answer.body)?;
        let ciphertext = STANDARD.encode(wrap_for_import(&public_key, material)?);
        // Rotation is how a key is revoked here.
        let body = Body { r#type, ciphertext: &ciphertext, hash_function: "SHA256", exportable: true, allow_rotation: true };
        let made = asker.call(&Call::post(self.path(reference, "/import"), json::write(&body, ciphertext.len())?)).await;
        let key = self.made(asker, reference, made).await?;
        let found = self.fetch(asker, &key, spec).await?;
        let same = aws_lc_rs::constant_time::verify_slices_are_equal(found.expose(), material.expose()).is_ok();
        if same { Ok(key) } else { Err(EXISTS) }
    }

    /// A name that no key has: making a key that exists is no error in this engine, and gives the other key.
    async fn unused(&self, asker: &Asker, spec: &KeySpec) -> Result<Reference, KmsError> {
        let reference = Reference::for_new(spec);
        match self.told(asker, reference).await {
            Err(KmsError::KeyNotFound) => Ok(reference),
            Err(error) => Err(error),
            Ok(_) => Err(EXISTS),
        }
    }

    async fn made(&self, asker: &Asker, reference: Reference, answer: Result<Answer, KmsError>) -> Result<KeyRef, KmsError> {
        match answer {
            Ok(answer) => accepted(&answer)?,
            // The answer got lost. Nobody else makes a key under this name.
            Err(error) if error.connection_failed() => drop(self.told(asker, reference).await.map_err(|_| error)?),
            Err(error) => return Err(error),
        }
        reference.key_ref(VaultEngine::Transit)
    }

    async fn told(&self, asker: &Asker, reference: Reference) -> Result<Told, KmsError> {
        let answer = asker.call(&Call::get(self.path(reference, ""))).await?;
        if answer.not_found() {
            return Err(asker.why_absent(&answer, &self.mount, VaultEngine::Transit).await);
        }
        accepted(&answer)?;
        json::data(&answer.body).map_err(|_| OTHER_ENGINE)
    }

    pub(crate) async fn inspect(&self, asker: &Asker, key: &KeyRef) -> Result<KeyDescription, KmsError> {
        let reference = Reference::parse(VaultEngine::Transit, key)?;
        describe(key, reference, &self.told(asker, reference).await?)
    }

    /// The plain key, if the policy permits exporting it.
    pub(crate) async fn fetch(&self, asker: &Asker, key: &KeyRef, spec: &KeySpec) -> Result<Arc<KeyMaterial>, KmsError> {
        let reference = Reference::parse(VaultEngine::Transit, key)?;
        let purpose = if spec.algorithm() == Algorithm::Ec { "signing-key" } else { "encryption-key" };
        let path = below(&self.mount, &[&"export", &purpose, &reference.id, &reference.version]);
        let text = match self.export(asker, path, key, reference, spec).await {
            // It accepts who we are, and says no to this way out.
            Err(KmsError::Denied) => return Err(KmsError::KeyNotReleasable),
            text => text?,
        };
        let material = match spec.algorithm() {
            Algorithm::Aes => entry::decode(text.expose())?,
            Algorithm::Rsa | Algorithm::Ec => pkcs8(text.expose())?,
        };
        spec.check_material(&material)?;
        Ok(Arc::new(material))
    }

    /// Reads an export and checks that it is of the key asked for, and of nothing else.
    async fn export(&self, asker: &Asker, path: String, key: &KeyRef, reference: Reference, spec: &KeySpec) -> Result<Secret, KmsError> {
        let answer = match asker.call(&Call::get(path)).await {
            Ok(answer) if answer.succeeded() => answer,
            // A key that does not exist is an internal error to one of the two ways out.
            Ok(_) | Err(KmsError::Internal) => return Err(self.why_not(asker, key, reference, spec).await),
            Err(error) => return Err(error),
        };
        let Exported { name, r#type, mut keys } = json::data(&answer.body)?;
        let mismatch = |field| Err(KmsError::KeyMismatch { field });
        if name != reference.id.to_string() {
            return mismatch("unique identifier");
        }
        let Some((algorithm, length_bits)) = kind(&r#type) else { return mismatch("algorithm") };
        if algorithm != spec.algorithm() {
            return mismatch("algorithm");
        }
        if length_bits != spec.length_bits() {
            return mismatch("length");
        }
        match (keys.remove(&reference.version.get()), keys.is_empty()) {
            (Some(text), true) => Ok(text),
            _ => mismatch("version"),
        }
    }

    /// Why a key was not exported: asked for, because the server only says it in words.
    async fn why_not(&self, asker: &Asker, key: &KeyRef, reference: Reference, spec: &KeySpec) -> KmsError {
        let told = match self.told(asker, reference).await {
            Ok(told) => told,
            Err(error) => return error,
        };
        let found = match describe(key, reference, &told) {
            Ok(found) => found,
            Err(error) => return error,
        };
        match found.state {
            Some(KeyState::Deactivated) => KmsError::KeyDeactivated,
            Some(KeyState::Destroyed) => KmsError::KeyDestroyed,
            _ => match check_identity(key, spec, &found) {
                Err(error) => error,
                Ok(()) if !told.exportable => KmsError::KeyNotReleasable,
                Ok(()) => KmsError::Protocol("it refuses to export a key that it says is exportable"),
            },
        }
    }

    /// The key wrapped for a TD. In a task of its own: whoever gives up waiting must not leave the TD's key behind.
    pub(crate) async fn wrap(
        &self,
        asker: Asker,
        key: &KeyRef,
        spec: &KeySpec,
        td: &AttestedTd,
        limit: Duration,
    ) -> Result<KmsWrappedKey, KmsError> {
        let reference = Reference::parse(VaultEngine::Transit, key)?;
        let recipient = Recipient::new(&td.public_key_pem)?;
        let (engine, key, spec) = (self.clone(), key.clone(), spec.clone());
        let (sender, receiver) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let wrapped = timeout(limit, engine.wrap_for(&asker, &key, reference, &spec, &recipient).in_current_span()).await;
            // Nobody may be waiting any more; the rest is due all the same.
            let _ = sender.send(wrapped.unwrap_or(Err(KmsError::Timeout(Stage::Total))));
            if let Err(error) = timeout(limit, engine.forget(&asker, &recipient)).await.unwrap_or(Err(KmsError::Timeout(Stage::Total))) {
                tracing::warn!(name = recipient.name, error = error.label(), "the public key of a TD is left in the KMS: delete it there");
            }
        });
        receiver.await.unwrap_or(Err(KmsError::Internal))
    }

    async fn wrap_for(
        &self,
        asker: &Asker,
        key: &KeyRef,
        reference: Reference,
        spec: &KeySpec,
        recipient: &Recipient,
    ) -> Result<KmsWrappedKey, KmsError> {
        let body = json::write(&BTreeMap::from([("type", recipient.key_type), ("public_key", &recipient.public_key_pem)]), 0)?;
        accepted(&asker.call(&Call::post(self.recipient(recipient, "/import"), body)).await?)?;
        let path = below(&self.mount, &[&"byok-export", &recipient.name, &reference.id, &reference.version]);
        let text = self.export(asker, path, key, reference, spec).await?;
        let bytes = STANDARD.decode(text.expose()).map_err(|_| KmsError::Protocol("a wrapped key is not in base64"))?;
        // Behind the wrapped AES key: the key in units of 8 bytes, and one more for the check value.
        let longer = bytes.len().checked_sub(recipient.modulus_bytes);
        let fits = match spec.algorithm() {
            Algorithm::Aes => longer == Some(usize::from(spec.length_bits()).div_ceil(64) * 8 + 8),
            Algorithm::Rsa | Algorithm::Ec => longer.is_some_and(|longer| longer > 8 && longer % 8 == 0),
        };
        if fits { Ok(KmsWrappedKey::new(bytes)) } else { Err(KmsError::KeyMismatch { field: "length" }) }
    }

    fn recipient(&self, recipient: &Recipient, rest: &str) -> String {
        format!("{}{rest}", below(&self.mount, &[&"keys", &recipient.name]))
    }

    async fn forget(&self, asker: &Asker, recipient: &Recipient) -> Result<(), KmsError> {
        let body = json::write(&BTreeMap::from([("deletion_allowed", true)]), 0)?;
        let answer = asker.call(&Call::post(self.recipient(recipient, "/config"), body)).await?;
        if answer.status == 400 {
            return Ok(()); // it was never made
        }
        accepted(&answer)?;
        accepted(&asker.call(&Call::delete(self.recipient(recipient, ""))).await?)
    }

    /// Moves the line below which versions are no longer given out over this version; an operator can move it back.
    pub(crate) async fn revoke(&self, asker: &Asker, key: &KeyRef) -> Result<(), KmsError> {
        let reference = Reference::parse(VaultEngine::Transit, key)?;
        let told = self.told(asker, reference).await?;
        if describe(key, reference, &told)?.state != Some(KeyState::Active) {
            return Ok(());
        }
        let next = reference.version.get().saturating_add(1);
        if told.latest_version < next {
            let body = Zeroizing::new(b"{}".to_vec());
            accepted(&asker.call(&Call::post(self.path(reference, "/rotate"), body)).await?)?;
        }
        let body = json::write(&BTreeMap::from([("min_decryption_version", next)]), 0)?;
        accepted(&asker.call(&Call::post(self.path(reference, "/config"), body)).await?)
    }

    /// Removes the key, all its versions included: the engine cannot remove one.
    pub(crate) async fn destroy(&self, asker: &Asker, key: &KeyRef) -> Result<(), KmsError> {
        let reference = Reference::parse(VaultEngine::Transit, key)?;
        self.told(asker, reference).await?;
        let body = json::write(&BTreeMap::from([("deletion_allowed", true)]), 0)?;
        accepted(&asker.call(&Call::post(self.path(reference, "/config"), body)).await?)?;
        accepted(&asker.call(&Call::delete(self.path(reference, ""))).await?)
    }
}

const EXISTS: KmsError = KmsError::KeyMismatch { field: "name (the KMS has another key under it)" };

/// The TD's public key, and the name it has in the server for a moment.
struct Recipient {
    name: String,
    key_type: &'static str,
    modulus_bytes: usize,
    public_key_pem: String,
}

impl Recipient {
    fn new(public_key_pem: &str) -> Result<Self, KmsError> {
        let wrong = || configuration("wrap_for_td", "this engine wraps for RSA keys of 2048, 3072 and 4096 bits, and the TD has another");
        let key = Rsa::public_key_from_pem(public_key_pem.as_bytes()).map_err(|_| wrong())?;
        let modulus_bytes = usize::try_from(key.size()).map_err(|_| wrong())?;
        let key_type = match modulus_bytes {
            256 => "rsa-2048",
            384 => "rsa-3072",
            512 => "rsa-4096",
            _ => return Err(wrong()),
        };
        Ok(Self { name: format!("td-{}", Uuid::new_v4()), key_type, modulus_bytes, public_key_pem: public_key_pem.to_owned() })
    }
}

fn accepted(answer: &Answer) -> Result<(), KmsError> {
    match answer.status {
        200..=299 => Ok(()),
        404 => Err(NO_ENGINE),
        405 => Err(OTHER_ENGINE),
        _ => Err(KmsError::Protocol("it refused a field of the request")),
    }
}

fn key_type(spec: &KeySpec) -> Result<&'static str, KmsError> {
    let unsupported = |what: &str| Err(configuration("key length", what));
    match (spec.algorithm(), spec.curve(), spec.length_bits()) {
        (Algorithm::Aes, _, 128) => Ok("aes128-gcm96"),
        (Algorithm::Aes, _, 256) => Ok("aes256-gcm96"),
        (Algorithm::Aes, ..) => unsupported("the transit engine makes AES keys of 128 and 256 bits"),
        (_, Some(Curve::P256), _) => Ok("ecdsa-p256"),
        (_, Some(Curve::P384), _) => Ok("ecdsa-p384"),
        (_, Some(Curve::P521), _) => Ok("ecdsa-p521"),
        (_, None, 2048) => Ok("rsa-2048"),
        (_, None, 3072) => Ok("rsa-3072"),
        (_, None, 4096) => Ok("rsa-4096"),
        _ => unsupported("the transit engine makes RSA keys of 2048, 3072 and 4096 bits"),
    }
}

fn kind(key_type: &str) -> Option<(Algorithm, u16)> {
    Some(match key_type {
        "aes128-gcm96" => (Algorithm::Aes, 128),
        "aes256-gcm96" => (Algorithm::Aes, 256),
        "rsa-2048" => (Algorithm::Rsa, 2048),
        "rsa-3072" => (Algorithm::Rsa, 3072),
        "rsa-4096" => (Algorithm::Rsa, 4096),
        "ecdsa-p256" => (Algorithm::Ec, 256),
        "ecdsa-p384" => (Algorithm::Ec, 384),
        "ecdsa-p521" => (Algorithm::Ec, 521),
        _ => return None,
    })
}

fn describe(key: &KeyRef, reference: Reference, told: &Told) -> Result<KeyDescription, KmsError> {
    let version = reference.version.get();
    if version > told.latest_version {
        return Err(KmsError::KeyNotFound);
    }
    let state = if version < told.min_available_version {
        KeyState::Destroyed
    } else if told.soft_deleted || version < told.min_decryption_version {
        KeyState::Deactivated
    } else if told.keys.contains_key(&version) {
        KeyState::Active
    } else {
        return Err(KmsError::KeyNotFound);
    };
    let (algorithm, length_bits) = kind(&told.r#type).unzip();
    let usage = [
        (told.supports_encryption, Usage::ENCRYPT),
        (told.supports_decryption, Usage::DECRYPT),
        (told.supports_signing, Usage::SIGN),
        (told.exportable, Usage::EXPORT),
    ];
    let usage = usage.into_iter().filter(|(told, _)| *told).fold(Usage::from_bits(0), |all, (_, one)| all.with(one));
    Ok(KeyDescription { key: key.clone(), form: entry::form(algorithm), algorithm, length_bits, state: Some(state), usage: Some(usage) })
}

/// A private key as this engine exports it (PKCS#1, SEC1 or PKCS#8 in PEM) in the one form that we release.
fn pkcs8(pem: &str) -> Result<KeyMaterial, KmsError> {
    let der = PKey::private_key_from_pem(pem.as_bytes()).and_then(|key| key.private_key_to_pkcs8());
    let der = der.map(Zeroizing::new).map_err(|_| KmsError::Protocol("a private key is not in PEM"))?;
    KeyMaterial::new(der).map_err(|_| KmsError::KeyMismatch { field: "length" })
}
