//! The simulated platforms: a root, its collateral, and one TD per workload.

use std::path::{Path, PathBuf};

use keyferry_td_simulator::{CollateralOptions, Platform, PlatformOptions, SimulatedTd, SimulatorRoot, TdOptions};

use crate::{StartFailure, nats::now, private_directory, write_private};

/// A root and what hangs off it, as files the services read.
#[derive(Debug)]
pub struct Simulation {
    /// The root, for tests that sign collateral of their own.
    pub root: SimulatorRoot,
    /// The machine all TDs run on, as on a real host.
    pub platform: Platform,
    directory: PathBuf,
}

impl Simulation {
    /// Makes root, platform and collateral below `directory`.
    pub fn new(directory: &Path) -> Result<Self, StartFailure> {
        private_directory(directory)?;
        let root = SimulatorRoot::generate("Keyferry Simulated Root CA", now()).map_err(|error| failed(&error))?;
        let platform = root.platform(&PlatformOptions::default(), now()).map_err(|error| failed(&error))?;
        let simulation = Self { root, platform, directory: directory.to_owned() };
        write_private(&simulation.root_file(), simulation.root.certificate_der())?;
        let collateral =
            simulation.root.collateral(&CollateralOptions::for_platform(&simulation.platform), now()).map_err(|error| failed(&error))?;
        write_private(&simulation.collateral_file(), collateral)?;
        Ok(simulation)
    }

    /// The root certificate, DER.
    pub fn root_file(&self) -> PathBuf {
        self.directory.join("root.der")
    }
    /// The collateral of the platform.
    pub fn collateral_file(&self) -> PathBuf {
        self.directory.join("collateral.json")
    }
    /// How tokens and policies name the root.
    pub fn trust_anchor(&self) -> String {
        self.root.trust_anchor()
    }

    /// Writes a TD for an attester to load.
    pub fn td(&self, options: TdOptions, path: &Path) -> Result<(), StartFailure> {
        SimulatedTd::new(self.platform.clone(), options).save(path).map_err(|error| failed(&error))
    }
}

fn failed(error: &keyferry_td_simulator::SimulatorError) -> StartFailure {
    StartFailure::new(format!("the simulated platform could not be made: {error}"), "report this")
}
