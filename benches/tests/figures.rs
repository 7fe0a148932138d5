//! The binary's output, in its shape: the figures themselves mean nothing in a test.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use serde_json::Value;

const MEMBERS: [&str; 10] =
    ["name", "per_second", "bound", "bound_per_second", "fraction", "peer", "peer_per_second", "p50_ms", "p99_ms", "notes"];

fn benches(arguments: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_keyferry-benches")).args(arguments).env_remove("RUST_BACKTRACE").output().unwrap()
}

#[test]
fn every_figure_is_measured_against_its_bound() {
    let file = std::env::temp_dir().join(format!("keyferry-figures-{}.json", std::process::id()));
    let output = benches(&["--seconds", "0.02", "--json", file.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: Vec<Value> = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    std::fs::remove_file(&file).unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    for name in
        ["quote_verification/cold", "quote_verification/first_sight", "quote_verification/warm", "attestation/ps384", "release/decision"]
    {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    for row in &rows {
        assert_eq!(row.as_object().unwrap().keys().collect::<Vec<_>>(), MEMBERS);
        let number = |member: &str| row[member].as_f64().unwrap();
        assert!((number("fraction") - number("per_second") / number("bound_per_second")).abs() < 1e-9, "{row}");
        // Nothing is faster than what it contains, whatever the machine does meanwhile.
        assert!(number("fraction") > 0.0 && number("fraction") < 1.5, "{row}");
        assert!(number("p50_ms") <= number("p99_ms"), "{row}");
    }
}

#[test]
fn only_selects_by_name_or_prefix() {
    let output = benches(&["--seconds", "0.02", "--only", "quote_verification/warm"]);
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 2, "a header and one figure");
    assert!(!benches(&["--only", "nothing"]).status.success());
    assert!(!benches(&["--seconds", "0"]).status.success());
}
