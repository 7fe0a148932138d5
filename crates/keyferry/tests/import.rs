//! `keyferry import intel-kbs --dry-run` over directories as Intel's service leaves them, and as an attacker or an editor does.
#![allow(clippy::unwrap_used, clippy::panic, reason = "the helpers below are test code; clippy exempts only functions marked #[test]")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_RSA_SHA384, RsaKeySize};
use serde_json::{Value, json};
use tempfile::TempDir;

const USER: &str = "6f5b2c1e-0d4a-4c3b-9a8f-1e2d3c4b5a69";
const POLICY: &str = "11111111-2222-4333-8444-555555555555";
const SGX_POLICY: &str = "11111111-2222-4333-8444-666666666666";
const KEY: &str = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee";
const BCRYPT: &str = "$2a$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy";

/// What an Intel Key Broker Service leaves on its disk.
struct Kbs(TempDir);

impl Kbs {
    fn new() -> Self {
        let kbs = Self(tempfile::tempdir().unwrap());
        for directory in
            ["opt/kbs/users", "opt/kbs/keys", "opt/kbs/keys-transfer-policy", "etc/kbs/certs/tls", "etc/kbs/certs/signing-keys"]
        {
            fs::create_dir_all(kbs.path(directory)).unwrap();
        }
        kbs.user(USER, "admin");
        kbs.policy(POLICY, &json!({ "attestation_type": "TDX", "tdx": { "attributes": { "mrtd": ["A".repeat(96)] } } }));
        kbs.key(KEY, POLICY);
        kbs
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }
    fn user(&self, id: &str, name: &str) {
        let user = json!({
            "id": id, "created_at": "2024-05-06T07:08:09.1Z", "updated_at": "0001-01-01T00:00:00Z", "username": name,
            "password_hash": STANDARD.encode(BCRYPT), "password_cost": 10, "permissions": ["keys:create", "users:search"],
        });
        self.write(&format!("opt/kbs/users/{id}"), user.to_string());
    }
    fn policy(&self, id: &str, document: &Value) {
        let mut document = document.clone();
        document["id"] = id.into();
        document["created_at"] = "2024-05-06T07:08:09Z".into();
        self.write(&format!("opt/kbs/keys-transfer-policy/{id}"), document.to_string());
    }
    fn key(&self, id: &str, policy: &str) {
        let key = json!({
            "id": id, "algorithm": "AES", "key_length": 256, "kmip_key_id": "17", "transfer_policy_id": policy,
            "transfer_link": format!("/kbs/v1/keys/{id}/transfer"), "created_at": "2024-05-06T07:08:09Z",
        });
        self.write(&format!("opt/kbs/keys/{id}"), key.to_string());
    }
    fn dry_run(&self, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keyferry"));
        for name in ["KEYFERRY_STACK", "KEYFERRY_URL"] {
            command.env_remove(name);
        }
        command.args(["import", "intel-kbs", self.0.path().to_str().unwrap(), "--dry-run"]).args(more).output().unwrap()
    }
    /// The records of a dry run by file name, and the exit code.
    fn planned(&self, more: &[&str]) -> (Vec<Value>, i32) {
        let output = self.dry_run(&[&["--json"], more].concat());
        let printed: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        assert_eq!(printed["dry_run"], true);
        (printed["records"].as_array().unwrap().clone(), output.status.code().unwrap())
    }
}

fn record<'a>(records: &'a [Value], id: &str) -> &'a Value {
    records.iter().find(|record| record["id"] == id).unwrap_or_else(|| panic!("no {id} in {records:#?}"))
}

fn refused(records: &[Value], id: &str, words: &str) {
    let record = record(records, id);
    assert_eq!(record["outcome"], "refused", "{record}");
    assert!(record["reason"].as_str().unwrap().contains(words), "{record}");
    assert!(!record["fix"].as_str().unwrap().is_empty(), "{record}");
}

/// As the service makes it: RSA, self-signed.
fn tls_pair(kbs: &Kbs) {
    let key = rsa_key(RsaKeySize::_3072);
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "KBS TLS Certificate");
    kbs.write("etc/kbs/certs/tls/tls.crt", params.self_signed(&key).unwrap().pem());
    kbs.write("etc/kbs/certs/tls/tls.key", key.serialize_pem());
}

fn rsa_key(size: RsaKeySize) -> KeyPair {
    KeyPair::generate_rsa_for(&PKCS_RSA_SHA384, size).unwrap()
}

#[test]
fn a_whole_installation_is_planned_and_nothing_is_touched() {
    let kbs = Kbs::new();
    tls_pair(&kbs);
    fs::copy(kbs.path("etc/kbs/certs/tls/tls.key"), kbs.path("etc/kbs/certs/signing-keys/jwt-signing.key")).unwrap();
    let target = kbs.path("copied");
    let (records, code) = kbs.planned(&["--tls-dir", target.to_str().unwrap()]);
    assert_eq!(code, 0, "{records:#?}");
    let kinds: Vec<&str> = records.iter().map(|record| record["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["signing_key", "user", "policy", "key", "tls_pair"], "in the order of what needs what");
    assert!(records.iter().all(|record| record["outcome"] == "import"), "{records:#?}");
    assert!(record(&records, POLICY)["notes"].to_string().contains("upper case"));
    assert!(record(&records, POLICY)["notes"].to_string().contains("lint: "));
    assert!(!target.exists(), "a dry run writes nothing");

    let text = kbs.dry_run(&[]);
    let shown = String::from_utf8(text.stdout).unwrap();
    assert!(shown.contains("4 to import, 1 reported") && shown.contains("give --tls-dir DIR"), "{shown}");
    assert!(!shown.contains("N9qo") && !shown.contains("PRIVATE"), "neither hashes nor keys are shown");
    assert!(String::from_utf8_lossy(&text.stderr).contains("nothing was compared"));
}

#[test]
fn the_directory_itself_and_certificates_elsewhere_do_as_well() {
    let kbs = Kbs::new();
    tls_pair(&kbs);
    let output = Command::new(env!("CARGO_BIN_EXE_keyferry"))
        .args(["import", "intel-kbs", kbs.path("opt/kbs").to_str().unwrap(), "--dry-run", "--json", "--certs-dir"])
        .arg(kbs.path("etc/kbs/certs"))
        .output()
        .unwrap();
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(printed["counts"], json!({ "import": 3, "imported": 0, "already_there": 0, "reported": 1, "refused": 0 }));
}

#[test]
fn what_is_broken_is_named_and_stops_nothing_else() {
    let kbs = Kbs::new();
    let name = |last: u32| format!("6f5b2c1e-0d4a-4c3b-9a8f-{last:012}");
    kbs.write(&format!("opt/kbs/users/{}", name(1)), "{\"id\":");
    kbs.write("opt/kbs/users/.config.swp", "vim was here");
    kbs.write(&format!("opt/kbs/users/{}", name(2)), "x".repeat(10 << 20));
    kbs.write(
        &format!("opt/kbs/users/{}", name(3)),
        json!({ "id": "../../../etc/passwd", "username": "x", "password_hash": "" }).to_string(),
    );
    symlink("/etc/hostname", kbs.path(&format!("opt/kbs/users/{}", name(4)))).unwrap();
    symlink(kbs.path(&format!("opt/kbs/users/{USER}")), kbs.path(&format!("opt/kbs/users/{}", name(5)))).unwrap();
    fs::create_dir(kbs.path(&format!("opt/kbs/users/{}", name(6)))).unwrap();
    let made = Command::new("mkfifo").arg(kbs.path(&format!("opt/kbs/users/{}", name(7)))).status().unwrap();
    assert!(made.success());
    kbs.write(&format!("opt/kbs/users/{}", name(8)), b"\xff\xfe\x00".as_slice());

    let (records, code) = kbs.planned(&[]);
    assert_eq!(code, 1);
    for (id, words) in [
        (name(1), "breaks off"),
        (".config.swp".to_owned(), "no UUID"),
        (name(2), "bytes"),
        (name(3), "not the file's name"),
        (name(4), "symbolic link"),
        (name(5), "symbolic link"),
        (name(6), "not a regular file"),
        (name(7), "not a regular file"),
        (name(8), "not JSON"),
    ] {
        refused(&records, &id, words);
    }
    for id in [USER, POLICY, KEY] {
        assert_eq!(record(&records, id)["outcome"], "import");
    }
}

#[test]
fn what_would_contradict_something_else_is_refused_on_both_sides() {
    let kbs = Kbs::new();
    let second = "6f5b2c1e-0d4a-4c3b-9a8f-000000000001";
    kbs.user(second, "admin");
    kbs.policy(SGX_POLICY, &json!({ "attestation_type": "TDX", "tdx": { "attributes": { "mrtd": ["abc"] } } }));
    let (under_broken, under_absent) = ("aaaaaaaa-bbbb-4ccc-8ddd-000000000001", "aaaaaaaa-bbbb-4ccc-8ddd-000000000002");
    kbs.key(under_broken, SGX_POLICY);
    kbs.key(under_absent, "11111111-2222-4333-8444-777777777777");
    let (records, code) = kbs.planned(&[]);
    assert_eq!(code, 1);
    refused(&records, USER, "another file");
    refused(&records, second, "another file");
    refused(&records, SGX_POLICY, "mrtd");
    refused(&records, under_broken, "is refused");
    assert!(record(&records, under_absent)["notes"].to_string().contains("not in the directory"));
    assert_eq!(record(&records, under_absent)["outcome"], "import");

    let (records, _) = kbs.planned(&["--kms-kind", "vault"]);
    refused(&records, KEY, "KMIP");
}

#[test]
fn a_pair_that_is_none_or_a_weak_signing_key_is_refused() {
    let kbs = Kbs::new();
    tls_pair(&kbs);
    let other = Kbs::new();
    tls_pair(&other);
    fs::copy(other.path("etc/kbs/certs/tls/tls.key"), kbs.path("etc/kbs/certs/tls/tls.key")).unwrap();
    kbs.write("etc/kbs/certs/signing-keys/jwt-signing.key", rsa_key(RsaKeySize::_2048).serialize_pem());
    let (records, code) = kbs.planned(&[]);
    assert_eq!(code, 1);
    refused(&records, "tls.crt", "not the RSA key of");
    refused(&records, "jwt-signing.key", "2048 bits");

    kbs.write("etc/kbs/certs/tls/tls.crt", "no certificate");
    kbs.write("etc/kbs/certs/signing-keys/jwt-signing.key", "no key");
    let (records, _) = kbs.planned(&[]);
    refused(&records, "tls.crt", "not a certificate");
    refused(&records, "jwt-signing.key", "not a private key");
}

#[test]
fn nothing_to_import_and_no_way_to_import_are_mistakes_of_the_command_line() {
    let empty = tempfile::tempdir().unwrap();
    let run =
        |arguments: &[&str]| Command::new(env!("CARGO_BIN_EXE_keyferry")).args(["import", "intel-kbs"]).args(arguments).output().unwrap();
    let none = run(&[empty.path().to_str().unwrap(), "--dry-run"]);
    assert_eq!(none.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&none.stderr).contains("has no directory keys"));
    let kbs = Kbs::new();
    let offline = run(&[kbs.0.path().to_str().unwrap()]);
    assert_eq!(offline.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&offline.stderr).contains("--password-file is missing"));
    unreadable(&kbs.path("opt/kbs/users"));
}

/// Root reads everything; anybody else is told.
fn unreadable(directory: &Path) {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o000)).unwrap();
    let told = fs::read_dir(directory).is_ok();
    let root = directory.parent().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_keyferry")).args(["import", "intel-kbs", "--dry-run"]).arg(root).output().unwrap();
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(output.status.code(), Some(i32::from(!told)), "{}", String::from_utf8_lossy(&output.stderr));
}
