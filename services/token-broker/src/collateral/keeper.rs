//! Asks the service: on the first sight of a family, and at a random point between half and four fifths of the life of
//! what is in force. One request per family at a time, whoever waits for it.

use std::{
    collections::{HashMap, hash_map::Entry},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use keyferry_collateral::{CollateralClient, Document, Family, FetchError, Refused};
use keyferry_lifecycle::clock;
use keyferry_telemetry::{names, spans};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::MissedTickBehavior,
};
use tracing::Instrument;

use super::{CollateralStore, FAMILIES_MAX, demand::Demand, kept};

/// Requests under way.
const FETCHES_MAX: usize = 8;
/// After a no that stays a no until somebody does something.
const REFUSED_SECONDS: u64 = 600;
/// After an outage.
const OUTAGE_SECONDS: u64 = 30;
/// The longest that a service's `Retry-After` is believed, and the longest pause between attempts at a refresh.
const PAUSE_SECONDS_MAX: u64 = 3600;

/// Evidence of a family that nobody has seen before waits for `answer`.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) family: Family,
    pub(super) answer: oneshot::Sender<Result<(), String>>,
}

type Waiting = Vec<oneshot::Sender<Result<(), String>>>;

#[derive(Debug)]
pub(super) struct Keeper {
    client: CollateralClient,
    directory: Option<PathBuf>,
    wanted: mpsc::Receiver<Wanted>,
    demand: Demand,
    /// Who waits for a request under way.
    under_way: HashMap<[u8; 6], Waiting>,
    fetches: JoinSet<(Family, Result<bool, NotRenewed>)>,
    /// When each family is due, in Unix seconds.
    due: HashMap<[u8; 6], u64>,
}

/// Why nothing new came.
#[derive(Debug, thiserror::Error)]
enum NotRenewed {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("verifying it panicked")]
    Panicked,
}

impl NotRenewed {
    const fn label(&self) -> &'static str {
        match self {
            Self::Fetch(error) => error.label(),
            Self::Refused(refused) => refused.label(),
            Self::Panicked => "internal",
        }
    }

    /// How long the service is left alone about this family, in seconds.
    fn pause(&self) -> u64 {
        match self {
            Self::Fetch(error) if error.may_pass() => error.retry_after().unwrap_or_default().clamp(OUTAGE_SECONDS, PAUSE_SECONDS_MAX),
            _ => REFUSED_SECONDS,
        }
    }
}

impl Keeper {
    pub(super) fn new(client: CollateralClient, directory: Option<PathBuf>, wanted: mpsc::Receiver<Wanted>) -> Self {
        let (demand, under_way, due) = (Demand::default(), HashMap::new(), HashMap::new());
        Self { client, directory, wanted, demand, under_way, fetches: JoinSet::new(), due }
    }

    /// Until it is dropped, and every request under way with it.
    pub(super) async fn work(mut self, store: Arc<CollateralStore>, interval: Duration) {
        let mut look = tokio::time::interval(interval);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = look.tick() => self.refresh(&store, interval),
                Some(wanted) = self.wanted.recv() => self.answer(wanted, &store),
                Some(ended) = self.fetches.join_next() => match ended {
                    Ok((family, outcome)) => self.settle(family, outcome, &store, interval),
                    // Nobody knows whose it was: who waits is told at once, and asks again.
                    Err(_) => self.under_way.clear(),
                },
            }
        }
    }

    fn answer(&mut self, Wanted { family, answer }: Wanted, store: &Arc<CollateralStore>) {
        let now = clock::now();
        if !store.lacks(family.fmspc, now) {
            let _nobody_waits = answer.send(Ok(()));
            return;
        }
        if let Entry::Occupied(mut waiting) = self.under_way.entry(family.fmspc) {
            waiting.get_mut().push(answer);
            return;
        }
        let admitted = if self.fetches.len() >= FETCHES_MAX {
            Err("the service is being asked for other families".to_owned())
        } else if store.verified().len() >= FAMILIES_MAX {
            Err(Refused::TooMany.to_string())
        } else {
            self.demand.admit(family.fmspc, now)
        };
        match admitted {
            Ok(()) => {
                self.start(family, store);
                self.under_way.entry(family.fmspc).or_default().push(answer);
            }
            Err(why) => drop(answer.send(Err(why))),
        }
    }

    fn refresh(&mut self, store: &Arc<CollateralStore>, interval: Duration) {
        let now = clock::now();
        for document in store.verified() {
            let family = document.family();
            let due = *self.due.entry(family.fmspc).or_insert_with(|| refresh_at(&document));
            if now >= due && self.fetches.len() < FETCHES_MAX && !self.under_way.contains_key(&family.fmspc) {
                self.due.insert(family.fmspc, now + pause(&document, now, interval));
                self.start(family, store);
            }
        }
    }

    fn start(&mut self, family: Family, store: &Arc<CollateralStore>) {
        self.under_way.entry(family.fmspc).or_default();
        let (client, directory, store) = (self.client.clone(), self.directory.clone(), Arc::clone(store));
        let fetching = async move { (family, renew(&client, family, &store, directory).await) };
        self.fetches.spawn(fetching.instrument(spans::step(names::FETCH_COLLATERAL)));
    }

    fn settle(&mut self, family: Family, outcome: Result<bool, NotRenewed>, store: &Arc<CollateralStore>, interval: Duration) {
        let now = clock::now();
        let result = match &outcome {
            Ok(true) => "renewed",
            Ok(false) => "unchanged",
            Err(error) => error.label(),
        };
        names::COLLATERAL_REFRESHES.add(1, &[(names::RESULT, result)]);
        let answer = match outcome {
            Ok(news) => {
                self.demand.forget(family.fmspc);
                if let Some(document) = store.verified().iter().find(|document| document.family().fmspc == family.fmspc) {
                    // A cache may give the same again for days: it is not asked in a loop.
                    self.due.insert(family.fmspc, refresh_at(document).max(now + pause(document, now, interval)));
                }
                if news {
                    tracing::info!(fmspc = %family, "collateral was renewed");
                }
                store.report();
                Ok(())
            }
            Err(error) => {
                self.demand.refuse(family.fmspc, now + error.pause(), error.to_string(), now);
                store.alarms().refused(&family.to_string(), error.label(), &error);
                Err(error.to_string())
            }
        };
        for waiting in self.under_way.remove(&family.fmspc).unwrap_or_default() {
            let _nobody_waits = waiting.send(answer.clone());
        }
    }
}

/// Fetches, verifies, puts in force, and keeps on the disk. `true` if it is news.
async fn renew(
    client: &CollateralClient,
    family: Family,
    store: &Arc<CollateralStore>,
    directory: Option<PathBuf>,
) -> Result<bool, NotRenewed> {
    let document = client.fetch(family).await?;
    let store = Arc::clone(store);
    let admit = move || {
        let document = document.verify(store.anchor(), clock::now())?;
        let copy = document.document().clone();
        let news = store.admit(document)?;
        if let Some(directory) = directory.filter(|_| news)
            && let Err(error) = kept::keep(&directory, &copy)
        {
            // In force all the same: what rests on it is written down before it leaves the service.
            store.alarms().refused(&directory.display().to_string(), "not_kept", &error);
        }
        Ok(news)
    };
    tokio::task::spawn_blocking(admit).await.unwrap_or(Err(NotRenewed::Panicked))
}

/// At 50 to 80 % of its life: replicas that share a start must not ask at the same second.
fn refresh_at(document: &Document) -> u64 {
    let mut random = [0; 2];
    // Without randomness all ask at half of its life, which is soon enough.
    let _zero_then = aws_lc_rs::rand::fill(&mut random);
    let permille = 500 + u64::from(u16::from_be_bytes(random)) % 301;
    let life = document.next_update().saturating_sub(document.issued_at());
    document.issued_at() + life.saturating_mul(permille) / 1000
}

/// Between two attempts: a twentieth of what is left, at least one look, at most an hour.
fn pause(document: &Document, now: u64, interval: Duration) -> u64 {
    let left = document.next_update().saturating_sub(now);
    (left / 20).min(PAUSE_SECONDS_MAX).max(interval.as_secs())
}

#[cfg(test)]
mod tests {
    use keyferry_td_simulator::{CollateralOptions, SimulatorRoot, Window};

    use super::*;

    const NOW: u64 = 1_800_000_000;

    #[test]
    fn refreshes_are_spread_between_half_and_four_fifths_of_the_shortest_life() {
        let root = SimulatorRoot::generate("keeper", NOW).unwrap();
        let options = CollateralOptions { pck_crl: Window { from: -1000, until: 9000 }, ..CollateralOptions::default() };
        let options = CollateralOptions {
            tcb_info: Window { from: -900, until: 99_000 },
            qe_identity: Window { from: -900, until: 99_000 },
            ..options
        };
        let document = Document::parse(&root.collateral(&options, NOW).unwrap()).unwrap();
        let points: Vec<u64> = (0..200).map(|_| refresh_at(&document)).collect();
        assert!(points.iter().all(|at| (NOW + 4000..=NOW + 7000).contains(at)), "{points:?}");
        assert!(points.iter().min() < points.iter().max());
        assert_eq!(pause(&document, NOW, Duration::from_mins(1)), 450);
        assert_eq!(pause(&document, NOW + 8999, Duration::from_mins(1)), 60);
    }
}
