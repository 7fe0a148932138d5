//! Records that decide a release, kept on a bus that is not trusted: sealed, bound to their place, written by
//! compare-and-set, read from the leader.
//!
//! What the bus can do to a record, and what stops it:
//! * read it: AES-256-GCM under a store key the bus does not have;
//! * alter it, or copy it to another name or bucket: both are in the associated data;
//! * put an old version over a new one: the revision a record replaces is in the associated data too, and the server
//!   itself keeps that number in the message's `Nats-Expected-Last-Subject-Sequence` header, which it enforced when the
//!   record was written. An old version replaced another revision, so it does not open in its new place;
//! * delete the newest version, so that the one before is the newest again: this process remembers the highest revision
//!   it saw of each name and refuses lower ones. A process that just started remembers nothing: whoever controls the
//!   server's storage can roll back a record until the first read. Keep the bus's admin credentials out of services;
//! * delete a record: then there is no record, and no release.
//!
//! It knows nothing of what the records mean, and has no clock.

mod key;
mod seal;

use std::{collections::HashMap, fmt, sync::Arc};

use keyferry_bus::{Bucket, BucketError, BucketHandle, Bus};
use parking_lot::Mutex;
use zeroize::Zeroizing;

pub use key::{KeyFileError, StoreKey};

/// The largest value that can be sealed: what the bucket takes, without the seal and headers.
pub const VALUE_BYTES_MAX: usize = 80 * 1024;

/// How often a record is read that is made and deleted all the time.
const READS_MAX: usize = 5;

/// Why a record was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else wrote the record since it was read. Read it again, then decide again.
    #[error("{name}: changed since it was read: read it again")]
    Conflict {
        /// The record.
        name: String,
    },
    /// The record was sealed with another store key.
    #[error("{name}: sealed with another store key: check store_key_file")]
    OtherKey {
        /// The record.
        name: String,
    },
    /// The record does not open in its place: altered, copied from another place, or an old version.
    #[error("{name}: altered, or not in the place it was written for: somebody tampered with the bus's storage")]
    Tampered {
        /// The record.
        name: String,
    },
    /// An older revision than one this process has seen.
    #[error("{name}: rolled back from revision {seen} to {found}: somebody tampered with the bus's storage")]
    RolledBack {
        /// The record.
        name: String,
        /// The highest revision seen.
        seen: u64,
        /// The revision found; 0 = none.
        found: u64,
    },
    /// Too large a value.
    #[error("{name}: {bytes} bytes are over the maximum of {VALUE_BYTES_MAX}")]
    TooLarge {
        /// The record.
        name: String,
        /// Its size.
        bytes: usize,
    },
    /// The sealing itself failed.
    #[error("{name}: could not be sealed")]
    Sealing {
        /// The record.
        name: String,
    },
    /// The bucket did not do it.
    #[error(transparent)]
    Bucket(BucketError),
}

impl StoreError {
    /// Whether the store was merely out of reach, so that the same call may succeed later.
    pub const fn is_outage(&self) -> bool {
        matches!(self, Self::Bucket(BucketError::Unavailable { .. } | BucketError::Publish { .. }))
    }
}

/// A record as it is now.
pub struct Record {
    /// What was sealed.
    pub value: Zeroizing<Vec<u8>>,
    /// What [`SealedStore::update`] wants.
    pub revision: u64,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Record(revision {}, {} bytes)", self.revision, self.value.len())
    }
}

/// One bucket of sealed records. Cheap to clone; clones share the memory of revisions.
#[derive(Clone)]
pub struct SealedStore {
    bucket: BucketHandle,
    key: Arc<StoreKey>,
    seen: Arc<Mutex<HashMap<String, u64>>>,
}

impl SealedStore {
    /// Records of `bucket` under `key`.
    pub fn open(bus: &Bus, bucket: Bucket, key: Arc<StoreKey>) -> Self {
        Self { bucket: bus.bucket(bucket), key, seen: Arc::default() }
    }

    /// Writes a record that is not there yet. Returns its revision.
    pub async fn create(&self, name: &str, value: &[u8]) -> Result<u64, StoreError> {
        let vacancy = self.bucket.vacancy(name).await.map_err(|error| from_bucket(name, error))?;
        self.write(name, value, vacancy).await
    }

    /// The record, from the leader.
    pub async fn read(&self, name: &str) -> Result<Option<Record>, StoreError> {
        for _ in 1..READS_MAX {
            match self.read_once(name).await {
                // Not there, and then there: somebody wrote it between the two questions.
                Err(StoreError::Conflict { .. }) => {}
                other => return other,
            }
        }
        self.read_once(name).await
    }

    async fn read_once(&self, name: &str) -> Result<Option<Record>, StoreError> {
        // What was seen before the question was asked: an answer may be overtaken by a newer one on its way.
        let seen = self.seen.lock().get(name).copied().unwrap_or_default();
        let Some(entry) = self.bucket.read(name).await.map_err(|error| from_bucket(name, error))? else {
            // Deleted, or gone without a trace: a record we saw does not simply vanish.
            return match self.bucket.vacancy(name).await.map_err(|error| from_bucket(name, error))? {
                0 if seen == 0 => Ok(None),
                marker => self.remember(name, seen, marker).map(|()| None),
            };
        };
        let tampered = || StoreError::Tampered { name: name.to_owned() };
        let replaced = entry.replaced.ok_or_else(tampered)?;
        let value = match seal::open(&self.key, self.place(name, replaced), &entry.value) {
            Ok(value) => value,
            Err(seal::OpenError::OtherKey) => return Err(StoreError::OtherKey { name: name.to_owned() }),
            Err(seal::OpenError::Broken) => return Err(tampered()),
        };
        self.remember(name, seen, entry.revision)?;
        Ok(Some(Record { value, revision: entry.revision }))
    }

    /// Writes a record over exactly the revision that was read. Returns the new revision.
    pub async fn update(&self, name: &str, value: &[u8], revision: u64) -> Result<u64, StoreError> {
        self.write(name, value, revision).await
    }

    /// Deletes exactly the revision that was read.
    pub async fn delete(&self, name: &str, revision: u64) -> Result<(), StoreError> {
        self.bucket.delete(name, revision).await.map_err(|error| from_bucket(name, error))
    }

    /// Names that were ever written, in no order; the bus can add to and take from this list, so it decides nothing.
    pub async fn names(&self) -> Result<Vec<String>, StoreError> {
        self.bucket.keys().await.map_err(StoreError::Bucket)
    }

    /// As [`Self::names`], those that are `prefix`, a dot and one more part without dots; with an empty `prefix`, those
    /// without a dot.
    pub async fn names_under(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.bucket.keys_under(prefix).await.map_err(StoreError::Bucket)
    }

    async fn write(&self, name: &str, value: &[u8], replaced: u64) -> Result<u64, StoreError> {
        if value.len() > VALUE_BYTES_MAX {
            return Err(StoreError::TooLarge { name: name.to_owned(), bytes: value.len() });
        }
        let sealed = seal::seal(&self.key, self.place(name, replaced), value);
        let sealed = sealed.ok_or_else(|| StoreError::Sealing { name: name.to_owned() })?;
        let revision = self.bucket.update(name, sealed.into(), replaced).await.map_err(|error| from_bucket(name, error))?;
        // Another writer may have been seen meanwhile, further on: then theirs stays the highest.
        let mut seen = self.seen.lock();
        let highest = seen.entry(name.to_owned()).or_default();
        *highest = revision.max(*highest);
        Ok(revision)
    }

    fn place<'a>(&self, name: &'a str, replaced: u64) -> seal::Place<'a> {
        seal::Place { bucket: self.bucket.bucket().name(), name, replaced }
    }

    fn remember(&self, name: &str, seen: u64, found: u64) -> Result<(), StoreError> {
        if found < seen {
            return Err(StoreError::RolledBack { name: name.to_owned(), seen, found });
        }
        let mut all = self.seen.lock();
        let highest = all.entry(name.to_owned()).or_default();
        *highest = found.max(*highest);
        Ok(())
    }
}

impl fmt::Debug for SealedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedStore({})", self.bucket.bucket().name())
    }
}

fn from_bucket(name: &str, error: BucketError) -> StoreError {
    match error {
        BucketError::Conflict { .. } => StoreError::Conflict { name: name.to_owned() },
        other => StoreError::Bucket(other),
    }
}
