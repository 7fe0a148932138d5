//! Configuration and start of the real binary: what it says when something is wrong.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Output};

fn attester(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_attester")).args(arguments).output().unwrap()
}

fn example() -> String {
    format!("{}/attester.example.toml", env!("CARGO_MANIFEST_DIR"))
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_example_is_a_valid_configuration() {
    let output = attester(&["--config", &example(), "--check"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn every_mistake_is_reported_in_one_run() {
    let output = attester(&[
        "--config",
        &example(),
        "--set",
        "limits.attestation_seconds=0",
        "--set",
        "verifier.algorithms=[\"HS256\"]",
        "--set",
        "socket.mode=0666",
    ]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(64), "{text}");
    for name in ["limits.attestation_seconds", "verifier.algorithms", "socket.mode"] {
        assert!(text.contains(name), "{name} is not in {text}");
    }
}

#[test]
fn a_platform_that_is_not_there_ends_the_start_with_a_hint() {
    let listen = ["--set", "runtime.health.listen=127.0.0.1:0", "--set", "platform.directory=/nonexistent"];
    let output = attester(&[&["--config", &example()], listen.as_slice()].concat());
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(69), "{text}");
    assert!(text.contains("attester: error: platform.directory") && text.contains("attester: hint: "), "{text}");
}
