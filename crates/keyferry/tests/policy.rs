//! `keyferry policy lint`, `test`, `diff` and `try` as an operator runs them, on files alone.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    process::{Command, Output},
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tempfile::TempDir;

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
    fn policy(&self, name: &str, attributes: &Value) -> String {
        self.write(name, &json!({ "attestation_type": "TDX", "tdx": { "attributes": attributes } }).to_string())
    }
}

fn keyferry(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_keyferry")).arg("policy").args(arguments).output().unwrap()
}

/// One JSON object on stdout, and the exit code.
fn answer(arguments: &[&str], code: i32) -> Value {
    let output = keyferry(&[arguments, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn usage_error(arguments: &[&str], words: &str) {
    let output = keyferry(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(output.stdout.is_empty() && stderr.contains(words), "{stderr}");
}

fn attributes() -> Value {
    json!({ "mrtd": ["aa".repeat(48)], "rtmr1": "d1".repeat(48), "enforce_tcb_upto_date": true })
}

fn td() -> Value {
    json!({
        "dbgstat": "disabled", "attester_tcb_status": "UpToDate", "tdx_td_attributes": "0000001000000000",
        "tdx_mrtd": "aa".repeat(48), "tdx_rtmr1": "d1".repeat(48)
    })
}

#[test]
fn lint_finds_or_not_and_refuses_what_is_no_policy() {
    let files = Files::new();
    assert_eq!(answer(&["lint", &files.policy("good", &attributes())], 0)["findings"], json!([]));
    let weak = answer(&["lint", &files.policy("weak", &json!({}))], 1);
    assert_eq!(weak["findings"].as_array().unwrap().len(), 2);
    usage_error(&["lint", &files.policy("typo", &json!({ "mrtdd": [] }))], "mrtdd");
    usage_error(&["lint", &files.policy("rule", &json!({ "rego": "package keyferry\nallow if time.now_ns() > 0" }))], "line 2");
    usage_error(&["lint", "/nonexistent"], "/nonexistent");
}

#[test]
fn tests_of_a_policy_pass_or_name_what_came_out() {
    let files = Files::new();
    let cases = files.write(
        "cases",
        &json!({
            "base": { "tdx": td() },
            "cases": [
                { "name": "as built", "expect": "permitted" },
                { "name": "another kernel", "claims": { "tdx": { "tdx_rtmr1": "ee".repeat(48) } }, "expect": { "denied": ["tdx_rtmr1"] } }
            ]
        })
        .to_string(),
    );
    let good = files.policy("good", &attributes());
    assert_eq!(answer(&["test", &cases, "--policy", &good], 0)["passed"], json!(true));
    let weakened = files.policy("weakened", &json!({ "mrtd": ["aa".repeat(48)] }));
    let found = answer(&["test", &cases, "--policy", &weakened], 1);
    assert_eq!((&found["cases"][1]["passed"], &found["cases"][1]["denied"]), (&json!(false), &json!([])));
    let told = keyferry(&["test", &cases, "--policy", &weakened]);
    assert!(String::from_utf8_lossy(&told.stdout).contains("NO  another kernel  permitted"), "{told:?}");
    usage_error(&["test", &good, "--policy", &good], "malformed");
}

#[test]
fn diff_tells_a_weaker_version_by_its_exit_code() {
    let files = Files::new();
    let (old, new) =
        (files.policy("old", &attributes()), files.policy("new", &json!({ "mrtd": ["aa".repeat(48)], "enforce_tcb_upto_date": true })));
    let weaker = answer(&["diff", &old, &new], 1);
    let change = json!({ "claim": "tdx_rtmr1", "old": "d1".repeat(48), "new": null, "effect": "weakens" });
    assert_eq!(weaker, json!({ "permits_more": true, "changes": [change] }));
    assert_eq!(answer(&["diff", &new, &old], 0)["changes"][0]["effect"], "tightens");
    assert_eq!(answer(&["diff", &old, &old], 0), json!({ "permits_more": false, "changes": [] }));
}

#[test]
fn a_token_is_tried_unverified_only_when_that_is_said() {
    let files = Files::new();
    let encoded = |json: &Value| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
    let jwt = format!("{}.{}.AAAA", encoded(&json!({ "alg": "PS384", "kid": "x" })), encoded(&json!({ "tdx": td(), "iss": "nobody" })));
    let (policy, token) = (files.policy("policy", &attributes()), files.write("token", &format!("{jwt}\n")));
    let tried = answer(&["try", "--policy", &policy, "--token", &token, "--unverified"], 1);
    assert_eq!((&tried["permitted"], &tried["verified"]), (&json!(false), &json!(false)));
    assert_eq!(
        tried["claims"][0],
        json!({ "claim": "keyferry.trust_anchor", "wanted": "intel-sgx-root", "got": "unknown", "matched": false })
    );
    assert_eq!(answer(&["try", "--policy", &policy, "--token", &token, "--unverified", "--intel"], 0)["permitted"], json!(true));
    usage_error(&["try", "--policy", &policy, "--token", &token], "--unverified");
    let nonsense = files.write("nonsense", "abc");
    usage_error(&["try", "--policy", &policy, "--token", &nonsense, "--unverified"], "malformed");
    let (jwks, root) = (files.write("jwks", "{}"), files.write("root.der", "x"));
    usage_error(&["try", "--policy", &policy, "--token", &token, "--jwks", &jwks, "--root", &root], "jwks");
}
