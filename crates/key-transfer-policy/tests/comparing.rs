//! `diff`: which conditions of a new version permit more; and policy unit tests from a file.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use keyferry_key_transfer_policy::{CASES_BYTES_MAX, Case, CasesError, Change, Effect, Policy, diff};
use serde_json::{Value, json};

fn tdx(attributes: &Value) -> Policy {
    Policy::parse(&json!({ "attestation_type": "TDX", "tdx": { "attributes": attributes } }).to_string()).unwrap()
}

fn effects(old: &Value, new: &Value) -> Vec<(&'static str, Effect)> {
    diff(&tdx(old), &tdx(new)).iter().map(|change| (change.claim, change.effect)).collect()
}

#[test]
fn a_change_weakens_tightens_or_differs() {
    let (a, b, c) = ("aa".repeat(48), "bb".repeat(48), "cc".repeat(48));
    for (narrow, wide, claim) in [
        (json!({ "mrtd": [a] }), json!({ "mrtd": [a, b] }), "tdx_mrtd"),
        (json!({ "rtmr1": [a] }), json!({}), "tdx_rtmr1"),
        (json!({ "seamsvn_min": 4 }), json!({ "seamsvn_min": 3 }), "tdx_seamsvn"),
        (json!({ "tee_tcb_svn_min": "02".repeat(16) }), json!({ "tee_tcb_svn_min": "01".repeat(16) }), "tdx_tee_tcb_svn"),
        (json!({ "tcb_date_min": "2025-05-14" }), json!({ "tcb_date_min": "2025-05-13T23:59:59Z" }), "attester_tcb_date"),
        (json!({ "enforce_tcb_upto_date": true }), json!({ "enforce_tcb_upto_date": false }), "attester_tcb_status"),
        (json!({ "tcb_statuses": ["UpToDate"] }), json!({ "tcb_statuses": ["UpToDate", "OutOfDate"] }), "attester_tcb_status"),
        (json!({}), json!({ "allow": ["migratable"] }), "tdx_td_attributes_migratable"),
        (json!({}), json!({ "trust_anchor": ["intel-sgx-root", format!("simulator:{}", "a".repeat(64))] }), "keyferry.trust_anchor"),
        (json!({ "xfam": "0300000000000000" }), json!({ "xfam": { "mask": "0100000000000000", "value": "0100000000000000" } }), "tdx_xfam"),
        (json!({ "advisory_ids_allowed": [] }), json!({ "advisory_ids_allowed": ["INTEL-SA-00837"] }), "attester_advisory_ids"),
        (
            json!({ "advisory_ids_refused": ["INTEL-SA-00837", "INTEL-SA-01103"] }),
            json!({ "advisory_ids_refused": ["INTEL-SA-00837"] }),
            "attester_advisory_ids",
        ),
        (json!({ "rego": "package keyferry\nallow := false" }), json!({}), "rego"),
    ] {
        assert_eq!(effects(&narrow, &wide), [(claim, Effect::Weakens)], "{narrow} {wide}");
        assert_eq!(effects(&wide, &narrow), [(claim, Effect::Tightens)], "{wide} {narrow}");
        assert_eq!(effects(&narrow, &narrow), []);
    }
    assert_eq!(effects(&json!({ "mrtd": [a, b] }), &json!({ "mrtd": [a, c] })), [("tdx_mrtd", Effect::Differs)]);
    assert_eq!(effects(&json!({ "mrtd": [a, b] }), &json!({ "mrtd": [b.to_uppercase(), a] })), [], "order and case mean nothing");
    let (one, other) = (json!({ "rego": "package keyferry\nallow := true" }), json!({ "rego": "package keyferry\nallow := false" }));
    assert_eq!(effects(&one, &other), [("rego", Effect::Differs)]);
    // Another kind of test on the same claim: what went and what came, each for itself.
    let kinds = effects(&json!({ "seamsvn": 3 }), &json!({ "seamsvn_min": 3 }));
    assert_eq!(kinds, [("tdx_seamsvn", Effect::Weakens), ("tdx_seamsvn", Effect::Tightens)]);
}

#[test]
fn a_change_says_wanted_before_and_after() {
    let changes = diff(&tdx(&json!({ "seamsvn_min": 4 })), &tdx(&json!({ "pce_svn_min": 1 })));
    let wanted = |claim, old: Option<&str>, new: Option<&str>, effect| Change {
        claim,
        old: old.map(str::to_owned),
        new: new.map(str::to_owned),
        effect,
    };
    assert_eq!(
        changes,
        [wanted("tdx_seamsvn", Some(">= 4"), None, Effect::Weakens), wanted("pce_svn", None, Some(">= 1"), Effect::Tightens)]
    );
    let sgx = Policy::parse(r#"{"attestation_type":"SGX","sgx":{}}"#).unwrap();
    let other_type = diff(&tdx(&json!({})), &sgx);
    assert_eq!((other_type[0].claim, other_type[0].effect), ("attester_type", Effect::Differs));
}

fn cases(cases: &Value) -> Result<Vec<Case>, CasesError> {
    Case::parse_all(&cases.to_string())
}

fn file() -> Value {
    json!({
        "base": { "tdx": { "dbgstat": "disabled", "attester_tcb_status": "UpToDate", "tdx_td_attributes": "0000001000000000", "tdx_mrtd": "aa".repeat(48), "tdx_seamsvn": 259 } },
        "cases": [
            { "name": "as built", "expect": "permitted" },
            { "name": "another firmware", "claims": { "tdx": { "tdx_mrtd": "bb".repeat(48) } }, "expect": { "denied": ["tdx_mrtd"] } },
            { "name": "no module version", "claims": { "tdx": { "tdx_seamsvn": null } }, "expect": { "denied": ["tdx_seamsvn"] } },
            { "name": "a simulator", "claims": { "keyferry.trust_anchor": format!("simulator:{}", "a".repeat(64)) }, "expect": { "denied": ["keyferry.trust_anchor"] } },
            { "name": "configured anchor", "trust_anchor": format!("simulator:{}", "a".repeat(64)), "expect": "denied" },
            { "name": "flat", "claims": { "tdx": null, "attester_type": "TDX", "tdx_mrtd": "aa".repeat(48) }, "expect": "denied" }
        ]
    })
}

#[test]
fn cases_are_run_and_a_wrong_expectation_fails() {
    let policy = tdx(&json!({ "mrtd": ["aa".repeat(48)], "seamsvn_min": 3 }));
    let outcomes: Vec<_> = cases(&file()).unwrap().iter().map(|case| case.run(&policy)).collect();
    assert!(outcomes.iter().all(|outcome| outcome.passed), "{outcomes:#?}");
    assert_eq!(outcomes[1].comparisons.iter().find(|comparison| !comparison.matched).unwrap().got, "bb".repeat(48));
    // The same cases find a policy that was weakened, and one that was tightened.
    let passes = |policy: &Policy| cases(&file()).unwrap().iter().map(|case| case.run(policy).passed).collect::<Vec<_>>();
    assert_eq!(passes(&tdx(&json!({ "seamsvn_min": 3 }))), [true, false, true, true, true, true]);
    assert!(!passes(&tdx(&json!({ "mrtd": ["aa".repeat(48)], "seamsvn_min": 260 })))[0]);
    let too_few = json!({ "cases": [{ "name": "x", "claims": { "tdx": {} }, "expect": { "denied": ["dbgstat"] } }] });
    assert!(!cases(&too_few).unwrap()[0].run(&policy).passed, "all claims that fail are named, or it is another refusal");
}

#[test]
fn a_rule_is_tested_like_any_condition() {
    let policy = tdx(
        &json!({ "rego": "package keyferry\nallow if { input.token.tdx_seamsvn == 259; input.key_id == \"0a4be3b5-6d0b-4b7e-8f3a-55d1a2b0c9e4\" }" }),
    );
    let mut file = file();
    file["cases"] = json!([
        { "name": "this key", "key_id": "0a4be3b5-6d0b-4b7e-8f3a-55d1a2b0c9e4", "expect": "permitted" },
        { "name": "no key", "expect": { "denied": ["rego"] } },
        { "name": "debug", "claims": { "tdx": { "dbgstat": "enabled" } }, "expect": { "denied": ["dbgstat"] } }
    ]);
    assert!(cases(&file).unwrap().iter().all(|case| case.run(&policy).passed));
}

#[test]
fn what_is_no_file_of_cases_is_refused() {
    assert!(matches!(Case::parse_all(&" ".repeat(CASES_BYTES_MAX + 1)), Err(CasesError::TooLarge { .. })));
    assert!(matches!(cases(&json!({ "cases": [] })), Err(CasesError::Count { found: 0 })));
    for bad in [
        json!([]),
        json!({ "cases": [{ "name": "x" }] }),
        json!({ "cases": [{ "name": "x", "expect": "maybe" }] }),
        json!({ "cases": [{ "name": "x", "expect": { "denied": "tdx_mrtd" } }] }),
        json!({ "cases": [{ "name": "x", "expect": "denied", "claim": {} }] }),
    ] {
        assert!(matches!(cases(&bad), Err(CasesError::Malformed { .. })), "{bad}");
    }
    for bad in [
        json!({ "cases": [{ "name": "x", "expect": "denied" }] }),
        json!({ "cases": [{ "name": "x", "claims": { "tdx": {} }, "trust_anchor": "any", "expect": "denied" }] }),
        json!({ "cases": [{ "name": "x", "claims": { "tdx": {} }, "key_id": "1", "expect": "denied" }] }),
    ] {
        assert!(matches!(cases(&bad), Err(CasesError::Claims { .. })), "{bad}");
    }
}
