//! Sealed records on a real server, with an attacker who holds the bus but not the store key.
#![allow(clippy::unwrap_used, clippy::panic, reason = "the helpers below are test code; clippy exempts only functions marked #[test]")]

use std::sync::Arc;

use async_nats::{HeaderMap, jetstream::message::PublishMessage};
use keyferry_bus::{Bucket, Bus, Role};
use keyferry_sealed_store::{SealedStore, StoreError, StoreKey};
use keyferry_testkit::nats::NatsServer;

const SUBJECT: &str = "$KV.policies.p1";

struct Site {
    server: NatsServer,
    bus: Bus,
    admin: Bus,
    key: Arc<StoreKey>,
}

impl Site {
    async fn start() -> Self {
        let server = NatsServer::start().await.unwrap_or_else(|failure| panic!("{failure}; {}", failure.hint()));
        let (bus, admin) = (server.connect(Role::KeyRelease).await.unwrap(), server.connect(Role::Admin).await.unwrap());
        Self { server, bus, admin, key: Arc::new(StoreKey::generate().unwrap()) }
    }
    /// A process that just started.
    fn store(&self) -> SealedStore {
        SealedStore::open(&self.bus, Bucket::Policies, Arc::clone(&self.key))
    }
    /// Body and headers of a stored message, by its revision.
    async fn stored(&self, revision: u64) -> (bytes::Bytes, HeaderMap) {
        let stream = self.admin.jetstream().get_stream(Bucket::Policies.stream()).await.unwrap();
        let message = stream.get_raw_message(revision).await.unwrap();
        (message.payload, message.headers)
    }
    /// The attacker writes a body as the newest, honestly stating what it replaces.
    async fn plant(&self, body: bytes::Bytes, replaced: u64) -> Result<u64, String> {
        let message = PublishMessage::build().payload(body).expected_last_subject_sequence(replaced);
        let sent = self.admin.jetstream().send_publish(SUBJECT, message).await.map_err(|error| error.to_string())?;
        sent.await.map(|ack| ack.sequence).map_err(|error| error.to_string())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_created_read_updated_and_deleted() {
    let site = Site::start().await;
    let store = site.store();
    assert!(store.read("p1").await.unwrap().is_none());
    let first = store.create("p1", b"one").await.unwrap();
    let read = store.read("p1").await.unwrap().unwrap();
    assert_eq!((&read.value[..], read.revision), (&b"one"[..], first));
    let second = store.update("p1", b"two", first).await.unwrap();
    assert_eq!(&site.store().read("p1").await.unwrap().unwrap().value[..], b"two");
    assert_eq!(store.names().await.unwrap(), ["p1"]);
    store.delete("p1", second).await.unwrap();
    assert!(store.read("p1").await.unwrap().is_none());
    store.create("p1", b"three").await.unwrap();
    assert_eq!(&site.store().read("p1").await.unwrap().unwrap().value[..], b"three");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_writers_one_learns_that_it_lost() {
    let site = Site::start().await;
    let (mine, theirs) = (site.store(), site.store());
    let revision = mine.create("p1", b"one").await.unwrap();
    assert!(matches!(theirs.create("p1", b"other").await, Err(StoreError::Conflict { .. })));
    mine.update("p1", b"mine", revision).await.unwrap();
    assert!(matches!(theirs.update("p1", b"theirs", revision).await, Err(StoreError::Conflict { .. })));
    assert_eq!(&theirs.read("p1").await.unwrap().unwrap().value[..], b"mine");
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_a_busy_record_are_not_told_of_tampering() {
    let site = Site::start().await;
    let store = site.store();
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                for _ in 0..300 {
                    store.read("p1").await.unwrap_or_else(|error| panic!("{error}"));
                }
            })
        })
        .collect();
    let writer = async {
        for _ in 0..40 {
            let mut revision = store.create("p1", b"new").await.unwrap();
            for _ in 0..5 {
                revision = store.update("p1", b"changed", revision).await.unwrap();
            }
            store.delete("p1", revision).await.unwrap();
        }
    };
    writer.await;
    for reader in readers {
        reader.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replayed_record_is_refused() {
    let site = Site::start().await;
    let store = site.store();
    let first = store.create("p1", b"lax").await.unwrap();
    let second = store.update("p1", b"strict", first).await.unwrap();
    let (old, headers) = site.stored(first).await;

    // The old body with its old headers: the server enforces what they state, so it does not even store them.
    let unaltered = site.admin.jetstream().publish_with_headers(SUBJECT, headers, old.clone()).await.unwrap().await;
    assert!(unaltered.is_err());
    // The old body, stating what it really replaces: stored, but it does not open there, not even for a new process.
    let planted = site.plant(old, second).await.unwrap();
    assert!(planted > second);
    assert!(matches!(store.read("p1").await, Err(StoreError::Tampered { .. })));
    assert!(matches!(site.store().read("p1").await, Err(StoreError::Tampered { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_without_the_statement_of_what_it_replaces_is_refused() {
    let site = Site::start().await;
    let first = site.store().create("p1", b"one").await.unwrap();
    let (body, _) = site.stored(first).await;
    site.admin.jetstream().publish(SUBJECT, body).await.unwrap().await.unwrap();
    assert!(matches!(site.store().read("p1").await, Err(StoreError::Tampered { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_newest_version_is_noticed_by_who_saw_it() {
    let site = Site::start().await;
    let store = site.store();
    let first = store.create("p1", b"lax").await.unwrap();
    let second = store.update("p1", b"strict", first).await.unwrap();
    // KV buckets deny deletion of single messages; whoever holds the server's storage asks nobody. A purge does the same.
    let stream = site.admin.jetstream().get_stream(Bucket::Policies.stream()).await.unwrap();
    stream.purge().filter(SUBJECT).await.unwrap();
    match store.read("p1").await {
        Err(StoreError::RolledBack { seen, found: 0, .. }) => assert_eq!(seen, second),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn altered_or_moved_records_and_other_keys_are_told_apart() {
    let site = Site::start().await;
    let store = site.store();
    let revision = store.create("p1", b"one").await.unwrap();
    let other = SealedStore::open(&site.bus, Bucket::Policies, Arc::new(StoreKey::generate().unwrap()));
    assert!(matches!(other.read("p1").await, Err(StoreError::OtherKey { .. })));

    let (body, _) = site.stored(revision).await;
    let mut altered = body.to_vec();
    *altered.last_mut().unwrap() ^= 1;
    site.plant(altered.into(), revision).await.unwrap();
    assert!(matches!(store.read("p1").await, Err(StoreError::Tampered { .. })));

    let message = PublishMessage::build().payload(body).expected_last_subject_sequence(0);
    site.admin.jetstream().send_publish("$KV.policies.p2", message).await.unwrap().await.unwrap();
    assert!(matches!(store.read("p2").await, Err(StoreError::Tampered { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_shows_nothing_of_the_value() {
    let site = Site::start().await;
    let revision = site.store().create("p1", b"canary-5d0e").await.unwrap();
    let (body, headers) = site.stored(revision).await;
    assert!(!body.windows(11).any(|window| window == b"canary-5d0e"));
    assert!(!format!("{headers:?}").contains("canary"));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_survive_a_crash_of_the_server() {
    let mut site = Site::start().await;
    let store = site.store();
    let revision = store.create("p1", b"one").await.unwrap();
    site.server.kill().await;
    site.server.restart().await.unwrap();
    let read = store.read("p1").await.unwrap().unwrap();
    assert_eq!((&read.value[..], read.revision), (&b"one"[..], revision));
    store.update("p1", b"two", revision).await.unwrap();
}
