//! Scenarios across services, told as stories; this library holds what the stories have in common.
//!
//! Every story starts its own stack from the real programs and ends it. It reads outcomes where an operator would: audit
//! records, events, dead letters, traces and answers. It never looks inside a service.
#![allow(clippy::panic, clippy::missing_panics_doc)] // test support: a story that cannot go on says why and fails

use std::time::Duration;

use async_nats::jetstream;
use keyferry_bus::{Bus, Role};
use keyferry_contract::{
    Reason, Stream,
    release::v1::{AuditDecision, AuditRecord},
};
use keyferry_testkit::{
    StartFailure,
    stack::{Stack, StackOptions, Steps},
};
use prost::Message;
use tempfile::TempDir;

/// How long a story waits for a state before it is a failure.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// A stack and the directory it lives in.
pub struct Story {
    /// The running stack.
    pub stack: Box<Stack>,
    /// The operator's own connection to the bus.
    pub bus: Bus,
    _directory: TempDir,
}

impl Story {
    /// Starts a stack with changed options.
    pub async fn begin(change: impl FnOnce(&mut StackOptions)) -> Self {
        let directory = tempfile::tempdir().unwrap_or_else(|error| panic!("no temporary directory: {error}"));
        let mut options = StackOptions::new(directory.path().join("stack"));
        change(&mut options);
        let stack = Box::new(told(Stack::start(options, &mut Steps::new(|_| {})).await));
        let bus = told(stack.nats.connect(Role::Admin).await);
        Self { stack, bus, _directory: directory }
    }

    /// Ends everything in order; every service has to drain cleanly.
    pub async fn end(self) {
        self.bus.drain().await;
        told(self.stack.stop().await);
    }

    /// Every message of a stream, oldest first: subject and decoded body.
    pub async fn stored<M: Message + Default>(&self, stream: Stream) -> Vec<(String, M)> {
        let mut messages = Vec::new();
        for raw in self.raw(stream).await {
            let body = M::decode(raw.payload.clone()).unwrap_or_else(|error| panic!("{}: {error}", raw.subject));
            messages.push((raw.subject.to_string(), body));
        }
        messages
    }

    /// Every message of a stream as it is stored, headers included.
    pub async fn raw(&self, stream: Stream) -> Vec<jetstream::message::StreamMessage> {
        let handle = self.bus.jetstream().get_stream(stream.name()).await;
        let mut handle = handle.unwrap_or_else(|error| panic!("{}: {error}", stream.name()));
        let info = handle.info().await.unwrap_or_else(|error| panic!("{}: {error}", stream.name()));
        let state = info.state.clone();
        let mut messages = Vec::new();
        for sequence in state.first_sequence..=state.last_sequence {
            // A work queue has gaps where messages were acknowledged.
            messages.extend(handle.get_raw_message(sequence).await.ok());
        }
        messages
    }

    /// The audit records with a decision.
    pub async fn audit(&self, decision: AuditDecision) -> Vec<AuditRecord> {
        let all = self.stored::<AuditRecord>(Stream::Audit).await;
        all.into_iter().map(|(_, record)| record).filter(|record| record.decision() == decision).collect()
    }

    /// Waits until there is an audit record with this decision and reason.
    pub async fn audited(&self, decision: AuditDecision, reason: Reason) -> AuditRecord {
        let seen = async {
            loop {
                if let Some(record) = self.audit(decision).await.into_iter().find(|record| record.reason() == reason) {
                    return record;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, seen).await.unwrap_or_else(|_| panic!("no audit record {decision:?} with reason {reason}"))
    }

    /// Everything every service wrote to its log.
    pub fn logs(&self) -> String {
        self.stack.services.values().map(keyferry_testkit::process::Service::log).collect()
    }
}

/// The value, or the failure with its hint as the story's failure.
pub fn told<T>(result: Result<T, StartFailure>) -> T {
    result.unwrap_or_else(|failure| panic!("{failure} (hint: {})", failure.hint()))
}
