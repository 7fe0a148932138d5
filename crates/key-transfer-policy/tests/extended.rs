//! The members beyond Intel's: each permits at its bound, refuses one step beyond it, and refuses an absent claim.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod verified;

use keyferry_attestation_token::TdxClaims;
use keyferry_identifiers::KeyId;
use keyferry_key_transfer_policy::{Policy, evaluate, explain, explain_for};
use serde_json::{Value, json};
use verified::{INTEL, claims, signed, token};

fn policy(attributes: &Value) -> Policy {
    Policy::parse(&json!({ "attestation_type": "TDX", "tdx": { "attributes": attributes } }).to_string()).unwrap()
}

/// The claims that fail, with wanted and got.
fn failed(attributes: &Value, claims: &TdxClaims) -> Vec<(&'static str, String, String)> {
    let comparisons = explain(&policy(attributes), &token(claims));
    let failed: Vec<_> = comparisons.into_iter().filter(|comparison| !comparison.matched).map(|c| (c.claim, c.wanted, c.got)).collect();
    assert_eq!(evaluate(&policy(attributes), token(claims), KeyId::random()).is_ok(), failed.is_empty(), "the decision agrees");
    failed
}

#[test]
fn a_minimum_permits_its_bound_and_more_and_refuses_less() {
    for (member, bound, beyond, claim) in [
        ("seamsvn_min", json!(259), json!(260), "tdx_seamsvn"),
        ("pce_svn_min", json!(13), json!(14), "pce_svn"),
        ("tcb_evaluation_data_number_min", json!(19), json!(20), "tdx_collateral.tcbevaluationdatanumber"),
        ("tcb_date_min", json!("2025-05-14"), json!("2025-05-14T00:00:01Z"), "attester_tcb_date"),
        ("tee_tcb_svn_min", json!("03010400000000000000000000000000"), json!("03010500000000000000000000000000"), "tdx_tee_tcb_svn"),
    ] {
        assert_eq!(failed(&json!({ member: bound }), &claims()), [], "{member}");
        assert_eq!(failed(&json!({ member: beyond }), &claims())[0].0, claim, "{member}");
    }
    assert_eq!(failed(&json!({ "seamsvn_min": 3 }), &claims()), [], "numbers are compared as numbers");
    let wanted = ("tdx_seamsvn", ">= 300".to_owned(), "259".to_owned());
    assert_eq!(failed(&json!({ "seamsvn_min": 300 }), &claims()), [wanted]);
}

/// One component that is newer does not make up for one that is older.
#[test]
fn each_component_of_the_tee_tcb_svn_counts() {
    let older = failed(&json!({ "tee_tcb_svn_min": "04000000000000000000000000000000" }), &claims());
    assert_eq!(older[0].0, "tdx_tee_tcb_svn");
    let mut newer = claims();
    newer.measurements.tee_tcb_svn[0] = 200;
    assert!(!failed(&json!({ "tee_tcb_svn_min": "03020400000000000000000000000000" }), &newer).is_empty());
}

#[test]
fn a_set_of_tcb_statuses_never_admits_what_enforcement_or_the_base_refuses() {
    for (status, set, enforced, permitted) in [
        ("UpToDate", json!(["UpToDate", "SWHardeningNeeded"]), false, true),
        ("OK", json!("UpToDate"), false, true),
        ("SWHardeningNeeded", json!(["UpToDate", "SWHardeningNeeded"]), false, true),
        ("SWHardeningNeeded", json!(["UpToDate", "SWHardeningNeeded"]), true, false),
        ("OutOfDate", json!(["UpToDate", "SWHardeningNeeded"]), false, false),
        ("UpToDate", json!(["OutOfDate"]), false, false),
        ("Revoked", json!(["OutOfDate"]), false, false),
    ] {
        let claims = TdxClaims { tcb_status: status.to_owned(), ..claims() };
        let attributes = json!({ "tcb_statuses": set, "enforce_tcb_upto_date": enforced });
        assert_eq!(failed(&attributes, &claims).is_empty(), permitted, "{status} {attributes}");
    }
}

#[test]
fn a_measurement_may_be_one_of_several() {
    for (member, byte, claim) in [
        ("rtmr0", "d0", "tdx_rtmr0"),
        ("rtmr3", "d3", "tdx_rtmr3"),
        ("mrconfigid", "00", "tdx_mrconfigid"),
        ("mrowner", "00", "tdx_mrowner"),
        ("mrownerconfig", "00", "tdx_mrownerconfig"),
    ] {
        let list = |bytes: [&str; 2]| json!({ member: bytes.map(|byte| byte.repeat(48)) });
        assert_eq!(failed(&list(["99", byte]), &claims()), [], "{member}");
        assert_eq!(failed(&json!({ member: byte.to_uppercase().repeat(48) }), &claims()), [], "{member}");
        assert_eq!(failed(&list(["99", "98"]), &claims())[0].0, claim);
    }
}

#[test]
fn bits_are_compared_exactly_or_under_a_mask() {
    let mut with = claims();
    with.measurements.xfam = [0xe7, 0x02, 0x06, 0, 0, 0, 0, 0];
    let xfam = |bits: Value| json!({ "xfam": bits });
    assert_eq!(failed(&xfam(json!("E702060000000000")), &with), []);
    assert_eq!(failed(&xfam(json!("e702040000000000")), &with)[0].0, "tdx_xfam");
    assert_eq!(failed(&xfam(json!({ "mask": "0300000000000000", "value": "0300000000000000" })), &with), []);
    let wanted = ("tdx_xfam", "0000000000000000 in the bits of 0002000000000000".to_owned(), "e702060000000000".to_owned());
    assert_eq!(failed(&xfam(json!({ "mask": "0002000000000000", "value": "0000000000000000" })), &with), [wanted]);
    let exact = json!({ "td_attributes": "0000001000000000" });
    assert_eq!(failed(&exact, &with), []);
    with.measurements.td_attributes[7] = 0x80;
    assert_eq!(failed(&exact, &with)[0].0, "tdx_td_attributes");
    assert_eq!(failed(&json!({ "td_attributes": { "mask": "0000001000000000", "value": "0000001000000000" } }), &with), []);
}

#[test]
fn advisories_are_allowed_or_refused_by_name() {
    let advised = |ids: &[&str]| TdxClaims { advisory_ids: ids.iter().map(ToString::to_string).collect(), ..claims() };
    let (one, both) = (advised(&["INTEL-SA-00837"]), advised(&["INTEL-SA-00837", "INTEL-SA-01103"]));
    let allowed = json!({ "advisory_ids_allowed": ["INTEL-SA-00837"] });
    assert!(failed(&allowed, &claims()).is_empty() && failed(&allowed, &one).is_empty());
    let got = failed(&allowed, &both);
    assert_eq!(got[0].2, "INTEL-SA-00837 & INTEL-SA-01103");
    assert_eq!(failed(&json!({ "advisory_ids_allowed": [] }), &one)[0].1, "(none)", "an empty list allows none");
    assert!(failed(&json!({ "advisory_ids_allowed": [] }), &claims()).is_empty());
    let refused = json!({ "advisory_ids_refused": ["INTEL-SA-01103"] });
    assert!(failed(&refused, &one).is_empty());
    assert_eq!(failed(&refused, &both)[0].1, "none of INTEL-SA-01103");
}

#[test]
fn an_absent_claim_passes_no_condition() {
    let bare = json!({ "tdx": { "dbgstat": "disabled", "attester_tcb_status": "UpToDate" }, "keyferry.trust_anchor": INTEL });
    let allow = json!(["migratable", "no-sept-ve-disable"]);
    assert!(evaluate(&policy(&json!({ "allow": allow })), signed(&bare), KeyId::random()).is_ok());
    for (member, value) in [
        ("seamsvn_min", json!(0)),
        ("tee_tcb_svn_min", json!("00".repeat(16))),
        ("pce_svn_min", json!(0)),
        ("tcb_evaluation_data_number_min", json!(0)),
        ("tcb_date_min", json!("0000-01-01")),
        ("xfam", json!({ "mask": "0000000000000000", "value": "0000000000000000" })),
        ("mrconfigid", json!("00".repeat(48))),
        ("rtmr0", json!(["00".repeat(48)])),
    ] {
        let refused = evaluate(&policy(&json!({ "allow": allow, member: value })), signed(&bare), KeyId::random()).unwrap_err();
        assert_eq!(refused.comparisons().iter().find(|comparison| !comparison.matched).unwrap().got, "(absent)", "{member}");
    }
}

#[test]
fn a_date_that_is_none_is_not_late() {
    for date in ["9", "9999", "9999-99-99", "2025-05-14 00:00:00", "2025-05-14T00:00:00+00:00", "zzzz-05-14"] {
        let claims = TdxClaims { tcb_date: date.to_owned(), ..claims() };
        assert_eq!(failed(&json!({ "tcb_date_min": "2000-01-01" }), &claims)[0].0, "attester_tcb_date", "{date}");
    }
}

#[test]
fn a_rule_can_tell_keys_apart() {
    let key = KeyId::random();
    let policy = policy(&json!({ "rego": format!("package keyferry\nallow if input.key_id == \"{key}\"") }));
    assert!(evaluate(&policy, token(&claims()), key).is_ok());
    assert!(evaluate(&policy, token(&claims()), KeyId::random()).is_err());
    assert!(explain_for(&policy, &token(&claims()), key).iter().all(|comparison| comparison.matched));
    assert!(!explain(&policy, &token(&claims())).last().unwrap().matched, "no key, no permission");
}
