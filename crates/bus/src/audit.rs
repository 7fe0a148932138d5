//! The audit log: one hash-chained record per decision, stored before the decision has any effect.

use std::{fmt, time::Duration};

use keyferry_contract::release::v1::AuditRecord;
use prost::{Message, Name};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;

use crate::{Bus, PublishError, headers};

/// How long a decision waits for its record. Whoever is waiting for the decision waits as long.
const RECORD_WITHIN: Duration = Duration::from_secs(5);
/// `previous_digest` of a first record.
const NO_DIGEST: [u8; 32] = [0; 32];

/// Appends records of one process, in one chain. Cheap to share by reference; records are stored one after another.
pub struct AuditLog {
    bus: Bus,
    chain: Mutex<Chain>,
}

struct Chain {
    writer_id: uuid::Uuid,
    sequence: u64,
    digest: [u8; 32],
}

impl Chain {
    fn new() -> Self {
        Self { writer_id: uuid::Uuid::new_v4(), sequence: 0, digest: NO_DIGEST }
    }
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
    /// A log for this process: a new writer with an empty chain.
    pub fn new(bus: Bus) -> Self {
        Self { bus, chain: Mutex::new(Chain::new()) }
    }

    /// Stores one record and waits for the stream's acknowledgement. On an error the decision must not take effect.
    ///
    /// Fills in writer, sequence, previous digest, service, trace id, and the record's id if it is empty; `at` is the
    /// caller's. A record that was not acknowledged may be stored or not, so it ends its chain: the next record begins a
    /// new one under a new writer id, and no chain ever forks.
    pub async fn record(&self, draft: AuditRecord) -> Result<Recorded, PublishError> {
        let mut chain = self.chain.lock().await;
        let record = complete(draft, &chain, self.bus.service());
        let body = record.encode_to_vec();
        let digest = Sha256::digest(&body);
        let service = self.bus.service();
        let subject = format!("keyferry.v1.audit.{service}.{}", chain.writer_id.simple());
        let template = format!("keyferry.v1.audit.{service}.{{writer_id}}");
        // Taken out while it is being stored: a caller that goes away leaves a fresh chain behind, not a forked one.
        let before = std::mem::replace(&mut *chain, Chain::new());
        let stored = self.bus.publish_body(subject, &template, SCHEMA, body.into(), RECORD_WITHIN).await?;
        *chain = Chain { writer_id: before.writer_id, sequence: record.sequence, digest: digest.into() };
        Ok(Recorded { record, stream_sequence: stored.sequence })
    }
}

const SCHEMA: &str = "keyferry.release.v1.AuditRecord";

fn complete(draft: AuditRecord, chain: &Chain, service: &str) -> AuditRecord {
    debug_assert_eq!(AuditRecord::full_name(), SCHEMA);
    let record_id = if draft.record_id.is_empty() { uuid::Uuid::new_v4().to_string() } else { draft.record_id };
    AuditRecord {
        record_id,
        writer_id: chain.writer_id.to_string(),
        sequence: chain.sequence + 1,
        previous_digest: chain.digest.to_vec(),
        trace_id: headers::current_trace_id(),
        service: service.to_owned(),
        ..draft
    }
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuditLog({})", self.bus.service())
    }
}
