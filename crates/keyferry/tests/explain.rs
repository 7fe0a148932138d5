//! `keyferry explain` as an operator types it: offline, for every reason.
#![allow(clippy::unwrap_used, reason = "test code; clippy exempts only functions marked #[test]")]

use std::process::{Command, Output};

use keyferry_contract::Reason;
use serde_json::Value;

fn explain(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_keyferry")).arg("explain").args(arguments).env_clear().output().unwrap()
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_slice(&explain(arguments).stdout).unwrap()
}

#[test]
fn every_reason_is_explained_with_the_codes_of_the_table() {
    let listed = json(&["--list", "--json"]);
    assert_eq!(listed.as_array().unwrap().len(), Reason::ALL.len());
    for (reason, row) in Reason::ALL.into_iter().zip(listed.as_array().unwrap()) {
        let advice = reason.advice();
        assert_eq!((&row["reason"], &row["http"]), (&advice.label.into(), &advice.http.into()));
        assert_eq!(row["grpc"].as_str().unwrap().replace('_', "").to_lowercase(), format!("{:?}", advice.grpc).to_lowercase());
    }
    let one = json(&["kms_sealed", "--json"]);
    assert_eq!((&one["retry"], &one["retry_after_seconds"], &one["decision"]), (&"after_seconds".into(), &10.into(), &"error".into()));
    assert!(one["page"].as_str().unwrap().contains("Unseal it"));
}

#[test]
fn a_page_is_text_and_its_label_may_be_spelled_in_other_ways() {
    let page = String::from_utf8(explain(&["policy_mismatch"]).stdout).unwrap();
    assert!(page.starts_with("# policy_mismatch\n\ngRPC `PERMISSION_DENIED`, HTTP 401; refused on purpose."), "{page}");
    for spelled in ["POLICY-MISMATCH", "REASON_POLICY_MISMATCH", " policy_mismatch"] {
        assert_eq!(String::from_utf8(explain(&[spelled]).stdout).unwrap(), page);
    }
}

#[test]
fn an_unknown_reason_brings_near_ones() {
    for (typed, hint) in [
        ("polcy_mismatch", "did you mean policy_mismatch, key_mismatch?"),
        ("token_expird", "did you mean token_expired"),
        ("jwks", "did you mean jwks_unavailable"),
        ("zzzzzzzzzzzzzzzzzzzz", "`keyferry explain --list` shows every reason"),
    ] {
        let output = explain(&[typed]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(hint), "{typed}: {said}");
    }
    assert_eq!(explain(&[]).status.code(), Some(2));
}
