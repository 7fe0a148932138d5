//! The built-in verifier: nonces of our own, and appraisal in a bounded pool.

use std::sync::Arc;

use async_trait::async_trait;
use keyferry_attestation_token::Algorithm;
use keyferry_lifecycle::clock;

use super::{Attested, Verifier};
use crate::{
    appraiser::{Appraiser, Verdict},
    evaluations::Evaluations,
    evidence::Evidence,
    keys::Keys,
    nonce::{Nonce, NonceAuthority, Recognised},
    pool::Pool,
    refusal::Refusal,
};

/// Quotes are verified here, against collateral of ours.
#[derive(Debug)]
pub(crate) struct Dcap {
    appraiser: Arc<Appraiser>,
    nonces: NonceAuthority,
    pool: Pool,
    evaluations: Evaluations,
    keys: Arc<Keys>,
    issuer: String,
}

impl Dcap {
    /// Ready to judge.
    pub(crate) fn new(
        appraiser: Appraiser,
        nonces: NonceAuthority,
        pool: Pool,
        evaluations: Evaluations,
        (keys, issuer): (Arc<Keys>, String),
    ) -> Self {
        Self { appraiser: Arc::new(appraiser), nonces, pool, evaluations, keys, issuer }
    }
}

#[async_trait]
impl Verifier for Dcap {
    fn name(&self) -> &'static str {
        "dcap"
    }

    fn algorithms(&self) -> Vec<Algorithm> {
        self.keys.algorithms()
    }

    async fn nonce(&self) -> Result<(Nonce, u64), Refusal> {
        self.nonces.issue(clock::now())
    }

    fn recognise(&self, nonce: &Nonce) -> Result<Recognised, Refusal> {
        self.nonces.recognise(nonce)
    }

    fn check_age(&self, nonce: &Recognised, now: u64) -> Result<(), Refusal> {
        self.nonces.check_age(nonce, now)
    }

    async fn attest(&self, evidence: Evidence) -> Result<Attested, Refusal> {
        self.appraiser.prepare(&evidence.quote, clock::now()).await?;
        let appraiser = Arc::clone(&self.appraiser);
        let queued = evidence.td_id.is_some();
        let work = move || appraiser.attest(&evidence, clock::now());
        // What comes from the queue waits for its turn, so that callers over HTTPS cannot starve the TDs on the bus.
        let verdict = if queued { self.pool.run_in_turn(work).await } else { self.pool.run(work).await };
        self.evaluations.keep(self.appraiser.evaluations_seen()).await?;
        verdict.map(Attested::from)
    }

    async fn jwks(&self) -> Result<String, Refusal> {
        Ok(self.keys.jwks(clock::now()))
    }

    fn revocation_list(&self, name: &str) -> Option<Vec<u8>> {
        self.keys.revocation_list(name)
    }

    fn issuer(&self) -> Option<&str> {
        Some(&self.issuer)
    }
}

impl From<Verdict> for Attested {
    fn from(verdict: Verdict) -> Self {
        Self {
            jwt: verdict.token.jwt,
            token_id: verdict.token.token_id.to_string(),
            expires_at: verdict.token.expires_at,
            tcb_status: verdict.tcb_status,
            trust_anchor: verdict.trust_anchor,
            mr_td: verdict.mr_td,
            platform_hash: verdict.platform_hash,
            exceptions: verdict.exceptions,
        }
    }
}
