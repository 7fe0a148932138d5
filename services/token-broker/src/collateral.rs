//! Collateral by platform family, read from files and followed while they change.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
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
        let current = ArcSwap::from_pointee(read_all(files)?);
        let store = Self { files: files.to_vec(), current };
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
        let mut seen = Vec::new();
        loop {
            let store = Arc::clone(&self);
            let before = std::mem::take(&mut seen);
            let looked = tokio::task::spawn_blocking(move || store.reload_if_changed(before)).await;
            seen = looked.unwrap_or_default();
            self.report();
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                () = &mut cancelled => return,
            }
        }
    }

    fn reload_if_changed(&self, before: Vec<Option<SystemTime>>) -> Vec<Option<SystemTime>> {
        let now: Vec<_> = self.files.iter().map(|file| modified(file)).collect();
        if before.is_empty() || before == now {
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

fn modified(file: &Path) -> Option<SystemTime> {
    fs::metadata(file).and_then(|metadata| metadata.modified()).ok()
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
