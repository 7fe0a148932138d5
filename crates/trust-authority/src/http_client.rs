//! HTTPS to one host: pinned roots, no redirects, bounded answers, Intel's repetitions.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use http::{HeaderMap, Method};
use keyferry_tls::{RootsConfig, http_client_config};
use reqwest::{Client, Response, redirect};
use url::Url;

use crate::{Decorate, Proxy, TrustAuthorityError, complaint::reason_label};

/// All of one attempt, body included: as in Intel's Python client.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Attempts after the first.
const REPETITIONS: usize = 2;
/// The longest pause, in first pauses: 2 s and 10 s with Intel's.
const PAUSE_GROWTH_MAX: u32 = 5;
const TRACE_ID_CHARACTERS_MAX: usize = 128;
/// What is looked at of an error's body.
const ERROR_BYTES_MAX: usize = 4096;

pub(crate) struct HttpClient {
    client: Client,
    base: Url,
    host: String,
    retry_delay: Duration,
    decorate: Option<Decorate>,
}

impl HttpClient {
    pub(crate) fn new(
        url: &str,
        roots: &RootsConfig,
        retry_delay: Duration,
        decorate: Option<Decorate>,
        proxy: Option<&Proxy>,
    ) -> Result<Self, TrustAuthorityError> {
        let bad_url = || TrustAuthorityError::Url { url: url.to_owned() };
        let base = Url::parse(url).map_err(|_| bad_url())?;
        let host = base.host_str().filter(|_| base.scheme() == "https" && base.username().is_empty()).ok_or_else(bad_url)?.to_owned();
        // The process's environment is never consulted.
        let mut builder = Client::builder().no_proxy();
        if let Some(proxy) = proxy {
            builder = builder.proxy(proxy.through()?);
        }
        let client = builder
            .tls_backend_preconfigured(http_client_config(roots)?)
            .https_only(true)
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ATTEMPT_TIMEOUT)
            .build()
            .map_err(|_| TrustAuthorityError::Client)?;
        Ok(Self { client, base, host, retry_delay, decorate })
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn path(&self) -> &str {
        self.base.path()
    }

    /// The path and query of `url`, to be asked for here: what it says about the host does not count.
    pub(crate) fn path_of(&self, url: &str) -> Option<String> {
        let url = self.base.join(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
        Some(url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path())))
    }

    /// One call with its repetitions; the body of an answer with status 200, which is never empty.
    pub(crate) async fn call(
        &self,
        method: &Method,
        path: &str,
        mut headers: HeaderMap,
        body: Option<Vec<u8>>,
        max: usize,
    ) -> Result<Vec<u8>, TrustAuthorityError> {
        if let Some(decorate) = &self.decorate {
            decorate(&mut headers);
        }
        // A path that begins with two slashes would name another host.
        let url = self.base.join(path).ok().filter(|url| url.origin() == self.base.origin());
        let url = url.ok_or_else(|| TrustAuthorityError::Url { url: path.to_owned() })?;
        let attempt = || async {
            let mut request = self.client.request(method.clone(), url.clone()).headers(headers.clone());
            if let Some(body) = &body {
                request = request.body(body.clone());
            }
            self.answer(request.send().await.map_err(|error| self.failure(&error))?, max).await
        };
        let pauses = ExponentialBuilder::default()
            .with_min_delay(self.retry_delay)
            .with_max_delay(self.retry_delay.saturating_mul(PAUSE_GROWTH_MAX))
            .with_max_times(REPETITIONS)
            .with_jitter();
        attempt.retry(pauses).when(repeatable).await
    }

    async fn answer(&self, response: Response, max: usize) -> Result<Vec<u8>, TrustAuthorityError> {
        let status = response.status().as_u16();
        if status != 200 {
            let trace_id = trace_id(response.headers());
            let body = self.bounded(response, ERROR_BYTES_MAX).await.unwrap_or_default();
            return Err(TrustAuthorityError::Status { host: self.host.clone(), status, reason: reason_label(status, &body), trace_id });
        }
        let body = self.bounded(response, max).await?;
        if body.is_empty() { Err(TrustAuthorityError::Malformed { field: "empty body" }) } else { Ok(body) }
    }

    async fn bounded(&self, mut response: Response, max: usize) -> Result<Vec<u8>, TrustAuthorityError> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.failure(&error))? {
            if body.len() + chunk.len() > max {
                return Err(TrustAuthorityError::AnswerTooLarge { host: self.host.clone(), max });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    fn failure(&self, error: &reqwest::Error) -> TrustAuthorityError {
        let host = self.host.clone();
        if error.is_timeout() { TrustAuthorityError::Timeout { host } } else { TrustAuthorityError::Unreachable { host } }
    }
}

/// A word of printable ASCII, bounded.
fn trace_id(headers: &HeaderMap) -> Option<String> {
    let text = headers.get("trace-id")?.to_str().ok()?;
    let good = (1..=TRACE_ID_CHARACTERS_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    good.then(|| text.to_owned())
}

fn repeatable(error: &TrustAuthorityError) -> bool {
    matches!(error, TrustAuthorityError::Status { status: 500 | 503 | 504, .. })
}

impl std::fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HttpClient({})", self.host)
    }
}
