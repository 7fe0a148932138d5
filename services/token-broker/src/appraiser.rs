//! From evidence to a signed token: pure CPU work on one thread, no bus, no clock.

use std::sync::Arc;

use aws_lc_rs::hmac;
use keyferry_appraisal::{Appraised, EventLog, ReplayedLog, appraise};
use keyferry_attestation_token as token;
use keyferry_attestation_token::{IssuedToken, TdMeasurements, TdxClaims};
use keyferry_collateral::{Ca, Family};
use keyferry_contract::Reason;
use keyferry_dcap::{VerifiedQuote, Verifier, certified_family, claimed_fmspc};
use keyferry_tdx_quote::Quote;
use keyferry_telemetry::{SpanAttributes, names, spans};
use serde_json::{Map, Value};

use crate::{
    collateral::CollateralStore,
    evidence::Evidence,
    keys::Keys,
    policies::{Judged, Policies},
    reference_values::ReferenceValueDirectory,
    refusal::Refusal,
};

/// A token, and what the audit record and the fleet say about it.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// The token.
    pub(crate) token: IssuedToken,
    /// `UpToDate`, ...
    pub(crate) tcb_status: &'static str,
    /// `intel-sgx-root` or `simulator:<fingerprint>`.
    pub(crate) trust_anchor: String,
    /// Lower-case hex.
    pub(crate) mr_td: String,
    /// Keyed hash of the machine's identity: tells that two TDs share a machine, not which.
    pub(crate) platform_hash: String,
    /// Exceptions from the refusing defaults that the policy made for this TD.
    pub(crate) exceptions: Vec<&'static str>,
}

/// Verifies, appraises and signs.
#[derive(Debug)]
pub(crate) struct Appraiser {
    verifier: Verifier,
    policies: Policies,
    references: ReferenceValueDirectory,
    collateral: Arc<CollateralStore>,
    keys: Arc<Keys>,
    platform_key: hmac::Key,
}

impl Appraiser {
    /// `verifier` must have the allowances of the base policy.
    pub(crate) fn new(
        verifier: Verifier,
        (policies, references): (Policies, ReferenceValueDirectory),
        collateral: Arc<CollateralStore>,
        keys: Arc<Keys>,
        platform_key: hmac::Key,
    ) -> Self {
        Self { verifier, policies, references, collateral, keys, platform_key }
    }

    /// The evaluation numbers seen so far, by platform family.
    pub(crate) fn evaluations_seen(&self) -> Vec<([u8; 6], u32)> {
        self.verifier.memory().seen()
    }

    /// Appraises at `now` (Unix seconds). A few milliseconds of CPU.
    pub(crate) fn attest(&self, evidence: &Evidence, now: u64) -> Result<Verdict, Refusal> {
        let issuer = self.keys.issuer(evidence.algorithm, now);
        let issuer =
            issuer.ok_or_else(|| Refusal::new(Reason::RequestMalformed, "tokens are not signed with the wanted algorithm here"))?;
        let verified = spans::step(names::VERIFY_QUOTE).in_scope(|| self.verify(&evidence.quote, now))?;
        let (appraised, claims, exported) = spans::step(names::APPRAISE).in_scope(|| self.appraise(verified, evidence, now))?;
        let signing = spans::step(names::SIGN_TOKEN);
        signing.attribute(names::ALGORITHM, issuer.key().algorithm().name());
        let token = signing
            .in_scope(|| issuer.issue_with(&claims, exported, evidence.shape, now))
            .map_err(|error| Refusal::new(Reason::Internal, error.to_string()))?;
        let verified = appraised.verified();
        Ok(Verdict {
            token,
            tcb_status: verified.tcb_status().name(),
            trust_anchor: verified.trust_anchor().to_owned(),
            mr_td: hex::encode(verified.report().mr_td),
            platform_hash: hex::encode(hmac::sign(&self.platform_key, &verified.pck().ppid).as_ref()),
            exceptions: appraised.exceptions_used(),
        })
    }

    /// Fetches the collateral that the quote needs, where there is none and a service to ask. Whether it came shows in
    /// [`Self::attest`]; why it did not, here. Only for certificates under the pinned root: the quote may be anybody's.
    pub(crate) async fn prepare(&self, quote: &Quote, now: u64) -> Result<(), Refusal> {
        let Some(fmspc) = claimed_fmspc(quote).filter(|fmspc| self.collateral.lacks(*fmspc, now)) else { return Ok(()) };
        let Some(certified) = certified_family(quote, self.verifier.anchor()) else { return Ok(()) };
        let Some(ca) = Ca::from_common_name(&certified.issuer) else { return Ok(()) };
        let demanded = self.collateral.demand(Family { fmspc: certified.fmspc, ca }).await;
        match demanded {
            // What is in force may have ended: then that is the reason.
            Err(why) if self.collateral.of(fmspc).is_none() => {
                Err(Refusal::new(Reason::CollateralMissing, format!("no collateral for FMSPC {}: {why}", hex::encode(fmspc))))
            }
            _ => Ok(()),
        }
    }

    fn verify(&self, quote: &Quote, now: u64) -> Result<VerifiedQuote, Refusal> {
        let fmspc =
            claimed_fmspc(quote).ok_or_else(|| Refusal::new(Reason::QuoteSignatureInvalid, "the PCK certificate has no SGX extension"))?;
        let collateral = self.collateral.of(fmspc).ok_or_else(|| {
            // A foreign root explains more than a family we never heard of.
            if quote.certification().root() == self.verifier.anchor().root_der() {
                Refusal::new(Reason::CollateralMissing, format!("no collateral for FMSPC {}", hex::encode(fmspc)))
            } else {
                Refusal::new(Reason::QuoteRootUntrusted, "the quote's root is not the configured one")
            }
        })?;
        Ok(self.verifier.verify(quote, &collateral, now)?)
    }

    /// The base policy always counts; the event log has to be the quote's; policies that the evidence names come on top.
    fn appraise(
        &self,
        verified: VerifiedQuote,
        evidence: &Evidence,
        now: u64,
    ) -> Result<(Appraised, TdxClaims, Map<String, Value>), Refusal> {
        let expected = evidence.expected_report_data()?.unwrap_or(verified.report().report_data);
        let catalog = self.references.read()?;
        let appraised = appraise(verified, self.policies.base(), &expected, &catalog, now)?;
        let log = replayed(&evidence.event_log, &appraised.report().rtmrs)?;
        let mut claims = claims(&appraised, evidence);
        let verified = appraised.verified();
        let judged = Judged { verified, claims: &claims, log: log.as_ref(), expected: &expected, catalog: &catalog, now };
        let results = self.policies.judge(&evidence.policy_ids, evidence.policy_must_match, &judged)?;
        claims.policies_matched = results.matched;
        claims.policies_unmatched = results.unmatched;
        Ok((appraised, claims, results.exported))
    }
}

/// `None` where no log was sent.
fn replayed(log: &[u8], rtmrs: &[[u8; 48]; 4]) -> Result<Option<ReplayedLog>, Refusal> {
    if log.is_empty() {
        return Ok(None);
    }
    let log = EventLog::parse(log).map_err(|error| Refusal::new(Reason::EventLogMismatch, error.to_string()))?;
    log.replay_against(rtmrs).map(Some).map_err(Refusal::from)
}

fn claims(appraised: &Appraised, evidence: &Evidence) -> TdxClaims {
    let (verified, report) = (appraised.verified(), appraised.report());
    let digests = verified.digests();
    TdxClaims {
        tcb_status: verified.tcb_status().name().to_owned(),
        tcb_date: verified.tcb_date().to_owned(),
        advisory_ids: verified.advisory_ids().to_vec(),
        held_data: evidence.user_data.clone(),
        azure_runtime: evidence.azure_runtime.clone(),
        measurements: TdMeasurements {
            mr_td: report.mr_td,
            mr_seam: report.mr_seam,
            mr_signer_seam: report.mr_signer_seam,
            mr_config_id: report.mr_config_id,
            mr_owner: report.mr_owner,
            mr_owner_config: report.mr_owner_config,
            rtmrs: report.rtmrs,
            report_data: report.report_data,
            tee_tcb_svn: report.tee_tcb_svn,
            td_attributes: report.td_attributes.to_bytes(),
            xfam: report.xfam.to_bytes(),
            seam_attributes: report.seam_attributes,
        },
        collateral: token::CollateralDigests {
            fmspc: verified.fmspc(),
            tcb_evaluation_data_number: verified.evaluation_number(),
            qe_identity_certificates: digests.qe_identity_certificates,
            qe_identity_crl: digests.qe_identity_crl,
            qe_identity: digests.qe_identity,
            quote: digests.quote,
            tcb_info_certificates: digests.tcb_info_certificates,
            tcb_info_crl: digests.tcb_info_crl,
            tcb_info: digests.tcb_info,
        },
        pce_svn: verified.pck().pce_svn,
        sgx_tcb_components: verified.pck().cpu_svn,
        nonce: evidence.nonce.as_ref().map(|nonce| token::Nonce {
            val: nonce.val.clone(),
            iat: nonce.iat.clone(),
            signature: nonce.signature.clone(),
        }),
        trust_anchor: verified.trust_anchor().to_owned(),
        td_id: evidence.td_id.clone(),
        attestation_id: evidence.attestation_id,
        policies_matched: Vec::new(),
        policies_unmatched: Vec::new(),
    }
}
