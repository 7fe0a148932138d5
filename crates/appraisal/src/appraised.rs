//! The appraisal, and its result.

use keyferry_dcap::{TcbStatus, VerifiedQuote};
use keyferry_reference_value::Catalog;
use keyferry_tdx_quote::TdReportBody;

use crate::denial::AppraisalDenial;
use crate::policy::{AppraisalPolicy, ReferenceValues};

/// Evidence that was verified, is about the expected nonce and data, and satisfies the policy: what may become a token.
#[derive(Clone, Debug)]
pub struct Appraised {
    verified: VerifiedQuote,
}

impl Appraised {
    /// The verified quote and what is known about its platform.
    pub const fn verified(&self) -> &VerifiedQuote {
        &self.verified
    }
    /// The TD's report.
    pub const fn report(&self) -> &TdReportBody {
        self.verified.report()
    }
    /// Which exceptions from the refusing defaults this TD needed: what the audit record has to show.
    pub fn exceptions_used(&self) -> Vec<&'static str> {
        let report = self.report();
        let attributes = report.td_attributes;
        [
            ("debug", attributes.under_debug()),
            ("service_td", report.has_service_td()),
            ("migratable", attributes.migratable()),
            ("no_sept_ve", !attributes.sept_ve_disable()),
        ]
        .into_iter()
        .filter_map(|(name, used)| used.then_some(name))
        .collect()
    }
}

/// Appraises a verified quote. `expected_report_data` is the formula of `tdx-quote` over the nonce and user data that came
/// with the evidence, `catalog` the documents of reference values that the policy may name, `now` Unix seconds.
pub fn appraise(
    verified: VerifiedQuote,
    policy: &AppraisalPolicy,
    expected_report_data: &[u8; 64],
    catalog: &Catalog,
    now: u64,
) -> Result<Appraised, AppraisalDenial> {
    let report = verified.report();
    policy.allowances().check(report)?;
    if report.report_data != *expected_report_data {
        return Err(AppraisalDenial::ReportDataMismatch { wanted: Box::new(*expected_report_data), got: Box::new(report.report_data) });
    }
    check_tcb(&verified, policy)?;
    check_grace(&verified, policy, now)?;
    check_flags(&verified, policy)?;
    check_reference_values(report, policy.reference_values())?;
    check_documents(report, policy.reference_value_ids(), catalog, now)?;
    Ok(Appraised { verified })
}

fn check_tcb(verified: &VerifiedQuote, policy: &AppraisalPolicy) -> Result<(), AppraisalDenial> {
    let got = verified.tcb_status();
    if !policy.tcb_statuses().contains(&got) {
        return Err(AppraisalDenial::TcbStatusNotAllowed { wanted: policy.tcb_statuses().to_vec(), got });
    }
    let rejected = |id: &&String| policy.rejected_advisory_ids().iter().any(|rejected| rejected.eq_ignore_ascii_case(id));
    if let Some(id) = verified.advisory_ids().iter().find(rejected) {
        return Err(AppraisalDenial::AdvisoryRejected(id.clone()));
    }
    let (wanted, got) = (policy.evaluation_number_min(), verified.evaluation_number());
    if got < wanted {
        return Err(AppraisalDenial::EvaluationNumberTooLow { wanted, got });
    }
    Ok(())
}

fn check_grace(verified: &VerifiedQuote, policy: &AppraisalPolicy, now: u64) -> Result<(), AppraisalDenial> {
    let grace_seconds = policy.collateral_grace_seconds();
    if let Some(expired_at) = verified.collateral_expired_at().filter(|expired_at| now > expired_at.saturating_add(grace_seconds)) {
        return Err(AppraisalDenial::CollateralGraceOver { expired_at, grace_seconds });
    }
    let status = verified.tcb_status();
    let out_of_date = matches!(status, TcbStatus::OutOfDate | TcbStatus::OutOfDateConfigurationNeeded);
    let Some(grace_seconds) = policy.platform_grace_seconds().filter(|_| out_of_date) else { return Ok(()) };
    let tcb_date = verified.tcb_date();
    let since = tcb_date.parse::<jiff::Timestamp>().ok().and_then(|date| u64::try_from(date.as_second()).ok());
    // A date that cannot be read is none at all.
    if since.is_some_and(|since| now <= since.saturating_add(grace_seconds)) {
        return Ok(());
    }
    Err(AppraisalDenial::PlatformGraceOver { status, tcb_date: tcb_date.to_owned(), grace_seconds })
}

/// What a certificate does not say is not known to be false.
fn check_flags(verified: &VerifiedQuote, policy: &AppraisalPolicy) -> Result<(), AppraisalDenial> {
    let pck = verified.pck();
    for ((flag, allowed), got) in policy.flags().into_iter().zip([pck.dynamic_platform, pck.cached_keys, pck.smt]) {
        if allowed == Some(false) && got != Some(false) {
            return Err(AppraisalDenial::PlatformFlag { flag, got: if got.is_some() { "true" } else { "not stated" } });
        }
    }
    Ok(())
}

/// One document in force has to have nothing but what the TD has, and something.
fn check_documents(report: &TdReportBody, ids: &[String], catalog: &Catalog, now: u64) -> Result<(), AppraisalDenial> {
    let mut failures = Vec::new();
    for id in ids {
        let failure = match catalog.in_force(id, now) {
            Err(denial) => denial.to_string(),
            Ok(document) if document.values().is_empty() => "it pins nothing".to_owned(),
            Ok(document) => {
                let differs = document.values().iter().find(|(field, value)| measurement(report, field) != Some(&value.0));
                let Some((field, value)) = differs else { return Ok(()) };
                let got = measurement(report, field).map_or_else(|| "absent".to_owned(), hex::encode);
                format!("{field} is {got}, wanted {value}")
            }
        };
        failures.push(format!("{id}: {failure}"));
    }
    if ids.is_empty() {
        return Ok(());
    }
    Err(AppraisalDenial::NoReferenceValue { wanted: ids.to_vec(), got: failures.join("; ") })
}

fn check_reference_values(report: &TdReportBody, references: &ReferenceValues) -> Result<(), AppraisalDenial> {
    for (field, list) in references.lists() {
        let Some(list) = list else { continue };
        let got = measurement(report, field);
        if !list.iter().any(|reference| Some(&reference.0) == got) {
            return Err(AppraisalDenial::ReferenceValueMismatch {
                field,
                wanted: list.iter().map(ToString::to_string).collect(),
                got: got.map_or_else(|| "absent".to_owned(), hex::encode),
            });
        }
    }
    Ok(())
}

/// The measurement a reference list is about; `None` where the report has no such field.
fn measurement<'a>(report: &'a TdReportBody, field: &str) -> Option<&'a [u8; 48]> {
    Some(match field {
        "mr_td" => &report.mr_td,
        "mr_seam" => &report.mr_seam,
        "mr_signer_seam" => &report.mr_signer_seam,
        "rtmr0" => &report.rtmrs[0],
        "rtmr1" => &report.rtmrs[1],
        "rtmr2" => &report.rtmrs[2],
        "rtmr3" => &report.rtmrs[3],
        "mr_config_id" => &report.mr_config_id,
        "mr_owner" => &report.mr_owner,
        "mr_owner_config" => &report.mr_owner_config,
        "mr_service_td" => return report.mr_service_td.as_ref(),
        _ => return None,
    })
}
