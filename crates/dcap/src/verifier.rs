//! The verifier: its settings, and what it checks of every quote whoever does the cryptography.

use keyferry_tdx_quote::Quote;

use crate::denial::CollateralPart;
use crate::diagnosis::{self, Moment};
use crate::trust_anchor::fingerprint;
use crate::verified::VerifiedQuote;
use crate::{Allowances, Collateral, DcapDenial, EvaluationMemory, TrustAnchor};

/// Verifies quotes under one pinned root. Share one verifier between threads: its memory of evaluation numbers is what
/// notices a rollback.
#[derive(Debug)]
pub struct Verifier {
    pub(crate) anchor: TrustAnchor,
    pub(crate) allowances: Allowances,
    pub(crate) memory: EvaluationMemory,
    pub(crate) collateral_grace: u64,
}

impl Verifier {
    /// With the refusing defaults and an empty memory.
    pub fn new(anchor: TrustAnchor) -> Self {
        Self { anchor, allowances: Allowances::NONE, memory: EvaluationMemory::default(), collateral_grace: 0 }
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
        self.verify_with_engine(quote, collateral, now)
    }

    /// Why a refused quote is refused.
    pub(crate) fn diagnose(&self, quote: &Quote, collateral: &Collateral, now: u64) -> Option<DcapDenial> {
        let moment = Moment { now, grace: self.collateral_grace };
        diagnosis::diagnose(&self.anchor, quote, collateral, moment)
    }

    /// The engine ignores the root certificates that come with quote and collateral; here they have to be the pinned one.
    pub(crate) fn check_roots(&self, quote: &Quote, collateral: &Collateral) -> Result<(), DcapDenial> {
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
pub(crate) fn check_pck_chain(quote: &Quote, collateral: &Collateral) -> Result<(), DcapDenial> {
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

pub(crate) fn check_evaluation_numbers(collateral: &Collateral) -> Result<(), DcapDenial> {
    let (tcb_info, qe_identity) = (collateral.evaluation_number(), collateral.qe_identity().tcb_evaluation_data_number);
    if tcb_info == qe_identity { Ok(()) } else { Err(DcapDenial::EvaluationNumbersDiffer { tcb_info, qe_identity }) }
}
