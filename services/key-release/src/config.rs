//! Settings. Every default is a named constant with its reason; every secret has a `_file` twin.

mod intel;

use std::{
    collections::HashSet,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use keyferry_attestation_token::{AbsentAnchor, Algorithm, INTEL_TRUST_ANCHOR, Revocation, TOKEN_AGE_SECONDS_MAX, names_trust_anchor};
use keyferry_bus::BusConfig;
use keyferry_kms::{KmsConfig, VaultAuth};
use keyferry_lifecycle::{Foreign, Mistake, Runtime, Secret, ServiceConfig, Surroundings};
use keyferry_telemetry::Trust;
use keyferry_tls::ServerCertificate;
use keyferry_trust_authority::Proxy;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::{
    rest::ClientLimits,
    users::{LockoutSettings, UserSettings, VALIDITY_MAX, check_password, check_username},
};

/// The settings of key-release.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Health, telemetry, addresses file, drain. Since 0.1.
    #[serde(default)]
    pub runtime: Runtime,
    /// The one TLS 1.3 listener. Default 127.0.0.1:9443. Since 0.1.
    #[serde(default = "listen_default")]
    pub listen: SocketAddr,
    /// Its certificate. Since 0.1.
    pub tls: ServerCertificate,
    /// Names of a self-signed certificate that is made at `tls` if there is none, and renewed in time. Empty: none is made;
    /// without a `tls` section Intel's `SAN_LIST` is meant. Since 0.2.
    #[serde(default)]
    pub self_signed_names: Vec<String>,
    /// The bus that carries records, audit and events. Since 0.1.
    pub bus: BusConfig,
    /// 64 hex digits, mode 0600: seals the records. Made if it is not there; replicas need the same file. Since 0.1.
    pub store_key_file: PathBuf,
    /// PEM, mode 0600: signs the audit; made if it is not there, its public half beside it as `.pub`. Replicas may have one
    /// each. Default: `audit.key` beside `store_key_file`. Since 0.2.
    #[serde(default)]
    pub audit_key_file: Option<PathBuf>,
    /// Whose tokens count. At least one. Since 0.1.
    pub issuers: Vec<IssuerConfig>,
    /// Appraises evidence for background-check mode. Absent: passport mode only. Since 0.1.
    #[serde(default)]
    pub verifier: Option<VerifierConfig>,
    /// Where the keys are. Since 0.1.
    pub kms: KmsConfig,
    /// The first administrator, made in the store if nobody has that name. Absent: none is made. Since 0.1.
    #[serde(default)]
    pub admin: AdminConfig,
    /// How users get in. Since 0.2.
    #[serde(default)]
    pub users: UsersConfig,
    /// How much one address may cause without a credential. Since 0.2.
    #[serde(default)]
    pub client_limits: ClientLimits,
    /// What a caller's trace context is worth. Since 0.1.
    #[serde(default)]
    pub trace_context: TraceContext,
}

impl Config {
    /// Where the key is that signs the audit.
    pub fn audit_key_file(&self) -> PathBuf {
        self.audit_key_file.clone().unwrap_or_else(|| self.store_key_file.with_file_name("audit.key"))
    }
}

impl Config {
    /// Those that no setting holds. Where the native configuration has its own, it stays.
    fn adopt_secrets_of_intels_environment(&mut self, variable: &dyn Fn(&str) -> Option<String>) {
        if let Some(verifier) = &mut self.verifier
            && verifier.api_key_file.is_none()
        {
            verifier.api_key = variable("TRUSTAUTHORITY_API_KEY").map(Secret::new);
        }
        match &mut self.kms {
            KmsConfig::Vault(vault) if is_token_of_intels_environment(&vault.auth) => {
                if let Some(theirs) = intel::vault(variable) {
                    **vault = theirs;
                }
            }
            KmsConfig::Kmip(kmip) if kmip.username.is_none() && kmip.password_file.is_none() => {
                if let (Some(username), Some(password)) = (variable("KMIP_USERNAME"), variable("KMIP_PASSWORD")) {
                    kmip.username = Some(username);
                    kmip.password = Some(Arc::new(Zeroizing::new(password)));
                }
            }
            _ => {}
        }
    }
}

fn is_token_of_intels_environment(auth: &VaultAuth) -> bool {
    matches!(auth, VaultAuth::TokenFile(file) if file.as_os_str() == intel::VAULT_TOKEN_STANDS_HERE)
}

/// An issuer of attestation tokens whose word counts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// Must equal the token's `iss`, byte for byte. Since 0.1.
    pub issuer: String,
    /// PEM with exactly one certificate: the pinned root of the token-signing chain. Since 0.1.
    pub root_file: PathBuf,
    /// If `root_file` is not there at the start, takes the root that the issuer's own key set names, and keeps it there.
    /// Whoever can answer for the address of that key set at this moment is believed. Since 0.2.
    #[serde(default)]
    pub pin_on_first_use: bool,
    /// `https://` address of the key set. Since 0.1.
    pub jwks_url: String,
    /// PEM: whom the TLS certificate of that address must chain to. Since 0.1.
    pub jwks_ca_file: PathBuf,
    /// `PS384`, `ES384`, `ES256`: those this issuer may use. Since 0.1.
    pub algorithms: Vec<Algorithm>,
    /// The roots of evidence this issuer speaks for: `intel-sgx-root` (the default), `simulator:<64 hex digits>`. A token
    /// that names another one is refused, so that a simulator's verifier cannot vouch for hardware. Since 0.1.
    #[serde(default = "trust_anchors_default")]
    pub trust_anchors: Vec<String>,
    /// What a token means that names no trust anchor: `unknown`, or `intel` for Intel's own service. Since 0.1.
    #[serde(default = "absent_anchor_default")]
    pub absent_anchor: AbsentAnchor,
    /// A token issued longer ago is stale whatever it says. Default 3600. Since 0.1.
    #[serde(default = "token_age_default")]
    pub token_age_seconds_max: u64,
    /// How the key set is reached, if not directly. Since 0.2.
    #[serde(default)]
    pub proxy: Option<Proxy>,
    /// Whether the certificates of the key set are looked up in revocation lists, which are fetched where the key set is:
    /// `check` is `if_named` (the default: where a certificate names a list), `required` or `off`; `grace_seconds` is how
    /// long an overdue list still counts, 0 by default. Since 0.2.
    #[serde(default)]
    pub revocation: Revocation,
}

/// The appraisal API used in background-check mode.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifierConfig {
    /// `https://host[:port]`. Since 0.1.
    pub api_url: String,
    /// PEM: whom its TLS certificate must chain to. Since 0.1.
    pub ca_file: PathBuf,
    /// The API key. Since 0.1.
    #[serde(default)]
    pub api_key_file: Option<PathBuf>,
    /// The API key from `TRUSTAUTHORITY_API_KEY`. In a configuration file it would be a secret where none belongs.
    #[serde(skip)]
    pub api_key: Option<Secret>,
    /// How it is reached, if not directly. Since 0.2.
    #[serde(default)]
    pub proxy: Option<Proxy>,
}

/// The bootstrap administrator.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// Also `ADMIN_USERNAME`. Since 0.1.
    pub username: Option<String>,
    /// Also `ADMIN_PASSWORD`. Prefer the file. Since 0.1.
    pub password: Option<Secret>,
    /// Also `ADMIN_PASSWORD_FILE`. Since 0.1.
    pub password_file: Option<PathBuf>,
}

impl AdminConfig {
    /// Fills what is not set from `ADMIN_USERNAME`, `ADMIN_PASSWORD` and `ADMIN_PASSWORD_FILE`, as `variable` knows them.
    #[must_use]
    pub fn or_from(&self, variable: impl Fn(&str) -> Option<String>) -> Self {
        let has_password = self.password.is_some() || self.password_file.is_some();
        let inherited = |name| if has_password { None } else { variable(name) };
        Self {
            username: self.username.clone().or_else(|| variable("ADMIN_USERNAME")),
            password: self.password.clone().or_else(|| inherited("ADMIN_PASSWORD").map(Secret::new)),
            password_file: self.password_file.clone().or_else(|| inherited("ADMIN_PASSWORD_FILE").map(PathBuf::from)),
        }
    }

    /// Name and password; `None` when neither is set.
    pub fn resolved(&self) -> Result<Option<(String, Secret)>, Mistake> {
        let password = Secret::from_twins("admin.password", self.password.as_ref(), self.password_file.as_deref())?;
        match (&self.username, password) {
            (None, None) => Ok(None),
            (Some(name), Some(password)) => {
                check_username(name).map_err(|denial| Mistake::new("admin.username", denial.to_string()))?;
                check_password(password.expose()).map_err(|denial| Mistake::new("admin.password", denial.to_string()))?;
                Ok(Some((name.clone(), password)))
            }
            (Some(_), None) => Err(Mistake::new("admin.password", "is missing: set admin.password_file")),
            (None, Some(_)) => Err(Mistake::new("admin.username", "is missing: whose password is it?")),
        }
    }
}

/// How users get in.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UsersConfig {
    /// How long a bearer token counts: 1 to 30. Default 5. Since 0.2.
    pub token_validity_minutes: u32,
    /// Wrong passwords in a row, of one name from one address. Default 5. Since 0.2.
    pub attempts_max: u32,
    /// After this long, one more. Default 5. Since 0.2.
    pub attempt_interval_minutes: u32,
    /// How long nobody gets in under that name from that address after one too many. Default 15. Since 0.2.
    pub lockout_minutes: u32,
}

/// Intel's numbers.
impl Default for UsersConfig {
    fn default() -> Self {
        Self { token_validity_minutes: 5, attempts_max: 5, attempt_interval_minutes: 5, lockout_minutes: 15 }
    }
}

impl UsersConfig {
    /// The same, as the users want it.
    pub fn settings(&self) -> UserSettings {
        let minutes = |minutes: u32| Duration::from_mins(minutes.into());
        UserSettings {
            token_validity: minutes(self.token_validity_minutes),
            lockout: LockoutSettings {
                attempts_max: self.attempts_max,
                attempt_interval: minutes(self.attempt_interval_minutes),
                lockout: minutes(self.lockout_minutes),
            },
        }
    }

    fn check(&self, mistakes: &mut Vec<Mistake>) {
        let validity_max = VALIDITY_MAX.as_secs() / 60;
        if self.token_validity_minutes == 0 || u64::from(self.token_validity_minutes) > validity_max {
            mistakes.push(Mistake::new("users.token_validity_minutes", format!("must be 1 to {validity_max}")));
        }
        let counts = [
            ("attempts_max", self.attempts_max),
            ("attempt_interval_minutes", self.attempt_interval_minutes),
            ("lockout_minutes", self.lockout_minutes),
        ];
        for (name, value) in counts {
            if !(1..=COUNT_MAX).contains(&value) {
                mistakes.push(Mistake::new(format!("users.{name}"), format!("must be 1 to {COUNT_MAX}")));
            }
        }
    }
}

/// Of attempts, and of minutes: a week and a half.
const COUNT_MAX: u32 = 15_000;

/// What a caller's trace context is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TraceContext {
    /// Callers are TDs of ours: their trace ids become ours; their sampling flag never counts.
    #[default]
    Adopt,
    /// Callers are the public: we begin a trace of our own and link to theirs.
    Link,
}

impl From<TraceContext> for Trust {
    fn from(value: TraceContext) -> Self {
        match value {
            TraceContext::Adopt => Self::Adopt,
            TraceContext::Link => Self::Link,
        }
    }
}

impl ServiceConfig for Config {
    const HEALTH_PORT: u16 = 9466;

    fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    fn foreign(surroundings: &Surroundings<'_>) -> Foreign {
        intel::read(surroundings)
    }

    fn adopt(&mut self, variable: &dyn Fn(&str) -> Option<String>) {
        if intel::present(variable) {
            self.adopt_secrets_of_intels_environment(variable);
        }
    }

    fn check(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        if self.issuers.is_empty() {
            mistakes.push(Mistake::new("issuers", "is empty: name at least one issuer, or no token is ever accepted"));
        }
        let mut names = HashSet::new();
        for (index, issuer) in self.issuers.iter().enumerate() {
            let setting = |name: &str| format!("issuers.{index}.{name}");
            if !names.insert(&issuer.issuer) {
                mistakes.push(Mistake::new(setting("issuer"), "is there twice"));
            }
            if issuer.algorithms.is_empty() {
                mistakes.push(Mistake::new(setting("algorithms"), "is empty: name PS384, ES384 or ES256"));
            }
            let anchors = &issuer.trust_anchors;
            if anchors.is_empty() || !anchors.iter().all(|anchor| names_trust_anchor(anchor)) {
                let problem = format!("must name {INTEL_TRUST_ANCHOR:?} or \"simulator:\" and 64 lower-case hex digits, at least one");
                mistakes.push(Mistake::new(setting("trust_anchors"), problem));
            }
            if issuer.absent_anchor == AbsentAnchor::Intel && !anchors.iter().any(|anchor| anchor == INTEL_TRUST_ANCHOR) {
                let problem = format!("is \"intel\", and trust_anchors does not name {INTEL_TRUST_ANCHOR:?}");
                mistakes.push(Mistake::new(setting("absent_anchor"), problem));
            }
            if !issuer.jwks_url.starts_with("https://") {
                mistakes.push(Mistake::new(setting("jwks_url"), "must begin with https://"));
            }
        }
        let limits = self.client_limits;
        for (name, value) in
            [("refused_transfers_per_second", limits.refused_transfers_per_second), ("challenges_per_second", limits.challenges_per_second)]
        {
            if !(1..=10_000).contains(&value) {
                mistakes.push(Mistake::new(format!("client_limits.{name}"), "must be 1 to 10000"));
            }
        }
        if let Some(verifier) = self.verifier.as_ref().filter(|verifier| !verifier.api_url.starts_with("https://")) {
            mistakes.push(Mistake::new("verifier.api_url", format!("must begin with https:// and is {:?}", verifier.api_url)));
        }
        if let Some(VerifierConfig { api_key_file: None, api_key: None, .. }) = &self.verifier {
            mistakes.push(Mistake::new("verifier.api_key_file", "is missing: name the file with the API key"));
        }
        self.users.check(&mut mistakes);
        mistakes
    }
}

/// Intel's port, on loopback: opening it to a network is a decision.
fn listen_default() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 9443).into()
}
fn trust_anchors_default() -> Vec<String> {
    vec![INTEL_TRUST_ANCHOR.to_owned()]
}
fn absent_anchor_default() -> AbsentAnchor {
    AbsentAnchor::Unknown
}
fn token_age_default() -> u64 {
    TOKEN_AGE_SECONDS_MAX
}
