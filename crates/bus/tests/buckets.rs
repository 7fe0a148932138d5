//! Compare-and-set on a real server.
#![allow(clippy::unwrap_used, clippy::panic, reason = "the helpers below are test code; clippy exempts only functions marked #[test]")]

use std::time::Duration;

use async_nats::jetstream::{context::PublishErrorKind, message::PublishMessage};
use bytes::Bytes;
use keyferry_bus::{Bucket, BucketError, Role};
use keyferry_testkit::nats::NatsServer;

async fn start() -> NatsServer {
    NatsServer::start().await.unwrap_or_else(|failure| panic!("{failure}; {}", failure.hint()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_written_over_exactly_what_was_read() {
    let server = start().await;
    let bucket = server.connect(Role::TokenBroker).await.unwrap().bucket(Bucket::Fleet);
    let first = bucket.create("td.one", Bytes::from_static(b"1")).await.unwrap();
    assert!(matches!(bucket.create("td.one", Bytes::new()).await, Err(BucketError::Conflict { .. })));
    let second = bucket.update("td.one", Bytes::from_static(b"2"), first).await.unwrap();
    assert!(matches!(bucket.update("td.one", Bytes::new(), first).await, Err(BucketError::Conflict { .. })));
    let entry = bucket.read("td.one").await.unwrap().unwrap();
    assert_eq!((&entry.value[..], entry.revision, entry.replaced), (&b"2"[..], second, Some(first)));
    assert_eq!(bucket.keys().await.unwrap(), ["td.one"]);
    bucket.delete("td.one", second).await.unwrap();
    assert!(bucket.read("td.one").await.unwrap().is_none());
    bucket.create("td.one", Bytes::from_static(b"3")).await.unwrap();
}

/// The server answers a repeated compare-and-set as a conflict, not as a duplicate. The bucket must tell the two apart.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_checks_the_revision_before_it_looks_for_repetitions() {
    let server = start().await;
    let bus = server.connect(Role::TokenBroker).await.unwrap();
    let write = || PublishMessage::build().payload("1".into()).message_id("one-write").expected_last_subject_sequence(0);
    bus.jetstream().send_publish("$KV.fleet.td", write()).await.unwrap().await.unwrap();
    let repeated = bus.jetstream().send_publish("$KV.fleet.td", write()).await.unwrap().await.unwrap_err();
    assert_eq!(repeated.kind(), PublishErrorKind::WrongLastSequence);
}

/// With one writer every conflict would be a lie, also where a crash swallowed the acknowledgement.
#[tokio::test(flavor = "multi_thread")]
async fn a_writer_who_is_alone_never_meets_a_conflict_not_even_through_crashes() {
    const WRITES: u32 = 400;
    let mut server = start().await;
    let bucket = server.connect(Role::TokenBroker).await.unwrap().bucket(Bucket::Fleet);
    let (wrote, mut written) = tokio::sync::watch::channel(0);
    let writer = tokio::spawn(async move {
        let mut revision = bucket.create("count", Bytes::from_static(b"0")).await.unwrap();
        for number in 1..=WRITES {
            revision = bucket.update("count", number.to_string().into(), revision).await.unwrap();
            wrote.send_replace(number);
        }
        bucket.read("count").await.unwrap().unwrap().value
    });
    for wanted in [WRITES / 4, WRITES / 2] {
        written.wait_for(|number| *number >= wanted).await.unwrap();
        server.kill().await;
        server.restart().await.unwrap();
    }
    assert_eq!(&writer.await.unwrap()[..], WRITES.to_string().as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_with_a_lifetime_ends_and_its_key_is_free_again() {
    let server = start().await;
    let bucket = server.connect(Role::TokenBroker).await.unwrap().bucket(Bucket::Seen);
    let second = Some(Duration::from_secs(1));
    bucket.create_for("nonce", Bytes::from_static(b"1"), second).await.unwrap();
    assert!(matches!(bucket.create_for("nonce", Bytes::new(), second).await, Err(BucketError::Conflict { .. })));
    let gone = async { while bucket.read("nonce").await.unwrap().is_some() {} };
    tokio::time::timeout(Duration::from_mins(1), gone).await.unwrap();
    bucket.create_for("nonce", Bytes::from_static(b"2"), second).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_could_steer_a_subject_is_refused() {
    let server = start().await;
    let bucket = server.connect(Role::TokenBroker).await.unwrap().bucket(Bucket::Seen);
    for key in ["", "*", ">", "a.*", "a b", ".a", "a.", "a..b", "a\r\n", &"a".repeat(200)] {
        assert!(matches!(bucket.create(key, Bytes::new()).await, Err(BucketError::Key)), "{key:?}");
        assert!(matches!(bucket.read(key).await, Err(BucketError::Key)), "{key:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contended_increments_all_land() {
    let server = start().await;
    let bucket = server.connect(Role::TokenBroker).await.unwrap().bucket(Bucket::Fleet);
    bucket.create("count", Bytes::from_static(b"0")).await.unwrap();
    let increment = |bucket: keyferry_bus::BucketHandle| async move {
        loop {
            let entry = bucket.read("count").await.unwrap().unwrap();
            let count: u32 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
            match bucket.update("count", (count + 1).to_string().into(), entry.revision).await {
                Ok(_) => return,
                Err(BucketError::Conflict { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    };
    futures::future::join_all((0..40).map(|_| increment(bucket.clone()))).await;
    assert_eq!(&bucket.read("count").await.unwrap().unwrap().value[..], b"40");
}
