//! Settings of the back ends.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use keyferry_kmip::Version;
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use crate::{DevKms, KmipKms, Kms, KmsError, ReleaseRules, VaultConfig, VaultKms};

/// Which back end, and its settings: `[kms.dev]`, `[kms.kmip]` or `[kms.vault]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum KmsConfig {
    /// One encrypted file: for development.
    Dev(DevConfig),
    /// A KMIP server.
    Kmip(Box<KmipConfig>),
    /// A Vault-API server: OpenBao or HashiCorp Vault.
    Vault(Box<VaultConfig>),
}

impl KmsConfig {
    /// Makes the back end. A server need not be up yet: readiness is [`Kms::health`].
    pub async fn connect(&self) -> Result<Arc<dyn Kms>, KmsError> {
        Ok(match self {
            Self::Dev(config) => Arc::new(DevKms::open(config).await?),
            Self::Kmip(config) => Arc::new(KmipKms::new(config)?),
            Self::Vault(config) => Arc::new(VaultKms::new(config)?),
        })
    }
}

/// Settings of the development store.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DevConfig {
    /// The store. Made if it does not exist. Since 0.1.
    pub file: PathBuf,
    /// 32 bytes, mode 0600. Made together with the store if neither exists. Since 0.1.
    pub key_file: PathBuf,
}

/// Which TLS library speaks to the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsLibrary {
    /// rustls: TLS 1.2 and 1.3 with AEAD suites.
    #[default]
    Rustls,
    /// OpenSSL: also CBC suites and RSA key exchange, which is all that some servers offer.
    OpenSsl,
}

/// How long each step may take. Each has its own error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KmipTimeouts {
    /// TCP connect. Default 2 s.
    #[serde(with = "humantime_serde")]
    pub connect: Duration,
    /// TLS handshake. Default 3 s.
    #[serde(with = "humantime_serde")]
    pub handshake: Duration,
    /// A request until its answer. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub request: Duration,
    /// All of an operation, waiting and repeating included. Default 10 s.
    #[serde(with = "humantime_serde")]
    pub total: Duration,
    /// Making a key pair in the server, instead of `request`. Default 2 min: an RSA key of 7680 bits takes long to find.
    #[serde(with = "humantime_serde")]
    pub key_pair: Duration,
}

impl Default for KmipTimeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connect: seconds(2), handshake: seconds(3), request: seconds(5), total: seconds(10), key_pair: Duration::from_mins(2) }
    }
}

/// Settings of a KMIP server.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KmipConfig {
    /// `host:port`; the server's certificate must name the host, or `server_name`. Since 0.1.
    pub address: String,
    /// The name that the server's certificate must have, if it is not the host of `address`. Since 0.2.
    #[serde(default)]
    pub server_name: Option<String>,
    /// `1.2`, `1.3`, `1.4` or `2.0`. Default 1.4. Since 0.1.
    #[serde(default = "version_default", deserialize_with = "version")]
    pub version: Version,
    /// `rustls` or `openssl`. Since 0.1.
    #[serde(default)]
    pub tls: TlsLibrary,
    /// PEM, the roots that the server's certificate must chain to. Since 0.1.
    pub ca_file: PathBuf,
    /// PEM, our own certificate with extended key usage clientAuth: its common name is who we are. Since 0.1.
    pub certificate_file: PathBuf,
    /// PEM, its private key, mode 0600. Certificate, key, roots and password are read again when their files change.
    /// Since 0.1.
    pub key_file: PathBuf,
    /// OpenSSL cipher list for TLS 1.2, in order of preference. Only with `tls = "openssl"`. Since 0.1.
    #[serde(default)]
    pub cipher_list: Option<String>,
    /// User name beside the certificate, for servers that want one. Since 0.1.
    #[serde(default)]
    pub username: Option<String>,
    /// File with the password, mode 0600. Since 0.1.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// A password from the environment of Intel's KBS. In a configuration file it would be a secret where none belongs.
    #[serde(skip)]
    pub password: Option<Arc<Zeroizing<String>>>,
    /// Connections, 1 to 16. Default 3: more only hide latency where a server works on one request at a time. Since 0.1.
    #[serde(default = "connections_default")]
    pub connections: usize,
    /// Which doubtful answers are acceptable. Since 0.1.
    #[serde(default)]
    pub release: ReleaseRules,
    /// Time limits. Since 0.1.
    #[serde(default)]
    pub timeouts: KmipTimeouts,
}

impl fmt::Debug for KmipConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = f.debug_struct("KmipConfig");
        all.field("address", &self.address).field("version", &self.version).field("tls", &self.tls);
        all.field("ca_file", &self.ca_file).field("certificate_file", &self.certificate_file).field("key_file", &self.key_file);
        all.field("connections", &self.connections).field("release", &self.release).field("timeouts", &self.timeouts);
        all.finish_non_exhaustive()
    }
}

const fn version_default() -> Version {
    Version::V1_4
}

const fn connections_default() -> usize {
    3
}

fn version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Version, D::Error> {
    let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
    Version::parse(&text).ok_or_else(|| serde::de::Error::custom("KMIP versions are \"1.2\", \"1.3\", \"1.4\" and \"2.0\""))
}
