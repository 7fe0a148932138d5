//! The ways to log in, and what a login gives.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::digest;
use bytes::Bytes;
use http::HeaderValue;
use keyferry_tls::ClientCertificate;
use serde::Deserialize;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::{
    VaultAppRole, VaultAttestation, VaultAuth, VaultCert, VaultConfig, VaultJwt,
    config::{configuration, path},
    http::{Answer, Call, Http},
    json::{self, Secret},
};
use crate::KmsError;

/// A file with a secret is at most this long; attestation tokens and service account tokens have 2 to 6 kB.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// A token, and how to use it.
pub(crate) struct Credential {
    token: HeaderValue,
    http: Http,
    pub(crate) obtained: Instant,
    pub(crate) lease: Duration,
    pub(crate) renewable: bool,
    /// Seconds after `obtained`; `u64::MAX` for a token that does not expire.
    expires_after: AtomicU64,
}

impl Credential {
    fn new(http: &Http, token: &Secret, lease_seconds: u64, renewable: bool) -> Result<Self, KmsError> {
        let bytes = Bytes::from_owner(Zeroizing::new(token.expose().as_bytes().to_vec()));
        let mut token = HeaderValue::from_maybe_shared(bytes).map_err(|_| KmsError::Protocol("a token has characters no token has"))?;
        token.set_sensitive(true);
        let expires_after = AtomicU64::new(if lease_seconds == 0 { u64::MAX } else { lease_seconds });
        let lease = Duration::from_secs(lease_seconds);
        Ok(Self { token, http: http.clone(), obtained: Instant::now(), lease, renewable, expires_after })
    }

    pub(crate) async fn send(&self, call: &Call) -> Result<Answer, KmsError> {
        self.http.send(call, Some(&self.token)).await
    }

    pub(crate) fn expired(&self) -> bool {
        self.obtained.elapsed().as_secs() >= self.expires_after.load(Ordering::Relaxed)
    }

    /// Its life was prolonged: it ends `lease` from now.
    pub(crate) fn prolong(&self, lease: Duration) {
        self.expires_after.store((self.obtained.elapsed() + lease).as_secs(), Ordering::Relaxed);
    }

    /// Whether the server knows the token at all. Needs a policy that permits `lookup-self`, as the usual one does.
    pub(crate) async fn alive(&self) -> Result<bool, KmsError> {
        self.send(&Call::get(LOOKUP.to_owned())).await.map(|answer| answer.succeeded())
    }
}

const LOOKUP: &str = "auth/token/lookup-self";

/// A way to log in, its settings checked.
#[derive(Clone)]
pub(crate) enum Login {
    TokenFile(PathBuf),
    Token(Arc<Zeroizing<String>>),
    AppRole(VaultAppRole),
    Cert(VaultCert, Box<VaultConfig>),
    Jwt(VaultJwt),
}

/// What is in a login's files at this moment.
pub(crate) struct Secrets(Zeroizing<Vec<u8>>);

impl Secrets {
    /// To notice that they are those that were refused before.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let mut digest = [0; 32];
        digest.copy_from_slice(digest::digest(&digest::SHA256, &self.0).as_ref());
        digest
    }
    fn text(&self) -> Result<&str, KmsError> {
        let text = std::str::from_utf8(&self.0).map_err(|_| configuration("auth", "the file with the secret holds no text"))?;
        Ok(text.trim_ascii())
    }
}

impl Login {
    /// The broker's own way; `None` if it has none because each TD brings its token.
    pub(crate) fn new(auth: &VaultAuth, config: &VaultConfig) -> Result<Option<Self>, KmsError> {
        Ok(Some(match auth {
            VaultAuth::Attestation(_) => return Ok(None),
            VaultAuth::TokenFile(file) => Self::TokenFile(file.clone()),
            VaultAuth::Token(token) => Self::Token(Arc::clone(token)),
            VaultAuth::AppRole(role) => Self::AppRole(VaultAppRole { mount: path("mount", &role.mount)?, ..role.clone() }),
            VaultAuth::Jwt(jwt) => Self::Jwt(VaultJwt { mount: path("mount", &jwt.mount)?, ..jwt.clone() }),
            VaultAuth::Cert(_) if config.base()?.scheme() != "https" => {
                return Err(configuration("auth.cert", "a certificate is shown in TLS: use https"));
            }
            VaultAuth::Cert(cert) => Self::Cert(VaultCert { mount: path("mount", &cert.mount)?, ..cert.clone() }, Box::new(config.clone())),
        }))
    }

    /// Whether somebody else obtained the token, so that it may be dead on arrival.
    pub(crate) const fn is_token(&self) -> bool {
        matches!(self, Self::TokenFile(_) | Self::Token(_))
    }

    /// Reads the files, anew each time: whoever replaces a secret need not restart anything.
    pub(crate) fn secrets(&self) -> Result<Secrets, KmsError> {
        match self {
            Self::TokenFile(file) => secret_file(file),
            Self::Token(token) => Ok(Secrets(Zeroizing::new(token.as_bytes().to_vec()))),
            Self::AppRole(role) => secret_file(&role.secret_id_file),
            Self::Jwt(jwt) => secret_file(&jwt.jwt_file),
            Self::Cert(cert, _) => {
                let mut both = secret_file(&cert.certificate_file)?;
                both.0 = Zeroizing::new([&both.0[..], &secret_file(&cert.key_file)?.0].concat());
                Ok(both)
            }
        }
    }

    /// Logs in. [`KmsError::Auth`] if the server does not accept who we are.
    pub(crate) async fn perform(&self, http: &Http, secrets: &Secrets) -> Result<Credential, KmsError> {
        match self {
            Self::TokenFile(_) | Self::Token(_) => adopt(http, secrets.text()?).await,
            Self::AppRole(role) => login(http, &role.mount, &[("role_id", &role.role_id), ("secret_id", secrets.text()?)]).await,
            Self::Jwt(jwt) => login(http, &jwt.mount, &[("role", &jwt.role), ("jwt", secrets.text()?)]).await,
            Self::Cert(cert, config) => {
                let files = ClientCertificate { certificate_file: cert.certificate_file.clone(), key_file: cert.key_file.clone() };
                let http = http.with_certificate(config, &files)?;
                login(&http, &cert.mount, &[("name", &cert.role)]).await
            }
        }
    }
}

/// Logs in with a TD's attestation token. The server's own policy judges its claims, so a refusal is a denial of the key
/// and says nothing about the broker.
pub(crate) async fn attest(http: &Http, method: &VaultAttestation, key: uuid::Uuid, token: &str) -> Result<Credential, KmsError> {
    let role = method.role.replace("{key}", &key.to_string());
    login(http, &method.mount, &[("role", &role), ("jwt", token)]).await.map_err(|error| match error {
        KmsError::Auth => KmsError::Denied,
        error => error,
    })
}

#[derive(Deserialize)]
struct LoggedIn {
    auth: Auth,
}

#[derive(Deserialize)]
struct Auth {
    client_token: Secret,
    #[serde(default)]
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
}

async fn login(http: &Http, mount: &str, fields: &[(&str, &str)]) -> Result<Credential, KmsError> {
    let body = json::write_texts(fields)?;
    let answer = http.send(&Call::post(format!("auth/{mount}/login"), body).repeatable(), None).await?;
    match answer.status {
        200..=299 => {
            let LoggedIn { auth } = json::read(&answer.body)?;
            Credential::new(http, &auth.client_token, auth.lease_duration, auth.renewable)
        }
        // Nothing tells a wrong secret from a wrong role, an expired secret or a mount that is not there.
        _ => Err(KmsError::Auth),
    }
}

#[derive(Deserialize)]
struct Looked {
    #[serde(default)]
    ttl: u64,
    #[serde(default)]
    renewable: bool,
}

/// Takes a token that somebody else obtained. What it may look up about itself is a matter of its policy, so a refusal is
/// not the end: the first use will tell.
async fn adopt(http: &Http, token: &str) -> Result<Credential, KmsError> {
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(configuration("auth", NO_TOKEN));
    }
    let token = Secret::new(token);
    let untold = Credential::new(http, &token, 0, false)?;
    let answer = untold.send(&Call::get(LOOKUP.to_owned())).await?;
    if !answer.succeeded() {
        return Ok(untold);
    }
    let Looked { ttl, renewable } = json::data(&answer.body)?;
    Credential::new(http, &token, ttl, renewable)
}

const NO_TOKEN: &str = "there is no token: one line with the token alone is expected";

fn secret_file(path: &Path) -> Result<Secrets, KmsError> {
    let unusable = |what| KmsError::File { path: path.to_owned(), what };
    let length = fs::metadata(path).map_err(|_| unusable("cannot be read: check that it exists and who may read it"))?.len();
    if length > SECRET_BYTES_MAX {
        return Err(unusable("is longer than 64 KiB: it holds no secret of this kind"));
    }
    fs::read(path).map(|bytes| Secrets(Zeroizing::new(bytes))).map_err(|_| unusable("cannot be read: check who may read it"))
}
