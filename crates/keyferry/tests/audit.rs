//! `keyferry audit` over a real bus, and everything that somebody who owns the bus can do to an export.
#![allow(clippy::unwrap_used, clippy::panic, reason = "the helpers below are test code; clippy exempts only functions marked #[test]")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::{Engine, engine::general_purpose::STANDARD};
use keyferry_bus::{AuditKey, AuditLog, AuditPace, Role};
use keyferry_contract::{
    Reason,
    release::v1::{AuditDecision, AuditRecord},
};
use keyferry_testkit::nats::NatsServer;
use prost::Message;
use prost_types::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A checkpoint after every third record, and none by the clock.
const PACE: AuditPace = AuditPace { lanes: 1, records_unsigned_max: 3, unsigned_within: Duration::from_hours(1) };
/// The record of the broker's own chain, in front of its only and closing checkpoint.
const BROKERS: usize = 11;

fn keyferry(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_keyferry")).args(arguments).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A bus with two chains in its audit: ten of key-release (records 1-3, 5-7, 9; checkpoints 4, 8 and, closing, 10), two of
/// token-broker.
struct Site {
    server: NatsServer,
    scratch: TempDir,
    /// Signs for key-release.
    key: Ed25519KeyPair,
}

impl Site {
    async fn start() -> Self {
        let server = NatsServer::start().await.unwrap_or_else(|failure| panic!("{failure}; {}", failure.hint()));
        let scratch = tempfile::tempdir().unwrap();
        let key = Ed25519KeyPair::generate().unwrap();
        let site = Self { server, scratch, key };
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(site.key.to_pkcs8v1().unwrap()));
        for (role, own) in [(Role::KeyRelease, Some(pem)), (Role::TokenBroker, None)] {
            let path = site.path(&format!("{}.key", role.name()));
            if let Some(pem) = own {
                fs::write(&path, pem).unwrap();
                fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
            }
            let key = AuditKey::load_or_create(&path).unwrap();
            let bus = site.server.connect(role).await.unwrap();
            let log = AuditLog::paced(bus, key, || Timestamp { seconds: 1_700_000_000, nanos: 0 }, PACE);
            for number in 0..if role == Role::KeyRelease { 7 } else { 1 } {
                log.record(record(number)).await.unwrap();
                site.settled(role, number).await;
            }
            log.finish().await;
        }
        site
    }

    /// Waits for the checkpoint that a third record causes, so that the order is the same every time.
    async fn settled(&self, role: Role, number: u64) {
        let checkpoints = (number + 1) / 3;
        let wanted = if role == Role::KeyRelease { number + 1 + checkpoints } else { 11 };
        let auditor = self.server.connect(Role::Auditor).await.unwrap();
        let mut stream = auditor.jetstream().get_stream("AUDIT").await.unwrap();
        while stream.info().await.unwrap().state.messages < wanted {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn online(&self, arguments: &[&str]) -> Output {
        let (url, ca, credentials) = (self.server.url(), self.server.ca_file(), self.server.credentials_file(Role::Auditor));
        let connection = ["--url", &url, "--ca-file", text(&ca), "--credentials-file", text(&credentials)];
        keyferry(&[arguments, &connection].concat())
    }

    fn export(&self) -> PathBuf {
        let path = self.path("export.jsonl");
        let output = self.online(&["audit", "export", "--out", text(&path)]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        path
    }

    /// What `verify` says of this file: exit code and JSON.
    fn verify(&self, file: &Path, more: &[&str]) -> (i32, Value) {
        let keys = [self.path("key-release.key.pub"), self.path("token-broker.key.pub")];
        let mut arguments = vec!["audit", "verify", text(file), "--json"];
        arguments.extend(["--public-key", text(&keys[0]), "--public-key", text(&keys[1])]);
        arguments.extend(more);
        let output = keyferry(&arguments);
        let said = serde_json::from_slice(&output.stdout);
        (output.status.code().unwrap(), said.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr))))
    }

    /// The findings of a file that holds these records, as `stream sequence, sequence, fault`; its first line and last line
    /// are made to fit, as somebody would who wants to go unnoticed.
    fn findings(&self, forged: &Forged) -> Vec<(u64, u64, String)> {
        let path = self.path("forged.jsonl");
        forged.write(&path);
        let (code, said) = self.verify(&path, &[]);
        let findings = findings(&said);
        assert_eq!(code, i32::from(!findings.is_empty()), "{said}");
        findings
    }
}

fn record(number: u64) -> AuditRecord {
    AuditRecord {
        decision: if number == 2 { AuditDecision::Denied } else { AuditDecision::Released }.into(),
        reason: if number == 2 { Reason::PolicyMismatch } else { Reason::Unspecified }.into(),
        detail: format!("detail {number}"),
        key_id: "6f4f6b4a-3f0e-4f57-9c7e-3a0d3f6f1b11".to_owned(),
        at: Some(Timestamp { seconds: 1_700_000_000, nanos: 0 }),
        ..AuditRecord::default()
    }
}

fn findings(said: &Value) -> Vec<(u64, u64, String)> {
    let number = |finding: &Value, name: &str| finding[name].as_u64().unwrap_or_default();
    let all = said["findings"].as_array().unwrap().iter();
    all.map(|it| (number(it, "stream_sequence"), number(it, "sequence"), it["fault"].as_str().unwrap().to_owned())).collect()
}

/// One finding.
fn only(stream_sequence: u64, sequence: u64, fault: &str) -> Vec<(u64, u64, String)> {
    vec![(stream_sequence, sequence, fault.to_owned())]
}

/// An export taken apart: stream sequence, subject, record.
#[derive(Clone)]
struct Forged {
    first: u64,
    records: Vec<(u64, String, AuditRecord)>,
}

impl Forged {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).filter(|line| line["record"].is_string());
        let records = lines.map(|line| {
            let body = STANDARD.decode(line["record"].as_str().unwrap()).unwrap();
            let subject = line["subject"].as_str().unwrap().to_owned();
            (line["stream_sequence"].as_u64().unwrap(), subject, AuditRecord::decode(body.as_slice()).unwrap())
        });
        Self { first: 1, records: records.collect() }
    }

    /// The record of key-release with this sequence; stream sequences are the same.
    fn at(&mut self, sequence: usize) -> &mut AuditRecord {
        &mut self.records[sequence - 1].2
    }

    fn renumber(mut self) -> Self {
        for (index, record) in self.records.iter_mut().enumerate() {
            record.0 = self.first + index as u64;
        }
        self
    }

    /// Makes every digest of key-release's chain fit again.
    fn rechain(mut self) -> Self {
        let mut previous = vec![0; 32];
        for (_, _, record) in self.records.iter_mut().filter(|record| record.2.service == "key-release") {
            record.previous_digest = previous;
            previous = sha256(&record.encode_to_vec());
        }
        self
    }

    /// Signs a checkpoint anew.
    fn sign(mut self, sequence: usize, key: &Ed25519KeyPair) -> Self {
        let record = self.at(sequence);
        let checkpoint = record.checkpoint.as_mut().unwrap();
        checkpoint.public_key = key.public_key().as_ref().to_vec();
        checkpoint.signature.clear();
        let signed = [&b"keyferry audit checkpoint 1\0"[..], &record.encode_to_vec()].concat();
        record.checkpoint.as_mut().unwrap().signature = key.sign(&signed).as_ref().to_vec();
        self
    }

    fn write(&self, path: &Path) {
        let view = |body: &AuditRecord| view_of(body);
        let last = self.records.last().unwrap().0;
        let mut file = json!({
            "keyferry_audit_export": 1, "stream": "AUDIT", "first_sequence": self.first, "last_sequence": last,
            "records": self.records.len(), "bytes": 0, "age_seconds_max": 0, "exported_at": "2026-01-01T00:00:00Z",
        })
        .to_string();
        file.push('\n');
        for (sequence, subject, record) in &self.records {
            let body = STANDARD.encode(record.encode_to_vec());
            let line = json!({
                "stream_sequence": sequence, "subject": subject, "stored_at": "2026-01-01T00:00:00Z", "record": body, "view": view(record),
            });
            file.extend([line.to_string(), "\n".to_owned()]);
        }
        let end = json!({ "end_of_export": { "records": self.records.len(), "sha256": hex::encode(sha256(file.as_bytes())) } });
        fs::write(path, format!("{file}{end}\n")).unwrap();
    }
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref().to_vec()
}

/// The view as an export has it, for the records of this test.
fn view_of(record: &AuditRecord) -> Value {
    let mut view = json!({
        "decision": record.decision().as_str_name().trim_start_matches("AUDIT_DECISION_").to_lowercase(),
        "at": if record.at.unwrap().seconds == 1_700_000_000 { "2023-11-14T22:13:20Z" } else { "2023-11-14T22:13:21Z" },
        "service": record.service, "writer_id": record.writer_id, "sequence": record.sequence,
        "previous_digest": hex::encode(&record.previous_digest),
    });
    if record.reason != 0 {
        view["reason"] = json!(record.reason().label());
    }
    view["record_id"] = json!(record.record_id);
    if !record.key_id.is_empty() {
        view["key_id"] = json!(record.key_id);
    }
    if !record.detail.is_empty() {
        view["detail"] = json!(record.detail);
    }
    if let Some(checkpoint) = &record.checkpoint {
        view["checkpoint"] = json!({ "public_key": hex::encode(&checkpoint.public_key), "closing": checkpoint.closing });
    }
    view
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_export_is_intact_and_every_kind_of_tampering_is_named_where_it_is() {
    let site = Site::start().await;
    let export = site.export();
    let (code, said) = site.verify(&export, &["--strict"]);
    assert_eq!((code, &said["verdict"], &said["records"]), (0, &json!("intact"), &json!(12)), "{said}");
    assert_eq!(said["chains"].as_array().unwrap().len(), 2);
    let whole = Forged::read(&export);
    assert_eq!(site.findings(&whole), []);
    let sequences: Vec<u64> = whole.records.iter().map(|record| record.2.sequence).collect();
    assert_eq!(sequences, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 1, 2]);

    // Altered: the record after it does not fit any more.
    let mut altered = whole.clone();
    altered.at(2).detail = "another".to_owned();
    assert_eq!(site.findings(&altered), only(3, 3, "link_broken"));
    // The last of a chain has none after it: its own signature speaks for all of it.
    let mut altered = whole.clone();
    altered.at(10).at = Some(Timestamp { seconds: 1_700_000_001, nanos: 0 });
    assert_eq!(site.findings(&altered), only(10, 10, "signature_invalid"));

    // Dropped, with and without a word to the stream.
    let mut dropped = whole.clone();
    dropped.records.remove(4);
    assert_eq!(site.findings(&dropped), [only(6, 6, "stream_gap"), only(6, 6, "missing")].concat());
    assert_eq!(site.findings(&dropped.renumber()), only(5, 6, "missing"));

    // Swapped, repeated, in another order.
    let mut swapped = whole.clone();
    swapped.records.swap(4, 5);
    assert_eq!(site.findings(&swapped.clone().renumber()), [only(5, 6, "missing"), only(6, 5, "repeated")].concat());
    let unnumbered: Vec<String> = site.findings(&swapped).into_iter().map(|finding| finding.2).collect();
    assert_eq!(unnumbered, ["stream_gap", "missing", "stream_order"]);
    let mut repeated = whole.clone();
    repeated.records.insert(2, repeated.records[1].clone());
    assert_eq!(site.findings(&repeated.clone().renumber()), only(3, 2, "repeated"));
    assert_eq!(site.findings(&repeated), only(2, 2, "stream_order"));

    // Added after the end, with the right digest.
    let mut added = whole.clone();
    let (previous, subject) = (whole.records[9].clone(), whole.records[0].1.clone());
    let forged = AuditRecord { sequence: 11, previous_digest: sha256(&previous.2.encode_to_vec()), ..whole.records[0].2.clone() };
    added.records.push((13, subject, forged));
    assert_eq!(site.findings(&added), only(13, 11, "after_closing"));

    // Put into the audit of another service.
    let mut foreign = whole.clone();
    foreign.records[BROKERS - 1].1 = whole.records[0].1.clone();
    assert_eq!(site.findings(&foreign), only(11, 1, "subject_foreign"));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_recomputes_every_digest_is_caught_by_the_signature() {
    let site = Site::start().await;
    let whole = Forged::read(&site.export());
    let mut altered = whole.clone();
    altered.at(2).decision = AuditDecision::Denied.into();
    let rechained = altered.rechain();
    let faults: Vec<_> = site.findings(&rechained);
    assert_eq!(faults[0], (4, 4, "signature_invalid".to_owned()));
    assert!(faults.iter().all(|fault| fault.2 == "signature_invalid"), "{faults:?}");

    // Signed again with a key of the forger's own.
    let own = Ed25519KeyPair::generate().unwrap();
    let signed = rechained.clone().sign(4, &own).rechain().sign(8, &own).rechain().sign(10, &own);
    let faults = site.findings(&signed);
    assert_eq!(
        faults.iter().map(|fault| (fault.0, fault.2.as_str())).collect::<Vec<_>>(),
        [(4, "key_unknown"), (8, "key_unknown"), (10, "key_unknown")]
    );

    // Signed with the key of another service whose checkpoints count: its own chain gives it away.
    let broker = key_of(&site.path("token-broker.key"));
    let mut signed = rechained.sign(4, &broker).rechain().sign(8, &broker).rechain().sign(10, &broker);
    signed.records.rotate_right(2);
    let faults = site.findings(&signed.renumber());
    assert_eq!(faults[0], (6, 4, "key_of_another".to_owned()), "{faults:?}");

    // Only with the key itself can history be rewritten: then what was kept elsewhere tells.
    let kept = site.path("kept.json");
    assert_eq!(site.verify(&site.path("export.jsonl"), &["--keep", text(&kept)]).0, 0);
    let mut altered = whole;
    altered.at(2).decision = AuditDecision::Denied.into();
    let rewritten = altered.rechain().sign(4, &site.key).rechain().sign(8, &site.key).rechain().sign(10, &site.key);
    assert_eq!(site.findings(&rewritten), []);
    let (code, said) = site.verify(&site.path("forged.jsonl"), &["--checkpoint", text(&kept)]);
    assert_eq!((code, findings(&said)), (1, only(10, 10, "kept_replaced")));
}

fn key_of(path: &Path) -> Ed25519KeyPair {
    let text = fs::read_to_string(path).unwrap();
    Ed25519KeyPair::from_pkcs8(&STANDARD.decode(text.lines().nth(1).unwrap()).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cut_off_is_missed() {
    let site = Site::start().await;
    let export = site.export();
    let kept = site.path("kept.json");
    assert_eq!(site.verify(&export, &["--keep", text(&kept)]).0, 0);
    assert_eq!(site.verify(&export, &["--checkpoint", text(&kept)]).0, 0);

    // Behind a checkpoint, and all numbers made to fit: the chain is not closed, and what was kept is gone.
    let mut cut = Forged::read(&export);
    cut.records.drain(8..10);
    let cut = cut.renumber();
    let path = site.path("cut.jsonl");
    cut.write(&path);
    assert_eq!(site.verify(&path, &[]), (0, site.verify(&path, &["--strict"]).1));
    assert_eq!(site.verify(&path, &["--strict"]).0, 1);
    let (code, said) = site.verify(&path, &["--checkpoint", text(&kept)]);
    let faults: Vec<String> = findings(&said).into_iter().map(|finding| finding.2).collect();
    assert_eq!((code, faults), (1, vec!["kept_replaced".to_owned(), "kept_gone".to_owned()]));

    // Behind a record: it is signed by nobody.
    let mut cut = Forged::read(&export);
    cut.records.truncate(9);
    cut.write(&path);
    let (code, said) = site.verify(&path, &["--strict"]);
    assert_eq!((code, &said["verdict"], &said["chains"][0]["unsigned"]), (1, &json!("intact_and_open"), &json!(1)));

    // A checkpoint that calls itself the last one.
    cut.records.truncate(8);
    cut.at(8).checkpoint.as_mut().unwrap().closing = true;
    assert_eq!(site.findings(&cut), only(8, 8, "signature_invalid"));

    // The beginning: only age takes it, and then the stream says so.
    let mut late = Forged::read(&export);
    late.records.drain(..4);
    let mut aged = late.clone();
    aged.first = 5;
    aged.write(&path);
    let (code, said) = site.verify(&path, &["--strict"]);
    assert_eq!((code, &said["verdict"]), (0, &json!("intact")), "{said}");
    assert!(said["notes"][0].as_str().unwrap().starts_with("stream sequences 1 to 4 are gone"), "{said}");
    assert_eq!(site.findings(&late.clone().renumber()), only(1, 5, "missing"));
    assert_eq!(site.findings(&late), [only(5, 5, "stream_gap"), only(5, 5, "missing")].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_as_it_was_exported_is_found_out() {
    let site = Site::start().await;
    let export = site.export();
    let text_of = fs::read_to_string(&export).unwrap();
    let lines: Vec<&str> = text_of.lines().collect();
    let path = site.path("file.jsonl");
    let faults = |contents: String| {
        fs::write(&path, contents).unwrap();
        let (code, said) = site.verify(&path, &[]);
        assert_eq!(code, 1, "{said}");
        findings(&said).into_iter().map(|finding| finding.2).collect::<Vec<_>>()
    };
    assert_eq!(faults(lines[..13].join("\n")), ["file_truncated"]);
    assert_eq!(faults(format!("{text_of}{{}}\n")), ["file_goes_on"]);
    assert_eq!(faults(text_of.replace("detail 1", "detail 7")), ["view_differs", "file_digest"]);
    assert_eq!(faults([&lines[..5], &lines[6..]].concat().join("\n"))[0], "file_count");
    assert_eq!(faults(text_of.replacen("\"record\":\"", "\"record\":\"*", 1))[0], "file_line");
    assert_eq!(faults(text_of.replacen("{\"stream_sequence\":3", "[{", 1))[0], "file_line");

    for (contents, words) in [("", "first line"), ("{}\n", "first line"), (&text_of.replacen("export\":1", "export\":9", 1), "first line")]
    {
        fs::write(&path, contents).unwrap();
        let output = keyferry(&["audit", "verify", text(&path), "--public-key", text(&site.path("key-release.key.pub"))]);
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains(words));
    }
    // An export is never written over another.
    assert_eq!(site.online(&["audit", "export", "--out", text(&export)]).status.code(), Some(2));
    assert_eq!(fs::read_to_string(&export).unwrap(), text_of);
}

#[tokio::test(flavor = "multi_thread")]
async fn tail_shows_who_what_and_why_and_follows() {
    let site = Site::start().await;
    let output = site.online(&["audit", "tail", "-n", "12"]);
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!(shown.lines().count(), 12, "{shown}");
    let denied = shown.lines().nth(2).unwrap();
    assert!(denied.contains("denied  reason=policy_mismatch  service=key-release") && denied.contains("detail=detail 2"), "{denied}");
    let output = site.online(&["audit", "tail", "--lines", "1", "--json"]);
    let last: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&last["stream_sequence"], &last["view"]["checkpoint"]["closing"]), (&json!(12), &json!(true)));

    let (url, ca, credentials) = (site.server.url(), site.server.ca_file(), site.server.credentials_file(Role::Auditor));
    let stack = site.path("stack.json");
    let described = json!({ "nats_url": url, "ca_file": ca, "bus": { "auditor_credentials": credentials }, "grpc_url": "unused" });
    fs::write(&stack, described.to_string()).unwrap();
    let arguments = ["audit", "tail", "--follow", "-n", "0", "--json", "--stack", text(&stack)];
    let mut child = Command::new(env!("CARGO_BIN_EXE_keyferry")).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut following = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let log = AuditLog::new(site.server.connect(Role::KeyRelease).await.unwrap(), AuditKey::generate().unwrap(), Timestamp::default);
    // It may not have looked for the first time yet: then that record is not new to it.
    let writer = tokio::spawn(async move {
        loop {
            log.record(record(2)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let line = tokio::task::spawn_blocking(move || following.next().unwrap().unwrap()).await.unwrap();
    writer.abort();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["view"]["reason"], "policy_mismatch");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_dies_leaves_an_audit_that_can_be_verified() {
    let site = Site::start().await;
    let bus = site.server.connect(Role::KeyRelease).await.unwrap();
    let log = AuditLog::paced(bus, AuditKey::load(&site.path("key-release.key")).unwrap(), Timestamp::default, PACE);
    log.record(record(0)).await.unwrap();
    drop(log);
    let (code, said) = site.verify(&site.export(), &[]);
    assert_eq!((code, &said["verdict"]), (0, &json!("intact_and_open")), "{said}");
    assert_eq!(said["chains"].as_array().unwrap().iter().filter(|chain| chain["closed"] == json!(false)).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_the_bus_is_compared_with_its_mirror() {
    let site = Site::start().await;
    let keys = [site.path("key-release.key.pub"), site.path("token-broker.key.pub")];
    let live = || {
        let arguments = ["audit", "verify", "--live", "--json", "--public-key", text(&keys[0]), "--public-key", text(&keys[1])];
        let output = site.online(&arguments);
        let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        (output.status.code().unwrap(), said)
    };
    let compared =
        |said: &Value| said["notes"].as_array().unwrap().iter().any(|note| note == "compared with the mirror up to stream sequence 12");
    let (mut code, mut said) = live();
    while !compared(&said) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        (code, said) = live();
    }
    assert_eq!((code, &said["verdict"]), (0, &json!("intact")), "{said}");

    // Whoever owns the bus makes the audit anew, with a history that suits them better and keys they have.
    let admin = site.server.connect(Role::Admin).await.unwrap();
    admin.jetstream().delete_stream("AUDIT").await.unwrap();
    admin.provision(&keyferry_bus::Provisioning::default()).await.unwrap();
    let bus = site.server.connect(Role::KeyRelease).await.unwrap();
    let log = AuditLog::paced(bus, AuditKey::load(&site.path("key-release.key")).unwrap(), Timestamp::default, PACE);
    log.record(record(5)).await.unwrap();
    log.finish().await;
    let (code, said) = live();
    let faults: Vec<(u64, String)> = findings(&said).into_iter().map(|finding| (finding.0, finding.2)).collect();
    let differs = |sequence| (sequence, "mirror_differs".to_owned());
    assert_eq!((code, faults), (1, vec![differs(1), differs(2), differs(3)]), "{said}");
}
