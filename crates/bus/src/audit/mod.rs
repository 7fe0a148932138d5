//! The audit log: one hash-chained record per decision, stored before the decision has any effect, and signed soon after.
//!
//! A process writes several chains at a time, so that decisions do not wait for each other's records: a record takes a chain
//! that nobody is writing, and gives it back when the stream has acknowledged. A chain that is not given back has ended,
//! whatever became of its record: none ever forks. [`key`] signs, [`chain`] says what is hashed and signed, [`verify`] finds
//! whoever altered something, [`read`] fetches what is stored.

pub(crate) mod chain;
pub(crate) mod key;
pub(crate) mod read;
pub(crate) mod verify;

use std::{
    fmt, mem,
    sync::{Arc, PoisonError, Weak},
    time::Duration,
};

use chain::Chain;
use futures::future;
use keyferry_contract::release::v1::AuditRecord;
use keyferry_telemetry::names;
use prost::{Message, Name};
use prost_types::Timestamp;
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{AuditKey, Bus, PublishError, headers};

/// How long a decision waits for its record. Whoever is waiting for the decision waits as long.
const RECORD_WITHIN: Duration = Duration::from_secs(5);
const SCHEMA: &str = "keyferry.release.v1.AuditRecord";
const STREAM: &str = "AUDIT";

/// How many chains a process writes at a time, and how far behind their signatures may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditPace {
    /// Chains written at a time. More than a few gain nothing: the stream stores one message after another.
    pub lanes: u16,
    /// A chain is signed after this many records.
    pub records_unsigned_max: u32,
    /// And this long after the oldest record that no checkpoint covers yet.
    pub unsigned_within: Duration,
}

impl Default for AuditPace {
    fn default() -> Self {
        Self { lanes: 4, records_unsigned_max: 256, unsigned_within: Duration::from_secs(5) }
    }
}

/// Appends the records of one process. Cheap to clone; clones share the chains.
#[derive(Clone)]
pub struct AuditLog(Arc<Writer>);

struct Writer {
    bus: Bus,
    key: AuditKey,
    now: fn() -> Timestamp,
    pace: AuditPace,
    /// One permit for each chain that may be written at a time.
    lanes: Arc<Semaphore>,
    /// Those nobody is writing; the one that was written last comes first, so that few decisions make few chains.
    idle: std::sync::Mutex<Vec<Chain>>,
}

/// A chain taken by one writer.
struct Lane {
    chain: Chain,
    _permit: OwnedSemaphorePermit,
}

/// Where a record is.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// The record as it is stored.
    pub record: AuditRecord,
    /// Its sequence in the stream AUDIT.
    pub stream_sequence: u64,
}

impl AuditLog {
    /// A log for this process, at the default pace. `now` dates the checkpoints.
    pub fn new(bus: Bus, key: AuditKey, now: fn() -> Timestamp) -> Self {
        Self::paced(bus, key, now, AuditPace::default())
    }

    /// As [`Self::new`], at another pace. At least one lane and one record are assumed.
    pub fn paced(bus: Bus, key: AuditKey, now: fn() -> Timestamp, pace: AuditPace) -> Self {
        let lanes = Arc::new(Semaphore::new(pace.lanes.max(1).into()));
        Self(Arc::new(Writer { bus, key, now, pace, lanes, idle: std::sync::Mutex::default() }))
    }

    /// Stores one record and waits for the stream's acknowledgement. On an error the decision must not take effect.
    ///
    /// Fills in writer, sequence, previous digest, service, trace id, and the record's id if it is empty; `at` is the
    /// caller's. A record that was not acknowledged may be stored or not, so it ends its chain: no chain ever forks.
    pub async fn record(&self, draft: AuditRecord) -> Result<Recorded, PublishError> {
        let writer = &self.0;
        let permit = Arc::clone(&writer.lanes).acquire_owned().await.map_err(|_| writer.ended())?;
        // From here the chain is the lane's alone: a caller that goes away takes it along, and nobody continues it.
        let mut lane = Lane { chain: writer.idle().pop().unwrap_or_else(Chain::new), _permit: permit };
        let record_id = if draft.record_id.is_empty() { uuid::Uuid::new_v4().to_string() } else { draft.record_id.clone() };
        let draft = AuditRecord { record_id, trace_id: headers::current_trace_id(), checkpoint: None, ..draft };
        let record = lane.chain.next(draft, writer.bus.service());
        let stream_sequence = writer.store(&mut lane, &record).await?;
        writer.give_back(lane);
        Ok(Recorded { record, stream_sequence })
    }

    /// Waits for the records under way, signs every chain for the last time and takes no more. For the end of a process;
    /// without it the last seconds stay unsigned, which `keyferry audit verify` reports.
    pub async fn finish(&self) {
        let writer = &self.0;
        let Ok(_all) = writer.lanes.acquire_many(writer.pace.lanes.max(1).into()).await else { return };
        writer.lanes.close();
        let chains = mem::take(&mut *writer.idle());
        future::join_all(chains.into_iter().map(|chain| writer.close(chain))).await;
    }

    /// What verifies this log's checkpoints.
    pub fn public_key(&self) -> crate::AuditPublicKey {
        self.0.key.public_key()
    }
}

impl Writer {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Chain>> {
        // A list of whole chains is never left in the middle of a change.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn store(&self, lane: &mut Lane, record: &AuditRecord) -> Result<u64, PublishError> {
        let stored = self.publish(record).await?;
        lane.chain.advance(record, stored.1);
        Ok(stored.0)
    }

    /// Its sequence in the stream, and its digest.
    async fn publish(&self, record: &AuditRecord) -> Result<(u64, [u8; 32]), PublishError> {
        debug_assert_eq!(AuditRecord::full_name(), SCHEMA);
        let body = record.encode_to_vec();
        let digest = Sha256::digest(&body).into();
        let subject = chain::subject(&record.service, &record.writer_id);
        let template = chain::subject(&record.service, "{writer_id}");
        let stored = self.bus.publish_body(subject, &template, SCHEMA, body.into(), RECORD_WITHIN).await?;
        Ok((stored.sequence, digest))
    }

    fn give_back(self: &Arc<Self>, lane: Lane) {
        if lane.chain.is_due(&self.pace) {
            let writer = Arc::clone(self);
            tokio::spawn(async move { writer.checkpoint(lane).await });
            return;
        }
        if lane.chain.has_just_become_unsigned() {
            tokio::spawn(sign_after(Arc::downgrade(self), self.pace.unsigned_within));
        }
        self.idle().push(lane.chain);
    }

    /// Signs what is idle and due. A chain that is being written is looked at when it is given back.
    async fn sign_due(self: &Arc<Self>) {
        while let Some(lane) = self.take_due() {
            self.checkpoint(lane).await;
        }
    }

    fn take_due(&self) -> Option<Lane> {
        let permit = Arc::clone(&self.lanes).try_acquire_owned().ok()?;
        let mut idle = self.idle();
        let due = idle.iter().position(|chain| chain.is_due(&self.pace))?;
        Some(Lane { chain: idle.remove(due), _permit: permit })
    }

    async fn checkpoint(self: &Arc<Self>, mut lane: Lane) {
        let record = self.signed(&lane.chain, false);
        match self.store(&mut lane, &record).await {
            Ok(_) => self.give_back(lane),
            Err(error) => stays_unsigned(&error),
        }
    }

    async fn close(&self, chain: Chain) {
        if let Err(error) = self.publish(&self.signed(&chain, true)).await {
            stays_unsigned(&error);
        }
    }

    fn signed(&self, chain: &Chain, closing: bool) -> AuditRecord {
        let record_id = uuid::Uuid::new_v4().to_string();
        let draft = AuditRecord { record_id, at: Some((self.now)()), ..AuditRecord::default() };
        chain::sign(chain.next(draft, self.bus.service()), &self.key, closing)
    }

    fn ended(&self) -> PublishError {
        PublishError::Refused {
            subject: chain::subject(self.bus.service(), "*"),
            detail: "this process has ended its audit log".to_owned(),
        }
    }
}

fn stays_unsigned(error: &PublishError) {
    names::AUDIT_FAILURES.add(1, &[(names::STREAM, STREAM)]);
    tracing::error!(%error, "a checkpoint of the audit was not stored: the end of its chain stays unsigned");
}

/// Ends when the log does.
async fn sign_after(writer: Weak<Writer>, delay: Duration) {
    tokio::time::sleep(delay).await;
    if let Some(writer) = writer.upgrade() {
        writer.sign_due().await;
    }
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuditLog({}, {:?})", self.0.bus.service(), self.0.key)
    }
}
