//! Documents, bundles and the directory of the last good: read at the start and followed while they change.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
    time::SystemTime,
};

use keyferry_collateral::{Bundle, BundleError, Document, DocumentError};
use keyferry_lifecycle::clock;

use super::{ByFamily, CollateralStore, Held, Sources, kept, lock};

/// When each file was last changed; `None` for one that is not there.
type Seen = Vec<(PathBuf, Option<SystemTime>)>;

#[derive(Debug)]
pub(super) struct Files {
    sources: Sources,
    /// As of just before they were last read: what comes in between is a change.
    seen: Mutex<Seen>,
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
        source: DocumentError,
    },
    /// It is no bundle.
    #[error("{}: {source}", path.display())]
    Bundle {
        /// The file.
        path: PathBuf,
        /// Why.
        source: BundleError,
    },
}

impl Files {
    pub(super) fn new(sources: Sources) -> Self {
        Self { sources, seen: Mutex::default() }
    }

    /// Reads everything.
    pub(super) fn read(&self, store: &CollateralStore) -> Result<(), CollateralFileError> {
        let before = self.look();
        let documents = read_documents(&self.sources.files)?;
        let bundles = self.sources.bundles.iter().map(|path| Ok((path, read_bundle(path)?))).collect::<Result<Vec<_>, _>>()?;
        store.replace_files(documents);
        for (path, bundle) in bundles {
            admit_bundle(store, path, &bundle);
        }
        if let Some(directory) = &self.sources.directory {
            admit_directory(store, directory);
        }
        *lock(&self.seen) = before;
        Ok(())
    }

    /// Reads everything again if anything changed; a change that cannot be read keeps what was there, and is looked at
    /// again.
    pub(super) fn read_if_changed(&self, store: &CollateralStore) {
        if *lock(&self.seen) == self.look() {
            return;
        }
        match self.read(store) {
            Ok(()) => tracing::info!("collateral was read again"),
            Err(error) => tracing::error!(%error, "collateral was not replaced: the old one stays in force"),
        }
    }

    fn look(&self) -> Seen {
        let kept = self.sources.directory.as_deref().map(kept::files).unwrap_or_default();
        let all = self.sources.files.iter().chain(&self.sources.bundles).cloned().chain(kept);
        let changed = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        all.map(|path| (path.clone(), changed(&path))).collect()
    }
}

/// Of two documents for one family the newer evaluation counts, then the one that lasts longer.
fn read_documents(paths: &[PathBuf]) -> Result<ByFamily<Held>, CollateralFileError> {
    let mut families = ByFamily::new();
    for path in paths {
        let document = Document::parse(&read(path)?).map_err(|source| CollateralFileError::Content { path: path.clone(), source })?;
        let held = Held::new(document);
        let kept = families.entry(held.document.family().fmspc).or_insert_with(|| held.clone());
        if kept.rank() < held.rank() {
            *kept = held;
        }
    }
    Ok(families)
}

fn read_bundle(path: &Path) -> Result<Bundle, CollateralFileError> {
    Bundle::parse(&read(path)?).map_err(|source| CollateralFileError::Bundle { path: path.to_owned(), source })
}

fn read(path: &Path) -> Result<String, CollateralFileError> {
    kept::read(path, Bundle::BYTES_MAX).map_err(|source| CollateralFileError::Read { path: path.to_owned(), source })
}

/// Each family for itself: one that is refused keeps none of the others out.
fn admit_bundle(store: &CollateralStore, path: &Path, bundle: &Bundle) {
    for (entry, verified) in bundle.verify(store.anchor(), clock::now()) {
        if let Err(refused) = verified.and_then(|document| store.admit(document)) {
            store.alarms().refused(&format!("{} in {}", entry.fmspc, path.display()), refused.label(), &refused);
        }
    }
}

fn admit_directory(store: &CollateralStore, directory: &Path) {
    for path in kept::files(directory) {
        let verified = kept::document(&path).and_then(|document| document.verify(store.anchor(), clock::now()));
        let admitted = verified.and_then(|document| store.admit(document));
        if let Err(refused) = admitted {
            store.alarms().refused(&path.display().to_string(), refused.label(), &refused);
        }
    }
}
