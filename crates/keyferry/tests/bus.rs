//! `keyferry bus` as an operator runs it, with a real server.
#![allow(clippy::unwrap_used, clippy::panic, reason = "the helpers below are test code; clippy exempts only functions marked #[test]")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use keyferry_bus::{Bus, ConnectError, Deployment, Role};
use keyferry_testkit::nats::NatsServer;
use tempfile::TempDir;

fn keyferry(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_keyferry")).args(arguments).output().unwrap()
}

/// Exit code 0; what it wrote to stdout, without the line feed.
fn succeeds(arguments: &[&str]) -> String {
    let output = keyferry(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// This exit code, nothing on stdout, and one error line that holds `words`.
fn fails(arguments: &[&str], code: i32, words: &str) {
    let output = keyferry(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(output.stdout.is_empty());
    let mut lines = stderr.lines();
    let first = lines.next().unwrap();
    assert!(first.starts_with("keyferry: error: ") && first.contains(words), "{stderr}");
    assert!(lines.all(|line| line.starts_with("keyferry: hint: ")), "{stderr}");
}

struct Site {
    _scratch: TempDir,
    directory: PathBuf,
}

impl Site {
    fn init() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let directory = scratch.path().join("bus");
        let printed = succeeds(&["bus", "init", "--dir", text(&directory), "--listen", "127.0.0.1:0", "--monitor-port", "0"]);
        assert_eq!(Path::new(&printed), directory);
        Self { _scratch: scratch, directory }
    }
    fn dir(&self) -> &str {
        text(&self.directory)
    }
    fn file(&self, name: &str) -> String {
        text(&self.directory.join(name)).to_owned()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Every file below a directory with its contents.
fn contents(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else {
                found.push((path.clone(), fs::read(path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn from_init_to_a_td_on_the_bus() {
    let site = Site::init();
    let server = NatsServer::run(Deployment::open(&site.directory).unwrap()).await.unwrap_or_else(|failure| panic!("{failure}"));
    let url = server.url();
    for _ in 0..2 {
        succeeds(&["bus", "provision", "--dir", site.dir(), "--url", &url]);
    }
    let credentials = site.file("td-one.creds");
    let td_id = succeeds(&["bus", "enroll", "--dir", site.dir(), "--out", &credentials, "--label", "one", "--ttl", "12h"]);
    let td = Bus::connect(&server.config(&credentials), "attester").await.unwrap();
    assert_eq!(td.identity(), td_id);
    assert_eq!(fs::metadata(&credentials).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_made_inside_a_td_is_enrolled_without_leaving_it() {
    let site = Site::init();
    let server = NatsServer::run(Deployment::open(&site.directory).unwrap()).await.unwrap_or_else(|failure| panic!("{failure}"));
    let (key, jwt, credentials) = (site.file("td.nk"), site.file("td.jwt"), site.file("td.creds"));
    let td_id = succeeds(&["bus", "key", "--out", &key]);
    fails(&["bus", "key", "--out", &key], 1, "File exists");
    let issued = succeeds(&["bus", "enroll", "--dir", site.dir(), "--public-nkey", &td_id, "--label", "inside"]);
    fs::write(&jwt, issued).unwrap();
    assert_eq!(succeeds(&["bus", "join", "--key", &key, "--jwt", &jwt, "--out", &credentials]), td_id);
    Bus::connect(&server.config(&credentials), "attester").await.unwrap();

    // A JWT for another key does not join.
    let (other, other_credentials) = (site.file("other.nk"), site.file("other.creds"));
    succeeds(&["bus", "key", "--out", &other]);
    fails(&["bus", "join", "--key", &other, "--jwt", &jwt, "--out", &other_credentials], 2, "for another key");
    assert!(!Path::new(&other_credentials).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn renewed_credentials_work_and_revoked_ones_do_not() {
    let site = Site::init();
    let old = site.file("old.creds");
    fs::copy(site.file("credentials/key-release.creds"), &old).unwrap();
    let revoked = keyferry_bus::Credentials::read(Path::new(&old)).unwrap().public_key();
    succeeds(&["bus", "renew", "--dir", site.dir()]);
    succeeds(&["bus", "revoke", "--dir", site.dir(), "--public-nkey", &revoked]);
    let server = NatsServer::run(Deployment::open(&site.directory).unwrap()).await.unwrap_or_else(|failure| panic!("{failure}"));
    server.connect(Role::KeyRelease).await.unwrap();
    let refused = Bus::connect(&server.config(&old), "key-release").await;
    assert!(matches!(refused, Err(ConnectError::Refused { .. })), "{refused:?}");
}

#[test]
fn a_directory_with_something_in_it_is_left_alone() {
    let site = Site::init();
    let before = contents(&site.directory);
    fails(&["bus", "init", "--dir", site.dir()], 2, "exists already");
    assert_eq!(contents(&site.directory), before);
    let file = site.file("ca.pem");
    fails(&["bus", "init", "--dir", &file], 2, "exists already");
}

#[test]
fn a_failed_init_leaves_nothing_behind() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("bus");
    fails(&["bus", "init", "--dir", text(&directory), "--server-name", "not a name"], 2, "host names");
    fails(&["bus", "init", "--dir", text(&directory), "--listen", "nowhere"], 2, "--listen");
    let missing = scratch.path().join("file/bus");
    fs::write(scratch.path().join("file"), "").unwrap();
    fails(&["bus", "init", "--dir", text(&missing)], 1, "file");
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
}

#[test]
fn secrets_are_private_and_in_their_place_only() {
    let site = Site::init();
    for (path, bytes) in contents(&site.directory) {
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        let name = path.strip_prefix(&site.directory).unwrap().to_str().unwrap();
        let public = ["ca.pem", "server/server.pem"].contains(&name);
        assert_eq!(mode, if public { 0o644 } else { 0o600 }, "{name}");
        let text = String::from_utf8_lossy(&bytes);
        let holds_seed = text.split_whitespace().any(|word| word.len() == 58 && word.starts_with('S'));
        let may_hold_seed = ["offline/", "enrolment/td-signing.nk", "credentials/"].iter().any(|prefix| name.starts_with(prefix));
        assert!(!holds_seed || may_hold_seed, "a seed in {name}");
    }
}

#[test]
fn mistakes_say_what_is_wrong() {
    let site = Site::init();
    let enroll = |rest: &[&'static str]| [&["bus", "enroll", "--dir", site.dir()], rest].concat();
    fails(&enroll(&["--label", "a"]), 2, "required");
    fails(&enroll(&["--public-nkey", "UABC", "--label", "a"]), 2, "public nkey");
    fails(&enroll(&["--public-nkey", "*", "--label", "a"]), 2, "public nkey");
    fails(&enroll(&["--out", "/nonexistent/td.creds", "--label", "a b"]), 2, "label");
    fails(&enroll(&["--out", "/nonexistent/td.creds", "--label", "a"]), 1, "/nonexistent/td.creds");
    fails(&enroll(&["--out", "x", "--label", "a", "--ttl", "soon"]), 2, "--ttl");
    fails(&enroll(&["--out", "x", "--label", "a", "--ttl", "1s"]), 2, "lifetime");
    fails(&["bus", "enroll", "--dir", "/nonexistent", "--out", "x", "--label", "a"], 1, "/nonexistent");
    fails(&["bus", "provision"], 2, "--dir");
    fails(&["bus", "revoke", "--dir", site.dir(), "--public-nkey", "nobody"], 2, "public nkey");
    let unreachable = ["bus", "provision", "--dir", site.dir(), "--url", "nats://127.0.0.1:1", "--wait", "0"];
    fails(&unreachable, 1, "did not answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_admin_provisions() {
    let site = Site::init();
    let server = NatsServer::run(Deployment::open(&site.directory).unwrap()).await.unwrap_or_else(|failure| panic!("{failure}"));
    let service = site.file("credentials/token-broker.creds");
    fails(&["bus", "provision", "--dir", site.dir(), "--url", &server.url(), "--credentials-file", &service], 1, "refused");
    fails(&["bus", "provision", "--dir", site.dir(), "--url", &server.url(), "--replicas", "2"], 1, "neither 1, 3 nor 5");
}
