//! What is hashed and what is signed: both ends of the chain are here, so that they cannot drift.

use std::time::Instant;

use keyferry_contract::release::v1::{AuditCheckpoint, AuditDecision, AuditRecord};
use prost::Message;
use uuid::Uuid;

use super::AuditPace;
use crate::AuditKey;

/// `previous_digest` of a first record.
pub(crate) const NO_DIGEST: [u8; 32] = [0; 32];
/// In front of everything an audit key signs, so that a signature means nothing elsewhere.
const PURPOSE: &[u8] = b"keyferry audit checkpoint 1\0";

/// One chain as its writer knows it.
pub(super) struct Chain {
    writer_id: Uuid,
    sequence: u64,
    digest: [u8; 32],
    unsigned: u32,
    unsigned_since: Option<Instant>,
}

impl Chain {
    pub(super) fn new() -> Self {
        Self { writer_id: Uuid::new_v4(), sequence: 0, digest: NO_DIGEST, unsigned: 0, unsigned_since: None }
    }

    /// `draft` as the next record.
    pub(super) fn next(&self, draft: AuditRecord, service: &str) -> AuditRecord {
        AuditRecord {
            writer_id: self.writer_id.to_string(),
            sequence: self.sequence + 1,
            previous_digest: self.digest.to_vec(),
            service: service.to_owned(),
            ..draft
        }
    }

    /// The next record is stored; this is its digest.
    pub(super) fn advance(&mut self, record: &AuditRecord, digest: [u8; 32]) {
        (self.sequence, self.digest) = (record.sequence, digest);
        if record.checkpoint.is_some() {
            (self.unsigned, self.unsigned_since) = (0, None);
        } else {
            self.unsigned += 1;
            self.unsigned_since.get_or_insert_with(Instant::now);
        }
    }

    /// Whether it is time for a checkpoint.
    pub(super) fn is_due(&self, pace: &AuditPace) -> bool {
        let waited = self.unsigned_since.is_some_and(|since| since.elapsed() >= pace.unsigned_within);
        waited || self.unsigned >= pace.records_unsigned_max.max(1)
    }

    pub(super) fn has_just_become_unsigned(&self) -> bool {
        self.unsigned == 1
    }
}

/// Where the records of a chain are published. A service may publish under its own name only.
pub(crate) fn subject(service: &str, writer_id: &str) -> String {
    format!("keyferry.v1.audit.{service}.{}", writer_id.replace('-', ""))
}

/// `record` as a signed checkpoint.
pub(super) fn sign(record: AuditRecord, key: &AuditKey, closing: bool) -> AuditRecord {
    let checkpoint = AuditCheckpoint { public_key: key.public_key().as_bytes().to_vec(), signature: Vec::new(), closing };
    let mut record = AuditRecord { decision: AuditDecision::Checkpoint.into(), checkpoint: Some(checkpoint), ..record };
    let signature = key.sign(&signed_bytes(&record));
    if let Some(checkpoint) = &mut record.checkpoint {
        checkpoint.signature = signature;
    }
    record
}

/// What the signature of this checkpoint is over.
pub(crate) fn signed_bytes(record: &AuditRecord) -> Vec<u8> {
    let mut record = record.clone();
    if let Some(checkpoint) = &mut record.checkpoint {
        checkpoint.signature.clear();
    }
    let mut bytes = PURPOSE.to_vec();
    record.encode_raw(&mut bytes);
    bytes
}
