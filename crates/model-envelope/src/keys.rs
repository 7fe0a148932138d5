//! Everything derived from the released key: one HKDF extraction per file, three independent expansions.

use aws_lc_rs::{
    aead::{AES_256_GCM, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    constant_time::verify_slices_are_equal,
    hkdf::{HKDF_SHA256, KeyType, Prk, Salt},
};
use keyferry_key_wrap::KeyMaterial;
use zeroize::Zeroizing;

use crate::EnvelopeError;

/// Length of the salt, of the commitment and of the header tag, in bytes.
pub(crate) const SALT_BYTES: usize = 32;
/// Length of the released key KFM1 is sealed with, in bytes.
const KEY_BYTES: usize = 32;
const PREFIX_BYTES: usize = 7;

const COMMITMENT: &[u8] = b"keyferry KFM1 v1 key commitment";
const HEADER_TAG: &[u8] = b"keyferry KFM1 v1 header tag";
const CHUNKS: &[u8] = b"keyferry KFM1 v1 chunk key and nonce prefix";

/// SHA-256 over prelude, salt and header: what every chunk is bound to.
pub(crate) type HeaderHash = [u8; 32];

/// The pseudo-random key of one file: released key and salt, nothing else yet.
pub(crate) struct FileKey(Prk);

impl FileKey {
    pub(crate) fn derive(key: &KeyMaterial, salt: &[u8; SALT_BYTES]) -> Result<Self, EnvelopeError> {
        if key.len() != KEY_BYTES {
            return Err(EnvelopeError::KeyLength { bytes: key.len(), wanted: "32" });
        }
        Ok(Self(Salt::new(HKDF_SHA256, salt).extract(key.expose())))
    }

    /// Commits to key and salt: AES-GCM alone lets one ciphertext open under two keys.
    pub(crate) fn commitment(&self) -> Result<[u8; 32], EnvelopeError> {
        self.expand::<32>(&[COMMITMENT]).map(|bytes| *bytes)
    }

    /// Authenticates the header, so that a changed header is named as such before chunk 0.
    pub(crate) fn header_tag(&self, header: &HeaderHash) -> Result<[u8; 32], EnvelopeError> {
        self.expand::<32>(&[HEADER_TAG, header]).map(|bytes| *bytes)
    }

    /// The chunk cipher: its key depends on the header too.
    pub(crate) fn chunks(&self, header: &HeaderHash) -> Result<ChunkCipher, EnvelopeError> {
        let bytes = self.expand::<{ KEY_BYTES + PREFIX_BYTES }>(&[CHUNKS, header])?;
        let (key, prefix) = bytes.split_at(KEY_BYTES);
        let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| EnvelopeError::Crypto)?;
        let mut nonce_prefix = [0; PREFIX_BYTES];
        nonce_prefix.copy_from_slice(prefix);
        Ok(ChunkCipher { key: LessSafeKey::new(key), nonce_prefix })
    }

    fn expand<const N: usize>(&self, info: &[&[u8]]) -> Result<Zeroizing<[u8; N]>, EnvelopeError> {
        let mut bytes = Zeroizing::new([0; N]);
        let okm = self.0.expand(info, Length(N)).map_err(|_| EnvelopeError::Crypto)?;
        okm.fill(bytes.as_mut_slice()).map_err(|_| EnvelopeError::Crypto)?;
        Ok(bytes)
    }
}

/// Compares in constant time.
pub(crate) fn equal(a: &[u8], b: &[u8]) -> bool {
    verify_slices_are_equal(a, b).is_ok()
}

/// AES-256-GCM in the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizar 2015): nonce = prefix, counter, last flag.
pub(crate) struct ChunkCipher {
    pub(crate) key: LessSafeKey,
    nonce_prefix: [u8; PREFIX_BYTES],
}

impl ChunkCipher {
    /// The counter ends reordering and duplication, the flag ends truncation and extension.
    pub(crate) fn nonce(&self, chunk: u32, last: bool) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[..PREFIX_BYTES].copy_from_slice(&self.nonce_prefix);
        nonce[PREFIX_BYTES..NONCE_LEN - 1].copy_from_slice(&chunk.to_be_bytes());
        nonce[NONCE_LEN - 1] = u8::from(last);
        Nonce::assume_unique_for_key(nonce)
    }
}

struct Length(usize);
impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}
