//! Keys that sign documents: Ed25519, or ECDSA with P-256 and SHA-256.

use std::fmt;

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair, UnparsedPublicKey,
        VerificationAlgorithm,
    },
};
use sha2::{Digest, Sha256};

/// What stands before the 32 bytes of an Ed25519 key in its SubjectPublicKeyInfo (RFC 8410).
const ED25519_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// What stands before the 65 bytes of an uncompressed P-256 point in its SubjectPublicKeyInfo (RFC 5480).
const P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01,
    0x07, 0x03, 0x42, 0x00,
];

/// Why there is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not PEM, or PEM of something else.
    #[error("not a PEM file with one `{0}`")]
    Pem(&'static str),
    /// Another kind of key.
    #[error("neither an Ed25519 key nor a P-256 key")]
    Kind,
    /// The cryptographic library failed.
    #[error("the cryptographic library could not sign")]
    Sign,
}

/// Whose signatures are believed.
#[derive(Clone, PartialEq, Eq)]
pub struct VerificationKey {
    kind: Kind,
    point: Vec<u8>,
    id: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ed25519,
    P256,
}

impl fmt::Debug for VerificationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerificationKey({})", self.id)
    }
}

impl VerificationKey {
    /// Reads a `PUBLIC KEY` in PEM.
    pub fn from_pem(text: &[u8]) -> Result<Self, KeyError> {
        let parsed = pem::parse(text).ok().filter(|parsed| parsed.tag() == "PUBLIC KEY").ok_or(KeyError::Pem("PUBLIC KEY"))?;
        let der = parsed.contents();
        let id = hex::encode(Sha256::digest(der));
        let of = |kind, prefix: &[u8], length: usize| {
            let point = der.strip_prefix(prefix).filter(|point| point.len() == length)?;
            Some(Self { kind, point: point.to_vec(), id: id.clone() })
        };
        of(Kind::Ed25519, &ED25519_PREFIX, 32).or_else(|| of(Kind::P256, &P256_PREFIX, 65)).ok_or(KeyError::Kind)
    }

    /// SHA-256 of its SubjectPublicKeyInfo, in hex: the `keyid` of our signatures.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &'static dyn VerificationAlgorithm = match self.kind {
            Kind::Ed25519 => &ED25519,
            Kind::P256 => &ECDSA_P256_SHA256_ASN1,
        };
        UnparsedPublicKey::new(algorithm, &self.point).verify(message, signature).is_ok()
    }
}

/// A key that signs. Its `Debug` shows the public half's id.
pub struct Signer {
    pair: Pair,
    id: String,
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({}, redacted)", self.id)
    }
}

impl Signer {
    /// Reads a `PRIVATE KEY` (PKCS#8) in PEM.
    pub fn from_pem(text: &[u8]) -> Result<Self, KeyError> {
        let parsed = pem::parse(text).ok().filter(|parsed| parsed.tag() == "PRIVATE KEY").ok_or(KeyError::Pem("PRIVATE KEY"))?;
        let der = parsed.contents();
        let (pair, spki) = if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
            let spki = [&ED25519_PREFIX[..], pair.public_key().as_ref()].concat();
            (Pair::Ed25519(pair), spki)
        } else {
            let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der).map_err(|_| KeyError::Kind)?;
            let spki = [&P256_PREFIX[..], pair.public_key().as_ref()].concat();
            (Pair::P256(pair), spki)
        };
        Ok(Self { pair, id: hex::encode(Sha256::digest(spki)) })
    }

    /// As [`VerificationKey::id`].
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        match &self.pair {
            Pair::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
            Pair::P256(pair) => {
                pair.sign(&SystemRandom::new(), message).map(|signature| signature.as_ref().to_vec()).map_err(|_| KeyError::Sign)
            }
        }
    }
}
