//! The appraisal, and its result.

use keyferry_dcap::VerifiedQuote;
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
/// with the evidence.
pub fn appraise(verified: VerifiedQuote, policy: &AppraisalPolicy, expected_report_data: &[u8; 64]) -> Result<Appraised, AppraisalDenial> {
    let report = verified.report();
    policy.allowances().check(report)?;
    if report.report_data != *expected_report_data {
        return Err(AppraisalDenial::ReportDataMismatch { wanted: Box::new(*expected_report_data), got: Box::new(report.report_data) });
    }
    check_tcb(&verified, policy)?;
    check_reference_values(report, policy.reference_values())?;
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
