//! Every JSON example of docs/policies.md is read as what it says it is.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails the test")]

use keyferry_key_transfer_policy::{Case, Finding, Policy};

fn examples() -> Vec<String> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/policies.md")).unwrap();
    page.split("```json\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn every_policy_is_one_and_the_cases_hold_for_the_first() {
    let (cases, policies): (Vec<_>, Vec<_>) = examples().into_iter().partition(|example| example.contains("\"cases\""));
    let policies: Vec<Policy> = policies.iter().map(|text| Policy::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))).collect();
    assert_eq!((policies.len(), cases.len()), (4, 1));
    assert_eq!(policies[0].lint(), [], "the first example is one to follow");
    assert!(policies.iter().all(|policy| !policy.lint().contains(&Finding::NeverMatches)));
    let cases = Case::parse_all(&cases[0]).unwrap();
    assert!(cases.iter().all(|case| case.run(&policies[0]).passed));
}
