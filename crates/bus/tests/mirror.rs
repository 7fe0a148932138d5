//! The mirror of the audit: it follows, and nobody of the services' account, nor anybody else, can touch it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "the helpers below are test code; clippy exempts only functions marked #[test]")]

use std::time::Duration;

use futures::StreamExt;
use keyferry_bus::{AuditCopy, AuditKey, AuditLog, AuditReader, Bus, Provisioning, Role, StoredRecord};
use keyferry_contract::release::v1::AuditRecord;
use keyferry_testkit::nats::NatsServer;
use prost_types::Timestamp;

const PATIENCE: Duration = Duration::from_secs(30);

async fn start() -> NatsServer {
    NatsServer::start().await.unwrap_or_else(|failure| panic!("{failure}; {}", failure.hint()))
}

async fn record(server: &NatsServer, records: usize) {
    let bus = server.connect(Role::KeyRelease).await.unwrap();
    let log = AuditLog::new(bus, AuditKey::generate().unwrap(), Timestamp::default);
    for _ in 0..records {
        log.record(AuditRecord::default()).await.unwrap();
    }
}

/// Everything in a copy, once it goes this far.
async fn copy(bus: &Bus, which: AuditCopy, last: u64) -> Vec<StoredRecord> {
    let mut reader = AuditReader::open(bus, which).await.unwrap();
    let waiting = async {
        while reader.state().await.unwrap().last < last {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap();
    reader.read(1..=last).map(Result::unwrap).collect().await
}

fn bodies(records: &[StoredRecord]) -> Vec<(u64, &str, &[u8])> {
    records.iter().map(|record| (record.stream_sequence, record.subject.as_str(), record.body.as_ref())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mirror_follows_under_the_same_sequences_also_over_a_restart() {
    let mut server = start().await;
    record(&server, 20).await;
    let auditor = server.connect(Role::Auditor).await.unwrap();
    let (original, mirror) = (copy(&auditor, AuditCopy::Original, 20).await, copy(&auditor, AuditCopy::Mirror, 20).await);
    assert_eq!((bodies(&original), original.len()), (bodies(&mirror), 20));
    server.kill().await;
    server.restart().await.unwrap();
    record(&server, 5).await;
    let auditor = server.connect(Role::Auditor).await.unwrap();
    let (original, mirror) = (copy(&auditor, AuditCopy::Original, 25).await, copy(&auditor, AuditCopy::Mirror, 25).await);
    assert_eq!((bodies(&original), original.len()), (bodies(&mirror), 25));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_can_delete_shorten_or_write_the_mirror() {
    let server = start().await;
    record(&server, 3).await;
    let auditor = server.connect(Role::Auditor).await.unwrap();
    let before = copy(&auditor, AuditCopy::Mirror, 3).await;

    // The owner of the services' account may delete the original. In that account there is no mirror.
    let admin = server.connect(Role::Admin).await.unwrap();
    assert!(admin.jetstream().get_stream("AUDIT_MIRROR").await.is_err());
    assert!(admin.jetstream().delete_stream("AUDIT_MIRROR").await.is_err());
    admin.jetstream().delete_stream("AUDIT").await.unwrap();
    for role in [Role::Auditor, Role::Archivist, Role::KeyRelease, Role::TokenBroker] {
        let bus = server.connect(role).await.unwrap();
        for (api, body) in [
            ("STREAM.DELETE.AUDIT_MIRROR", ""),
            ("STREAM.PURGE.AUDIT_MIRROR", ""),
            ("STREAM.MSG.DELETE.AUDIT_MIRROR", r#"{"seq":1}"#),
            ("CONSUMER.CREATE.AUDIT_MIRROR.c", r#"{"stream_name":"AUDIT_MIRROR","config":{"name":"c","ack_policy":"none"}}"#),
        ] {
            let asked = bus.client().request(format!("$JS.API.{api}"), body.into());
            let answer = tokio::time::timeout(Duration::from_millis(500), asked).await;
            assert!(
                !matches!(&answer, Ok(Ok(answered)) if !answered.payload.windows(7).any(|it| it == b"\"error\"")),
                "{role:?} {api}: {answer:?}"
            );
        }
    }
    // The archivist may change its settings, and cannot undo what makes it an archive.
    let archivist = server.connect(Role::Archivist).await.unwrap();
    let stream = archivist.jetstream().get_stream("AUDIT_MIRROR").await.unwrap();
    let mut config = stream.cached_info().config.clone();
    (config.deny_delete, config.deny_purge) = (false, false);
    assert!(archivist.jetstream().update_stream(config).await.is_err());
    assert_eq!(bodies(&copy(&auditor, AuditCopy::Mirror, 3).await), bodies(&before));
}

#[tokio::test(flavor = "multi_thread")]
async fn making_it_again_changes_nothing() {
    let server = start().await;
    let archivist = server.connect(Role::Archivist).await.unwrap();
    archivist.provision_mirror(&Provisioning::default()).await.unwrap();
    let auditor = server.connect(Role::Auditor).await.unwrap();
    assert!(auditor.provision_mirror(&Provisioning::default()).await.is_err());
}
