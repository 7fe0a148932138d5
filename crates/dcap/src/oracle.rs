//! The verification by the engine, and what it leaves open: slow, and somebody else's code.

use dcap_qvl::QuoteClaims;
use keyferry_tdx_quote::Quote;

use crate::collateral::{sha256, unix_seconds};
use crate::denial::CollateralPart;
use crate::verified::{CollateralDigests, PckIdentity, VerifiedQuote};
use crate::verifier::{check_evaluation_numbers, check_pck_chain};
use crate::{Collateral, DcapDenial, TcbStatus, TrustAnchor, Verifier, diagnosis, engine};

impl Verifier {
    /// What [`Verifier::verify`] must answer, found by `dcap-qvl` and with nothing remembered between two calls except the
    /// evaluation numbers: the second opinion of tests.
    #[doc(hidden)]
    pub fn verify_with_engine(&self, quote: &Quote, collateral: &Collateral, now: u64) -> Result<VerifiedQuote, DcapDenial> {
        self.check_roots(quote, collateral)?;
        // An altered chain in the quote differs too: then say what is wrong with the quote.
        check_pck_chain(quote, collateral).map_err(|mixed_up| self.diagnose(quote, collateral, now).unwrap_or(mixed_up))?;
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
        check_platform(&claims, collateral)?;
        check_evaluation_numbers(collateral)?;
        self.memory.admit(claims.platform.pck.fmspc, collateral.evaluation_number())?;
        let verified = verified(&self.anchor, quote, collateral, claims, expired_at);
        if verified.tcb_status == TcbStatus::Revoked {
            return Err(DcapDenial::TcbRevoked { advisory_ids: verified.advisory_ids });
        }
        self.allowances.check(quote.body())?;
        Ok(verified)
    }

    /// The last second of collateral that has ended, if the grace still covers it: the engine, which knows no grace, is
    /// asked about that second, and the certificates are looked at again at the real time.
    fn expired_within_grace(&self, collateral: &Collateral, now: u64) -> Option<u64> {
        let end = collateral.next_update();
        (now > end && now <= end.saturating_add(self.collateral_grace)).then_some(end)
    }
}

/// The engine compares FMSPC only.
fn check_platform(claims: &QuoteClaims, collateral: &Collateral) -> Result<(), DcapDenial> {
    diagnosis::check_platform_family(&claims.platform.pck.fmspc, &claims.platform.pck.pce_id, collateral)?;
    if collateral.tcb_info().tcb_type != 0 {
        return Err(DcapDenial::CollateralMalformed { part: CollateralPart::TcbInfo, detail: "tcbType is not 0" });
    }
    Ok(())
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
        digests: digests(quote, collateral),
        valid_until: claims.earliest_expiration_date,
        collateral_expired_at: expired_at,
        trust_anchor: anchor.label().to_owned(),
    }
}

fn digests(quote: &Quote, collateral: &Collateral) -> CollateralDigests {
    let parts = collateral.for_engine();
    CollateralDigests {
        quote: sha256(quote.without_tail()),
        tcb_info: sha256(parts.tcb_info.as_bytes()),
        tcb_info_certificates: sha256(parts.tcb_info_issuer_chain.as_bytes()),
        tcb_info_crl: sha256(&parts.pck_crl),
        qe_identity: sha256(parts.qe_identity.as_bytes()),
        qe_identity_certificates: sha256(parts.qe_identity_issuer_chain.as_bytes()),
        qe_identity_crl: sha256(&parts.root_ca_crl),
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
