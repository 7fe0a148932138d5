//! Which documents are policies, and what lint says of them.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod verified;

use keyferry_key_transfer_policy::{AttestationType, DOCUMENT_BYTES_MAX, Finding, Policy, PolicyError};
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
    malformed(r#"{"attestation_type":"TDX","tdx":{"attributes":{"seamsvn":"3"}}}"#);
    malformed(r#"{"attestation_type":"TDX","tdx":{"attributes":{"seamsvn":65536}}}"#);
    malformed(r#"{"attestation_type":"TDX","tdx":{"attributes":{"enforce_tcb_upto_date":"true"}}}"#);
    malformed(r#"{"attestation_type":"TDX","tdx":{"attributes":{"allow":["debug"]}}}"#);
    malformed(r#"{"attestation_type":"TDX","tdx":{"policy_ids":["1"]}}"#);
    malformed("");
    malformed("[]");
    for (kind, object) in [("TDX", "tdx"), ("SGX", "sgx")] {
        let without = format!(r#"{{"attestation_type":"{kind}"}}"#);
        assert_eq!(Policy::parse(&without), Err(PolicyError::ObjectMissing { object }), "where Intel's server ends in a panic");
        let other = if object == "tdx" { "sgx" } else { "tdx" };
        assert!(Policy::parse(&format!(r#"{{"attestation_type":"{kind}","{other}":{{}}}}"#)).is_err());
    }
    let spaces = " ".repeat(DOCUMENT_BYTES_MAX + 1);
    assert_eq!(Policy::parse(&spaces), Err(PolicyError::TooLarge { bytes: DOCUMENT_BYTES_MAX + 1 }));
}

#[test]
fn the_attestation_type_is_one_alone_or_in_a_list() {
    for (word, kind) in [(r#""TDX""#, AttestationType::Tdx), (r#"["TDX"]"#, AttestationType::Tdx), (r#"["SGX"]"#, AttestationType::Sgx)] {
        let policy = Policy::parse(&format!(r#"{{"attestation_type":{word},"tdx":{{}},"sgx":{{}}}}"#)).unwrap();
        assert_eq!(policy.attestation_type(), kind);
    }
    for word in [r#""tdx""#, r#""NVGPU""#, "[]", r#"["TDX","SGX"]"#, r#"["TDX","NVGPU"]"#, r#"["TDX","TDX"]"#] {
        let refused = Policy::parse(&format!(r#"{{"attestation_type":{word},"tdx":{{}},"sgx":{{}}}}"#));
        assert!(matches!(refused, Err(PolicyError::AttestationType { .. })), "{word}");
    }
    assert!(matches!(Policy::parse(r#"{"attestation_type":1,"tdx":{}}"#), Err(PolicyError::Malformed { .. })));
}

#[test]
fn an_enclaves_document_is_as_strict() {
    let parse = |attributes: &Value| Policy::parse(&json!({ "attestation_type": "SGX", "sgx": { "attributes": attributes } }).to_string());
    assert!(
        parse(&json!({ "mrsigner": [format!(" {} ", "A1".repeat(32))], "isvprodid": [1, 2], "isvsvn": 0 })).is_ok(),
        "Intel takes blanks"
    );
    for (member, entry) in [("mrsigner", "aa".repeat(48)), ("mrenclave", "zz".repeat(32)), ("mrenclave", String::new())] {
        assert!(matches!(parse(&json!({ member: [entry] })), Err(PolicyError::Hex { digits: 64, .. })), "{member}");
    }
    for bad in [
        json!({ "mrtd": ["aa".repeat(48)] }),
        json!({ "isvprodid": 1 }),
        json!({ "isvprodid": [65536] }),
        json!({ "isvsvn": "3" }),
        json!({ "allow": ["migratable"] }),
        json!({ "debug": true }),
    ] {
        assert!(matches!(parse(&bad), Err(PolicyError::Malformed { .. })), "{bad}");
    }
}

#[test]
fn members_beyond_intels_are_checked() {
    let hex = "00".repeat(16);
    for good in [
        json!({ "seamsvn_min": 3, "tee_tcb_svn_min": hex, "pce_svn_min": 1, "tcb_evaluation_data_number_min": 17 }),
        json!({ "tcb_date_min": "2025-05-14" }),
        json!({ "tcb_date_min": "2025-05-14T12:00:00Z", "tcb_statuses": "UpToDate" }),
        json!({ "rtmr1": ["aa".repeat(48), "bb".repeat(48)], "mrconfigid": "aa".repeat(48), "mrowner": ["AA".repeat(48)] }),
        json!({ "td_attributes": "0000001000000000", "xfam": { "mask": "0300000000000000", "value": "0300000000000000" } }),
        json!({ "advisory_ids_allowed": [], "advisory_ids_refused": ["INTEL-SA-00837"] }),
    ] {
        assert!(parse(&good).is_ok(), "{good}: {:?}", parse(&good));
    }
    for (bad, wanted) in [
        (json!({ "tee_tcb_svn_min": "00" }), PolicyError::Hex { member: "tdx.attributes.tee_tcb_svn_min", digits: 32 }),
        (json!({ "rtmr1": ["", "aa"] }), PolicyError::Hex { member: "tdx.attributes.rtmr1", digits: 96 }),
        (json!({ "mrconfigid": "" }), PolicyError::Hex { member: "tdx.attributes.mrconfigid", digits: 96 }),
        (json!({ "tcb_date_min": "2025-13-14" }), PolicyError::Time { member: "attributes.tcb_date_min" }),
        (json!({ "tcb_date_min": "2025-05-14T00:00:00+02:00" }), PolicyError::Time { member: "attributes.tcb_date_min" }),
        (json!({ "tcb_date_min": "" }), PolicyError::Time { member: "attributes.tcb_date_min" }),
        (json!({ "tcb_statuses": [] }), PolicyError::TcbStatus),
        (json!({ "tcb_statuses": ["UpToDate", "Revoked"] }), PolicyError::TcbStatus),
        (json!({ "td_attributes": "00" }), PolicyError::Hex { member: "tdx.attributes.td_attributes", digits: 16 }),
        (
            json!({ "xfam": { "mask": "0100000000000000", "value": "0200000000000000" } }),
            PolicyError::Mask { member: "tdx.attributes.xfam" },
        ),
        (json!({ "advisory_ids_refused": ["00837"] }), PolicyError::Advisory { member: "attributes.advisory_ids_refused" }),
    ] {
        assert_eq!(parse(&bad), Err(wanted), "{bad}");
    }
    for bad in [json!({ "seamsvn_min": -1 }), json!({ "xfam": { "mask": "0000000000000000" } }), json!({ "advisory_ids_allowed": "x" })] {
        assert!(matches!(parse(&bad), Err(PolicyError::Malformed { .. })), "{bad}");
    }
}

#[test]
fn measurements_are_96_hex_digits() {
    for bad in ["", "aa", &"aa".repeat(47), &"aa".repeat(49), &"zz".repeat(48), &format!(" {}", "aa".repeat(48))] {
        for member in ["mrtd", "mrseam", "mrsignerseam"] {
            assert!(matches!(parse(&json!({ member: ["aa".repeat(48), bad] })), Err(PolicyError::Hex { .. })), "{member} {bad}");
        }
        if !bad.is_empty() {
            assert!(matches!(parse(&json!({ "rtmr2": bad })), Err(PolicyError::Hex { member: "tdx.attributes.rtmr2", .. })));
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
    assert_eq!(Policy::parse(ids).unwrap().lint(), [Finding::TcbNotEnforced, Finding::OtherObjectIgnored]);
    let minima = json!({ "mrtd": mr_td, "rtmr1": rtmr, "enforce_tcb_upto_date": true, "seamsvn_min": 3 });
    assert_eq!(lint(minima), [], "a minimum does not age");
    let excluded = json!({ "mrtd": mr_td, "rtmr1": rtmr, "enforce_tcb_upto_date": true, "seamsvn": 3, "seamsvn_min": 4 });
    assert_eq!(lint(excluded), [Finding::NeverMatches, Finding::SeamSvnPinned]);
    let no_status = json!({ "mrtd": mr_td, "rtmr1": rtmr, "enforce_tcb_upto_date": true, "tcb_statuses": ["OutOfDate"] });
    assert_eq!(lint(no_status), [Finding::NeverMatches]);
    let current = json!({ "mrtd": mr_td, "rtmr1": rtmr, "tcb_statuses": "UpToDate" });
    assert_eq!(lint(current), [], "the set enforces it too");
    let rule = |allow: &str| format!("package keyferry\nallow if {allow}");
    assert_eq!(lint(json!({ "rego": rule("input.token.tdx_seamsvn > 2"), "enforce_tcb_upto_date": true })), [Finding::OnlyRulePins]);
    let pinned = json!({ "rego": rule("true"), "mrtd": mr_td, "rtmr1": rtmr, "enforce_tcb_upto_date": true });
    assert_eq!(lint(pinned), [Finding::RuleDemandsNothing]);
    assert!(Finding::OnlyMrTdPinned.to_string().contains("kernel"));
}

#[test]
fn lint_knows_enclaves_too() {
    let lint = |attributes: Value| {
        Policy::parse(&json!({ "attestation_type": "SGX", "sgx": { "attributes": attributes } }).to_string()).unwrap().lint()
    };
    let (signer, enclave) = (["a1".repeat(32)], ["e2".repeat(32)]);
    assert_eq!(lint(json!({})), [Finding::NothingPinned, Finding::TcbNotEnforced]);
    assert_eq!(lint(json!({ "mrenclave": enclave, "enforce_tcb_upto_date": true })), []);
    let by_signer = lint(json!({ "mrsigner": signer, "enforce_tcb_upto_date": true }));
    assert_eq!(by_signer, [Finding::AnyProductOfSigner, Finding::AnyVersionOfSigner]);
    assert_eq!(lint(json!({ "mrsigner": signer, "isvprodid": [7], "isvsvn_min": 3, "enforce_tcb_upto_date": true })), []);
    let equal = lint(json!({ "mrsigner": signer, "isvprodid": [7], "isvsvn": 3, "enforce_tcb_upto_date": true }));
    assert_eq!(equal, [Finding::IsvSvnPinned]);
}

proptest! {
    #[test]
    fn arbitrary_text_is_refused_not_feared(text in "\\PC{0,200}") {
        prop_assert!(Policy::parse(&text).is_err());
    }
}
