//! `keyferry token` and `keyferry api-key` as an operator uses them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests: a broken fixture has to fail them")]

use std::{
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use keyferry_attestation_token::{Algorithm, CollateralDigests, Shape, TdMeasurements, TdxClaims, TokenIssuer, jwks};
use keyferry_lifecycle::clock;
use keyferry_verifier_keys::{ApiKeys, KeyDirectory};
use serde_json::Value;

const ISSUER: &str = "https://broker.test";

fn keyferry(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_keyferry")).args(arguments).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn claims() -> TdxClaims {
    let measurements = TdMeasurements {
        mr_td: [1; 48],
        mr_seam: [2; 48],
        mr_signer_seam: [0; 48],
        mr_config_id: [0; 48],
        mr_owner: [0; 48],
        mr_owner_config: [0; 48],
        rtmrs: [[3; 48]; 4],
        report_data: [4; 64],
        tee_tcb_svn: [5; 16],
        td_attributes: [0; 8],
        xfam: [6; 8],
        seam_attributes: [0; 8],
    };
    let collateral = CollateralDigests {
        fmspc: [7; 6],
        tcb_evaluation_data_number: 19,
        qe_identity_certificates: [0; 32],
        qe_identity_crl: [0; 32],
        qe_identity: [0; 32],
        quote: [0; 32],
        tcb_info_certificates: [0; 32],
        tcb_info_crl: [0; 32],
        tcb_info: [0; 32],
    };
    TdxClaims {
        tcb_status: "UpToDate".to_owned(),
        tcb_date: "2025-05-14T00:00:00Z".to_owned(),
        advisory_ids: Vec::new(),
        held_data: b"held".to_vec(),
        azure_runtime: None,
        measurements,
        collateral,
        pce_svn: 13,
        sgx_tcb_components: [0; 16],
        nonce: None,
        trust_anchor: "intel-sgx-root".to_owned(),
        td_id: None,
        attestation_id: None,
        policies_matched: Vec::new(),
        policies_unmatched: Vec::new(),
    }
}

#[test]
fn a_token_is_inspected_unbelieved_and_verified_under_its_root() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    let directory = KeyDirectory::new(at("keys"), None);
    directory.make(Algorithm::Es256, None, clock::now()).unwrap();
    let key = directory.read(Algorithm::Es256).unwrap().keys.remove(0).key;
    std::fs::write(at("jwks.json"), jwks([&key])).unwrap();
    let token = TokenIssuer::new(ISSUER, key, 300).issue(&claims(), Shape::V2Nested, clock::now()).unwrap();
    std::fs::write(at("token.jwt"), format!("{}\n", token.jwt)).unwrap();
    let (token_file, jwks_file, root) = (at("token.jwt"), at("jwks.json"), at("keys/root.pem"));

    let inspected = keyferry(&["token", "inspect", "--token", text(&token_file), "--json"]);
    let inspected: Value = serde_json::from_slice(&inspected.stdout).unwrap();
    assert_eq!((&inspected["verified"], &inspected["claims"]["iss"]), (&Value::Bool(false), &Value::from(ISSUER)));

    let verify = |token: &Path, issuer: &str, more: &[&str]| {
        let fixed =
            ["token", "verify", "--token", text(token), "--jwks", text(&jwks_file), "--root", text(&root), "--issuer", issuer, "--json"];
        let output = keyferry(&[&fixed[..], more].concat());
        (output.status.code().unwrap(), serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default())
    };
    let (code, verdict) = verify(&token_file, ISSUER, &[]);
    assert_eq!((code, &verdict["token_id"]), (0, &Value::from(token.token_id.to_string())));
    let refused = |(code, verdict): (i32, Value)| (code, verdict["reason"].as_str().unwrap_or_default().to_owned());
    assert_eq!(refused(verify(&token_file, "https://other.test", &[])), (1, "token_issuer_unknown".to_owned()));
    assert_eq!(refused(verify(&token_file, ISSUER, &["--at", "2036-01-01T00:00:00Z"])), (1, "token_expired".to_owned()));
    assert_eq!(verify(&token_file, ISSUER, &["--algorithms", "PS384"]).0, 2, "no key of the set is for it");
    let mut forged = token.jwt.clone().into_bytes();
    let last = forged.len() - 10;
    forged[last] = if forged[last] == b'A' { b'B' } else { b'A' };
    std::fs::write(at("forged.jwt"), forged).unwrap();
    assert_eq!(refused(verify(&at("forged.jwt"), ISSUER, &[])), (1, "token_signature_invalid".to_owned()));

    let mut piped = Command::new(env!("CARGO_BIN_EXE_keyferry"))
        .args(["token", "inspect", "--token", "-", "--json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    piped.stdin.take().unwrap().write_all(token.jwt.as_bytes()).unwrap();
    assert!(piped.wait_with_output().unwrap().status.success());
    std::fs::write(at("no.jwt"), "a.b").unwrap();
    assert_eq!(keyferry(&["token", "inspect", "--token", text(&at("no.jwt"))]).status.code(), Some(2));
}

#[test]
fn a_next_key_is_published_once_and_a_callers_key_printed_once() {
    let home = tempfile::tempdir().unwrap();
    let keys = home.path().join("keys");
    let rotate = || keyferry(&["token", "rotate-key", "--directory", text(&keys), "--ahead-seconds", "600"]);
    assert_eq!(rotate().status.code(), Some(1), "nothing is there");
    let directory = KeyDirectory::new(&keys, None);
    directory.make(Algorithm::Es256, None, clock::now() - 10).unwrap();
    let rotated = rotate();
    assert!(rotated.status.success(), "{}", String::from_utf8_lossy(&rotated.stderr));
    let rotated: Value = serde_json::from_slice(&rotated.stdout).unwrap();
    let held = directory.read(Algorithm::Es256).unwrap().keys;
    assert_eq!((held.len(), held[1].key.kid()), (2, rotated["kid"].as_str().unwrap()));
    assert_eq!(rotate().status.code(), Some(1), "the one before does not sign yet");

    let file = home.path().join("api-keys");
    let create = |name: &str| keyferry(&["api-key", "create", "--name", name, "--file", text(&file)]);
    let created = create("fleet");
    let key = String::from_utf8(created.stdout).unwrap();
    let known = ApiKeys::parse(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(known.name_of(key.trim().as_bytes()), Some("fleet"));
    assert_eq!(create("fleet").status.code(), Some(2));
    assert_eq!(create("a b").status.code(), Some(2));
}
