//! The TD's end and the administrator's end: key pairs that open what the broker sent.

use std::fmt;

use aws_lc_rs::{
    aead::{Aad, Nonce},
    encoding::AsDer,
    key_wrap::{AES_256, AesKek, KeyWrapPadded},
    rsa::{KeySize, OAEP_SHA256_MGF1SHA256, OAEP_SHA384_MGF1SHA384, OaepAlgorithm, OaepPrivateDecryptingKey, PrivateDecryptingKey},
};
use zeroize::Zeroizing;

use crate::{
    layout::{self, TAG_BYTES},
    material::{KEY_MATERIAL_BYTES_MAX, KeyMaterial, KeyMaterialError},
    public::{read_spki, write_spki},
    wrap::{KmsWrappedKey, SWK_BYTES, WrappedKey, cipher},
};

/// RFC 5649: an initial value of eight bytes before the key, which is padded to a multiple of as many.
const KWP_OVERHEAD_BYTES: usize = 8;

/// Why there is no key pair.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyPairError {
    /// Not one of 2048, 3072, 4096 and 8192.
    #[error("RSA keys of {bits} bits are not made: choose 2048, 3072, 4096 or 8192")]
    Size {
        /// Bits asked for.
        bits: usize,
    },
    /// The cryptographic library failed.
    #[error("RSA key generation failed inside the cryptographic library")]
    Crypto,
}

/// Why a wrapped key does not open. Nothing of the plaintext is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnwrapError {
    /// Too short to hold header, nonce, tag and one byte of key, or over the bound.
    #[error("wrapped_key has {bytes} bytes: header, nonce, tag and 1 to 16384 bytes of key are needed")]
    Truncated {
        /// Bytes found.
        bytes: usize,
    },
    /// A length in the header is not what it must be.
    #[error("wrapped_key announces {announced} bytes of {field}, {wanted} are there or allowed")]
    Header {
        /// Which length.
        field: &'static str,
        /// The header's word.
        announced: usize,
        /// What it must be.
        wanted: usize,
    },
    /// `wrapped_swk` was made for another public key, or altered.
    #[error("wrapped_swk does not open with this private key: request the key again with a token for this key pair")]
    NotForThisKey,
    /// `wrapped_swk` opened, but not to 32 bytes.
    #[error("the symmetric wrapping key has {bytes} bytes instead of 32")]
    SwkLength {
        /// Bytes found.
        bytes: usize,
    },
    /// Not as long as an RSA block and AES-KWP of 1 to 16384 bytes are.
    #[error("kms_wrapped_key has {bytes} bytes: an RSA block and at least 16 bytes, in eights, are needed")]
    KmsLength {
        /// Bytes found.
        bytes: usize,
    },
    /// The RSA block of `kms_wrapped_key` was made for another public key, or altered.
    #[error("kms_wrapped_key does not open with this private key: request the key again with a token for this key pair")]
    KmsNotForThisKey,
    /// The check of AES-KWP failed.
    #[error("kms_wrapped_key was altered behind its RSA block")]
    KmsAltered,
    /// Authentication of `wrapped_key` failed.
    #[error("wrapped_key was altered, or belongs to another wrapped_swk")]
    Altered,
    /// What was inside is no key.
    #[error(transparent)]
    Material(#[from] KeyMaterialError),
}

/// A TD's RSA-3072 key pair: made inside the TD, used for one attestation, dropped after unwrapping.
pub struct TdKeyPair {
    private: OaepPrivateDecryptingKey,
    modulus: Vec<u8>,
    exponent: u32,
}

impl TdKeyPair {
    /// Makes a fresh pair. Takes 0.25 s, at times a second, of CPU: run it on a blocking thread and keep a spare ready.
    pub fn generate() -> Result<Self, KeyPairError> {
        let private = PrivateDecryptingKey::generate(KeySize::Rsa3072).map_err(|_| KeyPairError::Crypto)?;
        let (modulus, exponent) = public_parts(&private)?;
        let private = OaepPrivateDecryptingKey::new(private).map_err(|_| KeyPairError::Crypto)?;
        Ok(Self { private, modulus, exponent })
    }

    /// The public half as the TD binds it into its quote, 388 bytes: exponent as little-endian u32, modulus big-endian.
    /// Source: Intel Key Broker Service, TDX `attester_held_data`.
    pub fn held_data(&self) -> Vec<u8> {
        let mut held_data = Vec::with_capacity(4 + self.modulus.len());
        held_data.extend_from_slice(&self.exponent.to_le_bytes());
        held_data.extend_from_slice(&self.modulus);
        held_data
    }

    /// Opens what a broker wrapped for this pair; the header is checked before anything is decrypted. 0.7 ms of CPU.
    pub fn unwrap_key(&self, wrapped: &WrappedKey) -> Result<KeyMaterial, UnwrapError> {
        let frame = layout::decode(wrapped.wrapped_key())?;
        let swk = open(&self.private, &OAEP_SHA256_MGF1SHA256, wrapped.wrapped_swk()).ok_or(UnwrapError::NotForThisKey)?;
        if swk.len() != SWK_BYTES {
            return Err(UnwrapError::SwkLength { bytes: swk.len() });
        }
        let cipher = cipher(&swk).ok_or(UnwrapError::Altered)?;
        let mut key = Zeroizing::new(frame.sealed.to_vec());
        cipher.open_in_place(Nonce::assume_unique_for_key(frame.nonce), Aad::empty(), &mut key).map_err(|_| UnwrapError::Altered)?;
        key.truncate(frame.sealed.len() - TAG_BYTES);
        Ok(KeyMaterial::new(key)?)
    }

    /// Opens what a KMS wrapped for this pair by itself. 0.7 ms of CPU.
    pub fn unwrap_from_kms(&self, wrapped: &KmsWrappedKey) -> Result<KeyMaterial, UnwrapError> {
        let bytes = wrapped.as_bytes().len();
        let wrong_length = UnwrapError::KmsLength { bytes };
        let Some((block, key)) = wrapped.as_bytes().split_at_checked(self.private.key_size_bytes()) else { return Err(wrong_length) };
        let longest = KEY_MATERIAL_BYTES_MAX + KWP_OVERHEAD_BYTES;
        if !key.len().is_multiple_of(KWP_OVERHEAD_BYTES) || !(2 * KWP_OVERHEAD_BYTES..=longest).contains(&key.len()) {
            return Err(wrong_length);
        }
        let kek = open(&self.private, &OAEP_SHA256_MGF1SHA256, block).ok_or(UnwrapError::KmsNotForThisKey)?;
        if kek.len() != SWK_BYTES {
            return Err(UnwrapError::SwkLength { bytes: kek.len() });
        }
        Ok(KeyMaterial::new(unwrap_kwp(&kek, key).ok_or(UnwrapError::KmsAltered)?)?)
    }
}

/// AES-KWP (RFC 5649).
fn unwrap_kwp(kek: &[u8], wrapped: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let kek = AesKek::new(&AES_256, kek).ok()?;
    let mut key = Zeroizing::new(vec![0; wrapped.len()]);
    let length = kek.unwrap_with_padding(wrapped, &mut key).ok()?.len();
    key.truncate(length);
    Some(key)
}

/// An administrator's key pair: receives an exported key, to encrypt a model with.
pub struct ExportKeyPair {
    private: OaepPrivateDecryptingKey,
    public_der: Vec<u8>,
}

impl ExportKeyPair {
    /// Makes a pair of 2048, 3072, 4096 or 8192 bits; blocks for a while.
    pub fn generate(bits: usize) -> Result<Self, KeyPairError> {
        let size = match bits {
            2048 => KeySize::Rsa2048,
            3072 => KeySize::Rsa3072,
            4096 => KeySize::Rsa4096,
            8192 => KeySize::Rsa8192,
            bits => return Err(KeyPairError::Size { bits }),
        };
        let private = PrivateDecryptingKey::generate(size).map_err(|_| KeyPairError::Crypto)?;
        let (modulus, exponent) = public_parts(&private)?;
        let public_der = write_spki(&modulus, exponent).map_err(|_| KeyPairError::Crypto)?;
        let private = OaepPrivateDecryptingKey::new(private).map_err(|_| KeyPairError::Crypto)?;
        Ok(Self { private, public_der })
    }

    /// The public half as PEM, label `PUBLIC KEY`.
    pub fn public_pem(&self) -> String {
        pem::encode_config(
            &pem::Pem::new("PUBLIC KEY", self.public_der.clone()),
            pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
        )
    }

    /// Opens an exported key.
    pub fn open(&self, exported: &[u8]) -> Result<KeyMaterial, UnwrapError> {
        let key = open(&self.private, &OAEP_SHA384_MGF1SHA384, exported).ok_or(UnwrapError::NotForThisKey)?;
        Ok(KeyMaterial::new(key)?)
    }
}

fn public_parts(private: &PrivateDecryptingKey) -> Result<(Vec<u8>, u32), KeyPairError> {
    let der = private.public_key().as_der().map_err(|_| KeyPairError::Crypto)?;
    read_spki(der.as_ref()).map_err(|_| KeyPairError::Crypto)
}

/// One opaque failure: AWS-LC gives no padding detail away, and neither does this.
fn open(private: &OaepPrivateDecryptingKey, algorithm: &'static OaepAlgorithm, ciphertext: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    if ciphertext.len() != private.key_size_bytes() {
        return None;
    }
    let mut plaintext = Zeroizing::new(vec![0; private.min_output_size()]);
    let length = private.decrypt(algorithm, ciphertext, &mut plaintext, None).ok()?.len();
    plaintext.truncate(length);
    Some(plaintext)
}

impl fmt::Debug for TdKeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TdKeyPair(RSA-3072, redacted)")
    }
}
impl fmt::Debug for ExportKeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExportKeyPair(RSA-{}, redacted)", self.private.key_size_bits())
    }
}
