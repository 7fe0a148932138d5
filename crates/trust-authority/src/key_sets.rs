//! An issuer's key set, kept: fetched in the background, refreshed when a token names an unknown key - never more often than
//! a rate allows, since anybody can make up a key name -, and judged by the revocation lists that its certificates name.
//!
//! What cannot be refreshed stays as it was, for a bounded time: a key set for [`AGE_MAX`], a list until its next update
//! and the configured grace. A withdrawn certificate counts at once.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use keyferry_attestation_token::{
    AuthenticToken, KeySet, KeySetError, Revocation, RevocationCheck, RevocationList, RevocationListError, TokenDenial, TrustedIssuer,
    authenticate, peek,
};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Mutex, Semaphore};

use crate::{JwksSource, TrustAuthorityError};

/// How long a caller waits for a fetch that its token caused.
const CALLER_WAITS_MAX: Duration = Duration::from_secs(5);
/// Callers that wait for one issuer's fetch at the same time. Anybody can make up a key name: more of them would take the
/// places of callers with good tokens while the issuer is slow.
const WAITING_MAX: usize = 32;
/// A token with an unknown key name causes at most one fetch in this time.
const REFRESH_ON_DEMAND_INTERVAL: Duration = Duration::from_secs(5);
/// A list is asked for again after this long, though it may be good for a month: it may have been replaced early.
const LIST_REFRESH_INTERVAL: Duration = Duration::from_hours(1);
/// Lists of one issuer; a chain has two.
const LISTS_MAX: usize = 16;
/// A longer token, with up to 1 MiB of user data in it, takes milliseconds to judge: not on the runtime's threads.
const JUDGED_AT_ONCE_BYTES_MAX: usize = 64 * 1024;
/// A key set that could not be refreshed for this long is no longer believed: the issuer may have withdrawn a key.
pub const AGE_MAX: Duration = Duration::from_hours(24);

/// Told of every failed refresh, with the issuer's name.
pub type Report = Arc<dyn Fn(&str, &KeySetUnavailable) + Send + Sync>;

/// Whose key set it is and where it comes from.
pub struct KeySetSettings {
    /// The issuer and its pinned root.
    pub trusted: TrustedIssuer,
    /// The key set's address, and that of its revocation lists.
    pub source: JwksSource,
    /// How strictly withdrawn certificates are looked for.
    pub revocation: Revocation,
    /// Told of failures.
    pub report: Option<Report>,
}

/// Why there is no fresh key set.
#[derive(Debug, thiserror::Error)]
pub enum KeySetUnavailable {
    /// The document or a list could not be had.
    #[error(transparent)]
    Fetch(#[from] TrustAuthorityError),
    /// The document is not to be believed, or its certificates are withdrawn or of unknown standing.
    #[error(transparent)]
    KeySet(#[from] KeySetError),
    /// A list is none.
    #[error("{url}: {source}")]
    List {
        /// Where it came from.
        url: String,
        /// Why.
        source: RevocationListError,
    },
}

/// Why a token is not believed.
#[derive(Debug, thiserror::Error)]
pub enum Unbelieved {
    /// It was judged.
    #[error(transparent)]
    Denied(#[from] TokenDenial),
    /// Nothing could be judged: there is no usable key set.
    #[error("the key set of {issuer:?} is not available")]
    NoKeySet {
        /// Whose.
        issuer: String,
    },
}

/// A key set whose chains were judged, with the lists too.
struct Believed {
    keys: KeySet,
    document: Arc<[u8]>,
    at: Instant,
}

/// What was fetched, before the lists are applied; locked while a fetch is under way, so that there is only one.
#[derive(Default)]
struct Kept {
    last_attempt: Option<Instant>,
    set: Option<(KeySet, Arc<[u8]>, Instant)>,
    lists: HashMap<String, (RevocationList, Instant)>,
}

/// The key set of one issuer.
pub struct KeySetCache {
    settings: KeySetSettings,
    current: ArcSwapOption<Believed>,
    kept: Mutex<Kept>,
    waiting: Semaphore,
}

impl KeySetCache {
    /// Nothing is fetched yet.
    pub fn new(settings: KeySetSettings) -> Self {
        Self { settings, current: ArcSwapOption::empty(), kept: Mutex::default(), waiting: Semaphore::new(WAITING_MAX) }
    }

    /// The configured issuer's name.
    pub fn issuer(&self) -> &str {
        &self.settings.trusted.issuer
    }

    /// How long ago the key set was fetched; `None` if there is none that counts.
    pub fn age(&self) -> Option<Duration> {
        self.fresh().map(|believed| believed.at.elapsed())
    }

    /// The document of the key set that counts, as the issuer served it.
    pub fn document(&self) -> Option<Arc<[u8]>> {
        self.fresh().map(|believed| Arc::clone(&believed.document))
    }

    /// Judges a token. `now` in unix seconds. An unknown key name may cause a fetch; a signature takes 40 to 190 us.
    pub async fn authenticate(&self, jwt: &str, now: u64) -> Result<AuthenticToken, Unbelieved> {
        let unverified = peek(jwt)?;
        if unverified.issuer != self.issuer() {
            return Ok(authenticate(jwt, &[], now)?);
        }
        // An algorithm that this issuer may not use is refused before anything is fetched for it.
        let algorithms = &self.settings.trusted.algorithms;
        if !algorithms.contains(&unverified.algorithm) {
            let allowed = algorithms.iter().map(|algorithm| algorithm.name()).collect::<Vec<_>>().join(", ");
            return Err(TokenDenial::AlgorithmNotAllowed { found: unverified.algorithm.to_string(), allowed }.into());
        }
        if !self.knows(&unverified.kid) {
            self.refresh_on_demand(&unverified.kid, now).await;
        }
        let believed = self.fresh().ok_or_else(|| Unbelieved::NoKeySet { issuer: self.issuer().to_owned() })?;
        if jwt.len() <= JUDGED_AT_ONCE_BYTES_MAX {
            return Ok(authenticate(jwt, std::slice::from_ref(&believed.keys), now)?);
        }
        let jwt = SecretString::from(jwt);
        let judged = tokio::task::spawn_blocking(move || authenticate(jwt.expose_secret(), std::slice::from_ref(&believed.keys), now));
        // It cannot panic; were it cancelled, nothing would have been judged.
        judged.await.map_err(|_| Unbelieved::NoKeySet { issuer: self.issuer().to_owned() })?.map_err(Into::into)
    }

    /// Fetches now. An error leaves what was there, unless it is about a withdrawn certificate or an overdue list.
    pub async fn refresh(&self, now: u64) -> Result<(), KeySetUnavailable> {
        let mut kept = self.kept.lock().await;
        kept.last_attempt = Some(Instant::now());
        self.fetch(&mut kept, now).await
    }

    fn fresh(&self) -> Option<Arc<Believed>> {
        self.current.load_full().filter(|believed| believed.at.elapsed() < AGE_MAX)
    }

    fn knows(&self, kid: &str) -> bool {
        self.fresh().is_some_and(|believed| believed.keys.knows(kid))
    }

    async fn refresh_on_demand(&self, kid: &str, now: u64) {
        let Ok(_place) = self.waiting.try_acquire() else { return };
        let refresh = async {
            let mut kept = self.kept.lock().await;
            let recently = kept.last_attempt.is_some_and(|at| at.elapsed() < REFRESH_ON_DEMAND_INTERVAL);
            if !recently && !self.knows(kid) {
                kept.last_attempt = Some(Instant::now());
                let _reported = self.fetch(&mut kept, now).await;
            }
        };
        if tokio::time::timeout(CALLER_WAITS_MAX, refresh).await.is_err() {
            self.report(&TrustAuthorityError::Timeout { host: self.settings.source.host().to_owned() }.into());
        }
    }

    async fn fetch(&self, kept: &mut Kept, now: u64) -> Result<(), KeySetUnavailable> {
        let fetched = self.fetch_set(now).await.map(|set| kept.set = Some(set));
        let listed = self.fetch_lists(kept, now).await;
        let judged = self.judge(kept, now);
        // What keeps us from believing explains more than what could not be refreshed.
        let outcome = judged.and(fetched).and(listed);
        outcome.inspect_err(|error| self.report(error))
    }

    async fn fetch_set(&self, now: u64) -> Result<(KeySet, Arc<[u8]>, Instant), KeySetUnavailable> {
        let document = self.settings.source.fetch().await?;
        let keys = KeySet::from_jwks(&document, &self.settings.trusted, now)?;
        Ok((keys, document.into(), Instant::now()))
    }

    /// Lists are named by certificates that lead to the pinned root, and fetched where the key set is.
    async fn fetch_lists(&self, kept: &mut Kept, now: u64) -> Result<(), KeySetUnavailable> {
        let Kept { set: Some((keys, ..)), lists, .. } = kept else { return Ok(()) };
        let named = if self.settings.revocation.check == RevocationCheck::Off { BTreeSet::new() } else { keys.distribution_points() };
        lists.retain(|url, _| named.contains(url));
        let mut outcome = Ok(());
        for url in named.into_iter().take(LISTS_MAX) {
            let held = lists.get(&url);
            if held.is_some_and(|(list, at)| at.elapsed() < LIST_REFRESH_INTERVAL && now <= list.next_update()) {
                continue;
            }
            match self.fetch_list(&url).await {
                // An older list than the one we hold is somebody's attempt to bring a withdrawn certificate back.
                Ok(list) if held.is_some_and(|(held, _)| list.this_update() < held.this_update()) => {}
                Ok(list) => drop(lists.insert(url, (list, Instant::now()))),
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }

    async fn fetch_list(&self, url: &str) -> Result<RevocationList, KeySetUnavailable> {
        let der = self.settings.source.fetch_revocation_list(url).await?;
        RevocationList::from_der(&der).map_err(|source| KeySetUnavailable::List { url: url.to_owned(), source })
    }

    fn judge(&self, kept: &Kept, now: u64) -> Result<(), KeySetUnavailable> {
        let Some((keys, document, at)) = &kept.set else { return Ok(()) };
        let lists: Vec<_> = kept.lists.values().map(|(list, _)| list).collect();
        let judged = keys.without_revoked(&lists, self.settings.revocation, now);
        let believed = judged.as_ref().ok().map(|keys| Believed { keys: keys.clone(), document: Arc::clone(document), at: *at });
        self.current.store(believed.map(Arc::new));
        judged.map(drop).map_err(Into::into)
    }

    fn report(&self, error: &KeySetUnavailable) {
        if let Some(report) = &self.settings.report {
            report(self.issuer(), error);
        }
    }
}

impl fmt::Debug for KeySetCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeySetCache").field(&self.issuer()).finish()
    }
}
