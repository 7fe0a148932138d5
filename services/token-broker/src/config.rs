//! The configuration: whose evidence is believed, by which policy, and in whose name tokens are signed.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use keyferry_attestation_token::Algorithm;
use keyferry_bus::BusConfig;
use keyferry_collateral::{INTEL_CERTIFICATES_URL, Settings, Source, Update};
use keyferry_identifiers::PolicyId;
use keyferry_lifecycle::{Mistake, Runtime, Secret, ServiceConfig};
use keyferry_tls::ServerCertificate;
use serde::Deserialize;

use crate::verifier::VerifierConfig;

/// Everything that can be configured.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Health listener, telemetry, drain.
    #[serde(default)]
    pub runtime: Runtime,
    /// The bus, as `token-broker`.
    pub bus: BusConfig,
    /// PEM, mode 0600: signs the audit; made if it is not there, its public half beside it as `.pub`. Default: `audit.key` in
    /// `token.key_directory`.
    #[serde(default)]
    pub audit_key_file: Option<PathBuf>,
    /// Who judges evidence: `kind` is `dcap` (the default) or `trust-authority`. Since 0.2.
    #[serde(default)]
    pub verifier: VerifierConfig,
    /// The tokens we sign.
    pub token: TokenConfig,
    /// The nonces we hand out.
    #[serde(default)]
    pub nonce: NonceConfig,
    /// The evidence we believe. With a trust authority upstream only the attributes that `policy_file` allows count.
    #[serde(default)]
    pub evidence: EvidenceConfig,
    /// The Trust-Authority-compatible listener; absent = bus only.
    pub https: Option<HttpsConfig>,
    /// How much is done at a time.
    #[serde(default)]
    pub work: WorkConfig,
}

impl Config {
    /// Where the key is that signs the audit.
    pub fn audit_key_file(&self) -> PathBuf {
        self.audit_key_file.clone().unwrap_or_else(|| self.token.key_directory.join("audit.key"))
    }
}

/// The tokens we sign.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// `iss` of every token; relying parties compare it byte for byte.
    pub issuer: String,
    /// Where signing key, certificates and nonce key live. Made at the first start with mode 0700; replicas share it.
    pub key_directory: PathBuf,
    /// PS384 (RSA-3072, what Intel's clients expect), RS256, ES384 or ES256. Its kind is fixed for the life of the key
    /// directory; an RSA key signs with PS384 and RS256, whichever a caller asks for.
    #[serde(default = "default_algorithm")]
    pub algorithm: Algorithm,
    /// Seals the private keys of `key_directory`: 64 hex digits, mode 0600. Absent: file modes only.
    pub seal_key_file: Option<PathBuf>,
    /// PKCS#8 PEM, mode 0600: a signing key of one's own, with `signing_chain_file`. It is neither rotated nor withdrawn here.
    pub signing_key_file: Option<PathBuf>,
    /// PEM of its chain: leaf, signing CA, root.
    pub signing_chain_file: Option<PathBuf>,
    /// Where relying parties fetch the revocation lists, as the certificates say; decided when `key_directory` is made.
    /// Default: `<issuer>/crl` where the issuer is an `https://` URL, else nowhere.
    pub crl_url: Option<String>,
    /// Seconds after which a next signing key takes over, from 86400; absent: only `keyferry token rotate-key` rotates.
    pub rotation_seconds: Option<u64>,
    /// How long a next key is published before it signs, in seconds, 300 to 604800: relying parties refresh within it.
    #[serde(default = "default_publish_ahead_seconds")]
    pub publish_ahead_seconds: u64,
    /// How long a token is good, in seconds, 30 to 3600.
    #[serde(default = "default_token_seconds")]
    pub lifetime_seconds: u64,
}

impl TokenConfig {
    /// What the certificates of a new key directory say about revocation lists.
    pub(crate) fn crl_base_url(&self) -> Option<String> {
        let derived = || self.issuer.starts_with("https://").then(|| format!("{}/crl", self.issuer.trim_end_matches('/')));
        self.crl_url.clone().or_else(derived)
    }

    fn check(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        if self.signing_key_file.is_some() != self.signing_chain_file.is_some() {
            mistakes.push(Mistake::new("token.signing_key_file", "and signing_chain_file belong together: give both or neither"));
        }
        if self.signing_key_file.is_some() && self.rotation_seconds.is_some() {
            mistakes.push(Mistake::new("token.rotation_seconds", "is given, but a signing key of one's own is not rotated: remove it"));
        }
        mistakes
    }
}

const fn default_algorithm() -> Algorithm {
    Algorithm::Ps384
}
/// A day: relying parties look for new keys every few minutes.
const fn default_publish_ahead_seconds() -> u64 {
    86_400
}
/// What Intel's own tokens have.
const fn default_token_seconds() -> u64 {
    300
}

/// The nonces we hand out.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NonceConfig {
    /// How long a nonce may be redeemed, in seconds, 1 to 600. A quote takes a second or two to make; longer widens the
    /// window for replay.
    pub lifetime_seconds: u64,
}

impl Default for NonceConfig {
    fn default() -> Self {
        Self { lifetime_seconds: 120 }
    }
}

/// The evidence we believe.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceConfig {
    /// The root that platforms chain to.
    #[serde(default)]
    pub trust_anchor: AnchorConfig,
    /// DER of the simulator's root, with `trust_anchor = "simulator"`.
    pub simulator_root_file: Option<PathBuf>,
    /// Collateral documents (JSON), one for each platform family.
    #[serde(default)]
    pub collateral_files: Vec<PathBuf>,
    /// Where else collateral comes from: a service, bundles, a directory. All of it is verified before it is put in force.
    pub collateral: Option<CollateralConfig>,
    /// How often the collateral files are looked at for changes, in seconds, 1 to 86400.
    #[serde(default = "default_reload_seconds")]
    pub collateral_reload_seconds: u64,
    /// The appraisal policy (JSON) that every TD must satisfy; absent = the refusing defaults without reference values.
    pub policy_file: Option<PathBuf>,
    /// Further policies by id (a UUID), for evidence that names them. They narrow `policy_file` and never widen it.
    #[serde(default)]
    pub policies: BTreeMap<String, PathBuf>,
    /// Documents of reference values, for policies that name some in `reference_value_ids`.
    #[serde(default)]
    pub reference_values: Option<ReferenceValueConfig>,
}

const fn default_reload_seconds() -> u64 {
    60
}

/// Where collateral comes from beside `evidence.collateral_files`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollateralConfig {
    /// Base of Intel's PCS (`https://api.trustedservices.intel.com`) or of something of its shape.
    pub pcs_url: Option<String>,
    /// Where the root's revocation list is, with `pcs_url`. Default: Intel's.
    pub certificates_url: Option<String>,
    /// Base of a PCCS, instead of `pcs_url`.
    pub pccs_url: Option<String>,
    /// PEM: the roots of the service's certificate. Default: the roots that browsers trust.
    pub ca_file: Option<PathBuf>,
    /// `standard` or `early`: which TCB evaluation counts. Has to be said where there is a service.
    pub update: Option<Update>,
    /// Where the last good of each family is kept, for starts while the service is down. Documents that somebody puts there
    /// are picked up, like those of `keyferry collateral import`.
    pub directory: Option<PathBuf>,
    /// Bundles of `keyferry collateral fetch`, followed while they change.
    #[serde(default)]
    pub bundle_files: Vec<PathBuf>,
}

impl CollateralConfig {
    /// The service, if there is one.
    pub(crate) fn service(&self) -> Option<Settings> {
        let certificates_url = self.certificates_url.clone().unwrap_or_else(|| INTEL_CERTIFICATES_URL.to_owned());
        let source = match (&self.pcs_url, &self.pccs_url) {
            (Some(url), _) => Source::Pcs { url: url.clone(), certificates_url },
            (None, Some(url)) => Source::Pccs { url: url.clone() },
            (None, None) => return None,
        };
        Some(Settings { ca_file: self.ca_file.clone(), update: self.update.unwrap_or_default(), ..Settings::new(source) })
    }

    fn check(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let mut mistake = |name: &str, problem: &str| mistakes.push(Mistake::new(format!("evidence.collateral.{name}"), problem));
        let service = self.pcs_url.is_some() || self.pccs_url.is_some();
        if self.pcs_url.is_some() && self.pccs_url.is_some() {
            mistake("pccs_url", "is given beside pcs_url: keep one");
        }
        if self.certificates_url.is_some() && self.pcs_url.is_none() {
            mistake("certificates_url", "is given without pcs_url: a PCCS has the root's list itself");
        }
        if service && self.update.is_none() {
            mistake("update", "is missing: say \"standard\", or \"early\" to judge platforms by Intel's newest evaluation at once");
        }
        if service && self.directory.is_none() {
            mistake("directory", "is missing: the last good collateral is kept there");
        }
        if !service && (self.ca_file.is_some() || self.update.is_some()) {
            mistake("pcs_url", "is missing, and so is pccs_url: ca_file and update are about a service");
        }
        if !service && self.directory.is_none() && self.bundle_files.is_empty() {
            mistake("pcs_url", "is missing, and so are pccs_url, directory and bundle_files: there is nothing to read");
        }
        mistakes
    }
}

/// Where documents of reference values are, and whose are believed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReferenceValueConfig {
    /// The directory: `<id>.json` and `history.jsonl`. Read for each appraisal.
    pub directory: PathBuf,
    /// Public keys in PEM, Ed25519 or P-256, of those who may sign.
    #[serde(default)]
    pub keys: Vec<PathBuf>,
    /// Whether documents that nobody signed are believed too.
    #[serde(default)]
    pub trust_unsigned: bool,
}

/// Which root platforms chain to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AnchorConfig {
    /// Intel's SGX root, built in.
    #[default]
    Intel,
    /// A simulator's root. Never in production: whoever has its key can make evidence for anything.
    Simulator,
}

/// The Trust-Authority-compatible listener.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpsConfig {
    /// Where it listens.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// Its certificate.
    pub certificate: ServerCertificate,
    /// What callers send in `x-api-key`.
    pub api_key: Option<Secret>,
    /// The same, in a file.
    pub api_key_file: Option<PathBuf>,
    /// Keys of several callers: lines of `name:` and the SHA-256 of the key in hex, as `keyferry api-key create` writes them.
    /// Read again when it changes.
    pub api_keys_file: Option<PathBuf>,
    /// Requests of one key in five minutes; what comes above is answered with 429. Intel's service: 1000. 0 = no limit.
    #[serde(default = "default_requests_per_five_minutes")]
    pub requests_per_five_minutes: u32,
}

const fn default_requests_per_five_minutes() -> u32 {
    1000
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9444))
}

impl HttpsConfig {
    /// The one API key, from whichever setting has it; `None` where there are only keys by name.
    pub fn api_key(&self) -> Result<Option<Secret>, Mistake> {
        if self.api_keys_file.is_some() && self.api_key.is_none() && self.api_key_file.is_none() {
            return Ok(None);
        }
        Secret::required_from_twins("https.api_key", self.api_key.as_ref(), self.api_key_file.as_deref()).map(Some)
    }

    fn check(&self) -> Vec<Mistake> {
        self.api_key().err().into_iter().collect()
    }
}

/// How much is done at a time.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkConfig {
    /// Pieces of evidence from the bus under way at a time, 1 to 256.
    pub evidence: usize,
    /// Appraisals that may be computed or wait for a core at a time, 1 to 256; what comes above that is refused as
    /// overloaded. One takes a few milliseconds of CPU.
    pub appraisals: usize,
    /// Nonce and key set requests under way at a time, 1 to 4096.
    pub requests: usize,
}

impl Default for WorkConfig {
    fn default() -> Self {
        Self { evidence: 16, appraisals: 32, requests: 256 }
    }
}

impl ServiceConfig for Config {
    const HEALTH_PORT: u16 = 9465;

    fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    fn check(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        let mut range = |name: &str, value: u64, range: std::ops::RangeInclusive<u64>| {
            if !range.contains(&value) {
                mistakes.push(Mistake::new(name, format!("is {value}: {} to {} are allowed", range.start(), range.end())));
            }
        };
        range("token.lifetime_seconds", self.token.lifetime_seconds, 30..=3600);
        range("nonce.lifetime_seconds", self.nonce.lifetime_seconds, 1..=600);
        range("evidence.collateral_reload_seconds", self.evidence.collateral_reload_seconds, 1..=86_400);
        range("work.evidence", self.work.evidence as u64, 1..=256);
        range("work.appraisals", self.work.appraisals as u64, 1..=256);
        range("work.requests", self.work.requests as u64, 1..=4096);
        range("token.publish_ahead_seconds", self.token.publish_ahead_seconds, 300..=604_800);
        if let Some(seconds) = self.token.rotation_seconds {
            range("token.rotation_seconds", seconds, 86_400..=315_360_000);
        }
        if self.token.issuer.trim().is_empty() {
            mistakes.push(Mistake::new("token.issuer", "is empty: give the name relying parties know this verifier by"));
        }
        mistakes.extend(self.token.check());
        match &self.verifier {
            VerifierConfig::Dcap => mistakes.extend(self.evidence.check()),
            VerifierConfig::TrustAuthority(config) => mistakes.extend(config.check()),
        }
        if let Some(https) = &self.https {
            mistakes.extend(https.check());
        }
        mistakes
    }
}

impl EvidenceConfig {
    fn check(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        match (self.trust_anchor, &self.simulator_root_file) {
            (AnchorConfig::Simulator, None) => {
                mistakes.push(Mistake::new("evidence.simulator_root_file", "is missing: evidence.trust_anchor is \"simulator\""));
            }
            (AnchorConfig::Intel, Some(_)) => mistakes.push(Mistake::new(
                "evidence.simulator_root_file",
                "is given, but evidence.trust_anchor is \"intel\": remove it, or say \"simulator\"",
            )),
            _ => {}
        }
        match &self.collateral {
            None if self.collateral_files.is_empty() => mistakes.push(Mistake::new(
                "evidence.collateral_files",
                "is empty, and there is no evidence.collateral: without collateral no evidence can be appraised",
            )),
            None => {}
            Some(collateral) => mistakes.extend(collateral.check()),
        }
        for id in self.policies.keys() {
            if PolicyId::parse(id).is_err() {
                mistakes.push(Mistake::new("evidence.policies", format!("\"{id}\" is no UUID")));
            }
        }
        mistakes
    }
}
