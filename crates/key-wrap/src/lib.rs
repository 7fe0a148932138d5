//! Key material, the symmetric wrapping key (SWK), and Intel's byte layouts for carrying one under the other: both ends,
//! so they cannot drift.
//!
//! A key travels as two byte strings. `wrapped_key` is the key under a fresh 32-byte SWK (AES-256-GCM); `wrapped_swk` is
//! the SWK under the RSA public key that a TD had quoted (RSA-OAEP, SHA-256 for hash and MGF1, empty label). An
//! administrator's export is one byte string: RSA-OAEP with SHA-384. The layouts are those of Intel's Key Broker Service,
//! byte for byte; see [`wrap`] and [`TdKeyPair::held_data`].
//!
//! This crate knows nothing of tokens, policies, networks or clocks: whether a key *may* be wrapped was decided before.
//! It has no code path that turns key material into text. Private-key operations are AWS-LC's (blinded, constant time);
//! the tests open and seal with the independent `rsa` and `aes-gcm` crates.
//!
//! ```
//! use keyferry_key_wrap::{HeldPublicKey, KeyMaterial, TdKeyPair, wrap};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let td = TdKeyPair::generate()?; // takes 0.25 to 1 s: keep a spare one ready
//! let held = HeldPublicKey::from_intel(&td.held_data())?; // as it arrives in the token
//! let sent = wrap(&KeyMaterial::random(32)?, &held)?;
//! assert_eq!(td.unwrap_key(&sent)?.len(), 32);
//! # Ok(()) }
//! ```

mod layout;
mod material;
mod pair;
mod public;
mod wrap;

pub use material::{KEY_MATERIAL_BYTES_MAX, KeyMaterial, KeyMaterialError};
pub use pair::{ExportKeyPair, KeyPairError, TdKeyPair, UnwrapError};
pub use public::{ExportPublicKey, HeldPublicKey, PEM_BYTES_MAX, PublicKeyError};
pub use wrap::{KmsWrappedKey, WrapError, WrappedKey, export, wrap};
