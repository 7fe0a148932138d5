//! SGX policies: one mismatch per attribute, what never matches, and whose token it must be.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod verified;

use keyferry_identifiers::KeyId;
use keyferry_key_transfer_policy::{Comparison, Policy, PolicyDenial, evaluate};
use serde_json::{Value, json};
use verified::{SIMULATOR, claims, enclave, signed, token};

fn policy(attributes: &Value) -> Policy {
    Policy::parse(&json!({ "attestation_type": "SGX", "sgx": { "attributes": attributes } }).to_string()).unwrap()
}

fn failed(policy: &Policy, payload: &Value) -> Vec<(&'static str, String, String)> {
    let told = |comparison: &Comparison| (comparison.claim, comparison.wanted.clone(), comparison.got.clone());
    match evaluate(policy, signed(payload), KeyId::random()) {
        Ok(_) => Vec::new(),
        Err(denial) => denial.comparisons().iter().filter(|comparison| !comparison.matched).map(told).collect(),
    }
}

fn full() -> Value {
    json!({
        "mrsigner": ["00".repeat(32), "A1".repeat(32)], "mrenclave": ["e2".repeat(32)], "isvprodid": [1, 7], "isvsvn": 3, "isvsvn_min": 2,
        "enforce_tcb_upto_date": true, "tcb_date_min": "2025-05-14", "pce_svn_min": 13, "advisory_ids_allowed": [],
        "rego": "package keyferry\nallow if input.token.sgx_isvsvn >= 3"
    })
}

#[test]
fn an_enclave_that_meets_every_condition_is_permitted() {
    let nested = {
        let mut inner = enclave();
        let anchor = inner.as_object_mut().unwrap().remove("keyferry.trust_anchor").unwrap();
        json!({ "sgx": inner, "keyferry.trust_anchor": anchor })
    };
    for payload in [enclave(), nested] {
        let permitted = evaluate(&policy(&full()), signed(&payload), KeyId::random()).unwrap();
        assert_eq!(permitted.comparisons().len(), 13);
        assert_eq!(permitted.token().claims().attester_type, "SGX");
    }
}

#[test]
fn each_attribute_alone_refuses_with_wanted_and_got() {
    let other = "99".repeat(32);
    for (member, value, wanted) in [
        ("mrsigner", json!([other]), ("sgx_mrsigner", other.clone(), "a1".repeat(32))),
        ("mrenclave", json!([other]), ("sgx_mrenclave", other.clone(), "e2".repeat(32))),
        ("isvprodid", json!([1, 2]), ("sgx_isvprodid", "1 | 2".to_owned(), "7".to_owned())),
        ("isvsvn", json!(4), ("sgx_isvsvn", "4".to_owned(), "3".to_owned())),
        ("isvsvn", json!(2), ("sgx_isvsvn", "2".to_owned(), "3".to_owned())),
        ("isvsvn_min", json!(4), ("sgx_isvsvn", ">= 4".to_owned(), "3".to_owned())),
        ("pce_svn_min", json!(14), ("pce_svn", ">= 14".to_owned(), "13".to_owned())),
    ] {
        let mut attributes = full();
        attributes.as_object_mut().unwrap().remove("rego");
        attributes[member] = value;
        assert_eq!(failed(&policy(&attributes), &enclave()), [wanted]);
    }
}

#[test]
fn a_debug_enclave_is_refused_by_the_empty_policy_and_so_is_silence() {
    for (claim, value) in [("sgx_is_debuggable", json!(true)), ("dbgstat", json!("enabled"))] {
        let mut payload = enclave();
        payload[claim] = value;
        assert_eq!(failed(&policy(&json!({})), &payload), [("dbgstat", "disabled".to_owned(), "enabled".to_owned())]);
    }
    let mut silent = enclave();
    silent.as_object_mut().unwrap().retain(|claim, _| claim != "dbgstat" && claim != "sgx_is_debuggable");
    assert_eq!(failed(&policy(&json!({})), &silent)[0].2, "(absent)");
    assert!(
        Policy::parse(r#"{"attestation_type":"SGX","sgx":{"attributes":{"allow":["debug"]}}}"#).is_err(),
        "there is no consent to that"
    );
}

#[test]
fn a_token_without_the_claims_is_refused_and_nothing_panics() {
    let bare = json!({ "attester_type": "SGX", "attester_tcb_status": "UpToDate", "dbgstat": "disabled", "keyferry.trust_anchor": "intel-sgx-root" });
    assert_eq!(failed(&policy(&json!({})), &bare), []);
    let claims: Vec<_> = failed(&policy(&full()), &bare).into_iter().map(|(claim, _, got)| (claim, got)).collect();
    let absent = |claim| (claim, "(absent)".to_owned());
    let rule = ("rego", "(not evaluated: another condition does not hold)".to_owned());
    let wanted = ["sgx_mrsigner", "sgx_mrenclave", "sgx_isvprodid", "sgx_isvsvn", "sgx_isvsvn", "attester_tcb_date", "pce_svn"].map(absent);
    assert_eq!(claims, [&wanted[..], &[rule]].concat());
}

#[test]
fn a_policy_of_one_type_refuses_the_other_ones_tokens() {
    let tdx = Policy::parse(r#"{"attestation_type":"TDX","tdx":{"attributes":{"allow":["migratable","no-sept-ve-disable"]}}}"#).unwrap();
    assert_eq!(failed(&tdx, &enclave()), [("attester_type", "TDX".to_owned(), "SGX".to_owned())]);
    let denial = evaluate(&policy(&json!({})), token(&claims()), KeyId::random()).unwrap_err();
    let wrong = denial.comparisons().iter().find(|comparison| !comparison.matched).unwrap();
    assert_eq!((wrong.claim, wrong.wanted.as_str(), wrong.got.as_str()), ("attester_type", "SGX", "TDX"));
    // Both objects in one token: it is the enclave's.
    let both = json!({ "sgx": {}, "tdx": { "dbgstat": "disabled", "attester_tcb_status": "UpToDate" }, "keyferry.trust_anchor": "intel-sgx-root" });
    assert!(failed(&tdx, &both).iter().any(|(claim, ..)| *claim == "attester_type"));
}

#[test]
fn a_simulated_enclave_needs_consent_and_policy_ids_stand_beside_the_attributes() {
    let mut simulated = enclave();
    simulated["keyferry.trust_anchor"] = json!(SIMULATOR);
    let refused = evaluate(&policy(&json!({})), signed(&simulated), KeyId::random());
    assert!(matches!(refused, Err(PolicyDenial::TrustAnchor { .. })));
    assert_eq!(failed(&policy(&json!({ "trust_anchor": SIMULATOR })), &simulated), []);

    let id = "5f1c7a52-3c0e-4f0b-9f43-5d1d2a6f7b10";
    let with = |attributes: Value| {
        Policy::parse(&json!({ "attestation_type": "SGX", "sgx": { "attributes": attributes, "policy_ids": [id] } }).to_string()).unwrap()
    };
    let mut matching = enclave();
    matching["policy_ids_matched"] = json!([{ "id": id, "version": "v1" }]);
    assert_eq!(failed(&with(json!({})), &matching), []);
    assert_eq!(failed(&with(json!({ "isvsvn": 9 })), &matching).len(), 1, "an id does not stand in for an attribute");
    assert_eq!(failed(&with(json!({})), &enclave())[0].2, "(absent)", "Intel's server panics here");
}
