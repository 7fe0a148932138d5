//! Attestation tokens: what a verifier says about a TD or an SGX enclave, signed; and how a relying party comes to believe it.
//!
//! * Issue: [`TokenIssuer`] signs [`TdxClaims`] with a [`SigningKey`] that was parsed once, in the nested (v2) or flat
//!   (v1) shape of Intel Trust Authority. [`jwks`] writes the key set that verifiers of such tokens fetch.
//! * Believe: a [`KeySet`] is made only from a JWKS whose certificates end in a *pinned* root and whose keys are those of
//!   the leaf certificates. [`authenticate`] turns a compact JWS into an [`AuthenticToken`] or a [`TokenDenial`]; there is
//!   no other way to get one. The algorithm is looked up in the issuer's allow-list, never taken from the header; `jku`
//!   is never followed; an unknown issuer, key or algorithm is refused before any cryptography runs.
//!   [`KeySet::without_revoked`] takes out the keys of withdrawn certificates, given the [`RevocationList`]s of their authorities.
//!
//! [`UnverifiedClaims`] reads what a payload says without believing it, for explanations and for tests of policies; nothing
//! that releases a key takes it.
//!
//! This crate knows nothing of networks, clocks and policies: the time is an argument, fetching the JWKS is somebody
//! else's work, and whether an authentic token is *enough* is `key-transfer-policy`'s question.
//!
//! Claims and their encodings follow Intel Trust Authority as its tokens show them; on top of them stand three members
//! that Keyferry's own verifier adds: `keyferry.trust_anchor`, `keyferry.td_id` and `keyferry.attestation_id`.

mod algorithm;
mod authenticate;
mod claims;
mod denial;
mod issue;
mod jwks;
mod key;
mod read;
mod revocation;
mod wire;

pub use algorithm::Algorithm;
pub use authenticate::{AuthenticToken, Unverified, authenticate, peek};
pub use claims::{Claims, CollateralDigests, MatchedPolicy, Nonce, TdMeasurements, TdxClaims};
pub use denial::TokenDenial;
pub use issue::{BACKDATED_SECONDS, IssueError, IssuedToken, Shape, TokenIssuer};
pub use jwks::{AbsentAnchor, KeySet, KeySetError, TrustedIssuer};
pub use key::{SigningKey, SigningKeyError, jwks};
pub use read::UnverifiedClaims;
pub use revocation::{CRL_BYTES_MAX, Revocation, RevocationCheck, RevocationList, RevocationListError};

/// The longest token that is looked at, in characters: 1 MiB of user data has 1.9 million of them, encoded twice.
pub const TOKEN_CHARACTERS_MAX: usize = 2 * 1024 * 1024;
/// The longest JWKS that is looked at: Intel's has 11.5 kB.
pub const JWKS_BYTES_MAX: usize = 256 * 1024;
/// How far `iat` and `nbf` may lie in the future, for clocks that differ. `exp` has no such grace.
pub const CLOCK_SKEW_SECONDS: u64 = 30;
/// A token issued longer ago than this is stale whatever its `exp` says, unless its issuer is configured otherwise.
pub const TOKEN_AGE_SECONDS_MAX: u64 = 3600;
/// The trust anchor of evidence whose chain ends in Intel's SGX root.
pub const INTEL_TRUST_ANCHOR: &str = "intel-sgx-root";
/// The trust anchor of a token that names none and whose issuer has no configured one: no policy accepts it.
pub const UNKNOWN_TRUST_ANCHOR: &str = "unknown";

/// Whether `text` names a root of evidence: `intel-sgx-root`, or `simulator:` and the 64 lower-case hex digits of the
/// SHA-256 of a simulator's root certificate.
pub fn names_trust_anchor(text: &str) -> bool {
    let is_digest = |digest: &str| digest.len() == 64 && digest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    text == INTEL_TRUST_ANCHOR || text.strip_prefix("simulator:").is_some_and(is_digest)
}
