//! The encrypted model file: opens it in memory, seals it for tests and tools.
//!
//! Two formats are read. [`one_shot`] is what Intel's sample encryptor writes: one AES-GCM message without header, so it
//! cannot say which key it wants or what it holds. [`Kfm1`] is Keyferry's own container: an authenticated header with
//! key id, media type and name; chunks of AES-256-GCM in the STREAM construction, so that truncation, reordering,
//! duplication and swapping are each detected; a key commitment, so that a wrong key is told apart from a damaged file;
//! a digest over the chunk tags, which names the sealed model without hashing its plaintext.
//!
//! Both open into a destination that the caller owns (locked memory, in a TD). Nothing is to be read from it before
//! `open_into` returned `Ok`: every chunk has been authenticated then, and on any failure the destination is wiped.
//!
//! This crate knows nothing of files, networks, inference runtimes or where a key comes from. Refused alternatives: age
//! and Tink (no room for an authenticated header under a released symmetric key), one GCM message (64 GiB bound, no
//! commitment, nothing checkable before the end).
//!
//! ```
//! use keyferry_key_wrap::KeyMaterial;
//! use keyferry_model_envelope::{ChunkSize, Header, Kfm1, MediaType, ModelName, seal};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let key = KeyMaterial::random(32)?;
//! let header = Header::new(uuid::Uuid::from_u128(1), MediaType::parse("onnx")?, ModelName::parse("classifier")?);
//! let file = seal(&key, &header, ChunkSize::DEFAULT, b"model bytes")?;
//!
//! let sealed = Kfm1::parse(&file)?;                 // needs no key: header and size are checked
//! let mut plaintext = vec![0; sealed.plaintext_length()];
//! sealed.open_into(&key, &mut plaintext)?;
//! assert_eq!(plaintext, b"model bytes");
//! # Ok(()) }
//! ```

mod error;
mod header;
mod keys;
mod kfm1;
pub mod one_shot;
mod seal;

pub use error::EnvelopeError;
pub use header::{Header, MediaType, ModelName};
pub use kfm1::{ChunkSize, Kfm1, ModelDigest, is_kfm1};
pub use seal::seal;

/// Length of a GCM tag, in bytes.
pub(crate) const TAG_BYTES: usize = 16;
