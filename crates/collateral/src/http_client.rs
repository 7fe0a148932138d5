//! One bounded HTTPS GET, with the repetitions a service asks for.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use http::{HeaderMap, header};
use keyferry_tls::{ALPN_HTTP, RootsConfig, client_config};
use reqwest::{Client, Response, redirect};
use url::Url;

use crate::{FetchError, ItemKind};

/// All of one attempt, body included.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(20);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Attempts after the first.
const REPETITIONS: usize = 3;
/// A service that wants to be left alone longer than this is left alone: the caller decides when to come back.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);
/// The longest pause, in first pauses.
const PAUSE_GROWTH_MAX: u32 = 8;
/// Real answers have 1 to 30 kB.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// What is logged of a `Warning` header.
const WARNING_CHARACTERS_MAX: usize = 200;

#[derive(Clone, Debug)]
pub(crate) struct HttpClient {
    client: Client,
    first_pause: Duration,
}

/// An answer with status 200.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl HttpClient {
    /// TLS 1.2 is permitted beside 1.3: Intel promises no more, and what comes is signed.
    pub(crate) fn new(roots: &RootsConfig, first_pause: Duration) -> Result<Self, FetchError> {
        let mut tls = client_config(roots, true)?;
        tls.alpn_protocols = ALPN_HTTP.iter().map(|name| name.as_bytes().to_vec()).collect();
        // The process's environment is never consulted.
        let client = Client::builder()
            .no_proxy()
            .tls_backend_preconfigured(tls)
            .https_only(true)
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ATTEMPT_TIMEOUT)
            .build()
            .map_err(|_| FetchError::Client)?;
        Ok(Self { client, first_pause })
    }

    pub(crate) async fn get(&self, item: ItemKind, url: &Url) -> Result<Answer, FetchError> {
        let pauses = ExponentialBuilder::default()
            .with_min_delay(self.first_pause)
            .with_max_delay(self.first_pause.saturating_mul(PAUSE_GROWTH_MAX))
            .with_max_times(REPETITIONS)
            .with_jitter();
        let attempt = || self.attempt(item, url);
        attempt.retry(pauses).when(repeatable).adjust(pause).await
    }

    async fn attempt(&self, item: ItemKind, url: &Url) -> Result<Answer, FetchError> {
        let host = url.host_str().unwrap_or_default();
        let sent = self.client.get(url.clone()).send().await;
        let response = sent.map_err(|error| failure(host, &error))?;
        log_warning(host, response.headers());
        check_status(host, item, &response)?;
        let headers = response.headers().clone();
        let body = bounded(host, item, response).await?;
        Ok(Answer { headers, body })
    }
}

fn check_status(host: &str, item: ItemKind, response: &Response) -> Result<(), FetchError> {
    let (host, status) = (host.to_owned(), response.status().as_u16());
    Err(match status {
        200 => return Ok(()),
        404 => FetchError::UnknownFamily { host, item },
        410 => FetchError::Withdrawn { host, item },
        461 => FetchError::NotCached { host, item },
        462 => FetchError::NoCertificates { host },
        429 | 503 => FetchError::ComeBackLater { host, status, retry_after: retry_after(response.headers()) },
        _ => FetchError::Status { host, item, status },
    })
}

/// Only as seconds: a date would need a clock, and then the usual pause does.
fn retry_after(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()
}

fn repeatable(error: &FetchError) -> bool {
    match error {
        FetchError::ComeBackLater { retry_after, .. } => retry_after.is_none_or(|seconds| Duration::from_secs(seconds) <= RETRY_AFTER_MAX),
        FetchError::Status { status, .. } => *status == 500,
        _ => false,
    }
}

/// Never before the service's own time.
fn pause(error: &FetchError, usual: Option<Duration>) -> Option<Duration> {
    usual.map(|usual| error.retry_after().map_or(usual, |seconds| usual.max(Duration::from_secs(seconds))))
}

async fn bounded(host: &str, item: ItemKind, mut response: Response) -> Result<Vec<u8>, FetchError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| failure(host, &error))? {
        if body.len() + chunk.len() > BODY_BYTES_MAX {
            return Err(FetchError::TooLarge { host: host.to_owned(), item, max: BODY_BYTES_MAX });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// How Intel announces that an interface will be switched off.
fn log_warning(host: &str, headers: &HeaderMap) {
    for warning in headers.get_all(header::WARNING).iter().take(4) {
        let text: String = warning.to_str().unwrap_or("(not ASCII)").chars().take(WARNING_CHARACTERS_MAX).collect();
        tracing::warn!(server.address = host, warning = text, "the collateral service warns");
    }
}

fn failure(host: &str, error: &reqwest::Error) -> FetchError {
    let host = host.to_owned();
    if error.is_timeout() { FetchError::Timeout { host } } else { FetchError::Unreachable { host } }
}
