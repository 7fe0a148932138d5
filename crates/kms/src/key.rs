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
    /// AES: the material is the key itself.
    Aes,
    /// RSA: the material is the private key, PKCS#8 DER.
    Rsa,
    /// Elliptic curve: the material is the private key, PKCS#8 DER.
    Ec,
}

impl Algorithm {
    pub(crate) const fn code(self) -> keyferry_kmip::Algorithm {
        match self {
            Self::Aes => keyferry_kmip::Algorithm::Aes,
            Self::Rsa => keyferry_kmip::Algorithm::Rsa,
            Self::Ec => keyferry_kmip::Algorithm::Ec,
        }
    }
}

/// The curve of an elliptic curve key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    /// secp256r1, also called prime256v1 and P-256.
    P256,
    /// secp384r1, P-384.
    P384,
    /// secp521r1, P-521.
    P521,
}

impl Curve {
    /// Reads `secp256r1`, `prime256v1` (the same curve), `secp384r1` or `secp521r1`.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "secp256r1" | "prime256v1" => Self::P256,
            "secp384r1" => Self::P384,
            "secp521r1" => Self::P521,
            _ => return None,
        })
    }
    /// `secp256r1`, `secp384r1` or `secp521r1`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::P256 => "secp256r1",
            Self::P384 => "secp384r1",
            Self::P521 => "secp521r1",
        }
    }
    /// 256, 384 or 521: the length of a key on it.
    pub const fn bits(self) -> u16 {
        match self {
            Self::P256 => 256,
            Self::P384 => 384,
            Self::P521 => 521,
        }
    }
}

/// A key as the broker recorded it, or wants it made.
#[derive(Clone, Debug)]
pub struct KeySpec {
    kind: Kind,
    name: Option<ObjectName>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Aes(u16),
    Rsa(u16),
    Ec(Curve),
}

impl KeySpec {
    /// An AES key of 128, 192 or 256 bits.
    pub fn aes(length_bits: u16) -> Result<Self, KmsError> {
        match length_bits {
            128 | 192 | 256 => Ok(Self { kind: Kind::Aes(length_bits), name: None }),
            _ => Err(KmsError::Configuration { field: "key length", what: "AES keys have 128, 192 or 256 bits".to_owned() }),
        }
    }
    /// An RSA key pair of 2048, 3072, 4096 or 7680 bits.
    pub fn rsa(length_bits: u16) -> Result<Self, KmsError> {
        match length_bits {
            2048 | 3072 | 4096 | 7680 => Ok(Self { kind: Kind::Rsa(length_bits), name: None }),
            _ => Err(KmsError::Configuration { field: "key length", what: "RSA keys have 2048, 3072, 4096 or 7680 bits".to_owned() }),
        }
    }
    /// A key pair on an elliptic curve.
    pub const fn ec(curve: Curve) -> Self {
        Self { kind: Kind::Ec(curve), name: None }
    }
    /// With a name to find it by when an answer got lost: use the key record's id. 1 to 240 bytes, no control characters.
    pub fn named(mut self, name: &str) -> Result<Self, KmsError> {
        let wrong = |what| KmsError::Configuration { field: "key name", what };
        if name.len() > NAME_BYTES_MAX {
            return Err(wrong(format!("has {} bytes: 1 to {NAME_BYTES_MAX} are allowed", name.len())));
        }
        self.name = Some(ObjectName::parse(name).map_err(|error| wrong(error.to_string()))?);
        Ok(self)
    }
    /// Algorithm.
    pub const fn algorithm(&self) -> Algorithm {
        match self.kind {
            Kind::Aes(_) => Algorithm::Aes,
            Kind::Rsa(_) => Algorithm::Rsa,
            Kind::Ec(_) => Algorithm::Ec,
        }
    }
    /// Length in bits: of the key, of the modulus, or of the curve.
    pub const fn length_bits(&self) -> u16 {
        match self.kind {
            Kind::Aes(bits) | Kind::Rsa(bits) => bits,
            Kind::Ec(curve) => curve.bits(),
        }
    }
    /// The same in whole bytes: of an AES key, the length of its material.
    pub const fn length_bytes(&self) -> usize {
        (self.length_bits() as usize).div_ceil(8)
    }
    /// The curve of an elliptic curve key.
    pub const fn curve(&self) -> Option<Curve> {
        match self.kind {
            Kind::Ec(curve) => Some(curve),
            Kind::Aes(_) | Kind::Rsa(_) => None,
        }
    }
    /// What kind of object holds the material.
    pub const fn form(&self) -> KeyForm {
        match self.kind {
            Kind::Aes(_) => KeyForm::Symmetric,
            Kind::Rsa(_) | Kind::Ec(_) => KeyForm::Private,
        }
    }
    pub(crate) const fn name(&self) -> Option<&ObjectName> {
        self.name.as_ref()
    }
    /// What a key of ours may be used for. AES: encrypting a model and decrypting it again. The private half of a pair:
    /// decryption and signatures with RSA, signatures and key agreement on a curve.
    pub const fn usage(&self) -> Usage {
        match self.kind {
            Kind::Aes(_) => Usage::ENCRYPT.with(Usage::DECRYPT),
            Kind::Rsa(_) => Usage::DECRYPT.with(Usage::SIGN),
            Kind::Ec(_) => Usage::SIGN.with(Usage::KEY_AGREEMENT),
        }
    }
}

/// Names of our keys: some room is left for the name of a public half.
const NAME_BYTES_MAX: usize = 240;

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

/// What kind of object a KMS holds under a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyForm {
    /// A symmetric key.
    Symmetric,
    /// The private half of a key pair.
    Private,
    /// The public half: never released.
    Public,
    /// Anything else, or not told.
    Other,
}

/// What a KMS says about a key, without its bytes. Whatever it does not say is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyDescription {
    /// Its reference, as the KMS gave it back.
    pub key: KeyRef,
    /// What kind of object it is.
    pub form: KeyForm,
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
