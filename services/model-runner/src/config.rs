//! The configuration: which model, whose key, who is asked for it, and who may ask for predictions where.

use std::{net::SocketAddr, path::PathBuf};

use keyferry_bus::BusConfig;
use keyferry_identifiers::KeyId;
use keyferry_lifecycle::{Mistake, Runtime, ServiceConfig};
use keyferry_model_envelope::{MediaType, ModelName};
use keyferry_tls::ServerCertificate;
use serde::{Deserialize, Deserializer};
use url::Url;

use crate::runtime::{LINEAR, ONNX, Quirk};

/// Everything that can be configured.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Health listener, telemetry, drain.
    #[serde(default)]
    pub runtime: Runtime,
    /// The bus, with the TD's own identity.
    pub bus: BusConfig,
    /// The attester of this TD.
    pub attester: AttesterConfig,
    /// The key broker.
    pub key_broker: KeyBrokerConfig,
    /// The model.
    pub model: ModelConfig,
    /// The memory it is decrypted into.
    #[serde(default)]
    pub memory: MemoryConfig,
    /// The inference listener.
    pub https: HttpsConfig,
    /// How much is computed at a time.
    #[serde(default)]
    pub compute: ComputeConfig,
}

/// The attester of this TD.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttesterConfig {
    /// Its Unix socket.
    pub socket: PathBuf,
    /// How long an attestation may take, in seconds, 1 to 300: nonce, quote and the verifier's work.
    #[serde(default = "seconds_30")]
    pub timeout_seconds: u64,
}

/// The key broker.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyBrokerConfig {
    /// `https://host:port`. `/taa/v1/key` asks this broker and no other, whatever URL a caller gives.
    pub url: Url,
    /// The roots that its certificate must be under, PEM.
    pub ca_file: PathBuf,
    /// How long one call may take, in seconds, 1 to 300.
    #[serde(default = "seconds_15")]
    pub timeout_seconds: u64,
    /// Who gets the token from the verifier.
    #[serde(default)]
    pub mode: Mode,
}

/// RATS' two topologies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// This TD gets a token and shows it to the broker.
    #[default]
    Passport,
    /// This TD shows evidence to the broker, and the broker gets the token.
    BackgroundCheck,
}

/// The sealed model.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The sealed file: KFM1, or the sample's one-shot format.
    pub file: PathBuf,
    /// The key it is sealed with. A KFM1 file names its own; given both, they must agree.
    #[serde(default)]
    pub key_id: Option<KeyId>,
    /// The name a one-shot file is served under; a KFM1 file has its own.
    #[serde(default, deserialize_with = "parsed_name")]
    pub name: Option<ModelName>,
    /// What a one-shot file holds: `intel-linreg` (the default) or `onnx`; a KFM1 file says so itself.
    #[serde(default, deserialize_with = "parsed_media_type")]
    pub media_type: Option<MediaType>,
    /// How the text of the linear model is read.
    #[serde(default)]
    pub linear_quirk: Quirk,
    /// Request the key and load the model at start, and again after a failure that a retry may mend.
    #[serde(default = "yes")]
    pub load_at_start: bool,
    /// The longest sealed file that is read, in bytes.
    #[serde(default = "sealed_bytes_max")]
    pub bytes_max: u64,
}

/// The memory a model is decrypted into.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryConfig {
    /// Refuse to decrypt a model into memory that cannot be locked. Off: a warning, for machines without swap.
    pub require_lock: bool,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { require_lock: true }
    }
}

/// The inference listener.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpsConfig {
    /// Where it listens; 12780 is the sample's port.
    #[serde(default = "https_listen")]
    pub listen: SocketAddr,
    /// PEM, the listener's own certificate first.
    pub certificate_file: PathBuf,
    /// PEM, mode 0600.
    pub key_file: PathBuf,
}

impl HttpsConfig {
    pub(crate) fn certificate(&self) -> ServerCertificate {
        ServerCertificate { certificate_file: self.certificate_file.clone(), key_file: self.key_file.clone() }
    }
}

/// How much is computed at a time.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ComputeConfig {
    /// Predictions computed at once, 1 to 1024; more wait.
    pub workers: usize,
    /// Predictions that may wait or run; further ones are refused at once. At least `workers`, at most 65536.
    pub queue: usize,
}

impl Default for ComputeConfig {
    fn default() -> Self {
        let workers = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Self { workers, queue: workers * 64 }
    }
}

impl ServiceConfig for Config {
    const HEALTH_PORT: u16 = 9467;

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
        let seconds = 1..=300;
        refuse(!seconds.contains(&self.attester.timeout_seconds), "attester.timeout_seconds", "is outside 1 to 300");
        refuse(!seconds.contains(&self.key_broker.timeout_seconds), "key_broker.timeout_seconds", "is outside 1 to 300");
        let broker = &self.key_broker.url;
        let plain = broker.scheme() == "https" && broker.has_host() && matches!(broker.path(), "" | "/") && broker.query().is_none();
        refuse(!plain || !broker.username().is_empty(), "key_broker.url", "must be https://host:port and nothing else");
        let known = self.model.media_type.as_ref().is_none_or(|media_type| [LINEAR, ONNX].contains(&media_type.as_str()));
        refuse(!known, "model.media_type", "has no runtime: intel-linreg or onnx");
        refuse(!(1..=1024).contains(&self.compute.workers), "compute.workers", "is outside 1 to 1024");
        refuse(!(self.compute.workers..=65536).contains(&self.compute.queue), "compute.queue", "is outside compute.workers to 65536");
        mistakes
    }
}

const fn yes() -> bool {
    true
}
const fn seconds_15() -> u64 {
    15
}
const fn seconds_30() -> u64 {
    30
}
/// 4 GiB: far over what the shipped runtimes are for.
const fn sealed_bytes_max() -> u64 {
    4 << 30
}
fn https_listen() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 12780))
}
fn parsed_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ModelName>, D::Error> {
    ModelName::parse(&String::deserialize(deserializer)?).map(Some).map_err(serde::de::Error::custom)
}
fn parsed_media_type<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<MediaType>, D::Error> {
    MediaType::parse(&String::deserialize(deserializer)?).map(Some).map_err(serde::de::Error::custom)
}
