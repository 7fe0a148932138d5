//! Settings of a Vault-API server: HashiCorp Vault or OpenBao.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use serde::Deserialize;
use url::Url;
use zeroize::Zeroizing;

use crate::KmsError;

/// Which secrets engine holds the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VaultEngine {
    /// KV version 1, in the form of Intel's KBS: for taking its keys over.
    Kv1,
    /// KV version 2: versions, check-and-set, soft deletion.
    Kv2,
    /// Transit: the key is made in the server; exported to the broker, or wrapped for the TD by the server.
    Transit,
}

impl VaultEngine {
    const fn mount_default(self) -> &'static str {
        match self {
            Self::Kv1 => "keybroker", // where Intel's KBS keeps its keys
            Self::Kv2 => "keyferry",
            Self::Transit => "transit",
        }
    }
}

/// How the broker shows who it is.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum VaultAuth {
    /// A token in a file, made and replaced by somebody else (an agent, an operator).
    TokenFile(PathBuf),
    /// A token from the environment of Intel's KBS. In a configuration file it would be a secret where none belongs.
    #[serde(skip)]
    Token(Arc<Zeroizing<String>>),
    /// AppRole.
    #[serde(rename = "approle")]
    AppRole(VaultAppRole),
    /// The broker's TLS client certificate.
    Cert(VaultCert),
    /// A JWT in a file, e.g. of a Kubernetes service account.
    Jwt(VaultJwt),
    /// Each TD's own attestation token: the broker holds no credential, and the server demands a valid attestation.
    Attestation(VaultAttestation),
}

impl fmt::Debug for VaultAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TokenFile(_) => "token_file",
            Self::Token(_) => "token",
            Self::AppRole(_) => "approle",
            Self::Cert(_) => "cert",
            Self::Jwt(_) => "jwt",
            Self::Attestation(_) => "attestation",
        })
    }
}

/// Login with an AppRole.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultAppRole {
    /// Where the method is mounted. Default `approle`. Since 0.1.
    #[serde(default = "approle_mount")]
    pub mount: String,
    /// The role's identifier. Since 0.1.
    pub role_id: String,
    /// File with the secret id, mode 0600; read at each login. Since 0.1.
    pub secret_id_file: PathBuf,
}

/// Login with a TLS client certificate.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultCert {
    /// Where the method is mounted. Default `cert`. Since 0.1.
    #[serde(default = "cert_mount")]
    pub mount: String,
    /// The role: its name at `auth/cert/certs/`. Since 0.1.
    pub role: String,
    /// PEM, the certificate; read at each login. Since 0.1.
    pub certificate_file: PathBuf,
    /// PEM, its private key, mode 0600; read at each login. Since 0.1.
    pub key_file: PathBuf,
}

/// Login with a JWT.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultJwt {
    /// Where the method is mounted. Default `jwt`. Since 0.1.
    #[serde(default = "jwt_mount")]
    pub mount: String,
    /// The role. Since 0.1.
    pub role: String,
    /// File with the JWT; read at each login. Since 0.1.
    pub jwt_file: PathBuf,
}

/// Login with the attestation token of the TD that a key is released to.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultAttestation {
    /// Where the JWT method that knows the verifier's keys is mounted. Default `jwt`. Since 0.1.
    #[serde(default = "jwt_mount")]
    pub mount: String,
    /// The role. `{key}` in it stands for the key's UUID, so that each key can have claims of its own. Since 0.1.
    pub role: String,
}

fn approle_mount() -> String {
    "approle".to_owned()
}
fn cert_mount() -> String {
    "cert".to_owned()
}
fn jwt_mount() -> String {
    "jwt".to_owned()
}

/// How long each step may take. Each has its own error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VaultTimeouts {
    /// TCP connect and TLS handshake. Default 2 s.
    #[serde(with = "humantime_serde")]
    pub connect: Duration,
    /// A request until the end of its answer. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub request: Duration,
    /// All of an operation, logging in and repeating included. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub total: Duration,
}

impl Default for VaultTimeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connect: seconds(2), request: seconds(5), total: seconds(10) }
    }
}

/// Settings of a Vault-API server.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VaultConfig {
    /// `https://host:port`; the server's certificate must name the host. Since 0.1.
    pub url: String,
    /// PEM, the roots that the server's certificate must chain to. Since 0.1.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Permits `http://`: keys then cross the network in the clear. For a server on the same machine, and for the first
    /// day after Intel's KBS, which speaks nothing else. Since 0.1.
    #[serde(default)]
    pub allow_plain_http: bool,
    /// The namespace, for servers that have them. Since 0.1.
    #[serde(default)]
    pub namespace: Option<String>,
    /// `kv1`, `kv2` or `transit`. Since 0.1.
    pub engine: VaultEngine,
    /// Where the engine is mounted. Default `keybroker` for kv1, `keyferry` for kv2, `transit` for transit. Since 0.1.
    #[serde(default)]
    pub mount: Option<String>,
    /// Transit only: the server wraps the key for the TD, and the broker never sees it. Since 0.1.
    #[serde(default)]
    pub wrap_for_td: bool,
    /// Who we are when a key is released, and for everything else unless `administration` is set. Since 0.1.
    pub auth: VaultAuth,
    /// Who we are when keys are made, inspected, exported, revoked and destroyed: a stolen credential for releases can
    /// then do none of that. Since 0.1.
    #[serde(default)]
    pub administration: Option<VaultAuth>,
    /// Time limits. Since 0.1.
    #[serde(default)]
    pub timeouts: VaultTimeouts,
}

impl fmt::Debug for VaultConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = f.debug_struct("VaultConfig");
        all.field("engine", &self.engine).field("mount", &self.mount).field("wrap_for_td", &self.wrap_for_td);
        all.field("ca_file", &self.ca_file).field("namespace", &self.namespace).field("auth", &self.auth);
        all.field("administration", &self.administration).field("timeouts", &self.timeouts);
        all.finish_non_exhaustive()
    }
}

impl VaultConfig {
    /// As Intel's KBS is told by `VAULT_SERVER_IP`, `VAULT_SERVER_PORT` and `VAULT_CLIENT_TOKEN`: plain HTTP, a token that is
    /// never renewed by its owner, KV version 1 at `keybroker`.
    pub fn of_intels_kbs(host: &str, port: u16, token: Zeroizing<String>) -> Self {
        let host = if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() };
        Self {
            url: format!("http://{host}:{port}"),
            ca_file: None,
            allow_plain_http: true,
            namespace: None,
            engine: VaultEngine::Kv1,
            mount: None,
            wrap_for_td: false,
            auth: VaultAuth::Token(Arc::new(token)),
            administration: None,
            timeouts: VaultTimeouts::default(),
        }
    }

    /// The server's address, if it may be used.
    pub(crate) fn base(&self) -> Result<Url, KmsError> {
        let wrong = |what: &str| configuration("url", what);
        let url = Url::parse(&self.url).map_err(|_| wrong("expected https://host:port"))?;
        if url.host_str().is_none() || !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
            return Err(wrong("expected https://host:port, without user name or query"));
        }
        match url.scheme() {
            "https" if self.ca_file.is_none() => {
                Err(configuration("ca_file", "name the roots that the server's certificate chains to: the system's are never trusted"))
            }
            "https" => Ok(url),
            "http" if self.allow_plain_http => Ok(url),
            "http" => Err(wrong("http sends keys in the clear: use https, or set allow_plain_http if that is what you want")),
            _ => Err(wrong("expected https://host:port")),
        }
    }

    /// The engine's mount, without slashes at its ends.
    pub(crate) fn mount(&self) -> Result<String, KmsError> {
        path("mount", self.mount.as_deref().unwrap_or(self.engine.mount_default()))
    }

    /// Settings that contradict each other.
    pub(crate) fn check(&self) -> Result<(), KmsError> {
        if self.wrap_for_td && self.engine != VaultEngine::Transit {
            return Err(configuration("wrap_for_td", "only the transit engine wraps: set engine = \"transit\""));
        }
        if matches!(self.administration, Some(VaultAuth::Attestation(_))) {
            return Err(configuration("administration", "no TD attests when a key is made: use another method here"));
        }
        Ok(())
    }
}

pub(crate) fn configuration(field: &'static str, what: impl Into<String>) -> KmsError {
    KmsError::Configuration { field, what: what.into() }
}

/// One or more path segments of letters, digits, `_`, `-` and `.`: nothing that a URL or a policy reads differently.
pub(crate) fn path(field: &'static str, text: &str) -> Result<String, KmsError> {
    let trimmed = text.trim_matches('/');
    let allowed = |segment: &str| {
        !matches!(segment, "" | "." | "..") && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
    };
    if trimmed.len() <= 128 && trimmed.split('/').all(allowed) {
        return Ok(trimmed.to_owned());
    }
    Err(configuration(field, "letters, digits, `_`, `-` and `.` are allowed, and `/` between them, up to 128 characters"))
}
