//! The collateral in force, by platform family, and where it comes from.
//!
//! Two shelves feed it. *Files* (`evidence.collateral_files`) are the operator's word: they are parsed, replace what they
//! held before, and are verified with each quote. Everything else - bundles, the directory of the last good, the service -
//! gets onto the *verified* shelf only through [`CollateralStore::admit`]: every item verifies under the pinned root now,
//! and the family's evaluation number never falls. What is refused there leaves what was in force in force, and is an
//! alarm. Where both shelves have a family, the newer evaluation counts, then the one that lasts longer.
//!
//! [`keeper`] talks to the service: on the first sight of a family and before what is in force ends.

mod alarm;
mod demand;
mod files;
mod keeper;
mod kept;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use keyferry_collateral::{CollateralClient, Document, Family, FetchError, ItemKind, Refused, Settings, VerifiedDocument};
use keyferry_dcap::{Collateral, TrustAnchor};
use keyferry_lifecycle::clock;
use keyferry_telemetry::names;
use tokio::sync::{mpsc, oneshot};

pub(crate) use self::files::CollateralFileError;
use self::{
    alarm::Alarms,
    files::Files,
    keeper::{Keeper, Wanted},
};

/// Families that are kept. Intel has some fifty.
pub(super) const FAMILIES_MAX: usize = 256;
/// Families that may wait for the keeper's attention.
const WANTED_MAX: usize = 64;
/// How long evidence waits for the collateral of a family nobody has seen before. The bus repeats what takes longer than 15 s.
const PATIENCE: Duration = Duration::from_secs(10);

type ByFamily<T> = HashMap<[u8; 6], T>;

/// One document, parsed once; an appraisal takes its collateral along.
#[derive(Clone, Debug)]
pub(super) struct Held {
    document: Arc<Document>,
    collateral: Arc<Collateral>,
}

impl Held {
    fn new(document: Document) -> Self {
        Self { collateral: Arc::new(document.collateral().clone()), document: Arc::new(document) }
    }

    fn rank(&self) -> (u32, u64) {
        (self.document.evaluation_number(), self.document.next_update())
    }
}

/// What each kind of source has.
#[derive(Debug, Default)]
struct Shelves {
    files: ByFamily<Held>,
    verified: ByFamily<Held>,
    /// The highest evaluation number seen of each family.
    highest: ByFamily<u32>,
}

/// Where collateral comes from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    /// Documents that the operator vouches for.
    pub(crate) files: Vec<PathBuf>,
    /// Bundles that somebody carried here.
    pub(crate) bundles: Vec<PathBuf>,
    /// Where the last good is kept, and imports arrive.
    pub(crate) directory: Option<PathBuf>,
    /// A service.
    pub(crate) service: Option<Settings>,
}

/// The collateral in force. Swapped as a whole; an appraisal keeps the generation it began with.
#[derive(Debug)]
pub(crate) struct CollateralStore {
    anchor: TrustAnchor,
    files: Files,
    current: ArcSwap<ByFamily<Held>>,
    shelves: Mutex<Shelves>,
    alarms: Alarms,
    /// To the keeper, where there is a service to ask.
    wanted: Option<mpsc::Sender<Wanted>>,
    keeper: Mutex<Option<Keeper>>,
}

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CollateralStoreError {
    /// A file is missing or malformed.
    #[error(transparent)]
    File(#[from] CollateralFileError),
    /// The service's settings cannot be used.
    #[error("evidence.collateral: {0}")]
    Service(#[from] FetchError),
}

impl CollateralStore {
    /// Reads what is there; a file or bundle that is missing or malformed is an error at start. `seen` are the evaluation
    /// numbers of earlier processes. Blocks.
    pub(crate) fn open(sources: Sources, anchor: TrustAnchor, seen: Vec<([u8; 6], u32)>) -> Result<Self, CollateralStoreError> {
        let service = sources.service.as_ref().map(CollateralClient::new).transpose()?;
        let directory = sources.directory.clone();
        let (wanted, keeper) = match service {
            Some(client) => {
                let (sender, receiver) = mpsc::channel(WANTED_MAX);
                (Some(sender), Some(Keeper::new(client, directory, receiver)))
            }
            None => (None, None),
        };
        let shelves = Shelves { highest: seen.into_iter().collect(), ..Shelves::default() };
        let store = Self {
            anchor,
            files: Files::new(sources),
            current: ArcSwap::default(),
            shelves: Mutex::new(shelves),
            alarms: Alarms::default(),
            wanted,
            keeper: Mutex::new(keeper),
        };
        store.files.read(&store)?;
        store.report();
        Ok(store)
    }

    /// The collateral for a platform family.
    pub(crate) fn of(&self, fmspc: [u8; 6]) -> Option<Arc<Collateral>> {
        self.current.load().get(&fmspc).map(|held| Arc::clone(&held.collateral))
    }

    /// Whether an appraisal at `now` has nothing to work with, and there is somebody to ask.
    pub(crate) fn lacks(&self, fmspc: [u8; 6], now: u64) -> bool {
        let has = || self.current.load().get(&fmspc).is_some_and(|held| now < held.document.next_update());
        self.wanted.is_some() && !has()
    }

    /// Asks the service for a family's collateral, and waits a while for it. Why it did not come, if it did not.
    pub(crate) async fn demand(&self, family: Family) -> Result<(), String> {
        let Some(wanted) = &self.wanted else { return Err("no service is configured".to_owned()) };
        let (answer, answered) = oneshot::channel();
        wanted.try_send(Wanted { family, answer }).map_err(|_| "too many families are waited for".to_owned())?;
        match tokio::time::timeout(PATIENCE, answered).await {
            Ok(Ok(came)) => came,
            Ok(Err(_)) => Err("the service was not asked".to_owned()),
            Err(_) => Err("the service has not answered yet".to_owned()),
        }
    }

    /// Looks at the files every `interval`, and lets the keeper work, until `cancelled`.
    pub(crate) async fn follow(self: Arc<Self>, interval: Duration, cancelled: impl Future<Output = ()>) {
        let keeper = lock(&self.keeper).take();
        let keeping = async {
            match keeper {
                Some(keeper) => keeper.work(Arc::clone(&self), interval).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = Arc::clone(&self).follow_files(interval) => {}
            () = keeping => {}
            () = cancelled => {}
        }
    }

    async fn follow_files(self: Arc<Self>, interval: Duration) {
        loop {
            let store = Arc::clone(&self);
            let read = tokio::task::spawn_blocking(move || {
                store.files.read_if_changed(&store);
                store.report();
            });
            if read.await.is_err() {
                tracing::error!("reading collateral panicked: what was in force stays in force");
            }
            tokio::time::sleep(interval).await;
        }
    }

    /// Puts verified collateral in force, unless it is older than what is known. What is refused changes nothing. `true` if
    /// it is news.
    pub(super) fn admit(&self, document: VerifiedDocument) -> Result<bool, Refused> {
        let fmspc = document.document().family().fmspc;
        let mut shelves = lock(&self.shelves);
        let mut document = document.not_below(shelves.highest.get(&fmspc).copied().unwrap_or_default())?;
        if let Some(held) = shelves.verified.get(&fmspc) {
            document = document.not_older_than(&held.document)?;
            if (held.rank().0, held.document.items()) == (document.document().evaluation_number(), document.document().items()) {
                return Ok(false);
            }
        } else if shelves.verified.len() >= FAMILIES_MAX {
            return Err(Refused::TooMany);
        }
        shelves.highest.insert(fmspc, document.document().evaluation_number());
        shelves.verified.insert(fmspc, Held::new(document.document().clone()));
        self.put_in_force(&shelves);
        drop(shelves);
        Ok(true)
    }

    /// Replaces what the files hold.
    pub(super) fn replace_files(&self, files: ByFamily<Held>) {
        let mut shelves = lock(&self.shelves);
        shelves.files = files;
        self.put_in_force(&shelves);
    }

    fn put_in_force(&self, shelves: &Shelves) {
        let mut families = shelves.files.clone();
        for (fmspc, held) in &shelves.verified {
            let kept = families.entry(*fmspc).or_insert_with(|| held.clone());
            if kept.rank() < held.rank() {
                *kept = held.clone();
            }
        }
        self.current.store(Arc::new(families));
    }

    /// Every verified family and the dates of its document: what the keeper refreshes.
    pub(super) fn verified(&self) -> Vec<Arc<Document>> {
        lock(&self.shelves).verified.values().map(|held| Arc::clone(&held.document)).collect()
    }

    pub(super) const fn anchor(&self) -> &TrustAnchor {
        &self.anchor
    }

    pub(super) const fn alarms(&self) -> &Alarms {
        &self.alarms
    }

    /// Ages and ends as metrics, and an alarm for what is about to end.
    pub(super) fn report(&self) {
        let now = clock::now();
        let current = self.current.load();
        for kind in ItemKind::ALL {
            let items = || current.values().flat_map(|held| held.document.items()).filter(|item| item.kind == kind);
            let left = items().map(|item| item.next_update.saturating_sub(now)).min().unwrap_or(0);
            let age = items().map(|item| now.saturating_sub(item.issued_at)).max().unwrap_or(0);
            names::COLLATERAL_EXPIRY.set(Duration::from_secs(left).as_secs_f64(), &[(names::KIND, kind.label())]);
            names::COLLATERAL_AGE.set(Duration::from_secs(age).as_secs_f64(), &[(names::KIND, kind.label())]);
        }
        for (fmspc, held) in current.iter() {
            self.alarms.about_to_end(*fmspc, &held.document, now);
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
