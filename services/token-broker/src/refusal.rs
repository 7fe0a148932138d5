//! Why evidence was refused, or could not be judged.

use keyferry_appraisal::{AppraisalDenial, Mismatch};
use keyferry_bus::{BucketError, PublishError};
use keyferry_contract::{Reason, release::v1::ClaimResult};
use keyferry_dcap::DcapDenial;
use keyferry_tdx_quote::QuoteError;

/// A reason of the closed table, and which field or check it is about. Never a secret: quotes and collateral are public,
/// nonces, tokens and user data do not get here.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Refusal {
    /// Why.
    pub(crate) reason: Reason,
    /// Which field or check, for the administrator and the audit record.
    pub(crate) detail: String,
    /// Wanted and got, where a policy decided.
    pub(crate) claims: Vec<ClaimResult>,
}

impl Refusal {
    /// With a detail.
    pub(crate) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), claims: Vec::new() }
    }

    /// Whether a repetition of the same evidence can help: something of ours was out of reach, nothing was decided.
    /// Collateral that is missing or has expired is no such thing: it waits for an operator, and the nonce does not.
    pub(crate) const fn is_outage(&self) -> bool {
        matches!(
            self.reason,
            Reason::Overloaded
                | Reason::VerifierUnavailable
                | Reason::JwksUnavailable
                | Reason::StoreUnavailable
                | Reason::AuditUnavailable
                | Reason::BusUnavailable
                | Reason::DeadlineExceeded
                | Reason::Internal
        )
    }
}

impl From<QuoteError> for Refusal {
    fn from(error: QuoteError) -> Self {
        let reason = if matches!(error, QuoteError::TooLarge { .. }) { Reason::RequestTooLarge } else { Reason::QuoteMalformed };
        Self::new(reason, error.to_string())
    }
}

impl From<DcapDenial> for Refusal {
    fn from(denial: DcapDenial) -> Self {
        Self::new(labelled(denial.label()), denial.to_string())
    }
}

impl From<AppraisalDenial> for Refusal {
    fn from(denial: AppraisalDenial) -> Self {
        let comparison = denial.comparison();
        let claim = ClaimResult { claim: comparison.field.to_owned(), wanted: comparison.wanted, got: comparison.got, matched: false };
        Self { reason: labelled(denial.label()), detail: denial.to_string(), claims: vec![claim] }
    }
}

impl From<Mismatch> for Refusal {
    fn from(mismatch: Mismatch) -> Self {
        let claim = ClaimResult {
            claim: mismatch.register.name().to_owned(),
            wanted: hex::encode(*mismatch.wanted),
            got: hex::encode(*mismatch.got),
            matched: false,
        };
        Self { reason: Reason::EventLogMismatch, detail: mismatch.to_string(), claims: vec![claim] }
    }
}

impl From<BucketError> for Refusal {
    fn from(error: BucketError) -> Self {
        Self::new(Reason::StoreUnavailable, error.to_string())
    }
}

impl From<PublishError> for Refusal {
    fn from(error: PublishError) -> Self {
        Self::new(Reason::BusUnavailable, error.to_string())
    }
}

/// Decision crates name reasons by their label; a test holds every one of theirs against the table.
fn labelled(label: &str) -> Reason {
    Reason::from_label(label).unwrap_or(Reason::Internal)
}

#[cfg(test)]
mod tests {
    use keyferry_appraisal::{AttributeDenial, TcbStatus};
    use keyferry_dcap::{CollateralPart, SignedPart};

    use super::*;

    #[test]
    fn every_denial_has_its_row_in_the_table() {
        let attributes = [
            AttributeDenial::UnderDebug(1),
            AttributeDenial::SeptVeDisableMissing,
            AttributeDenial::Migratable,
            AttributeDenial::ServiceTd,
            AttributeDenial::ReservedAttributes(2),
            AttributeDenial::ReservedXfam(8),
            AttributeDenial::XfamFixedBits,
            AttributeDenial::SeamAttributes,
        ];
        let part = CollateralPart::TcbInfo;
        let dcap = [
            DcapDenial::RootUntrusted { wanted: String::new(), got: String::new() },
            DcapDenial::SignatureInvalid(SignedPart::Quote),
            DcapDenial::Unexplained,
            DcapDenial::CollateralSignatureInvalid(part),
            DcapDenial::CollateralMalformed { part, detail: "" },
            DcapDenial::CollateralMismatch { field: "", wanted: String::new(), got: String::new() },
            DcapDenial::CollateralExpired { part, expires_at: 0 },
            DcapDenial::CollateralNotYetValid { part, valid_from: 0 },
            DcapDenial::EvaluationNumbersDiffer { tcb_info: 1, qe_identity: 2 },
            DcapDenial::CollateralRolledBack { seen: 2, got: 1 },
            DcapDenial::CertificateRevoked("x"),
            DcapDenial::TcbRevoked { advisory_ids: Vec::new() },
            DcapDenial::TcbUnknown("x"),
        ];
        let appraisal = [
            AppraisalDenial::ReportDataMismatch { wanted: Box::new([0; 64]), got: Box::new([1; 64]) },
            AppraisalDenial::TcbStatusNotAllowed { wanted: vec![TcbStatus::UpToDate], got: TcbStatus::OutOfDate },
            AppraisalDenial::AdvisoryRejected(String::new()),
            AppraisalDenial::PlatformGraceOver { status: TcbStatus::OutOfDate, tcb_date: String::new(), grace_seconds: 1 },
            AppraisalDenial::CollateralGraceOver { expired_at: 1, grace_seconds: 1 },
            AppraisalDenial::PlatformFlag { flag: "smt", got: "true" },
            AppraisalDenial::NoReferenceValue { wanted: Vec::new(), got: String::new() },
            AppraisalDenial::EvaluationNumberTooLow { wanted: 2, got: 1 },
            AppraisalDenial::ReferenceValueMismatch { field: "mr_td", wanted: Vec::new(), got: String::new() },
        ];
        let refusals = dcap
            .into_iter()
            .chain(attributes.map(DcapDenial::from))
            .map(Refusal::from)
            .chain(appraisal.into_iter().chain(attributes.map(AppraisalDenial::from)).map(Refusal::from));
        for refusal in refusals {
            assert_ne!(refusal.reason, Reason::Internal, "{refusal:?}");
            assert!(!refusal.is_outage(), "{refusal:?}");
        }
    }
}
