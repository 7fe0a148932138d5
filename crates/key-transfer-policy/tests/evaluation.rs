//! One mismatch per attribute, the trust anchor, what never matches, and: adding a condition never permits more.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod verified;

use keyferry_attestation_token::{MatchedPolicy, TdxClaims};
use keyferry_identifiers::KeyId;
use keyferry_key_transfer_policy::{Comparison, Effect, Policy, PolicyDenial, diff, evaluate, explain};
use proptest::prelude::*;
use serde_json::{Value, json};
use uuid::Uuid;
use verified::{INTEL, SIMULATOR, claims, token};

fn policy(attributes: &Value) -> Policy {
    Policy::parse(&json!({ "attestation_type": "TDX", "tdx": { "attributes": attributes } }).to_string()).unwrap()
}

fn decide(policy: &Policy, claims: &TdxClaims) -> Result<(), PolicyDenial> {
    evaluate(policy, token(claims), KeyId::random()).map(drop)
}

fn failed(denial: &PolicyDenial) -> Vec<Comparison> {
    denial.comparisons().iter().filter(|comparison| !comparison.matched).cloned().collect()
}

/// Every attribute of the document, with a value that the token has.
fn full() -> Value {
    json!({
        "mrsignerseam": ["cc".repeat(48)], "mrseam": ["bb".repeat(48)], "mrtd": ["00".repeat(48), "aa".repeat(48)], "seamsvn": 259,
        "rtmr0": "d0".repeat(48), "rtmr1": "d1".repeat(48), "rtmr2": "d2".repeat(48), "rtmr3": "d3".repeat(48),
        "enforce_tcb_upto_date": true, "trust_anchor": INTEL
    })
}

#[test]
fn a_td_that_meets_every_condition_is_permitted_this_key() {
    let key = KeyId::random();
    let permitted = evaluate(&policy(&full()), token(&claims()), key).unwrap();
    assert_eq!(permitted.key_id(), key);
    assert!(permitted.comparisons().iter().all(|comparison| comparison.matched));
    assert_eq!(permitted.comparisons().len(), 14);
    assert_eq!(permitted.token().held_data(), Some(&[1; 388][..]));
}

#[test]
fn each_attribute_alone_refuses_with_wanted_and_got() {
    let other = "99".repeat(48);
    for (member, value, claim, wanted, got) in [
        ("mrsignerseam", json!([other]), "tdx_mrsignerseam", other.clone(), "cc".repeat(48)),
        ("mrseam", json!([other]), "tdx_mrseam", other.clone(), "bb".repeat(48)),
        ("mrtd", json!([other, "88".repeat(48)]), "tdx_mrtd", format!("{other} | {}", "88".repeat(48)), "aa".repeat(48)),
        ("rtmr0", json!(other), "tdx_rtmr0", other.clone(), "d0".repeat(48)),
        ("rtmr1", json!(other), "tdx_rtmr1", other.clone(), "d1".repeat(48)),
        ("rtmr2", json!(other), "tdx_rtmr2", other.clone(), "d2".repeat(48)),
        ("rtmr3", json!(other), "tdx_rtmr3", other.clone(), "d3".repeat(48)),
        ("seamsvn", json!(258), "tdx_seamsvn", "258".to_owned(), "259".to_owned()),
        ("seamsvn", json!(3), "tdx_seamsvn", "3".to_owned(), "259".to_owned()),
    ] {
        let mut attributes = full();
        attributes[member] = value;
        let denial = decide(&policy(&attributes), &claims()).unwrap_err();
        assert_eq!(failed(&denial), [Comparison { claim, wanted, got, matched: false }]);
        assert!(matches!(denial, PolicyDenial::Mismatch { .. }));
        assert_eq!(denial.to_string(), format!("claims do not satisfy the policy: {claim}"), "names only");
    }
}

#[test]
fn an_enforced_tcb_takes_the_old_and_the_new_word_for_up_to_date() {
    for (status, enforced, not_enforced) in [
        ("UpToDate", true, true),
        ("OK", true, true),
        ("SWHardeningNeeded", false, true),
        ("OutOfDate", false, true),
        ("OutOfDateConfigurationNeeded", false, true),
        ("Revoked", false, false),
        ("Whatever", false, false),
        ("uptodate", false, false),
    ] {
        let claims = TdxClaims { tcb_status: status.to_owned(), ..claims() };
        assert_eq!(decide(&policy(&json!({ "enforce_tcb_upto_date": true })), &claims).is_ok(), enforced, "{status}");
        assert_eq!(decide(&policy(&json!({})), &claims).is_ok(), not_enforced, "{status}");
    }
}

#[test]
fn a_debuggable_td_is_refused_by_the_empty_policy_too() {
    let mut claims = claims();
    claims.measurements.td_attributes[0] = 1;
    let denial = decide(&policy(&json!({})), &claims).unwrap_err();
    let wanted = Comparison { claim: "dbgstat", wanted: "disabled".to_owned(), got: "enabled".to_owned(), matched: false };
    assert_eq!(failed(&denial), [wanted]);
}

#[test]
fn a_td_that_its_host_can_move_or_interrupt_needs_the_policys_consent() {
    let with = |attributes: [u8; 8]| {
        let mut claims = claims();
        claims.measurements.td_attributes = attributes;
        claims
    };
    let (migratable, no_sept_ve_disable) = (with([0, 0, 0, 0x30, 0, 0, 0, 0]), with([0; 8]));
    for (claims, claim, wanted, allow) in [
        (&migratable, "tdx_td_attributes_migratable", "false", "migratable"),
        (&no_sept_ve_disable, "tdx_td_attributes_septve_disable", "true", "no-sept-ve-disable"),
    ] {
        let denial = decide(&policy(&json!({})), claims).unwrap_err();
        let got = if wanted == "true" { "false" } else { "true" };
        let wanted = Comparison { claim, wanted: wanted.to_owned(), got: got.to_owned(), matched: false };
        assert_eq!(failed(&denial), [wanted]);
        assert!(decide(&policy(&json!({ "allow": [allow] })), claims).is_ok(), "{allow}");
    }
    assert!(decide(&policy(&json!({ "allow": ["migratable"] })), &no_sept_ve_disable).is_err(), "one is not the other");
    assert!(decide(&policy(&json!({ "allow": ["no-sept-ve-disable"] })), &migratable).is_err());
    assert!(decide(&policy(&json!({ "allow": ["migratable", "no-sept-ve-disable"] })), &claims()).is_ok(), "allowed, not demanded");
}

#[test]
fn a_simulator_needs_the_policys_consent() {
    let simulated = TdxClaims { trust_anchor: SIMULATOR.to_owned(), ..claims() };
    let other = format!("simulator:{}", "b".repeat(64));
    for (anchor, permitted) in [(json!(SIMULATOR), true), (json!([INTEL, SIMULATOR]), true), (json!(INTEL), false), (json!([other]), false)]
    {
        let decision = decide(&policy(&json!({ "trust_anchor": anchor })), &simulated);
        assert_eq!(decision.is_ok(), permitted, "{anchor}");
        if let Err(denial) = decision {
            assert!(matches!(denial, PolicyDenial::TrustAnchor { .. }), "{denial}");
        }
    }
    assert!(matches!(decide(&policy(&json!({})), &simulated), Err(PolicyDenial::TrustAnchor { .. })), "absent = Intel's root alone");
    assert!(matches!(decide(&policy(&json!({ "trust_anchor": SIMULATOR })), &claims()), Err(PolicyDenial::TrustAnchor { .. })));
}

#[test]
fn hex_compares_without_case() {
    assert!(decide(&policy(&json!({ "mrtd": ["AA".repeat(48)], "rtmr0": "D0".repeat(48) })), &claims()).is_ok());
}

#[test]
fn an_empty_list_and_an_empty_string_demand_nothing() {
    assert!(decide(&policy(&json!({ "mrtd": [], "mrseam": [], "rtmr3": "" })), &claims()).is_ok());
}

#[test]
fn policy_ids_are_a_condition_beside_the_attributes() {
    let id = Uuid::from_u128(1);
    let with = |ids: &[Uuid], attributes: &Value| {
        Policy::parse(&json!({ "attestation_type": "TDX", "tdx": { "attributes": attributes, "policy_ids": ids } }).to_string()).unwrap()
    };
    let matching = TdxClaims { policies_matched: vec![MatchedPolicy { id, version: 1, hash: None }], ..claims() };
    assert!(decide(&with(&[Uuid::from_u128(2), id], &json!({})), &matching).is_ok());
    assert!(decide(&with(&[id], &json!({ "mrtd": ["00".repeat(48)] })), &matching).is_err(), "an id does not stand in for a measurement");
    assert!(decide(&with(&[Uuid::from_u128(2)], &json!({})), &matching).is_err());
    let denial = decide(&with(&[id], &json!({})), &claims()).unwrap_err();
    assert_eq!(failed(&denial)[0].got, "(absent)", "a token that names no policies matches none");
}

#[test]
fn an_explanation_has_the_comparisons_of_the_decision() {
    let policy = policy(&json!({ "seamsvn": 1, "mrtd": ["aa".repeat(48)] }));
    let explained = explain(&policy, &token(&claims()));
    let decided = decide(&policy, &claims()).unwrap_err();
    assert_eq!(explained, decided.comparisons());
}

/// One condition of a policy: a member of `attributes`, or `policy_ids`.
fn condition() -> impl Strategy<Value = (String, Value)> {
    let byte = prop_oneof![Just("aa"), Just("bb"), Just("d0"), Just("d1")];
    let measurement = byte.prop_map(|byte| byte.repeat(48));
    let list = proptest::collection::vec(measurement.clone(), 1..3);
    prop_oneof![
        (prop_oneof![Just("mrtd"), Just("mrseam"), Just("mrsignerseam")], list).prop_map(|(member, list)| (member.to_owned(), json!(list))),
        ((0..4_u8), measurement).prop_map(|(index, value)| (format!("rtmr{index}"), json!(value))),
        (258..261_u16).prop_map(|svn| ("seamsvn".to_owned(), json!(svn))),
        any::<bool>().prop_map(|enforce| ("enforce_tcb_upto_date".to_owned(), json!(enforce))),
        (258..261_u16).prop_map(|svn| ("seamsvn_min".to_owned(), json!(svn))),
        (2..5_u8).prop_map(|svn| ("tee_tcb_svn_min".to_owned(), json!(format!("{svn:02x}{}", "00".repeat(15))))),
        (13..16_u8).prop_map(|day| ("tcb_date_min".to_owned(), json!(format!("2025-05-{day}")))),
        (12..15_u16).prop_map(|svn| ("pce_svn_min".to_owned(), json!(svn))),
        (18..21_u32).prop_map(|number| ("tcb_evaluation_data_number_min".to_owned(), json!(number))),
        prop_oneof![Just(json!("UpToDate")), Just(json!(["OutOfDate"])), Just(json!(["UpToDate", "OutOfDate"]))]
            .prop_map(|set| ("tcb_statuses".to_owned(), set)),
        (0..2_u8).prop_map(|bit| ("xfam".to_owned(), json!({ "mask": "0100000000000000", "value": format!("{bit:02x}00000000000000") }))),
        prop_oneof![Just("0000001000000000"), Just("0000001000000080")].prop_map(|bits| ("td_attributes".to_owned(), json!(bits))),
        prop_oneof![Just(json!([])), Just(json!(["INTEL-SA-00837"]))].prop_map(|list| ("advisory_ids_allowed".to_owned(), list)),
        Just(("advisory_ids_refused".to_owned(), json!(["INTEL-SA-00837"]))),
        prop_oneof![Just("00"), Just("aa")].prop_map(|byte| ("mrconfigid".to_owned(), json!(byte.repeat(48)))),
        prop_oneof![Just("true"), Just("false"), Just("input.token.tdx_seamsvn > 258"), Just("input.token.none"), Just("input.key_id")]
            .prop_map(|body| ("rego".to_owned(), json!(format!("package keyferry\nallow if {body}")))),
        (0..3_u128).prop_map(|id| ("policy_ids".to_owned(), json!([Uuid::from_u128(id)]))),
    ]
}

fn any_claims() -> impl Strategy<Value = TdxClaims> {
    let byte = prop_oneof![Just(0xaa), Just(0xbb), Just(0xd0)];
    let status = prop_oneof![Just("UpToDate"), Just("OutOfDate")];
    (byte.clone(), byte, status, proptest::option::of(0..3_u128), any::<bool>()).prop_map(|(mr_td, rtmr, status, id, advised)| {
        let advisory_ids = advised.then(|| "INTEL-SA-00837".to_owned()).into_iter().collect();
        let mut claims = TdxClaims { tcb_status: status.to_owned(), advisory_ids, ..claims() };
        claims.measurements.mr_td = [mr_td; 48];
        claims.measurements.rtmrs[0] = [rtmr; 48];
        claims.policies_matched = id.map(|id| MatchedPolicy { id: Uuid::from_u128(id), version: 1, hash: None }).into_iter().collect();
        claims
    })
}

fn with_conditions(conditions: &[(String, Value)]) -> Policy {
    let mut tdx = json!({ "attributes": {} });
    for (member, value) in conditions {
        if member == "policy_ids" {
            tdx[member] = value.clone();
        } else {
            tdx["attributes"][member] = value.clone();
        }
    }
    Policy::parse(&json!({ "attestation_type": "TDX", "tdx": tdx }).to_string()).unwrap()
}

proptest! {
    #[test]
    fn adding_a_condition_never_permits_more(
        conditions in proptest::collection::vec(condition(), 0..4),
        added in condition(),
        claims in any_claims(),
    ) {
        prop_assume!(conditions.iter().all(|(member, _)| *member != added.0));
        let without = with_conditions(&conditions);
        let with = with_conditions(&[conditions, vec![added]].concat());
        prop_assert!(decide(&without, &claims).is_ok() || decide(&with, &claims).is_err());
        prop_assert!(diff(&without, &with).iter().all(|change| change.effect == Effect::Tightens));
        prop_assert!(diff(&with, &without).iter().all(|change| change.effect == Effect::Weakens));
    }
}
