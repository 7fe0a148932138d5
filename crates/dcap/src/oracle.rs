//! The verification by the engine, and what it leaves open: slow, and somebody else's code.

use std::sync::{Arc, OnceLock};

use dcap_qvl::QuoteClaims;
use keyferry_tdx_quote::Quote;

use crate::collateral::unix_seconds;
use crate::denial::CollateralPart;
use crate::verified::{PckIdentity, VerifiedQuote};
use crate::{Collateral, DcapDenial, TcbStatus, TrustAnchor, Verifier, diagnosis, engine};

impl Verifier {
    /// What [`Verifier::verify`] must answer, found by `dcap-qvl` and with nothing remembered between two calls except the
    /// evaluation numbers: the second opinion of tests.
    #[doc(hidden)]
    pub fn verify_with_engine(&self, quote: &Quote, collateral: &Collateral, now: u64) -> Result<VerifiedQuote, DcapDenial> {
        self.check_chains(quote, collateral, now)?;
        let expired_at = self.expired_within_grace(collateral, now);
        let claims = engine::verify(&self.anchor, quote, collateral, expired_at.unwrap_or(now))
            .ok_or_else(|| self.diagnose(quote, collateral, now).unwrap_or(DcapDenial::Unexplained))?;
        if expired_at.is_some()
            && let Some(denial) = self.diagnose(quote, collateral, now)
        {
            return Err(denial);
        }
        if claims.latest_issue_date > now {
            let unnamed = DcapDenial::CollateralNotYetValid { part: CollateralPart::PckChain, valid_from: claims.latest_issue_date };
            return Err(self.diagnose(quote, collateral, now).unwrap_or(unnamed));
        }
        let pck = &claims.platform.pck;
        // The engine compares FMSPC only.
        diagnosis::check_platform_family(&pck.fmspc, &pck.pce_id, collateral)?;
        self.admit(collateral, verified(&self.anchor, quote, collateral, claims, expired_at))
    }

    /// The last second of collateral that has ended, if the grace still covers it: the engine, which knows no grace, is
    /// asked about that second, and the certificates are looked at again at the real time.
    fn expired_within_grace(&self, collateral: &Collateral, now: u64) -> Option<u64> {
        let end = collateral.next_update();
        (now > end && now <= end.saturating_add(self.collateral_grace)).then_some(end)
    }
}

fn verified(anchor: &TrustAnchor, quote: &Quote, collateral: &Collateral, claims: QuoteClaims, expired_at: Option<u64>) -> VerifiedQuote {
    let launch = claims.platform.tcb_level;
    let mut tcb_status = TcbStatus::from(claims.tcb.status);
    let mut advisory_ids = claims.tcb.advisory_ids;
    let mut tcb_date = launch.tcb_date;
    if let Some(current) = claims.platform.current_tcb_level {
        tcb_status = tcb_status.worse_of(current.tcb_status.into());
        advisory_ids.extend(current.advisory_ids);
        if unix_seconds(&current.tcb_date) < unix_seconds(&tcb_date) {
            tcb_date = current.tcb_date;
        }
    }
    advisory_ids.sort_unstable();
    advisory_ids.dedup();
    let pck = claims.platform.pck;
    VerifiedQuote {
        quote: quote.clone(),
        tcb_status,
        advisory_ids,
        tcb_date,
        evaluation_number: collateral.evaluation_number(),
        pck: PckIdentity {
            ppid: pck.ppid,
            fmspc: pck.fmspc,
            pce_id: pck.pce_id,
            pce_svn: pck.pce_svn,
            cpu_svn: pck.cpu_svn,
            platform_instance_id: pck.platform_instance_id,
            dynamic_platform: flag(pck.dynamic_platform),
            cached_keys: flag(pck.cached_keys),
            smt: flag(pck.smt_enabled),
        },
        part_digests: Arc::clone(collateral.digests()),
        digests: OnceLock::new(),
        valid_until: claims.earliest_expiration_date,
        collateral_expired_at: expired_at,
        trust_anchor: anchor.label().to_owned(),
    }
}

fn flag(flag: dcap_qvl::policy::PckCertFlag) -> Option<bool> {
    use dcap_qvl::policy::PckCertFlag as Flag;
    match flag {
        Flag::True => Some(true),
        Flag::False => Some(false),
        Flag::Undefined => None,
    }
}
