//! Where quotes come from: the seam between the attester and the machine.

mod configfs_tsm;
mod simulator;

use std::sync::Arc;

use keyferry_lifecycle::StartError;

use crate::PlatformConfig;

pub use configfs_tsm::ConfigfsTsm;
pub use simulator::Simulator;

/// Makes quotes. Blocking: a real platform takes 10 ms to seconds, and one quote at a time.
pub trait Platform: Send + Sync + 'static {
    /// The adapter's name, for logs.
    fn kind(&self) -> &'static str;

    /// A quote over exactly these 64 bytes, as the platform returns it. An error means that there is none; a retry is
    /// always safe.
    fn quote(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, PlatformError>;
}

/// Why there is no quote.
#[derive(Debug, thiserror::Error)]
pub enum PlatformError {
    /// A file of the kernel's interface could not be used.
    #[error("{step} failed ({source}): {advice}")]
    Interface {
        /// What was done.
        step: &'static str,
        /// What the kernel said.
        source: std::io::Error,
        /// What to do.
        advice: &'static str,
    },
    /// The interface belongs to another technology.
    #[error("the report provider is not tdx_guest: this is no TDX guest")]
    Provider,
    /// Somebody else wrote to our entry each time.
    #[error("every attempt was disturbed by another writer: nobody else may use the attester's entries")]
    Disturbed,
    /// The quoting service on the host gave nothing.
    #[error("the host's quoting service returned {bytes} bytes, which is no quote: check that it runs on the host")]
    Empty {
        /// Bytes returned.
        bytes: usize,
    },
    /// Evidence of a kind that is not supported.
    #[error("the platform returned more than {max} bytes: DICE evidence is not supported, only DCAP quotes are")]
    TooLarge {
        /// The most a quote may have.
        max: usize,
    },
    /// What the platform returned is no quote over our data.
    #[error("the platform returned something else than a quote over our data: {0}")]
    Foreign(String),
    /// The simulator failed.
    #[error("the simulator failed: {0}")]
    Simulator(#[from] keyferry_td_simulator::SimulatorError),
}

/// Opens the configured platform, and says loudly if it is no hardware.
pub(crate) fn open(config: &PlatformConfig) -> Result<Arc<dyn Platform>, StartError> {
    match config {
        PlatformConfig::ConfigfsTsm { directory } => {
            if !directory.is_dir() {
                let message = format!("platform.directory: {} is not a directory", directory.display());
                return Err(
                    StartError::message(message).hint("mount configfs in a TDX guest with Linux 6.7 or newer and the tdx_guest module")
                );
            }
            Ok(Arc::new(ConfigfsTsm::new(directory.clone())))
        }
        PlatformConfig::Simulator { td_file } => {
            let simulator = Simulator::load(td_file).map_err(|error| {
                StartError::message(format!("platform.td_file: {error}")).hint("give a file that the TD simulator wrote")
            })?;
            tracing::warn!(
                keyferry.trust_anchor = simulator.trust_anchor(),
                "SIMULATED PLATFORM: quotes are made by software and prove nothing about hardware; \
                 they are accepted only where the simulator's root is configured on purpose"
            );
            Ok(Arc::new(simulator))
        }
    }
}
