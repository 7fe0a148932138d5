//! Trusted issuers and their key sets: fetched in the background, refreshed when a token names an unknown key, and never
//! more often than a rate allows, since anybody can make up a key name.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use futures::future::join_all;
use keyferry_attestation_token::{AuthenticToken, KeySet, TokenDenial, TrustedIssuer, authenticate, peek};
use keyferry_telemetry::names::JWKS_AGE;
use keyferry_tls::{RootsConfig, TlsError, read_certificates};
use keyferry_trust_authority::{JwksSource, TrustAuthorityError};
use tokio::sync::{Mutex, Semaphore};
use zeroize::Zeroizing;

use crate::{Denial, config::IssuerConfig};

/// Pause of the first repetition inside one fetch.
const FETCH_RETRY_DELAY: Duration = Duration::from_millis(200);
/// How long a request waits for a fetch that it caused.
const REQUEST_WAITS_MAX: Duration = Duration::from_secs(5);
/// Requests that wait for one issuer's fetch at the same time. Anybody can make up a key name: more of them would take the
/// places of requests with good tokens while the issuer is slow.
const WAITING_MAX: usize = 32;
/// A token with an unknown key name causes at most one fetch in this time.
const REFRESH_ON_DEMAND_INTERVAL: Duration = Duration::from_secs(5);
/// Background refresh: a rotated key is known before its first token, as a rule.
const REFRESH_INTERVAL: Duration = Duration::from_mins(5);
/// Background refresh while an issuer has no key set.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// A key set that could not be refreshed for this long is no longer believed: the issuer may have withdrawn a key.
const AGE_MAX: Duration = Duration::from_hours(24);

/// A longer token, with up to 1 MiB of user data in it, takes milliseconds to judge: not on the runtime's threads.
const JUDGED_AT_ONCE_BYTES_MAX: usize = 64 * 1024;

/// Why the issuers cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum IssuersError {
    /// A certificate file cannot be read.
    #[error("issuer {issuer:?}: {source}")]
    Roots {
        /// Which issuer.
        issuer: String,
        /// Why.
        source: TlsError,
    },
    /// More or less than one certificate.
    #[error("issuer {issuer:?}: root_file holds {found} certificates, exactly one is pinned")]
    RootCount {
        /// Which issuer.
        issuer: String,
        /// Certificates found.
        found: usize,
    },
    /// The address cannot be used.
    #[error("issuer {issuer:?}: {source}")]
    Source {
        /// Which issuer.
        issuer: String,
        /// Why.
        source: TrustAuthorityError,
    },
}

struct Issuer {
    trusted: TrustedIssuer,
    source: JwksSource,
    current: ArcSwapOption<Fetched>,
    /// When the last fetch began; held while one is under way, so that there is only one.
    last_attempt: Mutex<Option<Instant>>,
    waiting: Semaphore,
}

struct Fetched {
    keys: KeySet,
    at: Instant,
}

/// Everybody whose tokens count.
pub struct Issuers(Vec<Issuer>);

impl Issuers {
    /// Reads the roots; nothing is fetched yet.
    pub fn open(configs: &[IssuerConfig]) -> Result<Self, IssuersError> {
        configs.iter().map(Issuer::open).collect::<Result<_, _>>().map(Self)
    }

    /// Judges a token. `now` in unix seconds. A signature takes 40 to 190 us to verify.
    pub async fn authenticate(&self, jwt: &str, now: u64) -> Result<AuthenticToken, Denial> {
        let unverified = peek(jwt)?;
        let Some(issuer) = self.0.iter().find(|issuer| issuer.trusted.issuer == unverified.issuer) else {
            return Ok(authenticate(jwt, &[], now)?);
        };
        // An algorithm that this issuer may not use is refused before anything is fetched for it.
        let algorithms = &issuer.trusted.algorithms;
        if !algorithms.contains(&unverified.algorithm) {
            let allowed = algorithms.iter().map(|algorithm| algorithm.name()).collect::<Vec<_>>().join(", ");
            return Err(TokenDenial::AlgorithmNotAllowed { found: unverified.algorithm.to_string(), allowed }.into());
        }
        if !issuer.knows(&unverified.kid) {
            issuer.refresh_on_demand(&unverified.kid, now).await;
        }
        let fetched = issuer.fresh().ok_or(Denial::JwksUnavailable)?;
        if jwt.len() <= JUDGED_AT_ONCE_BYTES_MAX {
            return Ok(authenticate(jwt, std::slice::from_ref(&fetched.keys), now)?);
        }
        let jwt = Zeroizing::new(jwt.to_owned());
        let judged = tokio::task::spawn_blocking(move || authenticate(&jwt, std::slice::from_ref(&fetched.keys), now));
        Ok(judged.await.map_err(|_| Denial::Internal("judging a token did not end"))??)
    }

    /// Whether every issuer has a key set.
    pub fn complete(&self) -> bool {
        self.0.iter().all(|issuer| issuer.fresh().is_some())
    }

    /// Fetches every key set once. Returns whether all are there.
    pub async fn refresh(&self, now: u64) -> bool {
        join_all(self.0.iter().map(|issuer| issuer.refresh(now))).await;
        self.complete()
    }

    /// Keeps the key sets fresh for ever; `clock` gives unix seconds, `report` is told whether all are there.
    pub async fn keep_fresh(&self, clock: impl Fn() -> u64, report: impl Fn(bool)) {
        loop {
            let complete = self.refresh(clock()).await;
            report(complete);
            let oldest = self.0.iter().filter_map(Issuer::fresh).map(|fetched| fetched.at.elapsed()).max();
            JWKS_AGE.set(oldest.unwrap_or_default().as_secs_f64(), &[]);
            tokio::time::sleep(if complete { REFRESH_INTERVAL } else { RETRY_INTERVAL }).await;
        }
    }
}

impl Issuer {
    fn open(config: &IssuerConfig) -> Result<Self, IssuersError> {
        let issuer = || config.issuer.clone();
        let mut roots = read_certificates(&config.root_file).map_err(|source| IssuersError::Roots { issuer: issuer(), source })?;
        let (Some(root), true) = (roots.pop(), roots.is_empty()) else {
            return Err(IssuersError::RootCount { issuer: issuer(), found: roots.len() + 1 });
        };
        let mut trusted = TrustedIssuer::new(issuer(), root.to_vec(), config.algorithms.clone());
        trusted.absent_anchor = config.absent_anchor;
        trusted.trust_anchors = Some(config.trust_anchors.clone());
        trusted.token_age_seconds_max = config.token_age_seconds_max;
        let roots = RootsConfig::CaFile(config.jwks_ca_file.clone());
        let source = JwksSource::through(&config.jwks_url, &roots, FETCH_RETRY_DELAY, config.proxy.as_ref())
            .map_err(|source| IssuersError::Source { issuer: issuer(), source })?;
        Ok(Self { trusted, source, current: ArcSwapOption::empty(), last_attempt: Mutex::new(None), waiting: Semaphore::new(WAITING_MAX) })
    }

    fn fresh(&self) -> Option<Arc<Fetched>> {
        self.current.load_full().filter(|fetched| fetched.at.elapsed() < AGE_MAX)
    }

    fn knows(&self, kid: &str) -> bool {
        self.fresh().is_some_and(|fetched| fetched.keys.knows(kid))
    }

    async fn refresh_on_demand(&self, kid: &str, now: u64) {
        let Ok(_place) = self.waiting.try_acquire() else { return };
        let refresh = async {
            let mut last_attempt = self.last_attempt.lock().await;
            let recently = last_attempt.is_some_and(|at| at.elapsed() < REFRESH_ON_DEMAND_INTERVAL);
            if !recently && !self.knows(kid) {
                *last_attempt = Some(Instant::now());
                self.fetch(now).await;
            }
        };
        if tokio::time::timeout(REQUEST_WAITS_MAX, refresh).await.is_err() {
            tracing::warn!(issuer = self.trusted.issuer, "a key set was not fetched in time");
        }
    }

    async fn refresh(&self, now: u64) {
        let mut last_attempt = self.last_attempt.lock().await;
        *last_attempt = Some(Instant::now());
        self.fetch(now).await;
    }

    async fn fetch(&self, now: u64) {
        let fetched = match self.source.fetch().await {
            Ok(json) => KeySet::from_jwks(&json, &self.trusted, now).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match fetched {
            Ok(keys) => {
                if self.current.swap(Some(Arc::new(Fetched { keys, at: Instant::now() }))).is_none() {
                    tracing::info!(issuer = self.trusted.issuer, "the issuer's key set is here");
                }
            }
            Err(error) => tracing::warn!(issuer = self.trusted.issuer, error, "the issuer's key set could not be refreshed"),
        }
    }
}

impl std::fmt::Debug for Issuers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|issuer| &issuer.trusted.issuer)).finish()
    }
}
