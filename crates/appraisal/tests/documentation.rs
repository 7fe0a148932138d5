//! The examples of docs/appraisal.md are what they say they are.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use keyferry_appraisal::{AppraisalPolicy, RegoPolicy};
use keyferry_reference_value::{Document, lint};

const PAGE: &str = include_str!("../../../docs/appraisal.md");

fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    PAGE.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn every_example_parses() {
    let json = blocks("json");
    assert_eq!((json.len(), blocks("rego").len()), (2, 2));
    let policy = AppraisalPolicy::from_json(json[0]).unwrap();
    assert_eq!((policy.platform_grace_seconds(), policy.collateral_grace_seconds()), (Some(7_776_000), 86_400));
    assert!(lint(&Document::parse(json[1].as_bytes()).unwrap()).is_empty());
    for rego in blocks("rego") {
        RegoPolicy::compile(rego).unwrap();
    }
}
