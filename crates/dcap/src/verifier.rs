//! The verifier: its settings, and what it checks of every quote beside the cryptography.

use std::sync::Arc;

use keyferry_tdx_quote::Quote;

use crate::cache::Cache;
use crate::cached::Fault;
use crate::denial::CollateralPart;
use crate::diagnosis::{self, Moment};
use crate::generation::Generation;
use crate::platform::Platform;
use crate::trust_anchor::fingerprint;
use crate::verified::VerifiedQuote;
use crate::{Allowances, Collateral, DcapDenial, EvaluationMemory, TcbStatus, TrustAnchor, pck_extension};

/// Verifies quotes under one pinned root. Share one verifier between threads: its memory of evaluation numbers is what
/// notices a rollback.
#[derive(Debug)]
pub struct Verifier {
    pub(crate) anchor: TrustAnchor,
    pub(crate) allowances: Allowances,
    pub(crate) memory: EvaluationMemory,
    pub(crate) collateral_grace: u64,
    pub(crate) generations: Cache<Arc<Generation>>,
    pub(crate) platforms: Cache<Platform>,
}

/// Platforms that a verifier remembers unless told otherwise: at most 25 MB.
const PLATFORMS: usize = 128 * 1024;
/// Generations of collateral: two for each of many platform families.
const GENERATIONS: usize = 256;
/// A power of two above the number of cores that verify.
const SHARDS: usize = 16;

impl Verifier {
    /// With the refusing defaults and an empty memory.
    pub fn new(anchor: TrustAnchor) -> Self {
        Self {
            anchor,
            allowances: Allowances::NONE,
            memory: EvaluationMemory::default(),
            collateral_grace: 0,
            generations: Cache::new(GENERATIONS, 1),
            platforms: Cache::new(PLATFORMS, SHARDS),
        }
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
    /// Accepts TCB info, QE identity and revocation lists up to `seconds` after their end, which
    /// [`VerifiedQuote::collateral_expired_at`] then tells; without it nothing expired is accepted. Certificates have no
    /// grace, and nothing is accepted before its time.
    #[must_use]
    pub const fn with_collateral_grace(mut self, seconds: u64) -> Self {
        self.collateral_grace = seconds;
        self
    }
    /// Remembers at most about `platforms` platforms, instead of 131 072. Each costs less than 200 bytes, none of which is
    /// taken before it is needed; a platform that was forgotten costs two more signature verifications when it comes back.
    #[must_use]
    pub fn with_platform_capacity(mut self, platforms: usize) -> Self {
        self.platforms = Cache::new(platforms, SHARDS);
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

    /// How many platforms are remembered.
    pub fn platforms_remembered(&self) -> usize {
        self.platforms.len()
    }

    /// Verifies `quote` with `collateral` at `now` (Unix seconds). One ECDSA verification if collateral and platform are
    /// known, up to nine if not; a refusal costs up to nine more, which find out its reason. CPU work of up to a
    /// millisecond: keep it off an async runtime.
    pub fn verify(&self, quote: &Quote, collateral: &Collateral, now: u64) -> Result<VerifiedQuote, DcapDenial> {
        self.check_chains(quote, collateral, now)?;
        let verified = self.judge(quote, collateral, now).map_err(|fault| self.explain(fault, quote, collateral, now))?;
        self.admit(collateral, verified)
    }

    /// What a cryptographer leaves open: the order of evaluations, the last word on the TCB, and the TD's attributes.
    pub(crate) fn admit(&self, collateral: &Collateral, verified: VerifiedQuote) -> Result<VerifiedQuote, DcapDenial> {
        if collateral.tcb_info().tcb_type != 0 {
            return Err(DcapDenial::CollateralMalformed { part: CollateralPart::TcbInfo, detail: "tcbType is not 0" });
        }
        check_evaluation_numbers(collateral)?;
        self.memory.admit(verified.fmspc(), collateral.evaluation_number())?;
        if verified.tcb_status == TcbStatus::Revoked {
            return Err(DcapDenial::TcbRevoked { advisory_ids: verified.advisory_ids });
        }
        self.allowances.check(verified.report())?;
        Ok(verified)
    }

    /// The certificates that come along and decide nothing: roots and a second PCK chain.
    pub(crate) fn check_chains(&self, quote: &Quote, collateral: &Collateral, now: u64) -> Result<(), DcapDenial> {
        self.check_roots(quote, collateral)?;
        // An altered chain in the quote differs too: then say what is wrong with the quote.
        check_pck_chain(quote, collateral).map_err(|mixed_up| self.diagnose(quote, collateral, now).unwrap_or(mixed_up))
    }

    fn explain(&self, fault: Fault, quote: &Quote, collateral: &Collateral, now: u64) -> DcapDenial {
        let part = CollateralPart::PckChain;
        self.diagnose(quote, collateral, now).unwrap_or(match fault {
            Fault::Refused => DcapDenial::Unexplained,
            Fault::NotYet(valid_from) => DcapDenial::CollateralNotYetValid { part, valid_from },
            Fault::Over(expires_at) => DcapDenial::CollateralExpired { part, expires_at },
        })
    }

    /// Why a refused quote is refused.
    pub(crate) fn diagnose(&self, quote: &Quote, collateral: &Collateral, now: u64) -> Option<DcapDenial> {
        let moment = Moment { now, grace: self.collateral_grace };
        diagnosis::diagnose(&self.anchor, quote, collateral, moment)
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
/// Less than a microsecond.
pub fn claimed_fmspc(quote: &Quote) -> Option<[u8; 6]> {
    pck_extension::claimed_fmspc(quote.certification().leaf())
}

pub(crate) fn check_evaluation_numbers(collateral: &Collateral) -> Result<(), DcapDenial> {
    let (tcb_info, qe_identity) = (collateral.evaluation_number(), collateral.qe_identity().tcb_evaluation_data_number);
    if tcb_info == qe_identity { Ok(()) } else { Err(DcapDenial::EvaluationNumbersDiffer { tcb_info, qe_identity }) }
}
