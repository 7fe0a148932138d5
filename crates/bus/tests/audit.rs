//! The audit log over a real server: chains, lanes, checkpoints, and what happens to a record that cannot be stored.
#![allow(clippy::unwrap_used, clippy::panic, reason = "the helpers below are test code; clippy exempts only functions marked #[test]")]

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, time::Duration};

use keyferry_bus::{AuditKey, AuditKeyError, AuditLog, AuditPace, AuditPublicKey, Bus, Provisioning, PublishError, Role};
use keyferry_contract::{
    Stream,
    release::v1::{AuditDecision, AuditRecord},
};
use keyferry_testkit::nats::NatsServer;
use prost::Message;
use prost_types::Timestamp;
use sha2::{Digest, Sha256};

const PATIENCE: Duration = Duration::from_secs(30);
/// No checkpoint comes by itself within a test.
const UNHURRIED: AuditPace = AuditPace { lanes: 4, records_unsigned_max: 1000, unsigned_within: Duration::from_hours(1) };

struct Site {
    server: NatsServer,
    bus: Bus,
    key: AuditKey,
}

impl Site {
    async fn start() -> Self {
        let server = NatsServer::start().await.unwrap_or_else(|failure| panic!("{failure}; {}", failure.hint()));
        let bus = server.connect(Role::KeyRelease).await.unwrap();
        Self { server, bus, key: AuditKey::generate().unwrap() }
    }

    fn log(&self, pace: AuditPace) -> AuditLog {
        AuditLog::paced(self.bus.clone(), self.key.clone(), || Timestamp { seconds: 1_700_000_000, nanos: 0 }, pace)
    }

    async fn admin(&self) -> Bus {
        self.server.connect(Role::Admin).await.unwrap()
    }

    /// Everything in the stream, in its order, once there are `wanted`.
    async fn stored(&self, wanted: u64) -> Vec<AuditRecord> {
        let auditor = self.server.connect(Role::Auditor).await.unwrap();
        let mut stream = auditor.jetstream().get_stream(Stream::Audit.name()).await.unwrap();
        let waiting = async {
            while stream.info().await.unwrap().state.messages < wanted {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap();
        let mut records = Vec::new();
        for sequence in 1..=stream.cached_info().state.messages {
            records.push(AuditRecord::decode(stream.get_raw_message(sequence).await.unwrap().payload).unwrap());
        }
        records
    }
}

fn decision(decision: AuditDecision) -> AuditRecord {
    AuditRecord { decision: decision.into(), ..AuditRecord::default() }
}

/// Records by chain, each chain checked link by link.
fn chains(records: &[AuditRecord]) -> BTreeMap<&str, Vec<&AuditRecord>> {
    let mut chains: BTreeMap<&str, Vec<&AuditRecord>> = BTreeMap::new();
    for record in records {
        let chain = chains.entry(&record.writer_id).or_default();
        let previous = chain.last().map_or_else(|| vec![0; 32], |previous| Sha256::digest(previous.encode_to_vec()).to_vec());
        assert_eq!((record.sequence, &record.previous_digest), (chain.len() as u64 + 1, &previous));
        chain.push(record);
    }
    chains
}

#[tokio::test(flavor = "multi_thread")]
async fn many_records_at_a_time_share_four_chains_and_a_few_make_one() {
    let site = Site::start().await;
    let log = site.log(UNHURRIED);
    for _ in 0..5 {
        log.record(decision(AuditDecision::Released)).await.unwrap();
    }
    assert_eq!(chains(&site.stored(5).await).len(), 1);
    let recorded = futures::future::join_all((0..60).map(|_| log.record(decision(AuditDecision::Released)))).await;
    assert!(recorded.into_iter().all(|recorded| recorded.is_ok()));
    let records = site.stored(65).await;
    assert_eq!((records.len(), chains(&records).len()), (65, 4));
    assert!(records.iter().all(|record| record.service == "key-release" && record.checkpoint.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_is_signed_after_enough_records_after_some_time_and_at_the_end() {
    let site = Site::start().await;
    let log = site.log(AuditPace { lanes: 1, records_unsigned_max: 3, unsigned_within: Duration::from_hours(1) });
    for _ in 0..4 {
        log.record(decision(AuditDecision::Released)).await.unwrap();
    }
    log.finish().await;
    let records = site.stored(6).await;
    let checkpoints: Vec<Option<bool>> = records.iter().map(|record| record.checkpoint.as_ref().map(|it| it.closing)).collect();
    assert_eq!(checkpoints, [None, None, None, Some(false), None, Some(true)]);
    assert_eq!(chains(&records).len(), 1);
    let late = log.record(decision(AuditDecision::Released)).await;
    assert!(matches!(late, Err(PublishError::Refused { .. })), "{late:?}");

    let log = site.log(AuditPace { unsigned_within: Duration::from_millis(50), ..UNHURRIED });
    log.record(decision(AuditDecision::Denied)).await.unwrap();
    let signed = site.stored(8).await.pop().unwrap();
    assert_eq!((signed.decision(), signed.sequence, signed.at.unwrap().seconds), (AuditDecision::Checkpoint, 2, 1_700_000_000));
    assert_eq!(signed.checkpoint.unwrap().public_key, site.key.public_key().as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_away_leaves_no_fork() {
    let site = Site::start().await;
    let log = site.log(AuditPace { lanes: 1, ..UNHURRIED });
    log.record(decision(AuditDecision::Released)).await.unwrap();
    // Polled once: the record is on its way, and nobody waits for it.
    let _ = futures::poll!(Box::pin(log.record(decision(AuditDecision::Released))));
    log.record(decision(AuditDecision::Denied)).await.unwrap();
    log.finish().await;
    // Whether the record got out decides whether a new chain begins; in either case each of them is whole.
    let records = site.stored(3).await;
    assert!((1..=2).contains(&chains(&records).len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_audit_stream_nothing_is_recorded_and_the_next_chain_is_whole() {
    let site = Site::start().await;
    let admin = site.admin().await;
    let log = site.log(UNHURRIED);
    let first = log.record(decision(AuditDecision::TokenIssued)).await.unwrap();
    admin.jetstream().delete_stream(Stream::Audit.name()).await.unwrap();
    let failed = log.record(decision(AuditDecision::TokenIssued)).await;
    assert!(matches!(failed, Err(PublishError::Unacknowledged { .. })), "{failed:?}");
    admin.provision(&Provisioning::default()).await.unwrap();
    let next = log.record(decision(AuditDecision::TokenIssued)).await.unwrap();
    assert_ne!(next.record.writer_id, first.record.writer_id);
    assert_eq!((next.record.sequence, &next.record.previous_digest[..]), (1, &[0; 32][..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_audit_refuses() {
    let site = Site::start().await;
    let admin = site.admin().await;
    let mut config = admin.jetstream().get_stream(Stream::Audit.name()).await.unwrap().cached_info().config.clone();
    config.max_messages = 1;
    admin.jetstream().update_stream(config).await.unwrap();
    let log = site.log(UNHURRIED);
    log.record(decision(AuditDecision::TokenIssued)).await.unwrap();
    assert!(matches!(log.record(decision(AuditDecision::Denied)).await, Err(PublishError::Full { .. })));
}

#[test]
fn a_key_is_made_once_private_with_its_public_half_beside_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.key");
    let public = directory.path().join("audit.key.pub");
    let made = AuditKey::load_or_create(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(&public).unwrap().permissions().mode() & 0o777, 0o644);
    fs::remove_file(&public).unwrap();
    assert_eq!(AuditKey::load_or_create(&path).unwrap().public_key(), made.public_key());
    let other = AuditKey::generate().unwrap().public_key();
    fs::write(&public, format!("{}{}", fs::read_to_string(&public).unwrap(), other.to_pem())).unwrap();
    assert_eq!(AuditPublicKey::read_all(&public).unwrap(), [made.public_key(), other]);

    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(AuditKey::load(&path), Err(AuditKeyError::Open { mode: 0o644, .. })));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    for text in ["", "key", &other.to_pem()] {
        fs::write(&path, text).unwrap();
        assert!(matches!(AuditKey::load_or_create(&path), Err(AuditKeyError::Malformed { .. })), "{text:?}");
    }
    assert!(AuditPublicKey::read_all(&path.with_extension("none")).is_err());
}

/// The private key is one that others can read, and make.
#[test]
fn openssl_reads_the_key_and_we_read_its() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("audit.key");
    let made = AuditKey::load_or_create(&path).unwrap();
    let openssl = |arguments: &[&str]| {
        let output = std::process::Command::new("openssl").args(arguments).current_dir(directory.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(openssl(&["pkey", "-in", "audit.key", "-pubout"]), made.public_key().to_pem());
    openssl(&["genpkey", "-algorithm", "ed25519", "-out", "other.key"]);
    let other = AuditKey::load(&directory.path().join("other.key")).unwrap();
    assert_eq!(openssl(&["pkey", "-in", "other.key", "-pubout"]), other.public_key().to_pem());
}
