//! The broker's end: wrap for a TD, export to an administrator.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::{
    layout::{self, NONCE_BYTES},
    material::KeyMaterial,
    public::{ExportPublicKey, HeldPublicKey},
};

/// Length of an SWK.
pub(crate) const SWK_BYTES: usize = 32;

/// Why nothing was wrapped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WrapError {
    /// The key is longer than OAEP-SHA384 takes under the given public key.
    #[error("the key has {bytes} bytes and the public key takes {max}: use a longer RSA key, or a symmetric key")]
    TooLong {
        /// Bytes of the key.
        bytes: usize,
        /// Bytes that fit.
        max: usize,
    },
    /// The cryptographic library failed.
    #[error("wrapping failed inside the cryptographic library")]
    Crypto,
}

/// A key on its way to a TD: opens only with the private half of the key it was wrapped for.
#[derive(Clone, PartialEq, Eq)]
pub struct WrappedKey {
    wrapped_key: Vec<u8>,
    wrapped_swk: Vec<u8>,
}

impl WrappedKey {
    /// From the two byte strings as received; they are judged by [`crate::TdKeyPair::unwrap_key`].
    pub fn from_parts(wrapped_key: Vec<u8>, wrapped_swk: Vec<u8>) -> Self {
        Self { wrapped_key, wrapped_swk }
    }
    /// Three little-endian u32 (12, 16, ciphertext and tag length), nonce, ciphertext, tag. 72 bytes for a 32-byte key.
    pub fn wrapped_key(&self) -> &[u8] {
        &self.wrapped_key
    }
    /// RSA-OAEP-SHA256 of the SWK; as long as the RSA modulus.
    pub fn wrapped_swk(&self) -> &[u8] {
        &self.wrapped_swk
    }
    /// Both byte strings: `(wrapped_key, wrapped_swk)`.
    pub fn into_parts(self) -> (Vec<u8>, Vec<u8>) {
        (self.wrapped_key, self.wrapped_swk)
    }
}

/// A key that a KMS wrapped for a TD by itself: RSA-OAEP (SHA-256 for hash and MGF1, empty label) of a fresh 32-byte AES
/// key, as long as the RSA modulus; then AES-KWP (RFC 5649) of the key. The form of PKCS#11's `CKM_RSA_AES_KEY_WRAP`.
#[derive(Clone, PartialEq, Eq)]
pub struct KmsWrappedKey(Vec<u8>);

impl KmsWrappedKey {
    /// From the byte string as received; it is judged by whoever unwraps it.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
    /// The byte string.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
    /// The byte string.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

impl fmt::Debug for KmsWrappedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KmsWrappedKey({} bytes)", self.0.len())
    }
}

impl fmt::Debug for WrappedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WrappedKey({} and {} bytes, redacted)", self.wrapped_key.len(), self.wrapped_swk.len())
    }
}

/// The symmetric wrapping key: made for one release, consumed by it.
struct Swk(Zeroizing<[u8; SWK_BYTES]>);

impl Swk {
    fn generate() -> Result<Self, WrapError> {
        let mut bytes = Zeroizing::new([0; SWK_BYTES]);
        aws_lc_rs::rand::fill(bytes.as_mut_slice()).map_err(|_| WrapError::Crypto)?;
        Ok(Self(bytes))
    }

    fn seal(self, key: &KeyMaterial, recipient: &HeldPublicKey) -> Result<WrappedKey, WrapError> {
        let wrapped_swk = recipient.encrypt_swk(self.0.as_slice()).ok_or(WrapError::Crypto)?;
        let mut nonce = [0; NONCE_BYTES];
        aws_lc_rs::rand::fill(&mut nonce).map_err(|_| WrapError::Crypto)?;
        let cipher = cipher(self.0.as_slice()).ok_or(WrapError::Crypto)?;
        let mut sealed = Zeroizing::new(Vec::with_capacity(key.len() + layout::TAG_BYTES));
        sealed.extend_from_slice(key.expose());
        cipher.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut *sealed).map_err(|_| WrapError::Crypto)?;
        let wrapped_key = layout::encode(nonce, &sealed).ok_or(WrapError::Crypto)?;
        Ok(WrappedKey { wrapped_key, wrapped_swk })
    }
}

/// AES-256-GCM under an SWK.
pub(crate) fn cipher(swk: &[u8]) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, swk).ok().map(LessSafeKey::new)
}

/// Wraps `key` for `recipient` under a fresh SWK. Two calls never give the same bytes.
pub fn wrap(key: &KeyMaterial, recipient: &HeldPublicKey) -> Result<WrappedKey, WrapError> {
    Swk::generate()?.seal(key, recipient)
}

/// The key itself under an administrator's public key: RSA-OAEP, SHA-384 for hash and MGF1, empty label.
pub fn export(key: &KeyMaterial, recipient: &ExportPublicKey) -> Result<Vec<u8>, WrapError> {
    let max = recipient.plaintext_bytes_max();
    if key.len() > max {
        return Err(WrapError::TooLong { bytes: key.len(), max });
    }
    recipient.encrypt(key.expose()).ok_or(WrapError::Crypto)
}
