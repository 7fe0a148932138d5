//! Client of the Trust Authority appraisal REST API: Intel's cloud, or a token-broker that speaks the same.
//!
//! [`TrustAuthority`] gets a nonce and turns evidence into an attestation token; [`JwksSource`] fetches the key set that
//! tokens are verified with. Both speak HTTPS to pinned roots, follow no redirect, read bounded bodies, and repeat a call
//! as Intel's clients do: twice more, with growing pauses, on 500, 503 and 504 and on nothing else.
//!
//! This crate believes nothing it receives: a token is judged by `attestation-token`, a key set by its pinned root there.
//! It knows nothing of policies, the bus or telemetry; whoever wants trace context on the wire gives a function that adds
//! the headers ([`Settings::decorate`]).

mod error;
mod evidence;
mod http_client;
mod proxy;

use std::{fmt, path::Path, sync::Arc, time::Duration};

pub use error::TrustAuthorityError;
pub use evidence::Evidence;
use evidence::Quoted;
use http::{HeaderMap, HeaderValue, Method, header};
use http_client::HttpClient;
use keyferry_attestation_token::{JWKS_BYTES_MAX, Nonce, TOKEN_CHARACTERS_MAX};
use keyferry_tls::RootsConfig;
pub use proxy::Proxy;
use secrecy::{ExposeSecret, SecretString};

/// What a nonce answer may weigh; Intel's has some 900 bytes.
const NONCE_BYTES_MAX: usize = 4096;
/// `{"token":"..."}` around the longest token.
const TOKEN_ANSWER_BYTES_MAX: usize = TOKEN_CHARACTERS_MAX + 64;
/// What the service takes; a bigger body is refused before it is sent.
const REQUEST_BYTES_MAX: usize = 500_000;

/// Adds headers to a request, e.g. trace context.
pub type Decorate = Arc<dyn Fn(&mut HeaderMap) + Send + Sync>;

/// Where the service is and who we are to it.
#[derive(Clone)]
pub struct Settings {
    /// `https://host[:port]` of the appraisal API.
    pub api_url: String,
    /// Whom its certificate must chain to.
    pub roots: RootsConfig,
    /// Sent as `x-api-key`.
    pub api_key: SecretString,
    /// First pause before a repetition; it doubles, up to five times its length. Intel's clients: 2 s.
    pub retry_delay: Duration,
    /// Adds headers to every request.
    pub decorate: Option<Decorate>,
    /// How it is reached, if not directly.
    pub proxy: Option<Proxy>,
}

impl Settings {
    /// With Intel's pauses and no additional headers.
    pub fn new(api_url: impl Into<String>, roots: RootsConfig, api_key: SecretString) -> Self {
        Self { api_url: api_url.into(), roots, api_key, retry_delay: RETRY_DELAY, decorate: None, proxy: None }
    }
}

/// The first pause of Intel's clients.
pub const RETRY_DELAY: Duration = Duration::from_secs(2);

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("api_url", &self.api_url).field("roots", &self.roots).finish_non_exhaustive()
    }
}

/// Reads an API key from a file; one line feed at its end does not count.
pub fn read_api_key(path: &Path) -> Result<SecretString, TrustAuthorityError> {
    let unusable = |cause: String| TrustAuthorityError::ApiKeyFile { path: path.to_owned(), cause };
    let text = SecretString::from(std::fs::read_to_string(path).map_err(|error| unusable(error.to_string()))?);
    let key = text.expose_secret().trim_end_matches(['\r', '\n']);
    match HeaderValue::from_str(key) {
        Ok(value) if !value.is_empty() => Ok(SecretString::from(key)),
        _ => Err(unusable("it holds no API key: one line of visible characters is needed".to_owned())),
    }
}

/// The appraisal API.
pub struct TrustAuthority {
    http: HttpClient,
    api_key: HeaderValue,
}

impl TrustAuthority {
    /// A client; nothing is connected yet.
    pub fn new(settings: &Settings) -> Result<Self, TrustAuthorityError> {
        let mut api_key = HeaderValue::from_str(settings.api_key.expose_secret()).map_err(|_| TrustAuthorityError::ApiKey)?;
        api_key.set_sensitive(true);
        let http =
            HttpClient::new(&settings.api_url, &settings.roots, settings.retry_delay, settings.decorate.clone(), settings.proxy.as_ref())?;
        Ok(Self { http, api_key })
    }

    /// A fresh nonce, decoded once: what the TD concatenates and what goes back unchanged.
    pub async fn nonce(&self) -> Result<Nonce, TrustAuthorityError> {
        let answer = self.http.call(&Method::GET, "/appraisal/v2/nonce", self.headers(), None, NONCE_BYTES_MAX).await?;
        evidence::nonce_from_json(&answer)
    }

    /// Has a TD's evidence appraised. The answer is a compact JWS that nobody has verified yet.
    pub async fn attest(&self, evidence: &Evidence) -> Result<String, TrustAuthorityError> {
        self.appraise(evidence, Quoted::TrustDomain).await
    }

    /// The same for an SGX enclave's evidence.
    pub async fn attest_enclave(&self, evidence: &Evidence) -> Result<String, TrustAuthorityError> {
        self.appraise(evidence, Quoted::Enclave).await
    }

    async fn appraise(&self, evidence: &Evidence, quoted: Quoted) -> Result<String, TrustAuthorityError> {
        let body = evidence.to_json(quoted)?;
        if body.len() > REQUEST_BYTES_MAX {
            return Err(TrustAuthorityError::RequestTooLarge { bytes: body.len(), max: REQUEST_BYTES_MAX });
        }
        let mut headers = self.headers();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
        let answer = self.http.call(&Method::POST, "/appraisal/v2/attest", headers, Some(body), TOKEN_ANSWER_BYTES_MAX).await?;
        evidence::token_from_json(&answer)
    }

    /// The host it speaks to, for spans and messages.
    pub fn host(&self) -> &str {
        self.http.host()
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(JSON));
        headers.insert("x-api-key", self.api_key.clone());
        if let Ok(id) = HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()) {
            headers.insert("request-id", id);
        }
        headers
    }
}

const JSON: &str = "application/json";

impl fmt::Debug for TrustAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustAuthority({}, key redacted)", self.http.host())
    }
}

/// Where an issuer publishes its key set. No credential goes there.
#[derive(Debug)]
pub struct JwksSource {
    http: HttpClient,
    path: String,
}

impl JwksSource {
    /// `url` is the whole `https://` address of the document, e.g. `https://portal.trustauthority.intel.com/certs`.
    pub fn new(url: &str, roots: &RootsConfig, retry_delay: Duration) -> Result<Self, TrustAuthorityError> {
        Self::through(url, roots, retry_delay, None)
    }

    /// The same, perhaps through a proxy.
    pub fn through(url: &str, roots: &RootsConfig, retry_delay: Duration, proxy: Option<&Proxy>) -> Result<Self, TrustAuthorityError> {
        let http = HttpClient::new(url, roots, retry_delay, None, proxy)?;
        let path = http.path().to_owned();
        Ok(Self { http, path })
    }

    /// The document as it is served, at most [`JWKS_BYTES_MAX`] bytes; nobody has verified it yet.
    pub async fn fetch(&self) -> Result<Vec<u8>, TrustAuthorityError> {
        let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(JSON))]);
        self.http.call(&Method::GET, &self.path, headers, None, JWKS_BYTES_MAX).await
    }
}
