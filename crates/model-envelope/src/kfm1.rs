//! The KFM1 container: layout, checks that need no key, and opening.
//!
//! ```text
//! offset  bytes  prelude
//!      0      4  magic "KFM1"
//!      4      1  version, 1
//!      5      1  suite, 1 = AES-256-GCM in STREAM, HKDF-SHA256
//!      6      1  log2 of the chunk size, 16 to 24
//!      7      1  reserved, 0
//!      8      4  header length, u32 big-endian, at most 65536
//!     12     32  salt, random
//!     44     32  key commitment   = HKDF-Expand(PRK, "keyferry KFM1 v1 key commitment", 32)
//!     76     32  header tag       = HKDF-Expand(PRK, "keyferry KFM1 v1 header tag" || H, 32)
//!    108      n  header, protobuf
//!  108+n         chunks: ciphertext and 16-byte tag each; all but the last hold exactly one chunk size
//! ```
//! PRK = HKDF-Extract(salt, released key); H = SHA-256(bytes 0 to 43 || header). Chunk key (32 bytes) and nonce prefix (7)
//! = HKDF-Expand(PRK, "keyferry KFM1 v1 chunk key and nonce prefix" || H, 39). Chunk i: nonce = prefix || i as u32
//! big-endian || 1 if last else 0; additional data = H.

use std::fmt;

use aws_lc_rs::{
    aead::Aad,
    digest::{Context, SHA256},
};
use keyferry_key_wrap::KeyMaterial;
use zeroize::Zeroize;

use crate::{
    EnvelopeError, Header, TAG_BYTES,
    header::HEADER_BYTES_MAX,
    keys::{ChunkCipher, FileKey, HeaderHash, SALT_BYTES, equal},
};

pub(crate) const MAGIC: &[u8; 4] = b"KFM1";
pub(crate) const VERSION: u8 = 1;
pub(crate) const SUITE: u8 = 1;
/// Where the salt begins; the bytes before it and the salt are hashed with the header.
pub(crate) const SALT_AT: usize = 12;
pub(crate) const COMMITMENT_AT: usize = SALT_AT + SALT_BYTES;
pub(crate) const HEADER_TAG_AT: usize = COMMITMENT_AT + 32;
pub(crate) const PRELUDE_BYTES: usize = HEADER_TAG_AT + 32;
const DIGEST_LABEL: &[u8] = b"keyferry KFM1 v1 model digest";

/// True if a file begins like a KFM1 container; anything else can only be a one-shot file.
pub fn is_kfm1(file: &[u8]) -> bool {
    file.starts_with(MAGIC)
}

/// Plaintext bytes per chunk: a power of two from 64 KiB to 16 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkSize(u8);

impl ChunkSize {
    /// 1 MiB: the tags cost 0.0015 %, and a chunk fits the second-level cache of most cores.
    pub const DEFAULT: Self = Self(20);
    /// From the exponent, 16 to 24.
    pub const fn from_log2(log2: u8) -> Result<Self, EnvelopeError> {
        if log2 < 16 || log2 > 24 { Err(EnvelopeError::ChunkSize(log2)) } else { Ok(Self(log2)) }
    }
    /// The exponent.
    pub const fn log2(self) -> u8 {
        self.0
    }
    /// In bytes.
    pub const fn bytes(self) -> usize {
        1 << self.0
    }
    /// How many chunks `plaintext_length` bytes make; at most 2^32.
    pub(crate) fn chunks(self, plaintext_length: u64) -> Result<u64, EnvelopeError> {
        let chunks = plaintext_length.div_ceil(self.bytes() as u64);
        if chunks > 1 << 32 { Err(EnvelopeError::TooManyChunks) } else { Ok(chunks) }
    }
}

/// Names a sealed model: SHA-256 over the header hash and every chunk tag, 16 bytes of work per chunk. Two files with one
/// digest hold the same model, unless somebody who has the key worked on it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ModelDigest(pub(crate) [u8; 32]);

impl ModelDigest {
    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}
impl fmt::Display for ModelDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}
impl fmt::Debug for ModelDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ModelDigest({self})")
    }
}

/// A KFM1 container whose sizes and header are consistent. What the header says is authenticated by [`Kfm1::open_into`]
/// and by nothing before it.
#[derive(Debug)]
pub struct Kfm1<'file> {
    header: Header,
    plaintext_length: usize,
    chunk_size: ChunkSize,
    prelude: &'file [u8],
    header_hash: HeaderHash,
    body: &'file [u8],
}

impl<'file> Kfm1<'file> {
    /// Reads the prelude and the header, and checks that the file is exactly as long as they say.
    pub fn parse(file: &'file [u8]) -> Result<Self, EnvelopeError> {
        let (prelude, rest) = split(file, PRELUDE_BYTES, "prelude")?;
        let (chunk_size, header_length) = read_prelude(prelude)?;
        let (header_bytes, body) = split(rest, header_length, "header")?;
        let (header, plaintext_length) = Header::decode(header_bytes)?;
        let chunks = chunk_size.chunks(plaintext_length)?;
        let wanted =
            chunks.checked_mul(TAG_BYTES as u64).and_then(|tags| tags.checked_add(plaintext_length)).ok_or(EnvelopeError::TooManyChunks)?;
        if body.len() as u64 != wanted {
            let before = (PRELUDE_BYTES + header_length) as u64;
            return Err(EnvelopeError::Size { wanted: wanted.saturating_add(before), got: file.len() as u64 });
        }
        let plaintext_length = usize::try_from(plaintext_length).map_err(|_| EnvelopeError::TooManyChunks)?;
        let header_hash = header_hash(&prelude[..COMMITMENT_AT], header_bytes);
        Ok(Self { header, plaintext_length, chunk_size, prelude, header_hash, body })
    }

    /// What the file says it holds.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How long the destination of [`Kfm1::open_into`] must be, in bytes; never 0.
    pub fn plaintext_length(&self) -> usize {
        self.plaintext_length
    }

    /// Plaintext bytes per chunk.
    pub fn chunk_size(&self) -> ChunkSize {
        self.chunk_size
    }

    /// The digest over header and chunk tags; needs no key.
    pub fn digest(&self) -> ModelDigest {
        let tags = self.chunks().map(|sealed| &sealed[sealed.len() - TAG_BYTES..]);
        model_digest(&self.header_hash, tags)
    }

    /// Opens every chunk into `destination`, which must be exactly [`Kfm1::plaintext_length`] long. On any failure the
    /// destination is wiped; nothing may be read from it before this returned `Ok`.
    pub fn open_into(&self, key: &KeyMaterial, destination: &mut [u8]) -> Result<(), EnvelopeError> {
        if destination.len() != self.plaintext_length {
            return Err(EnvelopeError::Destination { wanted: self.plaintext_length, got: destination.len() });
        }
        let cipher = self.cipher(key)?;
        let opened = self.open_chunks(&cipher, destination);
        if opened.is_err() {
            destination.zeroize();
        }
        opened
    }

    /// The chunk cipher, once commitment and header tag agree.
    fn cipher(&self, key: &KeyMaterial) -> Result<ChunkCipher, EnvelopeError> {
        let mut salt = [0; SALT_BYTES];
        salt.copy_from_slice(&self.prelude[SALT_AT..COMMITMENT_AT]);
        let key = FileKey::derive(key, &salt)?;
        if !equal(&key.commitment()?, &self.prelude[COMMITMENT_AT..HEADER_TAG_AT]) {
            return Err(EnvelopeError::KeyWrong);
        }
        if !equal(&key.header_tag(&self.header_hash)?, &self.prelude[HEADER_TAG_AT..]) {
            return Err(EnvelopeError::HeaderAltered);
        }
        key.chunks(&self.header_hash)
    }

    fn open_chunks(&self, cipher: &ChunkCipher, destination: &mut [u8]) -> Result<(), EnvelopeError> {
        let mut index: u32 = 0;
        let mut sealed = self.chunks().peekable();
        for plaintext in destination.chunks_mut(self.chunk_size.bytes()) {
            let Some(chunk) = sealed.next() else { return Err(EnvelopeError::Crypto) };
            let (ciphertext, tag) = chunk.split_at(plaintext.len());
            let nonce = cipher.nonce(index, sealed.peek().is_none());
            cipher
                .key
                .open_separate_gather(nonce, Aad::from(&self.header_hash), ciphertext, tag, plaintext)
                .map_err(|_| EnvelopeError::Corrupt { chunk: index.into() })?;
            index = index.wrapping_add(1); // 2^32 chunks at most: it wraps after the last one only
        }
        Ok(())
    }

    fn chunks(&self) -> impl Iterator<Item = &'file [u8]> {
        self.body.chunks(self.chunk_size.bytes() + TAG_BYTES)
    }
}

fn split<'a>(bytes: &'a [u8], at: usize, field: &'static str) -> Result<(&'a [u8], &'a [u8]), EnvelopeError> {
    bytes.split_at_checked(at).ok_or(EnvelopeError::Truncated { field, needed: at as u64, got: bytes.len() as u64 })
}

/// Chunk size and header length.
fn read_prelude(prelude: &[u8]) -> Result<(ChunkSize, usize), EnvelopeError> {
    if !is_kfm1(prelude) {
        return Err(EnvelopeError::NotKfm1);
    }
    if prelude[4] != VERSION {
        return Err(EnvelopeError::Version(prelude[4]));
    }
    if prelude[5] != SUITE {
        return Err(EnvelopeError::Suite(prelude[5]));
    }
    let chunk_size = ChunkSize::from_log2(prelude[6])?;
    if prelude[7] != 0 {
        return Err(EnvelopeError::Reserved);
    }
    let length = u32::from_be_bytes([prelude[8], prelude[9], prelude[10], prelude[11]]);
    match usize::try_from(length) {
        Ok(length) if length <= HEADER_BYTES_MAX => Ok((chunk_size, length)),
        _ => Err(EnvelopeError::HeaderTooLong { bytes: length.into() }),
    }
}

pub(crate) fn header_hash(prelude_and_salt: &[u8], header: &[u8]) -> HeaderHash {
    sha256([prelude_and_salt, header])
}

pub(crate) fn model_digest<'a>(header_hash: &'a HeaderHash, tags: impl Iterator<Item = &'a [u8]>) -> ModelDigest {
    ModelDigest(sha256([DIGEST_LABEL, header_hash].into_iter().chain(tags)))
}

pub(crate) fn sha256<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}
