//! A real TD's evidence against policies: the right one, and each condition broken alone.

#![allow(clippy::unwrap_used)] // helpers of a test: a broken fixture has to fail it

use keyferry_appraisal::{AppraisalDenial, AppraisalPolicy, Catalog, appraise};
use keyferry_dcap::{Collateral, TrustAnchor, VerifiedQuote, Verifier};
use keyferry_tdx_quote::Quote;

const QUOTE: &[u8] = include_bytes!("../../dcap/testdata/tdx/v5-td15ex-uptodate/quote.bin");
const COLLATERAL: &str = include_str!("../../dcap/testdata/tdx/v5-td15ex-uptodate/collateral.json");
/// 2026-10-08T00:28:26Z
const NOW: u64 = 1_791_419_306;

fn verified() -> VerifiedQuote {
    let quote = Quote::parse(QUOTE).unwrap();
    let collateral = Collateral::from_json(COLLATERAL).unwrap();
    Verifier::new(TrustAnchor::intel()).verify(&quote, &collateral, NOW).unwrap()
}

fn refusal(policy: &str) -> Option<AppraisalDenial> {
    let verified = verified();
    let report_data = verified.report().report_data;
    appraise(verified, &AppraisalPolicy::from_json(policy).unwrap(), &report_data, &Catalog::default(), NOW).err()
}

#[test]
fn the_default_policy_vouches_for_a_sound_td() {
    let verified = verified();
    let report_data = verified.report().report_data;
    let appraised = appraise(verified, &AppraisalPolicy::default(), &report_data, &Catalog::default(), NOW).unwrap();
    assert!(appraised.exceptions_used().is_empty());
    assert_eq!(appraised.report().report_data, report_data);
}

#[test]
fn evidence_for_other_data_is_refused() {
    let verified = verified();
    let mut expected = verified.report().report_data;
    expected[63] ^= 1;
    let denial = appraise(verified, &AppraisalPolicy::default(), &expected, &Catalog::default(), NOW).unwrap_err();
    assert_eq!(denial.label(), "report_data_mismatch");
    let comparison = denial.comparison();
    assert_eq!(comparison.wanted, hex::encode(expected));
    assert_ne!(comparison.got, comparison.wanted);
}

#[test]
fn every_reference_value_counts_alone() {
    let report = verified().report().clone();
    let values = [
        ("mr_td", report.mr_td),
        ("mr_seam", report.mr_seam),
        ("mr_signer_seam", report.mr_signer_seam),
        ("rtmr0", report.rtmrs[0]),
        ("rtmr1", report.rtmrs[1]),
        ("rtmr2", report.rtmrs[2]),
        ("rtmr3", report.rtmrs[3]),
        ("mr_config_id", report.mr_config_id),
        ("mr_owner", report.mr_owner),
        ("mr_owner_config", report.mr_owner_config),
        ("mr_service_td", report.mr_service_td.unwrap()),
    ];
    let other = "77".repeat(48);
    for (field, value) in values {
        let right = hex::encode(value);
        assert_eq!(refusal(&format!(r#"{{"reference_values":{{"{field}":["{other}","{right}"]}}}}"#)), None, "{field}");
        let denial = refusal(&format!(r#"{{"reference_values":{{"{field}":["{other}"]}}}}"#)).unwrap();
        assert_eq!(denial.label(), "reference_value_mismatch");
        let comparison = denial.comparison();
        assert_eq!((comparison.field, comparison.wanted, comparison.got), (field, other.clone(), right));
    }
}

#[test]
fn the_platform_has_to_be_as_current_as_the_policy_asks() {
    assert_eq!(refusal(r#"{"tcb_statuses":["UpToDate"],"evaluation_number_min":20}"#), None);
    let denial = refusal(r#"{"tcb_statuses":["SWHardeningNeeded","OutOfDate"]}"#).unwrap();
    assert_eq!(denial.label(), "tcb_status_not_allowed");
    assert_eq!(denial.comparison().wanted, "SWHardeningNeeded or OutOfDate");
    assert_eq!(denial.comparison().got, "UpToDate");
    let denial = refusal(r#"{"evaluation_number_min":21}"#).unwrap();
    assert_eq!(denial, AppraisalDenial::EvaluationNumberTooLow { wanted: 21, got: 20 });
}
