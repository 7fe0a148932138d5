//! Client of the Trust Authority appraisal REST API: Intel's cloud, or a token-broker that speaks the same.
//!
//! [`TrustAuthority`] gets a nonce and turns evidence into an attestation token; [`JwksSource`] fetches the key set that
//! tokens are verified with, and the revocation lists of its certificates; [`KeySetCache`] keeps both and judges tokens by
//! them. All speak HTTPS to pinned roots, follow no redirect, read bounded bodies, and repeat a call
//! as Intel's clients do: twice more, with growing pauses, on 500, 503 and 504 and on nothing else.
//!
//! This crate believes nothing it receives: a token is judged by `attestation-token`, a key set by its pinned root and its
//! revocation lists there. A `jku` is never followed; a list's address counts only by its path.
//! It knows nothing of policies, the bus or telemetry; whoever wants trace context on the wire gives a function that adds
//! the headers ([`Settings::decorate`]).

mod api_key;
mod complaint;
mod error;
mod evidence;
mod http_client;
mod key_sets;
mod proxy;
mod region;

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use api_key::ApiKey;
pub use api_key::read_api_key;
pub use error::TrustAuthorityError;
use evidence::Quoted;
pub use evidence::{ApiVersion, Evidence};
use http::{HeaderMap, HeaderValue, Method, header};
use http_client::HttpClient;
pub use key_sets::{AGE_MAX, KeySetCache, KeySetSettings, KeySetUnavailable, Report, Unbelieved};
use keyferry_attestation_token::{CRL_BYTES_MAX, JWKS_BYTES_MAX, Nonce, TOKEN_CHARACTERS_MAX};
use keyferry_tls::RootsConfig;
pub use proxy::Proxy;
pub use region::Region;
use secrecy::SecretString;

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
    /// Where `api_key` came from: read again before a call when the file has changed.
    pub api_key_file: Option<PathBuf>,
    /// Which form of the API is spoken.
    pub version: ApiVersion,
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
        Self {
            api_url: api_url.into(),
            roots,
            api_key,
            api_key_file: None,
            version: ApiVersion::default(),
            retry_delay: RETRY_DELAY,
            decorate: None,
            proxy: None,
        }
    }
}

/// The first pause of Intel's clients.
pub const RETRY_DELAY: Duration = Duration::from_secs(2);

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("api_url", &self.api_url).field("roots", &self.roots).finish_non_exhaustive()
    }
}

/// The appraisal API.
pub struct TrustAuthority {
    http: HttpClient,
    api_key: ApiKey,
    version: ApiVersion,
}

impl TrustAuthority {
    /// A client; nothing is connected yet.
    pub fn new(settings: &Settings) -> Result<Self, TrustAuthorityError> {
        let api_key = ApiKey::new(&settings.api_key, settings.api_key_file.clone())?;
        let http =
            HttpClient::new(&settings.api_url, &settings.roots, settings.retry_delay, settings.decorate.clone(), settings.proxy.as_ref())?;
        Ok(Self { http, api_key, version: settings.version })
    }

    /// A fresh nonce, decoded once: what the TD concatenates and what goes back unchanged.
    pub async fn nonce(&self) -> Result<Nonce, TrustAuthorityError> {
        let answer = self.http.call(&Method::GET, self.version.nonce_path(), self.headers(), None, NONCE_BYTES_MAX).await?;
        evidence::nonce_from_json(&answer)
    }

    /// Has a TD's evidence appraised. The answer is a compact JWS that nobody has verified yet.
    pub async fn attest(&self, evidence: &Evidence) -> Result<String, TrustAuthorityError> {
        self.appraise(self.version, evidence, Quoted::TrustDomain).await
    }

    /// The same in this form of the API, whichever is set.
    pub async fn attest_as(&self, version: ApiVersion, evidence: &Evidence) -> Result<String, TrustAuthorityError> {
        self.appraise(version, evidence, Quoted::TrustDomain).await
    }

    /// The same for an SGX enclave's evidence.
    pub async fn attest_enclave(&self, evidence: &Evidence) -> Result<String, TrustAuthorityError> {
        self.appraise(self.version, evidence, Quoted::Enclave).await
    }

    async fn appraise(&self, version: ApiVersion, evidence: &Evidence, quoted: Quoted) -> Result<String, TrustAuthorityError> {
        let (path, body) = evidence.request(version, quoted)?;
        if body.len() > REQUEST_BYTES_MAX {
            return Err(TrustAuthorityError::RequestTooLarge { bytes: body.len(), max: REQUEST_BYTES_MAX });
        }
        let mut headers = self.headers();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
        let answer = self.http.call(&Method::POST, path, headers, Some(body), TOKEN_ANSWER_BYTES_MAX).await?;
        evidence::token_from_json(&answer)
    }

    /// Where nonces are, for spans.
    pub fn nonce_path(&self) -> &'static str {
        self.version.nonce_path()
    }

    /// The host it speaks to, for spans and messages.
    pub fn host(&self) -> &str {
        self.http.host()
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(JSON));
        headers.insert("x-api-key", self.api_key.header());
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

    /// A revocation list that a certificate of the key set names: only the path of `url` counts, the host is the key set's.
    pub async fn fetch_revocation_list(&self, url: &str) -> Result<Vec<u8>, TrustAuthorityError> {
        let path = self.http.path_of(url).ok_or_else(|| TrustAuthorityError::Url { url: url.to_owned() })?;
        self.http.call(&Method::GET, &path, HeaderMap::new(), None, CRL_BYTES_MAX).await
    }

    pub(crate) fn host(&self) -> &str {
        self.http.host()
    }
}
