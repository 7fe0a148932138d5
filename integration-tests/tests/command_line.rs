//! An administrator at the operators' command line, with nothing but `stack.json`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "the helpers below are test code; clippy exempts only functions marked #[test]")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use keyferry_contract::{
    attestation::v1::{GetTokenRequest, attester_client::AttesterClient},
    release::v1::{AuditDecision, TransferKeyRequest, key_broker_client::KeyBrokerClient, transfer_key_request::Credential},
};
use keyferry_integration_tests::{Story, told};
use keyferry_key_wrap::{ExportKeyPair, TdKeyPair, WrappedKey};
use keyferry_td_simulator::TdOptions;
use keyferry_testkit::{process::binary, stack::KmsKind};
use keyferry_tls::RootsConfig;
use serde_json::{Value, json};
use tempfile::TempDir;

/// An operator: a description of the installation and a directory for files.
struct Operator {
    stack: PathBuf,
    desk: TempDir,
}

impl Operator {
    fn of(story: &Story) -> Self {
        let desk = tempfile::tempdir().unwrap();
        let stack = desk.path().join("stack.json");
        fs::write(&stack, serde_json::to_vec(&story.stack.description).unwrap()).unwrap();
        Self { stack, desk }
    }
    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.desk.path().join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }
    fn path(&self, name: &str) -> String {
        self.desk.path().join(name).to_str().unwrap().to_owned()
    }
    /// `keyferry COMMAND... --stack FILE MORE...`
    fn run(&self, command: &str, more: &[&str]) -> Output {
        let mut program = Command::new(told(binary("keyferry")));
        program.args(command.split(' ')).args(["--stack", self.stack.to_str().unwrap()]).args(more).output().unwrap()
    }
    /// Exit code 0; stdout without its line feed.
    fn does(&self, command: &str, more: &[&str]) -> String {
        let output = self.run(command, more);
        assert!(output.status.success(), "{command} {more:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }
    fn json(&self, command: &str, more: &[&str]) -> Value {
        serde_json::from_str(&self.does(command, &[&["--json"], more].concat())).unwrap()
    }
    /// Exit code 1, an error line that begins with the reason, and a hint.
    fn is_refused(&self, command: &str, more: &[&str], reason: &str) {
        let output = self.run(command, more);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{command}: {stderr}");
        assert!(output.stdout.is_empty(), "{command}");
        assert!(stderr.starts_with(&format!("keyferry: error: {reason}:")), "{command}: {stderr}");
        assert!(stderr.contains("\nkeyferry: hint: "), "{command}: {stderr}");
    }
}

fn document(trust_anchor: &str, rtmr3: &str) -> String {
    json!({ "attestation_type": "TDX", "tdx": { "attributes": { "rtmr3": rtmr3, "trust_anchor": trust_anchor, "enforce_tcb_upto_date": true } } })
        .to_string()
}

/// A token that the first TD's attester obtained for this key pair.
async fn token(story: &Story, pair: &TdKeyPair) -> String {
    let socket = &story.stack.description.tds[0].attester_socket;
    let mut attester = AttesterClient::new(keyferry_tls::grpc_unix_channel(socket));
    let request = GetTokenRequest { user_data: pair.held_data(), policy_ids: Vec::new() };
    attester.get_token(request).await.unwrap().into_inner().token
}

async fn transferred(story: &Story, key_id: &str, token: String) -> WrappedKey {
    let tls = keyferry_tls::client_config(&RootsConfig::CaFile(story.stack.description.ca_file.clone()), false).unwrap();
    let mut broker = KeyBrokerClient::new(keyferry_tls::grpc_channel(&story.stack.description.grpc_url, &tls).unwrap());
    let request = TransferKeyRequest { key_id: key_id.to_owned(), credential: Some(Credential::Token(token)) };
    let released = broker.transfer_key(request).await.unwrap().into_inner();
    WrappedKey::from_parts(released.wrapped_key, released.wrapped_swk)
}

async fn begin(kms: KmsKind, tds: usize) -> Story {
    Story::begin(|options| {
        options.kms = kms;
        options.tds = tds;
        options.load_models = false;
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_lives_through_versions_history_and_rollback() {
    let story = begin(KmsKind::Dev, 0).await;
    let operator = Operator::of(&story);
    let anchor = story.stack.description.trust_anchor.clone();
    let (first, second) = (document(&anchor, &"1".repeat(96)), document(&anchor, &"2".repeat(96)));
    let (first_file, second_file) = (operator.file("first.json", &first), operator.file("second.json", &second));

    let created = operator.run("policy create", &[&first_file]);
    let policy = String::from_utf8(created.stdout).unwrap().trim().to_owned();
    assert!(String::from_utf8_lossy(&created.stderr).contains("warning: "), "a policy without mrtd is weak");
    assert_eq!(operator.does("policy update", &[&policy, &second_file, "--replaces", "1"]), "2");
    operator.is_refused("policy update", &[&policy, &first_file, "--replaces", "1"], "conflict");
    assert_eq!(operator.does("policy rollback", &[&policy, "1"]), "3");

    let same = |text: &str, wanted: &str| serde_json::from_str::<Value>(text).unwrap() == serde_json::from_str::<Value>(wanted).unwrap();
    assert!(same(&operator.does("policy show", &[&policy]), &first));
    assert!(same(&operator.does("policy show", &[&policy, "--version", "2"]), &second));
    let shown = operator.json("policy show", &[&policy]);
    assert_eq!((shown["version"].as_u64(), shown["actor"].as_str()), (Some(3), Some("admin")), "{shown}");
    let history = operator.json("policy history", &[&policy]);
    let versions: Vec<(u64, Option<u64>)> = history
        .as_array()
        .unwrap()
        .iter()
        .map(|version| (version["version"].as_u64().unwrap(), version["rolled_back_to"].as_u64()))
        .collect();
    assert_eq!(versions, [(3, Some(1)), (2, None), (1, None)]);
    assert_eq!(history[0]["document_digest"], history[2]["document_digest"]);
    assert!(operator.does("policy list", &[]).contains(&policy));

    let key = operator.does("key create", &["--policy-id", &policy]);
    operator.is_refused("policy delete", &[&policy], "policy_in_use");
    operator.does("key delete", &[&key]);
    operator.does("policy delete", &[&policy]);
    operator.is_refused("policy show", &[&policy], "policy_not_found");
    let wrong = operator.run("policy create", &[&operator.file("wrong.json", "{}")]);
    assert_eq!(wrong.status.code(), Some(2), "a wrong input file: {}", String::from_utf8_lossy(&wrong.stderr));
    story.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_made_explained_released_and_exported() {
    let story = begin(KmsKind::Dev, 1).await;
    let operator = Operator::of(&story);
    let anchor = story.stack.description.trust_anchor.clone();
    let open = json!({ "attestation_type": "TDX", "tdx": { "attributes": { "trust_anchor": anchor } } }).to_string();
    let closed = document(&anchor, &"f".repeat(96));
    let open = operator.does("policy create", &[&operator.file("open.json", open)]);
    let closed_file = operator.file("closed.json", closed);
    let closed = operator.does("policy create", &[&closed_file]);

    let key = operator.does("key create", &["--policy-id", &closed, "--length", "192"]);
    let pair = tokio::task::spawn_blocking(TdKeyPair::generate).await.unwrap().unwrap();
    let token = token(&story, &pair).await;
    let token_file = operator.file("token", &token);

    let refused = operator.run("policy explain", &["--key-id", &key, "--token", &token_file, "--json"]);
    let explained: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!(refused.status.code(), Some(1), "a negative verdict");
    assert_eq!((explained["permitted"].as_bool(), explained["reason"].as_str()), (Some(false), Some("policy_mismatch")), "{explained}");
    let claims = explained["claims"].as_array().unwrap();
    let rtmr3 = claims.iter().find(|claim| claim["claim"].as_str().unwrap().contains("rtmr3")).unwrap();
    assert!(rtmr3["wanted"].as_str().unwrap().contains(&"f".repeat(96)) && rtmr3["matched"] == false, "{rtmr3}");
    for against in [["--policy-id", &closed], ["--policy", &closed_file]] {
        let output = operator.run("policy explain", &[against[0], against[1], "--token", &token_file]);
        assert_eq!(output.status.code(), Some(1), "{against:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains("rtmr3"));
    }

    let moved = operator.json("key update", &[&key, "--policy-id", &open]);
    assert_eq!(moved["policy_id"], open.as_str());
    assert_eq!(operator.json("policy explain", &["--key-id", &key, "--token", &token_file])["permitted"], true);
    let released = pair.unwrap_key(&transferred(&story, &key, token).await).unwrap();

    let own = tokio::task::spawn_blocking(|| ExportKeyPair::generate(2048)).await.unwrap().unwrap();
    let (pem, out) = (operator.file("own.pem", own.public_pem()), operator.path("wrapped"));
    operator.does("key export", &[&key, "--public-key", &pem, "--out", &out]);
    let exported = own.open(&STANDARD.decode(fs::read_to_string(&out).unwrap().trim()).unwrap()).unwrap();
    assert_eq!((exported.expose(), exported.bits()), (released.expose(), 192), "one key, by both ways");
    operator.is_refused("key export", &["00000000-0000-4000-8000-000000000000", "--public-key", &pem], "key_not_found");

    let listed = operator.json("key list", &["--policy-id", &open]);
    assert_eq!(listed.as_array().unwrap().iter().map(|key| key["key_id"].as_str().unwrap()).collect::<Vec<_>>(), [key.as_str()]);
    let registered = operator.does("key create", &["--key-data-file", &operator.file("raw", [7_u8; 32])]);
    assert_eq!(operator.json("key show", &[&registered])["length_bits"], 256);
    operator.does("key delete", &[&registered]);
    operator.is_refused("key show", &[&registered], "key_not_found");
    story.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_may_do_what_was_permitted_and_no_longer_than_that() {
    let story = begin(KmsKind::Dev, 0).await;
    let operator = Operator::of(&story);
    let password = operator.file("password", "correct horse\n");
    let user = operator.does("user create", &["reader", "--permission", "keys:search", "--new-password-file", &password]);
    let reader = ["--username", "reader", "--password-file", &password];
    operator.does("key list", &reader);
    operator.is_refused("key create", &reader, "permission_denied");
    operator.is_refused("policy list", &reader, "permission_denied");

    operator.does("user update", &[&user, "--permission", "keys:search,key-transfer-policies:search"]);
    operator.does("policy list", &reader);
    let shown = operator.json("user show", &[&user]);
    assert_eq!(shown["username"], "reader");
    assert!(!shown.to_string().contains("horse") && !shown.to_string().contains("$2"), "neither password nor hash");
    assert!(operator.does("user list", &[]).contains("reader"));
    assert_eq!(operator.json("user list", &["--name", "reader"]).as_array().unwrap().len(), 1);

    let other = operator.file("other", "battery staple");
    operator.does("user update", &[&user, "--new-password-file", &other]);
    operator.is_refused("key list", &reader, "unauthenticated");
    operator.does("key list", &["--username", "reader", "--password-file", &other]);
    operator.does("user delete", &[&user]);
    operator.is_refused("key list", &["--username", "reader", "--password-file", &other], "unauthenticated");
    assert!(!operator.does("user replace-signing-key", &[]).is_empty());

    let stranger = operator.run("key list", &["--url", "https://127.0.0.1:1"]);
    assert_eq!(stranger.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&stranger.stderr).contains("https://127.0.0.1:1 did not answer"), "{stranger:?}");
    let logs = story.logs();
    assert!(!logs.contains("horse") && !logs.contains("staple"), "no password is in a log");
    story.end().await;
}

/// An Intel KBS with its keys in the same KMIP server.
fn intel_kbs(directory: &Path, anchor: &str, kmip_key: &str) {
    let made = "2024-05-06T07:08:09Z";
    for name in ["users", "keys", "keys-transfer-policy"] {
        fs::create_dir_all(directory.join(name)).unwrap();
    }
    let write = |kind: &str, id: &str, record: Value| fs::write(directory.join(kind).join(id), record.to_string()).unwrap();
    write(
        "users",
        USER,
        json!({ "id": USER, "created_at": made, "updated_at": "0001-01-01T00:00:00Z", "username": "old.hand",
            "password_hash": STANDARD.encode(OLD_PASSWORD), "password_cost": 10, "permissions": ["keys:search", "keys:transfer"] }),
    );
    write(
        "keys-transfer-policy",
        POLICY,
        json!({ "id": POLICY, "created_at": made, "attestation_type": "TDX", "tdx": { "attributes": { "trust_anchor": anchor } } }),
    );
    write(
        "keys",
        KEY,
        json!({ "id": KEY, "algorithm": "AES", "key_length": 256, "kmip_key_id": kmip_key, "transfer_policy_id": POLICY,
            "transfer_link": format!("/kbs/v1/keys/{KEY}/transfer"), "created_at": made }),
    );
}

/// "old password", hashed by libxcrypt.
const OLD_PASSWORD: &str = "$2a$10$FerriesCrossRiversDaier4x4n2KpPhzASuSojp3D23008UUaGci";
const USER: &str = "6f5b2c1e-0d4a-4c3b-9a8f-1e2d3c4b5a69";
const POLICY: &str = "11111111-2222-4333-8444-555555555555";
const KEY: &str = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee";

#[tokio::test(flavor = "multi_thread")]
async fn an_intel_kbs_is_taken_over_and_its_key_released() {
    let story = begin(KmsKind::Pykmip, 1).await;
    let operator = Operator::of(&story);
    let made = operator.does("key create", &[]);
    let kmip_key = operator.json("key show", &[&made])["kms_key_ref"].as_str().unwrap().to_owned();
    let directory = operator.desk.path().join("kbs");
    intel_kbs(&directory, &story.stack.description.trust_anchor, &kmip_key);
    let directory = directory.to_str().unwrap();
    let old_hand = ["--username", "old.hand", "--password-file", &operator.file("old", "old password")];

    let planned = operator.json("import intel-kbs", &[directory, "--dry-run", "--kms-kind", "kmip"]);
    assert_eq!(planned["counts"]["import"], 3, "{planned:#}");
    operator.is_refused("key show", &[KEY], "key_not_found");
    operator.is_refused("key list", &old_hand, "unauthenticated");

    let imported = operator.json("import intel-kbs", &[directory, "--kms-kind", "kmip"]);
    assert_eq!(imported["counts"]["imported"], 3, "{imported:#}");
    assert_eq!(operator.json("key show", &[KEY])["created_at"], "2024-05-06T07:08:09Z");
    operator.does("key list", &old_hand);
    let pair = tokio::task::spawn_blocking(TdKeyPair::generate).await.unwrap().unwrap();
    let token = token(&story, &pair).await;
    let released = pair.unwrap_key(&transferred(&story, KEY, token).await).unwrap();
    assert_eq!(released.bits(), 256);

    fs::write(Path::new(directory).join("keys/broken"), "{").unwrap();
    let again = operator.run("import intel-kbs", &[directory, "--json"]);
    assert_eq!(again.status.code(), Some(1), "one file is broken");
    let again: Value = serde_json::from_slice(&again.stdout).unwrap();
    let counts = [("already_there", 3), ("refused", 1), ("imported", 0)];
    for (name, count) in counts {
        assert_eq!(again["counts"][name], count, "{again:#}");
    }
    let recorded = story.audit(AuditDecision::KeyCreated).await;
    assert!(recorded.iter().any(|record| record.key_id == KEY && record.actor == "admin"), "an import is recorded");
    story.end().await;
}

/// Every command of the page, as one shell script in a directory with the files the page speaks of.
#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_page_works() {
    let story = begin(KmsKind::Pykmip, 1).await;
    let operator = Operator::of(&story);
    let anchor = story.stack.description.trust_anchor.clone();
    let kmip_key = operator.json("key show", &[&operator.does("key create", &[])])["kms_key_ref"].as_str().unwrap().to_owned();
    intel_kbs(&operator.desk.path().join("kbs"), &anchor, &kmip_key);
    let attributes = json!({ "mrtd": [hex::encode(TdOptions::default().mr_td)], "rtmr1": hex::encode(TdOptions::default().rtmr1), "trust_anchor": anchor });
    operator.file("policy.json", json!({ "attestation_type": "TDX", "tdx": { "attributes": attributes } }).to_string());
    operator.file("password", "correct horse");
    let (td, own) = tokio::task::spawn_blocking(|| (TdKeyPair::generate().unwrap(), ExportKeyPair::generate(2048).unwrap())).await.unwrap();
    operator.file("token", token(&story, &td).await);
    operator.file("own.pem", own.public_pem());

    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md")).unwrap();
    let mut inside = false;
    let mut script = "set -eu\n".to_owned();
    for line in page.lines() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if let Some(command) = line.strip_prefix("$ ").filter(|_| inside) {
            script.extend(["echo '+ ", &command.replace('\'', ""), "' >&2\n", command, "\n"]);
        }
    }
    let programs = told(binary("keyferry")).parent().unwrap().to_owned();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let output = Command::new("sh").args(["-c", &script]).current_dir(operator.desk.path()).env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    story.end().await;
}
