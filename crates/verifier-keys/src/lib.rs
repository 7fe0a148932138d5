//! The keys a verifier keeps on its disk.
//!
//! * [`KeyDirectory`]: the token signing keys with their certificates and revocation lists, shared by the replicas of a
//!   verifier and by the command line. A next key is published before it signs, and the one before stays published until
//!   its last token has ended, so that a rotation leaves no gap.
//! * [`ApiKeys`]: the digests of the keys that callers of the verifier's HTTPS interface have.
//!
//! It blocks on files and on key generation, reads no clock (times are arguments, in unix seconds), and knows nothing of
//! the network.

mod api_keys;
mod certificates;
mod directory;
mod error;
mod files;
mod ring;
mod secrets;

pub use api_keys::{ApiKeys, ApiKeysError};
pub use directory::{Contents, KeyDirectory, Rotation, ScheduledKey, read_signing_key};
pub use error::KeysError;
pub use files::{lock, write};
pub use keyferry_sealed_store::{KeyFileError, StoreKey as SealKey};
pub use ring::{RETIRED_AFTER_SECONDS, TOKEN_SECONDS_MAX};

/// The certificate revocation lists of a key directory: name in the address and in the directory.
pub const CRL_NAMES: [&str; 2] = ["root-ca.der", "signing-ca.der"];
