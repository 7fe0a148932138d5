//! The simulated fleet that every figure works on: platforms, quotes of fresh report data, collateral.

use anyhow::Result;
use keyferry_dcap::{Collateral, TrustAnchor, Verifier};
use keyferry_td_simulator::{CollateralOptions, PlatformOptions, SimulatedTd, SimulatorRoot, TdOptions};

/// Unix seconds at which everything is made and verified.
pub(crate) const NOW: u64 = 1_800_000_000;

pub(crate) struct World {
    pub(crate) root: SimulatorRoot,
    pub(crate) collateral_json: String,
    pub(crate) collateral: Collateral,
    pub(crate) quotes: Vec<Vec<u8>>,
    pub(crate) verifier: Verifier,
}

impl World {
    /// `platforms` machines with `quotes` quotes in turn.
    pub(crate) fn new(platforms: usize, quotes: u8) -> Result<Self> {
        let root = SimulatorRoot::generate("benches", NOW)?;
        let tds = (0..platforms).map(|_| Ok(SimulatedTd::new(root.platform(&PlatformOptions::default(), NOW)?, TdOptions::default())));
        let tds: Vec<SimulatedTd> = tds.collect::<Result<_>>()?;
        let quotes = tds.iter().cycle().zip(0..quotes).map(|(td, number)| Ok(td.quote(&[number; 64])?)).collect::<Result<_>>()?;
        let collateral_json = root.collateral(&CollateralOptions::default(), NOW)?;
        let collateral = Collateral::from_json(&collateral_json)?;
        let verifier = Verifier::new(TrustAnchor::simulator(root.certificate_der())?);
        Ok(Self { root, collateral_json, collateral, quotes, verifier })
    }

    /// The quotes in turn, for ever.
    pub(crate) fn next_quote<'a>(&'a self) -> impl FnMut() -> Result<&'a [u8]> {
        let mut quotes = self.quotes.iter().cycle();
        move || Ok(quotes.next().ok_or_else(|| anyhow::anyhow!("the world has no quotes"))?)
    }
}
