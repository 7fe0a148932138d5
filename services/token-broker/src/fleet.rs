//! What is known of each TD, in the `fleet` bucket. Of what is written here nothing decides anything, so a write that fails
//! is logged and nothing else. One state does decide: key-release refuses a TD that an operator marked as revoked, and a
//! record that says so, or may say so, is never written over.

use keyferry_bus::{Bucket, BucketError, BucketHandle, Bus};
use keyferry_contract::{
    Reason,
    attestation::v1::TokenIssued,
    fleet::v1::{TdRecord, TdState},
};
use keyferry_lifecycle::clock;
use prost::Message;

use crate::{
    broker::{Subject, timestamp},
    verifier::Attested,
};

/// Two replicas may decide about one TD at a time; more than that in a row is not worth waiting for.
const ATTEMPTS: u32 = 3;

/// The fleet bucket.
#[derive(Debug)]
pub(crate) struct Fleet {
    bucket: BucketHandle,
}

impl Fleet {
    /// On this bus.
    pub(crate) fn new(bus: &Bus) -> Self {
        Self { bucket: bus.bucket(Bucket::Fleet) }
    }

    /// The TD got a token.
    pub(crate) async fn attested(&self, subject: &Subject, attested: &Attested, answer: &TokenIssued) {
        self.change(subject, |record| {
            record.state = TdState::Attested.into();
            record.token_id.clone_from(&answer.token_id);
            record.token_expires_at = answer.expires_at;
            record.attested_at = record.attempted_at;
            record.reason = Reason::Unspecified.into();
            attested.tcb_status.clone_into(&mut record.tcb_status);
            record.mrtd.clone_from(&attested.mr_td);
            record.trust_anchor.clone_from(&attested.trust_anchor);
        })
        .await;
    }

    /// The TD's evidence was refused. Its last token stays what it was.
    pub(crate) async fn rejected(&self, subject: &Subject, reason: Reason) {
        self.change(subject, |record| {
            record.state = TdState::Rejected.into();
            record.reason = reason.into();
        })
        .await;
    }

    async fn change(&self, subject: &Subject, edit: impl Fn(&mut TdRecord)) {
        if subject.td_id.is_empty() {
            return;
        }
        for _ in 0..ATTEMPTS {
            match self.try_change(subject, &edit).await {
                Ok(()) => return,
                Err(BucketError::Conflict { .. }) => {}
                Err(error) => {
                    tracing::warn!(%error, "the fleet record was not updated");
                    return;
                }
            }
        }
        tracing::warn!(td_id = subject.td_id, "the fleet record was not updated: others kept writing it");
    }

    async fn try_change(&self, subject: &Subject, edit: impl Fn(&mut TdRecord)) -> Result<(), BucketError> {
        let entry = self.bucket.read(&subject.td_id).await?;
        let known = entry.as_ref().map(|entry| TdRecord::decode(entry.value.clone())).transpose();
        let Ok(known) = known else {
            tracing::error!(td_id = subject.td_id, "a fleet record cannot be read and stays as it is: it may be a revocation");
            return Ok(());
        };
        let mut record = known.unwrap_or_default();
        if record.state() == TdState::Revoked {
            return Ok(());
        }
        record.td_id.clone_from(&subject.td_id);
        record.attestation_id.clone_from(&subject.attestation_id);
        record.attempted_at = Some(timestamp(clock::now()));
        edit(&mut record);
        let value = record.encode_to_vec().into();
        match entry {
            Some(entry) => self.bucket.update(&subject.td_id, value, entry.revision).await,
            None => self.bucket.create(&subject.td_id, value).await,
        }
        .map(|_revision| ())
    }
}
