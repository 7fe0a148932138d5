//! Key material and the SWK: bytes that are wiped, never printed and never compared.

use std::fmt;

use zeroize::Zeroizing;

/// The longest key this crate carries: an RSA-8192 private key in PKCS#8 has some 4.7 kB.
pub const KEY_MATERIAL_BYTES_MAX: usize = 16 * 1024;

/// Why bytes are no key material.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyMaterialError {
    /// Empty or over [`KEY_MATERIAL_BYTES_MAX`].
    #[error("key material has {bytes} bytes: 1 to {KEY_MATERIAL_BYTES_MAX} are allowed")]
    Length {
        /// Bytes found.
        bytes: usize,
    },
    /// The operating system gave no random bytes.
    #[error("no random bytes from the operating system")]
    Random,
}

/// The bytes of a key: never empty, wiped when dropped, redacted in `Debug`, without `Clone` and `PartialEq`.
pub struct KeyMaterial(Zeroizing<Vec<u8>>);

impl KeyMaterial {
    /// Takes the bytes. An empty key is refused: a broker that releases one has lost a key somewhere.
    pub fn new(bytes: impl Into<Zeroizing<Vec<u8>>>) -> Result<Self, KeyMaterialError> {
        let bytes = bytes.into();
        match bytes.len() {
            1..=KEY_MATERIAL_BYTES_MAX => Ok(Self(bytes)),
            bytes => Err(KeyMaterialError::Length { bytes }),
        }
    }

    /// Fresh random bytes, for a new symmetric key.
    pub fn random(bytes: usize) -> Result<Self, KeyMaterialError> {
        if bytes > KEY_MATERIAL_BYTES_MAX {
            return Err(KeyMaterialError::Length { bytes });
        }
        let mut material = Zeroizing::new(vec![0; bytes]);
        aws_lc_rs::rand::fill(&mut material).map_err(|_| KeyMaterialError::Random)?;
        Self::new(material)
    }

    /// The bytes. Every use is a place where the key can leak: keep it inside one expression.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Length in bytes; never 0.
    #[expect(clippy::len_without_is_empty, reason = "key material is never empty: the constructor refuses it")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Length in bits.
    pub fn bits(&self) -> usize {
        self.0.len() * 8
    }
}

impl fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyMaterial({} bytes, redacted)", self.0.len())
    }
}
