//! Streams, the evidence consumer and buckets, made and kept up to date by the admin identity. Repeating it changes nothing.

use std::time::Duration;

use async_nats::jetstream::{
    consumer::{AckPolicy, DeliverPolicy, pull},
    kv,
    stream::{Config, DiscardPolicy, External, RetentionPolicy, Source, StorageType},
};
use keyferry_contract::Stream;

use crate::{Bucket, Bus, permissions};

/// Deliveries of one message before it goes to the dead letters.
pub const DELIVERIES_MAX: u32 = 5;
/// How long a worker may be silent before its message goes to another one.
pub const ACK_WAIT: Duration = Duration::from_secs(15);
/// Within this time a repeated id is recognised; every retry ends earlier.
pub const DUPLICATE_WINDOW: Duration = Duration::from_mins(2);

/// Pieces of evidence of one TD that may wait. An attester has 16 attestations under way unless it is told otherwise.
const EVIDENCE_PER_TD_MAX: i64 = 64;
const MINUTE: Duration = Duration::from_mins(1);
const DAY: Duration = Duration::from_hours(24);
const MIB: i64 = 1024 * 1024;

/// How to provision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Provisioning {
    /// Copies of every stream and bucket: 1 on one server, 3 on a cluster.
    pub replicas: u8,
    /// How long answers can be read back: the life of a token.
    pub results_age: Duration,
    /// What the audit may grow to, bytes. Full means: no more releases, so alert well before.
    pub audit_bytes_max: i64,
}

impl Default for Provisioning {
    fn default() -> Self {
        Self { replicas: 1, results_age: Duration::from_hours(1), audit_bytes_max: 1024 * MIB }
    }
}

/// Why provisioning stopped. What was made until then stays, and a repetition goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// NATS knows 1, 3 and 5; two servers cannot tell who is right.
    #[error("replicas: {found} is neither 1, 3 nor 5")]
    Replicas {
        /// What was asked for.
        found: u8,
    },
    /// The server refused.
    #[error("{what}: the server refused ({detail}): check that the credentials are the admin's and the server has JetStream and space")]
    Refused {
        /// Stream, consumer or bucket.
        what: String,
        /// What the server said.
        detail: String,
    },
}

impl Bus {
    /// Makes or updates everything but the mirror of the audit. Needs the admin's credentials.
    pub async fn provision(&self, provisioning: &Provisioning) -> Result<(), ProvisionError> {
        provisioning.check()?;
        for stream in Stream::ALL {
            let made = self.jetstream.create_or_update_stream(stream_config(stream, provisioning)).await;
            made.map_err(|error| refused(stream.name(), &error))?;
        }
        let evidence = self.jetstream.get_stream(Stream::Evidence.name()).await.map_err(|error| refused("EVIDENCE", &error))?;
        let consumer = evidence.create_consumer(evidence_consumer(provisioning)).await;
        consumer.map_err(|error| refused(permissions::EVIDENCE_CONSUMER, &error))?;
        for bucket in Bucket::ALL {
            let made = self.jetstream.create_or_update_key_value(bucket_config(bucket, provisioning)).await;
            made.map_err(|error| refused(bucket.name(), &error))?;
        }
        Ok(())
    }

    /// Makes or updates the mirror of the audit. Needs the archivist's credentials; the audit must be there.
    pub async fn provision_mirror(&self, provisioning: &Provisioning) -> Result<(), ProvisionError> {
        provisioning.check()?;
        let made = self.jetstream.create_or_update_stream(mirror_config(provisioning)).await;
        made.map(|_| ()).map_err(|error| refused(permissions::MIRROR, &error))
    }
}

impl Provisioning {
    fn check(&self) -> Result<(), ProvisionError> {
        let replicas = self.replicas;
        if [1, 3, 5].contains(&replicas) { Ok(()) } else { Err(ProvisionError::Replicas { found: replicas }) }
    }
}

fn refused(what: &str, error: &dyn std::error::Error) -> ProvisionError {
    ProvisionError::Refused { what: what.to_owned(), detail: error.to_string() }
}

/// The same records under the same sequences, in an account of its own: whoever owns the services' account can delete AUDIT
/// and cannot delete this. The server fills it.
fn mirror_config(provisioning: &Provisioning) -> Config {
    let original = stream_config(Stream::Audit, provisioning);
    let external =
        External { api_prefix: permissions::MIRROR_API.to_owned(), delivery_prefix: Some(permissions::MIRROR_DELIVERY.to_owned()) };
    Config {
        name: permissions::MIRROR.to_owned(),
        subjects: Vec::new(),
        mirror: Some(Source { name: original.name.clone(), external: Some(external), ..Source::default() }),
        duplicate_window: Duration::ZERO,
        ..original
    }
}

fn stream_config(stream: Stream, provisioning: &Provisioning) -> Config {
    let base = Config {
        name: stream.name().to_owned(),
        subjects: stream.subjects().iter().map(|subject| (*subject).to_owned()).collect(),
        storage: StorageType::File,
        num_replicas: provisioning.replicas.into(),
        duplicate_window: DUPLICATE_WINDOW,
        max_message_size: permissions::RECORD_BYTES_MAX,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_consumers: -1,
        ..Config::default()
    };
    match stream {
        // Full means that attesters wait: better than to lose evidence that was acknowledged.
        Stream::Evidence => Config {
            retention: RetentionPolicy::WorkQueue,
            discard: DiscardPolicy::New,
            max_age: 10 * MINUTE,
            max_message_size: permissions::EVIDENCE_BYTES_MAX,
            max_bytes: 512 * MIB,
            // One TD that floods is refused by itself, and holds few of the messages that may be under way.
            max_messages_per_subject: EVIDENCE_PER_TD_MAX,
            discard_new_per_subject: true,
            ..base
        },
        Stream::Results => Config {
            discard: DiscardPolicy::Old,
            max_age: provisioning.results_age,
            max_messages_per_subject: 2,
            max_message_size: permissions::MESSAGE_BYTES_MAX,
            max_bytes: 512 * MIB,
            allow_direct: true,
            ..base
        },
        Stream::Audit => Config {
            discard: DiscardPolicy::New,
            max_age: 400 * DAY,
            max_bytes: provisioning.audit_bytes_max,
            deny_delete: true,
            deny_purge: true,
            ..base
        },
        // Dead letters that are refused would keep poison in its queue, and anybody with credentials can make poison.
        Stream::Events | Stream::Dlq => Config {
            discard: DiscardPolicy::Old,
            max_age: 30 * DAY,
            max_message_size: if stream == Stream::Dlq { permissions::MESSAGE_BYTES_MAX } else { permissions::RECORD_BYTES_MAX },
            max_bytes: 256 * MIB,
            ..base
        },
        Stream::Advisory => Config { discard: DiscardPolicy::Old, max_age: DAY, max_bytes: 16 * MIB, ..base },
    }
}

fn evidence_consumer(provisioning: &Provisioning) -> pull::Config {
    pull::Config {
        durable_name: Some(permissions::EVIDENCE_CONSUMER.to_owned()),
        ack_policy: AckPolicy::Explicit,
        deliver_policy: DeliverPolicy::All,
        ack_wait: ACK_WAIT,
        // Two more than we count to ourselves: the last delivery belongs to whoever writes the dead letter.
        max_deliver: i64::from(DELIVERIES_MAX) + 2,
        max_ack_pending: 256,
        num_replicas: provisioning.replicas.into(),
        ..pull::Config::default()
    }
}

fn bucket_config(bucket: Bucket, provisioning: &Provisioning) -> kv::Config {
    let base = kv::Config {
        bucket: bucket.name().to_owned(),
        history: 5,
        max_value_size: permissions::RECORD_BYTES_MAX,
        max_bytes: 128 * MIB,
        storage: StorageType::File,
        num_replicas: provisioning.replicas.into(),
        limit_markers: Some(MINUTE),
        ..kv::Config::default()
    };
    match bucket {
        Bucket::Fleet => kv::Config { history: 2, ..base },
        Bucket::Seen => kv::Config { history: 1, max_age: DAY, max_value_size: permissions::MESSAGE_BYTES_MAX, ..base },
        Bucket::Policies | Bucket::Keys | Bucket::Users => base,
    }
}
