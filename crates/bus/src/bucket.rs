//! Key-value buckets with compare-and-set, read from the leader.
//!
//! A bucket is a JetStream stream in NATS's own key-value layout, so `nats kv` can look at it. Reads ask the stream's
//! leader (`STREAM.MSG.GET`): a replica may be stale, and a watch seconds late, and a decision must be neither.

use std::time::Duration;

use async_nats::{HeaderMap, header, jetstream::message::PublishMessage};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use crate::{Bus, PublishError, publish::Attempt};

/// The longest key.
const KEY_CHARACTERS_MAX: usize = 128;
const OPERATION: &str = "KV-Operation";

/// Every bucket there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bucket {
    /// State of every TD.
    Fleet,
    /// Key transfer policies.
    Policies,
    /// Key metadata.
    Keys,
    /// Administrators.
    Users,
    /// What was done already: idempotency records and redeemed nonces, each with a lifetime.
    Seen,
}

impl Bucket {
    /// Every bucket.
    pub const ALL: [Self; 5] = [Self::Fleet, Self::Policies, Self::Keys, Self::Users, Self::Seen];
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fleet => "fleet",
            Self::Policies => "policies",
            Self::Keys => "keys",
            Self::Users => "users",
            Self::Seen => "seen",
        }
    }
    /// The stream underneath.
    pub fn stream(self) -> String {
        format!("KV_{}", self.name())
    }
}

/// Why a record was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// The key has characters a subject cannot carry.
    #[error("record key: 1 to {KEY_CHARACTERS_MAX} characters of [A-Za-z0-9_=/.-] are allowed, no dot at either end")]
    Key,
    /// Somebody else wrote the record since it was read. Read it again, then decide again.
    #[error("{bucket}/{key}: changed since it was read")]
    Conflict {
        /// The bucket.
        bucket: &'static str,
        /// The record.
        key: String,
    },
    /// The answer of the server is not one.
    #[error("{bucket}: the server's answer could not be understood")]
    Malformed {
        /// The bucket.
        bucket: &'static str,
    },
    /// The store did not answer.
    #[error("{bucket}: the store did not answer ({detail}): retry")]
    Unavailable {
        /// The bucket.
        bucket: &'static str,
        /// What the bus said.
        detail: String,
    },
    /// The write failed.
    #[error("{bucket}: {source}")]
    Publish {
        /// The bucket.
        bucket: &'static str,
        /// Why.
        source: PublishError,
    },
}

/// A record as the leader has it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What was written.
    pub value: Bytes,
    /// Changes with every write; what [`BucketHandle::update`] wants.
    pub revision: u64,
    /// The revision this write replaced, as the server enforced it: 0 for a creation, none if the writer asked for no
    /// check.
    pub replaced: Option<u64>,
}

/// Reads and writes one bucket.
#[derive(Clone, Debug)]
pub struct BucketHandle {
    bus: Bus,
    bucket: Bucket,
}

impl Bus {
    /// A bucket; it was made by the admin identity.
    pub fn bucket(&self, bucket: Bucket) -> BucketHandle {
        BucketHandle { bus: self.clone(), bucket }
    }
}

impl BucketHandle {
    /// Which bucket.
    pub fn bucket(&self) -> Bucket {
        self.bucket
    }

    /// The record, from the leader; `None` if there is none or it was deleted.
    pub async fn read(&self, key: &str) -> Result<Option<Entry>, BucketError> {
        Ok(self.last(key).await?.filter(|last| !last.deleted).map(|last| last.entry))
    }

    /// Writes a record that is not there yet. Returns its revision.
    pub async fn create(&self, key: &str, value: Bytes) -> Result<u64, BucketError> {
        self.create_for(key, value, None).await
    }

    /// As [`Self::create`]; the record vanishes after `lifetime` (whole seconds), if the bucket allows lifetimes.
    pub async fn create_for(&self, key: &str, value: Bytes, lifetime: Option<Duration>) -> Result<u64, BucketError> {
        match self.write(key, value.clone(), 0, lifetime).await {
            Err(BucketError::Conflict { .. }) => {}
            other => return other,
        }
        let vacancy = self.vacancy(key).await?;
        self.write(key, value, vacancy, lifetime).await
    }

    /// The revision that a creation replaces: 0, or that of the marker a deleted or expired record left behind.
    /// [`BucketError::Conflict`] if there is a record.
    pub async fn vacancy(&self, key: &str) -> Result<u64, BucketError> {
        match self.last(key).await? {
            None => Ok(0),
            Some(marker) if marker.deleted => Ok(marker.entry.revision),
            Some(_) => Err(self.conflict(key)),
        }
    }

    /// Writes a record over exactly the revision that was read. Returns the new revision.
    pub async fn update(&self, key: &str, value: Bytes, revision: u64) -> Result<u64, BucketError> {
        self.write(key, value, revision, None).await
    }

    /// Deletes exactly the revision that was read; a marker stays.
    pub async fn delete(&self, key: &str, revision: u64) -> Result<(), BucketError> {
        let mut message = PublishMessage::build().expected_last_subject_sequence(revision);
        message = message.header(OPERATION, "DEL");
        self.publish(key, message).await.map(|_| ())
    }

    /// The keys that were ever written and not purged, in no order; a deleted record's key may be among them.
    pub async fn keys(&self) -> Result<Vec<String>, BucketError> {
        self.keys_matching(">").await
    }

    /// Of [`Self::keys`], those that are `prefix` and one more token, or just one token if `prefix` is empty. A token ends
    /// at a dot.
    pub async fn keys_under(&self, prefix: &str) -> Result<Vec<String>, BucketError> {
        if prefix.is_empty() {
            return self.keys_matching("*").await;
        }
        self.subject(prefix)?;
        self.keys_matching(&format!("{prefix}.*")).await
    }

    /// The server tells subjects in portions.
    async fn keys_matching(&self, filter: &str) -> Result<Vec<String>, BucketError> {
        let prefix = self.subject_prefix();
        let (mut keys, mut offset) = (Vec::new(), 0);
        loop {
            let request = json!({ "subjects_filter": format!("{prefix}{filter}"), "offset": offset });
            let answer = self.api("STREAM.INFO", &request).await?;
            let info: InfoAnswer = serde_json::from_slice(&answer).map_err(|_| self.malformed())?;
            let subjects = info.state.ok_or_else(|| self.malformed())?.subjects;
            let told = u64::try_from(subjects.len()).unwrap_or(u64::MAX);
            keys.extend(subjects.into_keys().filter_map(|subject| subject.strip_prefix(&prefix).map(str::to_owned)));
            offset += told;
            if told == 0 || offset >= info.total {
                return Ok(keys);
            }
        }
    }

    async fn write(&self, key: &str, value: Bytes, revision: u64, lifetime: Option<Duration>) -> Result<u64, BucketError> {
        let mut message = PublishMessage::build().payload(value).expected_last_subject_sequence(revision);
        if let Some(lifetime) = lifetime {
            message = message.ttl(lifetime);
        }
        self.publish(key, message).await
    }

    /// One write is repeated under one random id until it is acknowledged. The server checks the revision before it looks
    /// for repetitions, so a repetition whose first copy landed is answered as a conflict: then the id tells whose it is.
    async fn publish(&self, key: &str, message: PublishMessage) -> Result<u64, BucketError> {
        let subject = self.subject(key)?;
        let id = uuid::Uuid::new_v4().simple().to_string();
        match self.bus.publish_raw(subject, message.message_id(&id), Attempt::WITHIN_DEFAULT).await {
            Ok(stored) => Ok(stored.sequence),
            Err(PublishError::Conflict) => match self.last(key).await? {
                Some(last) if last.message_id.as_deref() == Some(&id) => Ok(last.entry.revision),
                _ => Err(self.conflict(key)),
            },
            Err(source) => Err(BucketError::Publish { bucket: self.bucket.name(), source }),
        }
    }

    async fn last(&self, key: &str) -> Result<Option<Last>, BucketError> {
        let subject = self.subject(key)?;
        let answer = self.api("STREAM.MSG.GET", &json!({ "last_by_subj": subject })).await?;
        let answer: GetAnswer = serde_json::from_slice(&answer).map_err(|_| self.malformed())?;
        match answer {
            GetAnswer { error: Some(error), .. } if error.err_code == NO_MESSAGE_FOUND => Ok(None),
            GetAnswer { message: Some(message), .. } if message.subject == subject => {
                Last::parse(message).map(Some).ok_or_else(|| self.malformed())
            }
            GetAnswer { error: Some(error), .. } => Err(self.unavailable(error.description)),
            _ => Err(self.malformed()),
        }
    }

    async fn api(&self, operation: &str, request: &serde_json::Value) -> Result<Bytes, BucketError> {
        let subject = format!("$JS.API.{operation}.{}", self.bucket.stream());
        let answer = self.bus.ask_repeatedly(&subject, Bytes::from(request.to_string())).await;
        answer.map(|message| message.payload).map_err(|detail| self.unavailable(detail))
    }

    fn subject_prefix(&self) -> String {
        format!("$KV.{}.", self.bucket.name())
    }
    fn subject(&self, key: &str) -> Result<String, BucketError> {
        let good = |c: char| c.is_ascii_alphanumeric() || "_=/.-".contains(c);
        let bounded = !key.is_empty() && key.len() <= KEY_CHARACTERS_MAX;
        if bounded && key.chars().all(good) && !key.starts_with('.') && !key.ends_with('.') && !key.contains("..") {
            Ok(format!("{}{key}", self.subject_prefix()))
        } else {
            Err(BucketError::Key)
        }
    }
    fn conflict(&self, key: &str) -> BucketError {
        BucketError::Conflict { bucket: self.bucket.name(), key: key.to_owned() }
    }
    fn malformed(&self) -> BucketError {
        BucketError::Malformed { bucket: self.bucket.name() }
    }
    fn unavailable(&self, detail: String) -> BucketError {
        BucketError::Unavailable { bucket: self.bucket.name(), detail }
    }
}

/// JetStream's error code for "no message found".
const NO_MESSAGE_FOUND: u64 = 10037;

#[derive(Deserialize)]
struct GetAnswer {
    message: Option<StoredMessage>,
    error: Option<ApiError>,
}
#[derive(Deserialize)]
struct StoredMessage {
    subject: String,
    seq: u64,
    #[serde(default)]
    data: String,
    #[serde(default)]
    hdrs: String,
}
#[derive(Deserialize)]
struct ApiError {
    err_code: u64,
    #[serde(default)]
    description: String,
}
#[derive(Deserialize)]
struct InfoAnswer {
    state: Option<InfoState>,
    /// How many subjects there are in all portions.
    #[serde(default)]
    total: u64,
}
#[derive(Deserialize)]
struct InfoState {
    #[serde(default)]
    subjects: std::collections::HashMap<String, u64>,
}

/// The last message under a key, which may be a marker of its end.
struct Last {
    entry: Entry,
    deleted: bool,
    message_id: Option<String>,
}

impl Last {
    fn parse(message: StoredMessage) -> Option<Self> {
        let headers = parse_headers(&STANDARD.decode(message.hdrs).ok()?)?;
        let value = STANDARD.decode(message.data).ok()?;
        let replaced = match headers.get(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE) {
            Some(text) => Some(text.as_str().parse().ok()?),
            None => None,
        };
        let deleted = headers.get(OPERATION).is_some() || headers.get("Nats-Marker-Reason").is_some();
        let message_id = headers.get(header::NATS_MESSAGE_ID).map(ToString::to_string);
        Some(Self { entry: Entry { value: value.into(), revision: message.seq, replaced }, deleted, message_id })
    }
}

/// Reads the header block of a stored message: `NATS/1.0`, then `Name: value` lines.
fn parse_headers(block: &[u8]) -> Option<HeaderMap> {
    let text = std::str::from_utf8(block).ok()?;
    let mut headers = HeaderMap::new();
    for line in text.split("\r\n").skip(1).filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':')?;
        let name: header::HeaderName = name.parse().ok()?;
        let value: header::HeaderValue = value.trim().parse().ok()?;
        headers.append(name, value);
    }
    Some(headers)
}
