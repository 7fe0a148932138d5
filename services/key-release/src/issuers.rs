//! Trusted issuers and their key sets: fetched in the background, refreshed when a token names an unknown key, and never
//! more often than a rate allows, since anybody can make up a key name.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use keyferry_attestation_token::{AuthenticToken, TrustedIssuer, authenticate, peek};
use keyferry_telemetry::names::JWKS_AGE;
use keyferry_tls::{RootsConfig, TlsError, read_certificates};
use keyferry_trust_authority::{JwksSource, KeySetCache, KeySetSettings, KeySetUnavailable, TrustAuthorityError, Unbelieved};

use crate::{Denial, config::IssuerConfig};

/// Pause of the first repetition inside one fetch.
const FETCH_RETRY_DELAY: Duration = Duration::from_millis(200);
/// Background refresh: a rotated key is known before its first token, as a rule.
const REFRESH_INTERVAL: Duration = Duration::from_mins(5);
/// Background refresh while an issuer has no key set.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

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

/// Everybody whose tokens count.
pub struct Issuers(Vec<KeySetCache>);

impl Issuers {
    /// Reads the roots; nothing is fetched yet.
    pub fn open(configs: &[IssuerConfig]) -> Result<Self, IssuersError> {
        configs.iter().map(open).collect::<Result<_, _>>().map(Self)
    }

    /// Judges a token. `now` in unix seconds. A signature takes 40 to 190 us to verify.
    pub async fn authenticate(&self, jwt: &str, now: u64) -> Result<AuthenticToken, Denial> {
        let unverified = peek(jwt)?;
        let Some(issuer) = self.0.iter().find(|issuer| issuer.issuer() == unverified.issuer) else {
            return Ok(authenticate(jwt, &[], now)?);
        };
        issuer.authenticate(jwt, now).await.map_err(|unbelieved| match unbelieved {
            Unbelieved::Denied(denial) => denial.into(),
            Unbelieved::NoKeySet { .. } => Denial::JwksUnavailable,
        })
    }

    /// Whether every issuer has a key set.
    pub fn complete(&self) -> bool {
        self.0.iter().all(|issuer| issuer.age().is_some())
    }

    /// Fetches every key set once. Returns whether all are there.
    pub async fn refresh(&self, now: u64) -> bool {
        join_all(self.0.iter().map(|issuer| refresh(issuer, now))).await;
        self.complete()
    }

    /// Keeps the key sets fresh for ever; `clock` gives unix seconds, `report` is told whether all are there.
    pub async fn keep_fresh(&self, clock: impl Fn() -> u64, report: impl Fn(bool)) {
        loop {
            let complete = self.refresh(clock()).await;
            report(complete);
            let oldest = self.0.iter().filter_map(KeySetCache::age).max();
            JWKS_AGE.set(oldest.unwrap_or_default().as_secs_f64(), &[]);
            tokio::time::sleep(if complete { REFRESH_INTERVAL } else { RETRY_INTERVAL }).await;
        }
    }
}

async fn refresh(issuer: &KeySetCache, now: u64) {
    let first = issuer.age().is_none();
    let _reported = issuer.refresh(now).await;
    if first && issuer.age().is_some() {
        tracing::info!(issuer = issuer.issuer(), "the issuer's key set is here");
    }
}

fn open(config: &IssuerConfig) -> Result<KeySetCache, IssuersError> {
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
    Ok(KeySetCache::new(KeySetSettings { trusted, source, revocation: config.revocation, report: Some(Arc::new(warn)) }))
}

fn warn(issuer: &str, error: &KeySetUnavailable) {
    tracing::warn!(issuer, %error, "the issuer's key set could not be refreshed");
}

impl std::fmt::Debug for Issuers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(KeySetCache::issuer)).finish()
    }
}
