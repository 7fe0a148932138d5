//! Who judges evidence: the built-in DCAP verifier, or a Trust Authority upstream.
//!
//! The contract of a [`Verifier`]: a nonce that it hands out is one that it recognises later, in every replica; evidence
//! gets an answer only if it was judged, and the answer's token is for exactly that evidence; an error that
//! [`Refusal::is_outage`] decided nothing, and the same evidence may come again. Remembering answers, redeeming nonces and
//! recording decisions is the broker's, whoever judges.

mod config;
mod dcap;
mod proof;
mod trust_authority;

use std::fmt;

use async_trait::async_trait;
use keyferry_attestation_token::Algorithm;

pub use self::config::{TrustAuthorityConfig, VerifierConfig};
pub(crate) use self::{dcap::Dcap, trust_authority::TrustAuthority};
use crate::{
    evidence::Evidence,
    nonce::{Nonce, Recognised},
    refusal::Refusal,
};

/// Judges evidence.
#[async_trait]
pub(crate) trait Verifier: fmt::Debug + Send + Sync {
    /// `dcap` or `trust-authority`: a label of metrics, and a word of the audit.
    fn name(&self) -> &'static str;

    /// The algorithms that a token can be asked for.
    fn algorithms(&self) -> Vec<Algorithm>;

    /// A fresh nonce, and when it ends (Unix seconds).
    async fn nonce(&self) -> Result<(Nonce, u64), Refusal>;

    /// Whether the nonce can be this verifier's, whatever its age: evidence that is already answered gets its answer again.
    fn recognise(&self, nonce: &Nonce) -> Result<Recognised, Refusal>;

    /// Whether it may still be redeemed; `now` in Unix seconds.
    fn check_age(&self, nonce: &Recognised, now: u64) -> Result<(), Refusal>;

    /// Judges evidence whose nonce is recognised and fresh.
    async fn attest(&self, evidence: Evidence) -> Result<Attested, Refusal>;

    /// The JSON Web Key Set that its tokens verify with.
    async fn jwks(&self) -> Result<String, Refusal>;

    /// A revocation list of its signing chain (DER) by name; `None` where others publish them.
    fn revocation_list(&self, _name: &str) -> Option<Vec<u8>> {
        None
    }

    /// The `iss` of its tokens, where it is ours.
    fn issuer(&self) -> Option<&str> {
        None
    }
}

/// A token for the evidence that was judged, and what the audit record and the fleet say about it.
pub(crate) struct Attested {
    /// Compact JWS.
    pub(crate) jwt: String,
    /// Its `jti`.
    pub(crate) token_id: String,
    /// Its `exp`, Unix seconds.
    pub(crate) expires_at: u64,
    /// `UpToDate`, ...
    pub(crate) tcb_status: &'static str,
    /// `intel-sgx-root` or `simulator:<fingerprint>`.
    pub(crate) trust_anchor: String,
    /// Lower-case hex.
    pub(crate) mr_td: String,
    /// Keyed hash of the machine's identity: tells that two TDs share a machine, not which. Empty: not known.
    pub(crate) platform_hash: String,
    /// Exceptions from the refusing defaults that the policy made for this TD.
    pub(crate) exceptions: Vec<&'static str>,
}

/// Whoever has the text has the token.
impl fmt::Debug for Attested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Attested({}, redacted)", self.token_id)
    }
}
