//! A document from its first addition to its revocation.

#![allow(clippy::unwrap_used)] // helpers of a test: a broken fixture has to fail it

use std::process::{Command, Output};

#[test]
fn a_revoked_document_cannot_be_added_again() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("given.txt");
    std::fs::write(&file, format!(r#"{{"id":"b-1","source":"x","values":{{"mr_td":"{}"}}}}"#, "ab".repeat(48))).unwrap();
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let (private, public) = (directory.path().join("private.pem"), directory.path().join("public.pem"));
    std::fs::write(&private, pair.serialize_pem()).unwrap();
    std::fs::write(&public, pair.public_key_pem()).unwrap();
    let run = |command: &str, more: &[&str]| -> Output {
        let place = ["reference-value", command, "--directory", directory.path().to_str().unwrap(), "--key", public.to_str().unwrap()];
        Command::new(env!("CARGO_BIN_EXE_keyferry")).args(place).args(more).output().unwrap()
    };
    let text = |output: &Output| String::from_utf8(output.stdout.clone()).unwrap();
    let add = [file.to_str().unwrap(), "--sign-with", private.to_str().unwrap(), "--by", "alice", "--why", "new"];
    assert!(run("add", &add).status.success());
    assert!(text(&run("list", &[])).contains("in force"));
    assert!(run("show", &["b-1"]).status.success());
    let linted = run("lint", &[]);
    assert!(linted.status.code() == Some(1) && text(&linted).contains("without rtmr1"));
    assert!(run("revoke", &["b-1", "--by", "bob", "--why", "a bug"]).status.success());
    assert!(text(&run("list", &[])).contains("by bob: a bug"));
    assert_eq!(run("show", &["b-1"]).status.code(), Some(1));
    assert_eq!(run("add", &add).status.code(), Some(1));
}
