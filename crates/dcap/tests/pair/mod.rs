//! Two verifications of the same thing: ours, with a cold and with a warm cache, and the engine's.

use std::cell::Cell;

use keyferry_dcap::{Allowances, Collateral, DcapDenial, EvaluationMemory, TrustAnchor, VerifiedQuote, Verifier};
use keyferry_td_simulator::{CollateralOptions, PlatformOptions, SimulatedTd, SimulatorRoot, TdOptions};
use keyferry_tdx_quote::Quote;

pub(crate) const NOW: u64 = 1_800_000_000;

/// One verifier that stays, beside fresh ones for each question.
pub(crate) struct Pair {
    anchor: TrustAnchor,
    grace: u64,
    pub(crate) warm: Verifier,
    accepted: Cell<u32>,
    refused: Cell<u32>,
}

impl Pair {
    pub(crate) fn new(anchor: TrustAnchor) -> Self {
        Self::with_grace(anchor, 0)
    }

    pub(crate) fn with_grace(anchor: TrustAnchor, grace: u64) -> Self {
        let warm = Verifier::new(anchor.clone()).with_allowances(Allowances::ALL).with_collateral_grace(grace);
        Self { anchor, grace, warm, accepted: Cell::new(0), refused: Cell::new(0) }
    }

    fn fresh(&self) -> Verifier {
        let memory = EvaluationMemory::with(self.warm.memory().seen());
        Verifier::new(self.anchor.clone()).with_allowances(Allowances::ALL).with_collateral_grace(self.grace).with_memory(memory)
    }

    /// The common answer of the engine, of a cold cache and of the warm one, the last asked twice.
    pub(crate) fn agree(&self, what: &str, quote: &Quote, collateral: &Collateral, now: u64) -> Result<VerifiedQuote, DcapDenial> {
        let engine = self.fresh().verify_with_engine(quote, collateral, now);
        let cold = self.fresh().verify(quote, collateral, now);
        assert_eq!(seen(&cold), seen(&engine), "cold: {what}");
        for time in ["first", "second"] {
            let warm = self.warm.verify(quote, collateral, now);
            assert_eq!(seen(&warm), seen(&engine), "warm, {time} time: {what}");
        }
        let counter = if engine.is_ok() { &self.accepted } else { &self.refused };
        counter.set(counter.get() + 1);
        cold
    }

    /// How often the answer was yes, and how often no.
    pub(crate) fn tally(&self) -> (u32, u32) {
        (self.accepted.get(), self.refused.get())
    }
}

/// Everything that a verification says.
fn seen(answer: &Result<VerifiedQuote, DcapDenial>) -> Result<String, DcapDenial> {
    let verified = answer.as_ref().map_err(Clone::clone)?;
    Ok(format!(
        "{:?}",
        (
            (verified.quote(), verified.tcb_status(), verified.tcb_date(), verified.advisory_ids(), verified.evaluation_number()),
            (verified.pck() == verified.pck(), &verified.pck().ppid, verified.pck().platform_instance_id, verified.pck().cpu_svn),
            (verified.pck().dynamic_platform, verified.pck().cached_keys, verified.pck().smt, &verified.pck().pce_id),
            (verified.pck().pce_svn, verified.fmspc(), verified.digests(), verified.valid_until()),
            (verified.collateral_expired_at(), verified.trust_anchor()),
        )
    ))
}

/// A simulated root with one TD.
pub(crate) struct World {
    pub(crate) root: SimulatorRoot,
    pub(crate) td: SimulatedTd,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(&PlatformOptions::default())
    }
    pub(crate) fn with(platform: &PlatformOptions) -> Self {
        let root = SimulatorRoot::generate("test", NOW).unwrap();
        let platform = root.platform(platform, NOW).unwrap();
        Self { td: SimulatedTd::new(platform, TdOptions::default()), root }
    }
    pub(crate) fn anchor(&self) -> TrustAnchor {
        TrustAnchor::simulator(self.root.certificate_der()).unwrap()
    }
    pub(crate) fn collateral_json(&self, change: impl FnOnce(&mut CollateralOptions)) -> String {
        let mut options = CollateralOptions::for_platform(self.td.platform());
        change(&mut options);
        self.root.collateral(&options, NOW).unwrap()
    }
    pub(crate) fn collateral(&self, change: impl FnOnce(&mut CollateralOptions)) -> Collateral {
        Collateral::from_json(&self.collateral_json(change)).unwrap()
    }
    pub(crate) fn quote_bytes(&self, change: impl FnOnce(&mut TdOptions)) -> Vec<u8> {
        self.td.with(change).quote(&[7; 64]).unwrap()
    }
    pub(crate) fn quote(&self, change: impl FnOnce(&mut TdOptions)) -> Quote {
        Quote::parse(&self.quote_bytes(change)).unwrap()
    }
}

/// Collateral with one member passed through `edit`.
pub(crate) fn edited(collateral: &str, member: &str, edit: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut document: serde_json::Value = serde_json::from_str(collateral).unwrap();
    let text = document[member].as_str().unwrap();
    let is_hex = ["root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature"].contains(&member);
    let mut bytes = if is_hex { hex::decode(text).unwrap() } else { text.as_bytes().to_vec() };
    edit(&mut bytes);
    let text = if is_hex { hex::encode(bytes) } else { String::from_utf8_lossy(&bytes).into_owned() };
    document[member] = text.into();
    document.to_string()
}
