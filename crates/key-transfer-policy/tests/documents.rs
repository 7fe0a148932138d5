//! Which documents are policies, and what lint says of them.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod verified;

use keyferry_key_transfer_policy::{DOCUMENT_BYTES_MAX, Finding, Policy, PolicyError};
use proptest::prelude::*;
use serde_json::{Value, json};
use verified::{INTEL, SIMULATOR};

fn parse(attributes: &Value) -> Result<Policy, PolicyError> {
    Policy::parse(&json!({ "attestation_type": "TDX", "tdx": { "attributes": attributes } }).to_string())
}

#[test]
fn the_document_of_intels_sample_script_is_a_policy() {
    let policy = Policy::parse(r#"{"attestation_type":"TDX","tdx":{"attributes":{"enforce_tcb_upto_date":false}}}"#).unwrap();
    assert_eq!(policy.trust_anchors(), [INTEL]);
    assert!(Policy::parse(r#"{"id":"x","created_at":"y","attestation_type":"TDX","tdx":{}}"#).is_ok(), "replaced by the server");
}

#[test]
fn what_intel_refuses_or_crashes_on_is_refused_by_name() {
    let malformed = |text: &str| match Policy::parse(text) {
        Err(PolicyError::Malformed { cause }) => cause,
        other => panic!("{text}: {other:?}"),
    };
    assert!(malformed(r#"{"attestation_type":"TDX","tdx":{"attributes":{"mrtdd":[]}}}"#).contains("mrtdd"));
    assert!(malformed(r#"{"attestation_type":"TDX","tdx":{},"extra":1}"#).contains("extra"));
    assert!(malformed(r#"{"tdx":{}}"#).contains("attestation_type"));
    malformed(r#"{"attestation_type":["TDX"],"tdx":{}}"#);
    malformed(r#"{"attestation_type":"TDX","tdx":{"attributes":{"seamsvn":"3"}}}"#);
    malformed(r#"{"attestation_type":"TDX","tdx":{"attributes":{"seamsvn":65536}}}"#);
    malformed(r#"{"attestation_type":"TDX","tdx":{"attributes":{"enforce_tcb_upto_date":"true"}}}"#);
    malformed(r#"{"attestation_type":"TDX","tdx":{"attributes":{"allow":["debug"]}}}"#);
    malformed(r#"{"attestation_type":"TDX","tdx":{"policy_ids":["1"]}}"#);
    malformed("");
    malformed("[]");
    assert_eq!(Policy::parse(r#"{"attestation_type":"TDX"}"#), Err(PolicyError::TdxMissing));
    assert_eq!(Policy::parse(r#"{"attestation_type":"SGX","sgx":{}}"#), Err(PolicyError::AttestationType { found: "SGX".to_owned() }));
    let spaces = " ".repeat(DOCUMENT_BYTES_MAX + 1);
    assert_eq!(Policy::parse(&spaces), Err(PolicyError::TooLarge { bytes: DOCUMENT_BYTES_MAX + 1 }));
}

#[test]
fn measurements_are_96_hex_digits() {
    for bad in ["", "aa", &"aa".repeat(47), &"aa".repeat(49), &"zz".repeat(48), &format!(" {}", "aa".repeat(48))] {
        for member in ["mrtd", "mrseam", "mrsignerseam"] {
            assert!(matches!(parse(&json!({ member: ["aa".repeat(48), bad] })), Err(PolicyError::Hex { .. })), "{member} {bad}");
        }
        if !bad.is_empty() {
            assert!(matches!(parse(&json!({ "rtmr2": bad })), Err(PolicyError::Hex { member: "tdx.attributes.rtmr2" })));
        }
    }
    let many = vec!["aa".repeat(48); 257];
    assert_eq!(parse(&json!({ "mrtd": many })), Err(PolicyError::TooMany { member: "tdx.attributes.mrtd", entries: 257 }));
}

#[test]
fn a_trust_anchor_names_a_root() {
    assert_eq!(parse(&json!({ "trust_anchor": [INTEL, SIMULATOR] })).unwrap().trust_anchors(), [INTEL, SIMULATOR]);
    for bad in [json!([]), json!(""), json!("simulator"), json!("simulator:*"), json!(SIMULATOR.to_uppercase()), json!([INTEL, "any"])] {
        assert_eq!(parse(&json!({ "trust_anchor": bad })), Err(PolicyError::TrustAnchor), "{bad}");
    }
    assert!(matches!(parse(&json!({ "trust_anchor": 1 })), Err(PolicyError::Malformed { .. })));
}

#[test]
fn lint_says_what_is_weaker_than_it_looks() {
    let lint = |attributes: Value| parse(&attributes).unwrap().lint();
    let (mr_td, rtmr) = (["aa".repeat(48)], "d1".repeat(48));
    assert_eq!(lint(json!({})), [Finding::NothingPinned, Finding::TcbNotEnforced]);
    assert_eq!(lint(json!({ "mrtd": mr_td, "enforce_tcb_upto_date": true })), [Finding::OnlyMrTdPinned]);
    assert_eq!(lint(json!({ "rtmr1": rtmr, "enforce_tcb_upto_date": true })), [Finding::RtmrsWithoutMrTd]);
    assert_eq!(lint(json!({ "mrtd": mr_td, "rtmr1": rtmr, "enforce_tcb_upto_date": true })), []);
    let simulated = json!({ "mrtd": mr_td, "rtmr1": rtmr, "enforce_tcb_upto_date": true, "trust_anchor": SIMULATOR, "seamsvn": 3 });
    assert_eq!(lint(simulated), [Finding::SimulatorAccepted, Finding::SeamSvnPinned]);
    let weak = json!({ "mrtd": mr_td, "rtmr1": rtmr, "enforce_tcb_upto_date": true, "allow": ["migratable"] });
    assert_eq!(lint(weak), [Finding::WeakTdAllowed]);
    let ids = r#"{"attestation_type":"TDX","sgx":{},"tdx":{"policy_ids":["5f1c7a52-3c0e-4f0b-9f43-5d1d2a6f7b10"]}}"#;
    assert_eq!(Policy::parse(ids).unwrap().lint(), [Finding::TcbNotEnforced, Finding::SgxIgnored]);
    assert!(Finding::OnlyMrTdPinned.to_string().contains("kernel"));
}

proptest! {
    #[test]
    fn arbitrary_text_is_refused_not_feared(text in "\\PC{0,200}") {
        prop_assert!(Policy::parse(&text).is_err());
    }
}
