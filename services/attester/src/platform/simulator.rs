//! A simulated TD in place of the CPU.

use std::path::Path;

use keyferry_td_simulator::SimulatedTd;

use crate::{Platform, PlatformError};

/// Quotes by software under a simulator's root.
#[derive(Debug)]
pub struct Simulator {
    td: SimulatedTd,
    trust_anchor: String,
}

impl Simulator {
    /// Loads a TD from its file.
    pub fn load(file: &Path) -> Result<Self, PlatformError> {
        let td = SimulatedTd::load(file)?;
        let trust_anchor = td.trust_anchor();
        Ok(Self { td, trust_anchor })
    }

    /// `simulator:<fingerprint of its root>`.
    pub fn trust_anchor(&self) -> &str {
        &self.trust_anchor
    }
}

impl Platform for Simulator {
    fn kind(&self) -> &'static str {
        "simulator"
    }

    fn quote(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, PlatformError> {
        Ok(self.td.quote(report_data)?)
    }
}
