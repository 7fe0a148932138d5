//! Who may ask, and how often: API keys by name, kept as digests, and a bucket of requests for each.

use std::{
    collections::HashMap,
    fs,
    path::PathBuf,
    sync::Mutex,
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use keyferry_lifecycle::{During, StartError};
use keyferry_verifier_keys::ApiKeys;

use crate::config::HttpsConfig;

/// The time in which the configured number of requests comes back.
const WINDOW: Duration = Duration::from_mins(5);
/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(10);
/// The name of the key that is in the configuration itself.
const CONFIGURED: &str = "configured";

/// The callers of the HTTPS surface.
pub(crate) struct Callers {
    configured: ApiKeys,
    file: Option<PathBuf>,
    known: ArcSwap<ApiKeys>,
    rate: Option<Rate>,
}

/// What became of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Its key is known, and it has requests left.
    Admitted,
    /// No such key.
    Unknown,
    /// Too many requests; how long until the next one.
    Throttled(Duration),
}

impl Callers {
    /// Reads the keys.
    pub(crate) fn open(config: &HttpsConfig) -> Result<Self, StartError> {
        let key = config.api_key().map_err(|mistake| StartError::message(mistake.to_string()))?;
        let configured = key.map_or_else(ApiKeys::default, |key| ApiKeys::single(CONFIGURED, key.expose()));
        let callers = Self {
            known: ArcSwap::from_pointee(configured.clone()),
            configured,
            file: config.api_keys_file.clone(),
            rate: Rate::new(config.requests_per_five_minutes),
        };
        callers.read().during("reading https.api_keys_file")?;
        Ok(callers)
    }

    /// Whether the caller with this key may ask at `now`.
    pub(crate) fn admit(&self, key: &[u8], now: Instant) -> Admission {
        let known = self.known.load();
        let Some(name) = known.name_of(key) else { return Admission::Unknown };
        match self.rate.as_ref().and_then(|rate| rate.spend(name, now).err()) {
            Some(wait) => Admission::Throttled(wait),
            None => Admission::Admitted,
        }
    }

    /// Follows the file until `cancelled`; one that cannot be read changes nothing.
    pub(crate) async fn follow(&self, cancelled: impl Future<Output = ()>) {
        let Some(file) = &self.file else { return };
        tokio::pin!(cancelled);
        let modified = || fs::metadata(file).and_then(|metadata| metadata.modified()).ok();
        let mut seen: Option<SystemTime> = None;
        loop {
            let found = modified();
            if found != seen {
                match self.read() {
                    Ok(()) => seen = found,
                    Err(error) => tracing::error!(%error, "the API keys were not read again: the old ones stay in force"),
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = &mut cancelled => return,
            }
        }
    }

    fn read(&self) -> Result<(), ReadError> {
        let Some(file) = &self.file else { return Ok(()) };
        let text = fs::read_to_string(file).map_err(|source| ReadError::File { path: file.clone(), source })?;
        let keys = ApiKeys::parse(&text).map_err(|source| ReadError::Content { path: file.clone(), source })?;
        self.known.store(std::sync::Arc::new(self.configured.clone().and(keys)));
        Ok(())
    }
}

impl std::fmt::Debug for Callers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Callers({:?})", self.known.load())
    }
}

/// Why there are no keys from a file.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("{}: {source}", path.display())]
    Content { path: PathBuf, source: keyferry_verifier_keys::ApiKeysError },
}

/// As many requests in [`WINDOW`] for each name; a used one comes back after its share of the window.
struct Rate {
    cost: Duration,
    whole_at: Mutex<HashMap<String, Instant>>,
}

impl Rate {
    fn new(requests: u32) -> Option<Self> {
        (requests > 0).then(|| Self { cost: WINDOW / requests, whole_at: Mutex::default() })
    }

    /// Spends one request, or tells how long to wait. Names are those of the keys, so there are few.
    fn spend(&self, name: &str, now: Instant) -> Result<(), Duration> {
        let mut whole_at = self.whole_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let missing = whole_at.get(name).map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        let beyond = (missing + self.cost).saturating_sub(WINDOW);
        if !beyond.is_zero() {
            return Err(beyond);
        }
        whole_at.insert(name.to_owned(), now + missing + self.cost);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_has_its_own_requests_and_they_come_back() {
        let rate = Rate::new(3).unwrap();
        let now = Instant::now();
        for _ in 0..3 {
            assert_eq!(rate.spend("a", now), Ok(()));
        }
        assert_eq!(rate.spend("a", now), Err(Duration::from_secs(100)));
        assert_eq!(rate.spend("b", now), Ok(()));
        assert_eq!(rate.spend("a", now + Duration::from_secs(100)), Ok(()));
        assert!(rate.spend("a", now + Duration::from_secs(100)).is_err());
        assert!(Rate::new(0).is_none());
    }
}
