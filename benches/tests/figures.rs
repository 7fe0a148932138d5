//! The binary's output, in its shape: the figures themselves mean nothing in a test.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use serde_json::Value;

const MEMBERS: [&str; 10] =
    ["name", "per_second", "bound", "bound_per_second", "fraction", "peer", "peer_per_second", "p50_ms", "p99_ms", "notes"];

fn benches(arguments: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_keyferry-benches")).args(arguments).env_remove("RUST_BACKTRACE").output().unwrap()
}

/// The rows of one run.
fn measured(only: &str, seconds: &str) -> Vec<Value> {
    let file = std::env::temp_dir().join(format!("keyferry-figures-{}-{}.json", std::process::id(), only.replace('/', "-")));
    let output = benches(&["--only", only, "--seconds", seconds, "--json", file.to_str().unwrap()]);
    assert!(output.status.success(), "{only}: {}", String::from_utf8_lossy(&output.stderr));
    let rows: Vec<Value> = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    std::fs::remove_file(&file).unwrap();
    for row in &rows {
        assert_eq!(row.as_object().unwrap().keys().collect::<Vec<_>>(), MEMBERS);
        assert!(row["p50_ms"].as_f64().unwrap() <= row["p99_ms"].as_f64().unwrap(), "{row}");
    }
    rows
}

fn against_its_bound(row: &Value) {
    let number = |member: &str| row[member].as_f64().unwrap();
    assert!((number("fraction") - number("per_second") / number("bound_per_second")).abs() < 1e-9, "{row}");
    // Nothing is faster than what it contains, whatever the machine does meanwhile.
    assert!(number("fraction") > 0.0 && number("fraction") < 1.5, "{row}");
}

#[test]
fn every_figure_of_this_process_is_measured_against_its_bound() {
    for only in ["quote_verification/", "attestation/", "token_signing/", "release/decision"] {
        measured(only, "0.02").iter().for_each(against_its_bound);
    }
}

#[test]
fn load_on_an_installation_is_measured_against_its_bound() {
    measured("release/grpc", "0.5").iter().for_each(against_its_bound);
}

#[test]
fn a_real_kms_is_measured_without_a_bound() {
    for only in ["kms/kmip_4", "kms/vault_4"] {
        for row in measured(only, "0.3") {
            assert!(row["per_second"].as_f64().unwrap() > 0.0 && row["bound"].is_null() && row["fraction"].is_null(), "{row}");
        }
    }
}

#[test]
fn every_figure_that_is_spoken_of_has_its_name() {
    let listed = String::from_utf8(benches(&["--list"]).stdout).unwrap();
    let listed: Vec<&str> = listed.lines().collect();
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/performance.md")).unwrap();
    for name in &listed {
        assert!(page.contains(&format!("`{name}`")), "docs/performance.md does not speak of {name}");
    }
    assert!(listed.contains(&"release/store_100000") && listed.contains(&"release/one_key_500_tds"), "{listed:?}");
}

#[test]
fn only_selects_by_name_or_prefix() {
    let output = benches(&["--seconds", "0.02", "--only", "quote_verification/warm"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 2, "a header and one figure");
    assert!(!benches(&["--only", "nothing"]).status.success());
    assert!(!benches(&["--seconds", "0"]).status.success());
}
