//! The configuration: who may call, where quotes come from, and which verifier is believed.

use std::path::PathBuf;
use std::time::Duration;

use keyferry_attestation_token::{Algorithm, TrustedIssuer};
use keyferry_bus::BusConfig;
use keyferry_lifecycle::{During, Mistake, Runtime, ServiceConfig, StartError};
use serde::Deserialize;

/// Everything that can be configured.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Health listener, telemetry, drain.
    #[serde(default)]
    pub runtime: Runtime,
    /// The bus, with the TD's own identity.
    pub bus: BusConfig,
    /// Where the workload calls.
    pub socket: SocketConfig,
    /// Where quotes come from.
    pub platform: PlatformConfig,
    /// The verifier whose tokens are believed.
    pub verifier: VerifierConfig,
    /// Bounds.
    #[serde(default)]
    pub limits: Limits,
}

/// Where the workload calls.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SocketConfig {
    /// Path of the Unix socket; made with mode 0600. At most 107 bytes.
    pub path: PathBuf,
    /// Numeric user ids that may call beside this process' own. They also need a way past the socket's mode.
    #[serde(default)]
    pub allowed_uids: Vec<u32>,
}

/// Where quotes come from.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum PlatformConfig {
    /// The kernel's configfs-tsm: bare metal and Google's cloud, Linux 6.7 or newer.
    ConfigfsTsm {
        /// The report directory.
        #[serde(default = "report_directory")]
        directory: PathBuf,
    },
    /// A stand-in for the CPU. No key transfer policy accepts it unless it names the simulator's root.
    Simulator {
        /// A simulated TD with its attestation key, mode 0600.
        td_file: PathBuf,
    },
}

fn report_directory() -> PathBuf {
    PathBuf::from("/sys/kernel/config/tsm/report")
}

/// The verifier whose tokens are believed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifierConfig {
    /// Its name: must equal the token's `iss`.
    pub issuer: String,
    /// The root certificate its signing keys lead to, PEM or DER. Pinned: no other root counts.
    pub root_file: PathBuf,
    /// Algorithms it may sign with.
    #[serde(default = "algorithms")]
    pub algorithms: Vec<Algorithm>,
}

fn algorithms() -> Vec<Algorithm> {
    Algorithm::BELIEVED_BY_DEFAULT.to_vec()
}

impl VerifierConfig {
    pub(crate) fn trusted_issuer(&self) -> Result<TrustedIssuer, StartError> {
        let doing = format!("reading verifier.root_file {}", self.root_file.display());
        let bytes = std::fs::read(&self.root_file).during(&doing)?;
        let der = if bytes.starts_with(b"-----BEGIN") {
            let certificates = keyferry_tls::read_certificates(&self.root_file).during(&doing)?;
            match certificates.as_slice() {
                [root] => root.to_vec(),
                _ => return Err(StartError::message(format!("{doing}: not exactly one certificate")).hint("pin the verifier's root only")),
            }
        } else {
            bytes
        };
        Ok(TrustedIssuer::new(self.issuer.clone(), der, self.algorithms.clone()))
    }
}

/// Bounds.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// How long one attestation may take at most, in seconds, 1 to 300; a caller's shorter deadline counts.
    pub attestation_seconds: u64,
    /// Attestations at once, 1 to 64: as much evidence as the bus keeps for one TD. Further ones are refused; the platform
    /// makes one quote at a time anyway.
    pub concurrent_attestations: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { attestation_seconds: 60, concurrent_attestations: 16 }
    }
}

impl Limits {
    pub(crate) const fn duration(&self) -> Duration {
        Duration::from_secs(self.attestation_seconds)
    }
}

impl ServiceConfig for Config {
    const HEALTH_PORT: u16 = 9464;

    fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    fn check(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let mut refuse = |wrong: bool, setting: &str, problem: &str| {
            if wrong {
                mistakes.push(Mistake::new(setting, problem));
            }
        };
        refuse(!(1..=300).contains(&self.limits.attestation_seconds), "limits.attestation_seconds", "is outside 1 to 300");
        refuse(!(1..=64).contains(&self.limits.concurrent_attestations), "limits.concurrent_attestations", "is outside 1 to 64");
        refuse(self.verifier.issuer.is_empty(), "verifier.issuer", "is empty: give the `iss` of the verifier's tokens");
        refuse(self.verifier.algorithms.is_empty(), "verifier.algorithms", "is empty: no token could be believed");
        refuse(self.socket.path.as_os_str().len() > 107, "socket.path", "is longer than the 107 bytes a Unix socket's path may have");
        mistakes
    }
}
