//! What a key is, for every back end.

use std::{fmt, sync::Arc};

use keyferry_key_wrap::{KeyMaterial, KmsWrappedKey};
pub use keyferry_kmip::UsageMask as Usage;
use keyferry_kmip::{ObjectId, ObjectName};
use zeroize::Zeroizing;

use crate::KmsError;

/// A key's name in its KMS: chosen by the KMS, 1 to 255 bytes, no control characters. Never empty: servers take an empty
/// one to mean "the object created last, by anyone".
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyRef(ObjectId);

impl KeyRef {
    /// Parses and keeps the text.
    pub fn parse(text: &str) -> Result<Self, KmsError> {
        ObjectId::parse(text).map(Self).map_err(|_| KmsError::Reference("1 to 255 bytes without control characters are allowed"))
    }
    /// The text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
    pub(crate) const fn object_id(&self) -> &ObjectId {
        &self.0
    }
}

impl From<ObjectId> for KeyRef {
    fn from(id: ObjectId) -> Self {
        Self(id)
    }
}

impl fmt::Debug for KeyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRef({})", self.as_str())
    }
}

/// A key's algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// AES.
    Aes,
}

impl Algorithm {
    pub(crate) const fn kmip(self) -> keyferry_kmip::Algorithm {
        match self {
            Self::Aes => keyferry_kmip::Algorithm::Aes,
        }
    }
}

/// A key as the broker recorded it, or wants it made.
#[derive(Clone, Debug)]
pub struct KeySpec {
    algorithm: Algorithm,
    length_bits: u16,
    name: Option<ObjectName>,
}

impl KeySpec {
    /// An AES key of 128, 192 or 256 bits.
    pub fn aes(length_bits: u16) -> Result<Self, KmsError> {
        match length_bits {
            128 | 192 | 256 => Ok(Self { algorithm: Algorithm::Aes, length_bits, name: None }),
            _ => Err(KmsError::Configuration { field: "key length", what: "AES keys have 128, 192 or 256 bits".to_owned() }),
        }
    }
    /// With a name to find it by when an answer got lost: use the key record's id. 1 to 255 bytes, no control characters.
    pub fn named(mut self, name: &str) -> Result<Self, KmsError> {
        let name = ObjectName::parse(name).map_err(|error| KmsError::Configuration { field: "key name", what: error.to_string() })?;
        self.name = Some(name);
        Ok(self)
    }
    /// Algorithm.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
    /// Length in bits.
    pub const fn length_bits(&self) -> u16 {
        self.length_bits
    }
    /// Length in bytes.
    pub fn length_bytes(&self) -> usize {
        usize::from(self.length_bits / 8)
    }
    pub(crate) const fn name(&self) -> Option<&ObjectName> {
        self.name.as_ref()
    }
    /// What a key of ours may be used for: encrypting a model and decrypting it again.
    pub const fn usage(&self) -> Usage {
        Usage::ENCRYPT.with(Usage::DECRYPT)
    }
}

/// Where a key is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// Made, not yet in use.
    PreActive,
    /// In use.
    Active,
    /// No longer to be used.
    Deactivated,
    /// Known to have leaked.
    Compromised,
    /// Gone.
    Destroyed,
}

/// What a KMS says about a key, without its bytes. Whatever it does not say is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyDescription {
    /// Its reference, as the KMS gave it back.
    pub key: KeyRef,
    /// Whether it is a symmetric key.
    pub symmetric: bool,
    /// Its algorithm; `None` also for one we do not release.
    pub algorithm: Option<Algorithm>,
    /// Length in bits.
    pub length_bits: Option<u16>,
    /// State.
    pub state: Option<KeyState>,
    /// What it may be used for.
    pub usage: Option<Usage>,
}

/// Why a key's use ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// Another took its place, or it is no longer needed.
    Retired,
    /// It leaked.
    Compromised,
}

/// The TD that a key is released to: for back ends that judge or wrap by themselves.
pub struct AttestedTd {
    /// The attestation token, compact: a bearer credential.
    pub token: Zeroizing<String>,
    /// The RSA public key that the TD had quoted: PEM, label `PUBLIC KEY` (SPKI).
    pub public_key_pem: String,
}

impl fmt::Debug for AttestedTd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AttestedTd(redacted)")
    }
}

/// A key on its way to a TD.
#[derive(Clone, Debug)]
pub enum FetchedKey {
    /// Plain bytes, to be wrapped by the broker.
    Material(Arc<KeyMaterial>),
    /// Wrapped for the TD by the KMS: the broker never saw the bytes, and there is nothing to take a fingerprint of.
    WrappedForTd(KmsWrappedKey),
}
