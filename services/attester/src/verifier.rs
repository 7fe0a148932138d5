//! The pinned verifier: its keys, fetched over the bus and believed only under its root.

use std::sync::Arc;
use std::time::{Duration, Instant};

use keyferry_attestation_token::{KeySet, TrustedIssuer, peek};
use keyferry_bus::Bus;
use keyferry_contract::attestation::v1::{GetJwksRequest, GetJwksResponse};
use keyferry_contract::{Reason, Rpc};
use keyferry_lifecycle::clock;
use keyferry_telemetry::{names, spans};
use tokio::sync::Mutex;
use tracing::Instrument;

use crate::Refusal;
use crate::proof::{Expected, Foreign, OwnToken};

/// Keys are fetched again after this long, so that a certificate's end is noticed.
const KEYS_AGE_MAX: Duration = Duration::from_hours(1);
/// Tokens with unknown keys cannot make us ask more often than this.
const FETCH_INTERVAL_MIN: Duration = Duration::from_secs(2);
const FETCH_WITHIN: Duration = Duration::from_secs(5);

/// Judges tokens.
pub(crate) struct Verifier {
    trusted: TrustedIssuer,
    bus: Bus,
    keys: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    keys: Option<(Arc<KeySet>, Instant)>,
    asked: Option<Instant>,
}

impl Verifier {
    pub(crate) fn new(trusted: TrustedIssuer, bus: Bus) -> Self {
        Self { trusted, bus, keys: Mutex::default() }
    }

    /// Whether the token is the verifier's and for our evidence. The outer error is an outage: nothing was judged.
    pub(crate) async fn judge(&self, jwt: &str, expected: &Expected) -> Result<Result<OwnToken, Foreign>, Refusal> {
        let span = spans::step(names::VERIFY_TOKEN);
        async {
            if jwt.len() > expected.token_bytes_max() {
                return Ok(Err(Foreign::Other("length")));
            }
            let kid = match peek(jwt) {
                Ok(unverified) => unverified.kid,
                Err(denial) => return Ok(Err(denial.into())),
            };
            let keys = self.keys_for(&kid).await?;
            Ok(expected.prove(jwt, &keys, clock::now()))
        }
        .instrument(span)
        .await
    }

    /// The key set, fetched if there is none, if it is old, or if it lacks this key and we have not just asked.
    async fn keys_for(&self, kid: &str) -> Result<Arc<KeySet>, Refusal> {
        let mut cache = self.keys.lock().await;
        if let Some((keys, fetched)) = &cache.keys {
            let fresh = fetched.elapsed() < KEYS_AGE_MAX;
            let just_asked = cache.asked.is_some_and(|asked| asked.elapsed() < FETCH_INTERVAL_MIN);
            if fresh && (keys.knows(kid) || just_asked) {
                return Ok(Arc::clone(keys));
            }
        }
        cache.asked = Some(Instant::now());
        let keys = Arc::new(self.fetch().await?);
        cache.keys = Some((Arc::clone(&keys), Instant::now()));
        Ok(keys)
    }

    async fn fetch(&self) -> Result<KeySet, Refusal> {
        let answer: GetJwksResponse = self
            .bus
            .request(Rpc::TokenBrokerJwks, &GetJwksRequest {}, FETCH_WITHIN)
            .await
            .map_err(|error| Refusal::new(Reason::JwksUnavailable, error.to_string()))?;
        KeySet::from_jwks(&answer.jwks, &self.trusted, clock::now()).map_err(|error| {
            tracing::warn!(%error, "the key set that came over the bus is not the pinned verifier's");
            Refusal::new(Reason::JwksUnavailable, error.to_string())
        })
    }
}
