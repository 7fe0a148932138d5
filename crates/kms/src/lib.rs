//! Key management back ends behind one trait.
//!
//! [`Kms`] makes, holds and returns keys. Three back ends implement it: [`KmipKms`] speaks KMIP 1.2 to 2.0 over mutual TLS
//! to a server of the operator's choice, [`VaultKms`] speaks Vault's API to OpenBao or HashiCorp Vault, [`DevKms`] keeps
//! keys in one encrypted file on a developer's machine. All pass the same [`conformance`] suite.
//!
//! A KMS that returns bytes has not said "release". [`Kms::fetch`] therefore gives a key only after [`ReleaseRules`] were
//! satisfied: the object is the one asked for, of the recorded algorithm and length, in a state and with a usage mask
//! that permit its use, and the bytes are a key of that algorithm and length ([`KeySpec::check_material`]). Several servers hand out deactivated and compromised keys when asked; this crate does not.
//! Whether the *bytes* are those that were stored is a question of [`fingerprint`], answered by whoever kept one.
//!
//! It knows nothing of tokens, policies, requests or the audit log, and it has no cache: a key's state in the KMS counts
//! at the moment of release. Concurrent fetches of one key share one exchange with the server.
//!
//! Errors ([`KmsError`]) hold numbers, field names and file names of the operator: never a text of the peer, never key
//! material. Any error on a connection ends that connection.

mod breaker;
mod check;
mod config;
pub mod conformance;
mod dev;
mod error;
mod fingerprint;
mod key;
mod kmip;
mod material;
mod single_flight;
mod vault;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
pub use check::ReleaseRules;
pub use config::{DevConfig, KmipConfig, KmipTimeouts, KmsConfig, TlsLibrary};
pub use dev::DevKms;
pub use error::{KmsError, Stage};
pub use fingerprint::{FINGERPRINT_BYTES, fingerprint, fingerprint_matches};
pub use key::{Algorithm, AttestedTd, Curve, FetchedKey, KeyDescription, KeyForm, KeyRef, KeySpec, KeyState, Revocation, Usage};
use keyferry_key_wrap::KeyMaterial;
pub use keyferry_kmip::Version;
pub use kmip::KmipKms;
pub use vault::{VaultAppRole, VaultAttestation, VaultAuth, VaultCert, VaultConfig, VaultEngine, VaultJwt, VaultKms, VaultTimeouts};

/// A key management system.
///
/// Contract for every back end, tested by [`conformance`]:
///
/// * A key that [`create`](Self::create) or [`register`](Self::register) returned is Active and can be fetched at once.
/// * [`fetch`](Self::fetch) gives a key only if object, algorithm, length, state and usage mask fit; a key that does not
///   is refused with an error that says which.
/// * A destroyed key is gone: `KeyNotFound` or `KeyDestroyed`, never another key.
/// * `KmsError::retryable` is true only where the same call may succeed later without anybody changing anything.
/// * Dropping a future abandons its connection; it never leaves one half read in the pool.
#[async_trait]
pub trait Kms: Send + Sync + fmt::Debug {
    /// The back end's name in configuration, events and metrics: `dev`, `kmip`, `vault`.
    fn kind(&self) -> &'static str;

    /// Makes a new random key. Give the spec a unique name: it is how a lost answer is found again.
    async fn create(&self, spec: &KeySpec) -> Result<KeyRef, KmsError>;

    /// Brings an existing key in.
    async fn register(&self, spec: &KeySpec, material: &KeyMaterial) -> Result<KeyRef, KmsError>;

    /// What the KMS says about a key, without its bytes: for adopting one that exists already.
    async fn inspect(&self, key: &KeyRef) -> Result<KeyDescription, KmsError>;

    /// The key's plain bytes: for fingerprints and for an administrator's export. Shared by concurrent fetches of the same
    /// key, wiped when the last of them lets go. A back end whose keys never leave it answers `KeyNotReleasable`.
    async fn fetch(&self, key: &KeyRef, spec: &KeySpec) -> Result<Arc<KeyMaterial>, KmsError>;

    /// The key for one attested TD. A back end that asks for the attestation token itself, or wraps for the TD by itself,
    /// does so here; for all others this is [`fetch`](Self::fetch).
    async fn release(&self, key: &KeyRef, spec: &KeySpec, _td: &AttestedTd) -> Result<FetchedKey, KmsError> {
        self.fetch(key, spec).await.map(FetchedKey::Material)
    }

    /// Whether [`release`](Self::release) may give a key whose bytes [`fetch`](Self::fetch) does not: because the KMS wraps by
    /// itself, or asks for the TD's token.
    fn releases_unseen(&self) -> bool {
        false
    }

    /// Ends a key's use; it can be inspected but no longer fetched.
    async fn revoke(&self, key: &KeyRef, why: Revocation) -> Result<(), KmsError>;

    /// Removes a key for good, whatever its state.
    async fn destroy(&self, key: &KeyRef) -> Result<(), KmsError>;

    /// Whether the KMS answers now. Call it every 30 s: it also keeps a connection warm and lets the circuit breaker
    /// close again.
    async fn health(&self) -> Result<(), KmsError>;
}
