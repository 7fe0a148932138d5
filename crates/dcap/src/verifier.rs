//! The verification itself: the engine, and what it leaves open.

use dcap_qvl::QuoteClaims;
use keyferry_tdx_quote::Quote;

use crate::collateral::{sha256, unix_seconds};
use crate::denial::CollateralPart;
use crate::trust_anchor::fingerprint;
use crate::verified::{CollateralDigests, PckIdentity, VerifiedQuote};
use crate::{Allowances, Collateral, DcapDenial, EvaluationMemory, TcbStatus, TrustAnchor, diagnosis, engine};

/// Verifies quotes under one pinned root. Share one verifier between threads: its memory of evaluation numbers is what
/// notices a rollback.
#[derive(Debug)]
pub struct Verifier {
    anchor: TrustAnchor,
    allowances: Allowances,
    memory: EvaluationMemory,
}

impl Verifier {
    /// With the refusing defaults and an empty memory.
    pub fn new(anchor: TrustAnchor) -> Self {
        Self { anchor, allowances: Allowances::NONE, memory: EvaluationMemory::default() }
    }
    /// With exceptions from the refusing defaults.
    #[must_use]
    pub fn with_allowances(mut self, allowances: Allowances) -> Self {
        self.allowances = allowances;
        self
    }
    /// With the evaluation numbers an earlier process had seen.
    #[must_use]
    pub fn with_memory(mut self, memory: EvaluationMemory) -> Self {
        self.memory = memory;
        self
    }
    /// The pinned root.
    pub const fn anchor(&self) -> &TrustAnchor {
        &self.anchor
    }
    /// The evaluation numbers seen so far.
    pub const fn memory(&self) -> &EvaluationMemory {
        &self.memory
    }

    /// Verifies `quote` with `collateral` at `now` (Unix seconds). CPU work of about a millisecond: keep it off an async
    /// runtime.
    pub fn verify(&self, quote: &Quote, collateral: &Collateral, now: u64) -> Result<VerifiedQuote, DcapDenial> {
        self.check_roots(quote, collateral)?;
        // An altered chain in the quote differs too: then say what is wrong with the quote.
        check_pck_chain(quote, collateral)
            .map_err(|mixed_up| diagnosis::diagnose(&self.anchor, quote, collateral, now).unwrap_or(mixed_up))?;
        let claims = engine::verify(&self.anchor, quote, collateral, now)
            .ok_or_else(|| diagnosis::diagnose(&self.anchor, quote, collateral, now).unwrap_or(DcapDenial::Unexplained))?;
        if claims.latest_issue_date > now {
            let unnamed = DcapDenial::CollateralNotYetValid { part: CollateralPart::PckChain, valid_from: claims.latest_issue_date };
            return Err(diagnosis::diagnose(&self.anchor, quote, collateral, now).unwrap_or(unnamed));
        }
        check_platform(&claims, collateral)?;
        check_evaluation_numbers(collateral)?;
        self.memory.admit(claims.platform.pck.fmspc, collateral.evaluation_number())?;
        let verified = verified(&self.anchor, quote, collateral, claims);
        if verified.tcb_status == TcbStatus::Revoked {
            return Err(DcapDenial::TcbRevoked { advisory_ids: verified.advisory_ids });
        }
        self.allowances.check(quote.body())?;
        Ok(verified)
    }

    /// The engine ignores the root certificates that come with quote and collateral; here they have to be the pinned one.
    fn check_roots(&self, quote: &Quote, collateral: &Collateral) -> Result<(), DcapDenial> {
        let pinned = self.anchor.root_der();
        let root = quote.certification().root();
        if root != pinned {
            return Err(DcapDenial::RootUntrusted { wanted: fingerprint(pinned), got: fingerprint(root) });
        }
        for (part, chain) in [
            (CollateralPart::TcbInfoSigner, collateral.tcb_info_chain()),
            (CollateralPart::QeIdentitySigner, collateral.qe_identity_chain()),
        ] {
            if chain.last().map(Vec::as_slice) != Some(pinned) {
                return Err(DcapDenial::CollateralSignatureInvalid(part));
            }
        }
        Ok(())
    }
}

/// A PCK chain in the collateral decides nothing, but one of another machine means that somebody mixed things up.
fn check_pck_chain(quote: &Quote, collateral: &Collateral) -> Result<(), DcapDenial> {
    let own = quote.certification();
    match collateral.pck_chain() {
        Some(chain) if chain.iter().map(Vec::as_slice).ne([own.leaf(), own.intermediate(), own.root()]) => {
            Err(DcapDenial::CollateralMalformed { part: CollateralPart::PckChain, detail: "not the chain in the quote" })
        }
        _ => Ok(()),
    }
}

/// The platform family a quote claims: which collateral to verify it with. Not authenticated, so good for nothing else.
pub fn claimed_fmspc(quote: &Quote) -> Option<[u8; 6]> {
    dcap_qvl::intel::parse_pck_extension(quote.certification().leaf()).ok().map(|extension| extension.fmspc)
}

/// The engine compares FMSPC only.
fn check_platform(claims: &QuoteClaims, collateral: &Collateral) -> Result<(), DcapDenial> {
    diagnosis::check_platform_family(&claims.platform.pck.fmspc, &claims.platform.pck.pce_id, collateral)?;
    if collateral.tcb_info().tcb_type != 0 {
        return Err(DcapDenial::CollateralMalformed { part: CollateralPart::TcbInfo, detail: "tcbType is not 0" });
    }
    Ok(())
}

fn check_evaluation_numbers(collateral: &Collateral) -> Result<(), DcapDenial> {
    let (tcb_info, qe_identity) = (collateral.evaluation_number(), collateral.qe_identity().tcb_evaluation_data_number);
    if tcb_info == qe_identity { Ok(()) } else { Err(DcapDenial::EvaluationNumbersDiffer { tcb_info, qe_identity }) }
}

fn verified(anchor: &TrustAnchor, quote: &Quote, collateral: &Collateral, claims: QuoteClaims) -> VerifiedQuote {
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
        },
        digests: digests(quote, collateral),
        valid_until: claims.earliest_expiration_date,
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
