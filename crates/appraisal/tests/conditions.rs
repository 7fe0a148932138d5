//! Grace, flags of the platform and documents of reference values, on a real TD's evidence.

#![allow(clippy::unwrap_used)] // helpers of a test: a broken fixture has to fail it

use keyferry_appraisal::{AppraisalPolicy, Catalog, appraise};
use keyferry_dcap::{Collateral, TrustAnchor, VerifiedQuote, Verifier};
use keyferry_reference_value::{Action, History};
use keyferry_tdx_quote::Quote;

const QUOTE: &[u8] = include_bytes!("../../dcap/testdata/tdx/v5-td15ex-uptodate/quote.bin");
const COLLATERAL: &str = include_str!("../../dcap/testdata/tdx/v5-td15ex-uptodate/collateral.json");
/// 2026-10-08T00:28:26Z
const NOW: u64 = 1_791_419_306;

fn verified(now: u64, grace: u64) -> VerifiedQuote {
    let (quote, collateral) = (Quote::parse(QUOTE).unwrap(), Collateral::from_json(COLLATERAL).unwrap());
    Verifier::new(TrustAnchor::intel()).with_collateral_grace(grace).verify(&quote, &collateral, now).unwrap()
}

fn refusal(verified: VerifiedQuote, policy: &str, catalog: &Catalog, now: u64) -> Option<(&'static str, String)> {
    let report_data = verified.report().report_data;
    let denial = appraise(verified, &AppraisalPolicy::from_json(policy).unwrap(), &report_data, catalog, now).err()?;
    Some((denial.label(), denial.comparison().got))
}

#[test]
fn expired_collateral_counts_as_long_as_each_policy_says() {
    let expired = verified(NOW, 0).valid_until();
    let late = expired + 1000;
    let judged = |policy: &str| refusal(verified(late, 100_000), policy, &Catalog::default(), late);
    assert_eq!(judged("{}").unwrap().0, "collateral_expired");
    assert_eq!(judged(r#"{"collateral_grace_seconds":10}"#).unwrap().0, "collateral_expired");
    assert_eq!(judged(r#"{"collateral_grace_seconds":2000}"#), None);
}

#[test]
fn a_flag_that_the_policy_forbids_has_to_be_known_to_be_off() {
    let pck = verified(NOW, 0).pck().clone();
    for (member, got) in [("allow_dynamic_platform", pck.dynamic_platform), ("allow_cached_keys", pck.cached_keys), ("allow_smt", pck.smt)]
    {
        let judged = |allowed: &str| refusal(verified(NOW, 0), &format!(r#"{{"{member}":{allowed}}}"#), &Catalog::default(), NOW);
        assert_eq!((judged("true"), judged("null")), (None, None), "{member}");
        assert_eq!(judged("false").is_none(), got == Some(false), "{member}");
    }
}

#[test]
fn the_td_has_to_be_what_one_document_in_force_says() {
    let catalog = |field: &str, value: &[u8; 48]| {
        let file = format!(r#"{{"id":"a","source":"","values":{{"{field}":"{}"}}}}"#, hex::encode(value));
        let digest = History::file_digest(file.as_bytes());
        let line = History::default().next_line("2026-01-01T00:00:00Z".parse().unwrap(), Action::Add, "a", &digest, "me", "");
        Catalog::new([("a".to_owned(), file.into_bytes())], &line, &[], true)
    };
    let judged = |policy: &str, catalog: &Catalog| refusal(verified(NOW, 0), policy, catalog, NOW);
    let mr_td = verified(NOW, 0).report().mr_td;
    let right = catalog("mr_td", &mr_td);
    assert_eq!(judged(r#"{"reference_value_ids":["a"]}"#, &right), None);
    assert_eq!(judged(r#"{"reference_value_ids":["missing","a"]}"#, &right), None);
    let (label, got) = judged(r#"{"reference_value_ids":["missing"]}"#, &right).unwrap();
    assert_eq!((label, got.as_str()), ("reference_value_mismatch", "missing: there is no such document"));
    let (_, got) = judged(r#"{"reference_value_ids":["a"]}"#, &catalog("mr_td", &[7; 48])).unwrap();
    assert_eq!(got, format!("a: mr_td is {}, wanted {}", hex::encode(mr_td), "07".repeat(48)));
}
