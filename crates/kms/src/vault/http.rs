//! HTTP to one server: pinned roots, no redirects, no proxies, bounded answers in buffers that are wiped.

use std::{error::Error, fmt, fmt::Write as _, future::Future, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};
use keyferry_tls::{ALPN_HTTP, ClientCertificate, RootsConfig, http_client_config, mutual_client_config};
use reqwest::{Client, redirect};
use tokio::time::Instant;
use url::Url;
use zeroize::{Zeroize, Zeroizing};

use super::{VaultConfig, VaultTimeouts, config::configuration};
use crate::{KmsError, Stage, breaker::Breaker};

const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");
/// The longest answer that is read. An RSA-7680 private key has 6 kB in base64.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// An answer's buffer when its length is not announced: holds every usual answer without growing.
const ANSWER_BYTES_USUAL: usize = 16 * 1024;

const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// One call.
pub(crate) struct Call {
    pub(crate) method: Method,
    /// Below `/v1/`, made from a mount, constants and UUIDs only.
    pub(crate) path: String,
    /// JSON.
    pub(crate) body: Option<Zeroizing<Vec<u8>>>,
    /// Whether it may be made twice.
    repeatable: bool,
}

impl Call {
    pub(crate) fn get(path: String) -> Self {
        Self { method: Method::GET, path, body: None, repeatable: true }
    }
    pub(crate) fn delete(path: String) -> Self {
        Self { method: Method::DELETE, path, body: None, repeatable: false }
    }
    pub(crate) fn post(path: String, body: Zeroizing<Vec<u8>>) -> Self {
        Self { method: Method::POST, path, body: Some(body), repeatable: false }
    }
    /// For a call that does no harm when made twice, as a login.
    pub(crate) fn repeatable(self) -> Self {
        Self { repeatable: true, ..self }
    }
}

/// What the server said: a success, or one of the refusals that mean something different for each call (400, 403, 404,
/// 405). All other statuses are errors already.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Zeroizing<Vec<u8>>,
}

impl Answer {
    pub(crate) const fn succeeded(&self) -> bool {
        matches!(self.status, 200..=299)
    }
    pub(crate) const fn forbidden(&self) -> bool {
        self.status == 403
    }
    pub(crate) const fn not_found(&self) -> bool {
        self.status == 404
    }
}

/// A client of one server. Clones share connections and the circuit breaker.
#[derive(Clone)]
pub(crate) struct Http {
    client: Client,
    base: Url,
    namespace: Option<HeaderValue>,
    timeouts: VaultTimeouts,
    breaker: Arc<Breaker>,
}

impl Http {
    pub(crate) fn new(config: &VaultConfig) -> Result<Self, KmsError> {
        let base = config.base()?;
        if base.scheme() == "http" {
            tracing::warn!(
                url = %base,
                "KEYS CROSS THE NETWORK IN THE CLEAR: the KMS is reached over plain HTTP (allow_plain_http); give it a certificate"
            );
        }
        let namespace = config.namespace.as_deref().map(|namespace| super::config::path("namespace", namespace)).transpose()?;
        let namespace = namespace.map(|namespace| HeaderValue::try_from(namespace).map_err(|_| configuration("namespace", "not usable")));
        let (client, breaker) = (client(config, None)?, Arc::default());
        Ok(Self { client, base, namespace: namespace.transpose()?, timeouts: config.timeouts, breaker })
    }

    /// The same server, reached with a client certificate that is read now.
    pub(crate) fn with_certificate(&self, config: &VaultConfig, certificate: &ClientCertificate) -> Result<Self, KmsError> {
        Ok(Self { client: client(config, Some(certificate))?, ..self.clone() })
    }

    pub(crate) fn host(&self) -> &str {
        self.base.host_str().unwrap_or_default()
    }

    /// Makes a call; one that may be made twice is repeated once if the connection broke.
    pub(crate) async fn send(&self, call: &Call, token: Option<&HeaderValue>) -> Result<Answer, KmsError> {
        let answer = self
            .guarded(async {
                match self.attempt(call, token, self.namespace.as_ref()).await {
                    Err(KmsError::Unreachable(_)) if call.repeatable => self.attempt(call, token, self.namespace.as_ref()).await,
                    result => result,
                }
            })
            .await?;
        match refusal(&answer) {
            Some(error) => Err(error),
            None => Ok(answer),
        }
    }

    /// The status alone, of a call without token, body or namespace: for the server's health, which is not a namespace's.
    pub(crate) async fn status(&self, path: &str) -> Result<u16, KmsError> {
        let call = Call::get(path.to_owned());
        self.guarded(self.attempt(&call, None, None)).await.map(|answer| answer.status)
    }

    /// Leaves a server alone that failed again and again.
    async fn guarded(&self, exchange: impl Future<Output = Result<Answer, KmsError>>) -> Result<Answer, KmsError> {
        if !self.breaker.permits(Instant::now()) {
            return Err(KmsError::CircuitOpen);
        }
        let result = exchange.await;
        match &result {
            Err(KmsError::Tls(_)) => {} // does not say whether the server works
            Err(error) if error.connection_failed() => self.breaker.failed(Instant::now()),
            _ => self.breaker.succeeded(),
        }
        result
    }

    async fn attempt(&self, call: &Call, token: Option<&HeaderValue>, namespace: Option<&HeaderValue>) -> Result<Answer, KmsError> {
        let url = self.base.join(&format!("/v1/{}", call.path)).map_err(|_| KmsError::Reference("it does not make a path"))?;
        let mut request = self.client.request(call.method.clone(), url).timeout(self.timeouts.request);
        if let Some(token) = token {
            request = request.header(TOKEN, token);
        }
        if let Some(namespace) = namespace {
            request = request.header(NAMESPACE, namespace);
        }
        if let Some(body) = &call.body {
            // The copy is wiped when the last handle to it goes.
            let body = Bytes::from_owner(Zeroizing::new(body.to_vec()));
            request = request.header(http::header::CONTENT_TYPE, "application/json").body(body);
        }
        let answer = request.send().await.map_err(|error| failure(&error))?;
        Ok(Answer { status: answer.status().as_u16(), body: read(answer).await? })
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Http({})", self.host())
    }
}

fn client(config: &VaultConfig, certificate: Option<&ClientCertificate>) -> Result<Client, KmsError> {
    let mut builder = Client::builder()
        .redirect(redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .tcp_nodelay(true)
        // A connection that went dead silently is noticed, instead of costing every request its time limit.
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .http2_keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .https_only(!config.allow_plain_http)
        .connect_timeout(config.timeouts.connect)
        .timeout(config.timeouts.request);
    // Plain HTTP needs none.
    if let Some(ca_file) = &config.ca_file {
        let roots = RootsConfig::CaFile(ca_file.clone());
        let tls = match certificate {
            None => http_client_config(&roots),
            Some(certificate) => mutual_client_config(&roots, certificate, false).map(|mut tls| {
                tls.alpn_protocols = ALPN_HTTP.iter().map(|name| name.as_bytes().to_vec()).collect();
                tls
            }),
        };
        builder = builder.tls_backend_preconfigured(tls.map_err(|error| configuration("vault", error.to_string()))?);
    }
    keyferry_tls::install_provider();
    builder.build().map_err(|_| configuration("vault", "the HTTP client cannot be set up"))
}

/// Reads a body into a buffer that does not leave copies of itself behind when it grows.
async fn read(mut answer: reqwest::Response) -> Result<Zeroizing<Vec<u8>>, KmsError> {
    let too_long = KmsError::Protocol("an answer is over 256 KiB");
    let announced = answer.content_length().unwrap_or(0);
    if announced > ANSWER_BYTES_MAX as u64 {
        return Err(too_long);
    }
    let announced = usize::try_from(announced).unwrap_or(0);
    let mut body = Zeroizing::new(Vec::with_capacity(announced.max(ANSWER_BYTES_USUAL)));
    while let Some(chunk) = answer.chunk().await.map_err(|error| failure(&error))? {
        let length = body.len() + chunk.len();
        if length > ANSWER_BYTES_MAX {
            return Err(too_long);
        }
        if length > body.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(length * 2));
            larger.extend_from_slice(&body);
            body = larger;
        }
        body.extend_from_slice(&chunk);
        if let Ok(mut chunk) = chunk.try_into_mut() {
            chunk.zeroize();
        }
    }
    Ok(body)
}

/// Statuses that mean the same whatever was asked.
fn refusal(answer: &Answer) -> Option<KmsError> {
    Some(match answer.status {
        200..=299 | 400 | 403 | 404 | 405 => return None,
        429 => KmsError::Throttled,
        300..=399 => KmsError::Protocol("it redirects: set url to the active server, or let the standby forward requests"),
        // A load balancer's 503 has another body.
        503 if says_sealed(&answer.body) => KmsError::Sealed,
        412 | 472 | 473 | 500..=599 => KmsError::Internal,
        _ => KmsError::Protocol("an answer has a status that this API does not use"),
    })
}

fn says_sealed(body: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Body {
        #[serde(rename = "errors")]
        _errors: Vec<serde::de::IgnoredAny>,
    }
    serde_json::from_slice::<Body>(body).is_ok()
}

const SERVER_NOT_TRUSTED: &str =
    "the server's certificate is expired, for another host or not from ca_file: check url, ca_file and the certificate";
const HANDSHAKE_REFUSED: &str = "the handshake failed: the server may not speak TLS 1.3 on this port, or not accept our certificate";

/// What went wrong on the way, without a word of the peer's.
fn failure(error: &reqwest::Error) -> KmsError {
    if error.is_timeout() {
        return KmsError::Timeout(if error.is_connect() { Stage::Connect } else { Stage::Request });
    }
    let mut kind = None;
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    while let Some(next) = cause {
        if let Some(tls) = next.downcast_ref::<rustls::Error>() {
            let trust = matches!(tls, rustls::Error::InvalidCertificate(_));
            return KmsError::Tls(if trust { SERVER_NOT_TRUSTED } else { HANDSHAKE_REFUSED });
        }
        let io = next.downcast_ref::<io::Error>();
        kind = io.map(io::Error::kind).or(kind);
        // What an I/O error holds is no `source` of it.
        cause = match io.and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => next.source(),
        };
    }
    match kind {
        Some(kind) => KmsError::Unreachable(kind),
        None if error.is_decode() => KmsError::Protocol("an answer's encoding is broken"),
        None => KmsError::Unreachable(io::ErrorKind::UnexpectedEof),
    }
}

/// A path below a mount: segments are constants, numbers and UUIDs.
pub(crate) fn below(mount: &str, segments: &[&(dyn fmt::Display + Sync)]) -> String {
    segments.iter().fold(mount.to_owned(), |mut path, segment| {
        // Writing to a string does not fail.
        let _ = write!(path, "/{segment}");
        path
    })
}
