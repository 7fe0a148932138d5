//! Collateral by platform family, read from files and followed while they change.

use std::{
    collections::HashMap,
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use keyferry_dcap::{Collateral, CollateralError};
use keyferry_lifecycle::clock;
use keyferry_telemetry::names;

type ByFamily = HashMap<[u8; 6], Arc<Collateral>>;

/// The collateral in force. Swapped as a whole; an appraisal keeps the generation it began with.
#[derive(Debug)]
pub(crate) struct CollateralStore {
    files: Vec<PathBuf>,
    /// When the files were last changed, as of just before they were first read: what comes in between is a change.
    opened_at: Vec<Option<SystemTime>>,
    current: ArcSwap<ByFamily>,
}

/// Why a file gives no collateral.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CollateralFileError {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no collateral.
    #[error("{}: {source}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Why.
        source: CollateralError,
    },
}

impl CollateralStore {
    /// Reads every file; one that is missing or malformed is an error at start.
    pub(crate) fn open(files: &[PathBuf]) -> Result<Self, CollateralFileError> {
        let opened_at = modified_all(files);
        let current = ArcSwap::from_pointee(read_all(files)?);
        let store = Self { files: files.to_vec(), opened_at, current };
        store.report();
        Ok(store)
    }

    /// The collateral for a platform family.
    pub(crate) fn of(&self, fmspc: [u8; 6]) -> Option<Arc<Collateral>> {
        self.current.load().get(&fmspc).cloned()
    }

    /// Looks at the files every `interval` until `cancelled`; a change that cannot be read keeps what was there.
    pub(crate) async fn follow(self: Arc<Self>, interval: Duration, cancelled: impl Future<Output = ()>) {
        tokio::pin!(cancelled);
        let mut seen = self.opened_at.clone();
        loop {
            let (store, before) = (Arc::clone(&self), seen.clone());
            seen = tokio::task::spawn_blocking(move || store.reload_if_changed(before)).await.unwrap_or(seen);
            self.report();
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                () = &mut cancelled => return,
            }
        }
    }

    fn reload_if_changed(&self, before: Vec<Option<SystemTime>>) -> Vec<Option<SystemTime>> {
        let now = modified_all(&self.files);
        if before == now {
            return now;
        }
        match read_all(&self.files) {
            Ok(families) => {
                self.current.store(Arc::new(families));
                tracing::info!(families = self.current.load().len(), "collateral was read again");
                now
            }
            Err(error) => {
                tracing::error!(%error, "collateral was not replaced: the old one stays in force");
                before
            }
        }
    }

    fn report(&self) {
        let earliest = self.current.load().values().map(|collateral| collateral.next_update()).min().unwrap_or(0);
        let left = Duration::from_secs(earliest.saturating_sub(clock::now()));
        names::COLLATERAL_EXPIRY.set(left.as_secs_f64(), &[(names::KIND, "tcb_info")]);
        if left.is_zero() {
            tracing::error!("collateral has expired: every appraisal with it is refused until its file is renewed");
        }
    }
}

fn modified_all(files: &[PathBuf]) -> Vec<Option<SystemTime>> {
    files.iter().map(|file| fs::metadata(file).and_then(|metadata| metadata.modified()).ok()).collect()
}

/// Of two documents for one family the newer evaluation counts, then the one that lasts longer.
fn read_all(files: &[PathBuf]) -> Result<ByFamily, CollateralFileError> {
    let mut families = ByFamily::new();
    for path in files {
        let text = fs::read_to_string(path).map_err(|source| CollateralFileError::Read { path: path.clone(), source })?;
        let collateral = Collateral::from_json(&text).map_err(|source| CollateralFileError::Content { path: path.clone(), source })?;
        let rank = |collateral: &Collateral| (collateral.evaluation_number(), collateral.next_update());
        let collateral = Arc::new(collateral);
        let kept = families.entry(collateral.fmspc()).or_insert_with(|| Arc::clone(&collateral));
        if rank(kept) < rank(&collateral) {
            *kept = collateral;
        }
    }
    Ok(families)
}

#[cfg(test)]
mod tests {
    use keyferry_td_simulator::{CollateralOptions, PlatformOptions, SimulatorRoot};

    use super::*;

    const NOW: u64 = 1_800_000_000;

    #[test]
    fn a_change_is_seen_from_the_first_reading_on_and_a_bad_one_keeps_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("collateral.json");
        let root = SimulatorRoot::generate("collateral", NOW).unwrap();
        let platform = root.platform(&PlatformOptions::default(), NOW).unwrap();
        let touch = |second| {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW + second);
            fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        };
        let write = |number, second| {
            let options = CollateralOptions::for_platform(&platform).with_evaluation_number(number);
            fs::write(&path, root.collateral(&options, NOW).unwrap()).unwrap();
            touch(second);
        };
        write(20, 1);
        let store = CollateralStore::open(std::slice::from_ref(&path)).unwrap();
        let number = || store.of(PlatformOptions::FMSPC).map(|collateral| collateral.evaluation_number());
        assert_eq!(number(), Some(20));
        write(21, 2);
        let seen = store.reload_if_changed(store.opened_at.clone());
        assert_eq!(number(), Some(21), "changed before anybody looked for changes");
        fs::write(&path, "half").unwrap();
        assert_eq!(store.reload_if_changed(seen.clone()), seen, "it is looked at again");
        assert_eq!(number(), Some(21));
    }
}
