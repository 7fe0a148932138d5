//! What is stored: key records and key transfer policies, sealed, read from the leader at each decision.
//!
//! | bucket | record | what |
//! |---|---|---|
//! | `policies` | `<policy>` | the version that counts, or what is left of a deleted policy |
//! | `policies` | `<policy>.v<n>` | an older version; written before the version that follows it |
//! | `keys` | `<key>` | what the broker knows of a key |
//! | `keys` | `uses.<policy>.<key>` | that a key may be under a policy: where to look, never a decision |
//! | `keys` | `uses` | there once every key under a policy is sure to have its reference |
//!
//! Any number of replicas write at the same time, and any of them may die between two steps. Two rules keep that right:
//! * a version is replaced by compare-and-set, after it was copied to its place in the history: what is accepted is in the
//!   history exactly once, and a copy whose replacement failed says what the current record says;
//! * a policy is deleted in three steps: it is marked as leaving, then the references are looked at, then the marked record
//!   is replaced. A key comes under a policy in three steps too: the reference, the key's record, then a look at the
//!   policy. Whoever finds a policy leaving takes the mark away, and the deletion then fails; whoever finds it deleted
//!   takes the key back. So one of the two always sees the other. The mark by itself means nothing: a policy that is
//!   leaving governs its keys, can be read and changed, and the next deletion goes on from there.
//!
//! What a crash leaves behind is a reference without a key, which is looked at and ignored; or, if a deletion and the crash
//! fall into the milliseconds between a key's record and the look at its policy, a key whose policy is gone: no TD
//! gets it until it is put under another one.

mod key;
mod keys;
mod moment;
mod policies;
mod policy;
mod references;

use std::{collections::HashMap, sync::Arc};

use futures::{StreamExt, stream};
use keyferry_bus::{Bucket, Bus};
use keyferry_identifiers::PolicyId;
use keyferry_key_transfer_policy::Policy;
use keyferry_sealed_store::{SealedStore, StoreError, StoreKey};
use parking_lot::Mutex;
use serde::{Serialize, de::DeserializeOwned};

pub(crate) use self::{
    key::{Algorithm, Fingerprint, KeyFilter, KeyRecord},
    policies::following,
    policy::{PolicyRecord, Rule},
};
use crate::Denial;

/// Parsed policies kept; a policy has at most 64 KiB.
const PARSED_MAX: usize = 1024;
/// How often a step is taken again after somebody else was faster.
const ROUNDS_MAX: usize = 16;
/// Records of a list read at the same time.
const READS_MAX: usize = 16;
/// Records read for one page; a page may be shorter than was asked for, and is then not the last.
const SCANNED_MAX: usize = 4096;
const PAGE_SIZE_DEFAULT: u32 = 100;
const PAGE_SIZE_MAX: u32 = 1000;

/// Which part of a list is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page<Id> {
    /// Begin behind this one.
    pub(crate) after: Option<Id>,
    /// 0: 100; at most 1000.
    pub(crate) size: u32,
}

/// Part of a list, in the order of ids.
#[derive(Debug)]
pub(crate) struct Listed<T, Id> {
    pub(crate) items: Vec<T>,
    /// `after` of the next page; `None`: that was all.
    pub(crate) next: Option<Id>,
}

/// A record and the revision that its replacement names.
type Revised<T> = (T, u64);

/// Keys and policies.
pub(crate) struct Records {
    keys: SealedStore,
    policies: SealedStore,
    /// By policy: the revision that was parsed. Reading decides; this only saves the parsing.
    parsed: Mutex<HashMap<PolicyId, (u64, Rule)>>,
}

impl Records {
    pub(crate) fn open(bus: &Bus, key: &Arc<StoreKey>) -> Self {
        let store = |bucket| SealedStore::open(bus, bucket, Arc::clone(key));
        Self { keys: store(Bucket::Keys), policies: store(Bucket::Policies), parsed: Mutex::default() }
    }

    /// The policy that governs `key` now.
    pub(crate) async fn rule(&self, key: &KeyRecord) -> Result<Rule, Denial> {
        let id = key.policy_id.ok_or(Denial::PolicyNotFound)?;
        let (record, revision) = self.current(id).await?.ok_or(Denial::PolicyNotFound)?;
        if let Some((parsed, rule)) = self.parsed.lock().get(&id)
            && *parsed == revision
        {
            return Ok(rule.clone());
        }
        let rule = record.rule()?;
        let mut parsed = self.parsed.lock();
        if parsed.len() >= PARSED_MAX {
            parsed.clear();
        }
        parsed.insert(id, (revision, rule.clone()));
        Ok(rule)
    }
}

impl PolicyRecord {
    /// Ready to be evaluated.
    pub(crate) fn rule(&self) -> Result<Rule, Denial> {
        let policy = Policy::parse(&self.document).map_err(|_| Denial::Record { name: self.policy_id.to_string() })?;
        Ok(Rule { policy_id: self.policy_id, version: self.version, policy: Arc::new(policy) })
    }
}

/// Reads the records of `ids`, sorted, until a page is full. A record that is not readable is left out, with a warning: it
/// must not hide the others.
async fn listed<Id, T, F>(mut ids: Vec<Id>, page: Page<Id>, read: impl Fn(Id) -> F) -> Result<Listed<T, Id>, Denial>
where
    Id: Copy + Ord + std::fmt::Display,
    F: Future<Output = Result<Option<T>, Denial>>,
{
    let size = match page.size {
        0 => PAGE_SIZE_DEFAULT,
        size => size.min(PAGE_SIZE_MAX),
    };
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    ids.sort_unstable();
    ids.dedup();
    ids.retain(|id| page.after.is_none_or(|after| *id > after));
    let last = ids.last().copied();
    let mut reads = stream::iter(ids.into_iter().take(SCANNED_MAX))
        .map(|id| {
            let record = read(id);
            async move { (id, record.await) }
        })
        .buffered(READS_MAX);
    let (mut items, mut next) = (Vec::new(), None);
    while let Some((id, record)) = reads.next().await {
        match record {
            Ok(Some(item)) => items.push(item),
            Ok(None) => {}
            Err(denial @ (Denial::Record { .. } | Denial::Store(StoreError::Tampered { .. } | StoreError::RolledBack { .. }))) => {
                tracing::warn!(error = %denial, "a record is left out of a list");
            }
            Err(denial) => return Err(denial),
        }
        next = Some(id);
        if items.len() >= size {
            break;
        }
    }
    Ok(Listed { items, next: next.filter(|next| last.is_some_and(|last| *next < last)) })
}

async fn read<T: DeserializeOwned>(store: &SealedStore, name: &str) -> Result<Option<Revised<T>>, Denial> {
    let Some(record) = store.read(name).await? else { return Ok(None) };
    let value = serde_json::from_slice(&record.value).map_err(|_| Denial::Record { name: name.to_owned() })?;
    Ok(Some((value, record.revision)))
}

fn encoded(record: &impl Serialize) -> Result<Vec<u8>, Denial> {
    serde_json::to_vec(record).map_err(|_| Denial::Internal("a record does not serialise"))
}
