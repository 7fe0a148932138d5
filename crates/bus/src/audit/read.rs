//! Reads the audit as it is stored: by sequence and from the leader, so that what is missing is seen to be missing.

use std::{ops::RangeInclusive, time::Duration};

use async_nats::jetstream::stream::{Info, RawMessageErrorKind, Stream as JetStream};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use prost_types::Timestamp;

use crate::{Bus, connection::jittered};

/// Requests under way at a time.
const READS_MAX: usize = 64;
/// A server that restarts is back within this many attempts.
const ATTEMPTS_MAX: u32 = 6;
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// Which copy of the audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditCopy {
    /// The stream that services write to.
    Original,
    /// Its mirror in an account of its own.
    Mirror,
}

impl AuditCopy {
    /// The stream's name.
    pub const fn stream(self) -> &'static str {
        match self {
            Self::Original => "AUDIT",
            Self::Mirror => "AUDIT_MIRROR",
        }
    }
}

/// Why the audit cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum AuditReadError {
    /// The stream is not there, or not for these credentials.
    #[error("the stream {stream} cannot be read ({detail}): check that the credentials are the auditor's and the bus is provisioned")]
    Stream {
        /// Which.
        stream: &'static str,
        /// What the bus said.
        detail: String,
    },
    /// One record was not answered.
    #[error("{stream}: no answer about stream sequence {sequence} ({detail}): try again")]
    Record {
        /// Which stream.
        stream: &'static str,
        /// Which record.
        sequence: u64,
        /// What the bus said.
        detail: String,
    },
}

/// A record as it is stored.
#[derive(Clone, Debug)]
pub struct StoredRecord {
    /// In the stream.
    pub stream_sequence: u64,
    /// Where it was published.
    pub subject: String,
    /// When the server stored it, by its clock.
    pub stored_at: Timestamp,
    /// The record's bytes.
    pub body: Bytes,
}

/// How far the stream goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditState {
    /// The first sequence that has not reached its age.
    pub first: u64,
    /// The last sequence.
    pub last: u64,
    /// Records there are.
    pub records: u64,
    /// Bytes they take.
    pub bytes: u64,
    /// How old a record may become, seconds.
    pub age_seconds_max: u64,
}

/// Reads one copy.
#[derive(Debug)]
pub struct AuditReader {
    copy: AuditCopy,
    stream: JetStream<Info>,
}

impl AuditReader {
    /// With the auditor's credentials.
    pub async fn open(bus: &Bus, copy: AuditCopy) -> Result<Self, AuditReadError> {
        let stream = bus.jetstream().get_stream(copy.stream()).await.map_err(|error| unreadable(copy, &error))?;
        Ok(Self { copy, stream })
    }

    /// How far it goes now.
    pub async fn state(&mut self) -> Result<AuditState, AuditReadError> {
        let info = self.stream.info().await.map_err(|error| unreadable(self.copy, &error))?;
        Ok(AuditState {
            first: info.state.first_sequence,
            last: info.state.last_sequence,
            records: info.state.messages,
            bytes: info.state.bytes,
            age_seconds_max: info.config.max_age.as_secs(),
        })
    }

    /// The records of these sequences in their order; what is missing is left out.
    pub fn read(&self, sequences: RangeInclusive<u64>) -> impl Stream<Item = Result<StoredRecord, AuditReadError>> + '_ {
        let records = stream::iter(sequences).map(|sequence| self.record(sequence)).buffered(READS_MAX);
        records.filter_map(|read| std::future::ready(read.transpose()))
    }

    async fn record(&self, sequence: u64) -> Result<Option<StoredRecord>, AuditReadError> {
        let mut attempts = 0;
        loop {
            let error = match self.stream.get_raw_message(sequence).await {
                Ok(message) => {
                    let time = message.time;
                    return Ok(Some(StoredRecord {
                        stream_sequence: message.sequence,
                        subject: message.subject.to_string(),
                        stored_at: Timestamp { seconds: time.unix_timestamp(), nanos: time.nanosecond().try_into().unwrap_or_default() },
                        body: message.payload,
                    }));
                }
                Err(error) if matches!(error.kind(), RawMessageErrorKind::NoMessageFound) => return Ok(None),
                Err(error) => error,
            };
            attempts += 1;
            if attempts == ATTEMPTS_MAX {
                return Err(AuditReadError::Record { stream: self.copy.stream(), sequence, detail: error.to_string() });
            }
            tokio::time::sleep(jittered(RETRY_DELAY)).await;
        }
    }
}

fn unreadable(copy: AuditCopy, error: &dyn std::error::Error) -> AuditReadError {
    AuditReadError::Stream { stream: copy.stream(), detail: error.to_string() }
}
