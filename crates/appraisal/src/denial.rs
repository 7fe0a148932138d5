//! Why a verified quote is not vouched for.

use keyferry_dcap::{AttributeDenial, TcbStatus};

/// One condition that was not met, for the administrator and the audit record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// The claim or field.
    pub field: &'static str,
    /// What the policy asks for.
    pub wanted: String,
    /// What the evidence says.
    pub got: String,
}

/// Why appraisal refused. [`AppraisalDenial::label`] is the contract's name for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppraisalDenial {
    /// An attribute of the TD is refused.
    #[error(transparent)]
    Attribute(#[from] AttributeDenial),
    /// The quote does not bind the nonce and user data it came with.
    #[error("REPORTDATA does not bind this nonce and user data")]
    ReportDataMismatch {
        /// SHA-512(val || iat || user_data) of what was sent.
        wanted: Box<[u8; 64]>,
        /// REPORTDATA of the quote.
        got: Box<[u8; 64]>,
    },
    /// The platform is not current enough.
    #[error("TCB status is {got}: the policy permits {wanted:?}")]
    TcbStatusNotAllowed {
        /// The permitted statuses.
        wanted: Vec<TcbStatus>,
        /// The platform's.
        got: TcbStatus,
    },
    /// An advisory applies that the policy does not accept.
    #[error("advisory {0} applies to the platform: the policy rejects it")]
    AdvisoryRejected(String),
    /// The collateral is of an older TCB evaluation than the policy accepts.
    #[error("TCB evaluation number is {got}: the policy wants at least {wanted}")]
    EvaluationNumberTooLow {
        /// The lowest permitted number.
        wanted: u32,
        /// The collateral's.
        got: u32,
    },
    /// The platform is out of date for too long.
    #[error("TCB status is {status} since {tcb_date}: the policy's grace of {grace_seconds} s is over")]
    PlatformGraceOver {
        /// The platform's status.
        status: TcbStatus,
        /// The date of its TCB level.
        tcb_date: String,
        /// The policy's grace.
        grace_seconds: u64,
    },
    /// The collateral has expired, and the grace of this policy is over.
    #[error("the collateral expired at {expired_at}: the policy's grace is {grace_seconds} s")]
    CollateralGraceOver {
        /// When it expired (Unix seconds).
        expired_at: u64,
        /// The policy's grace.
        grace_seconds: u64,
    },
    /// The platform is configured as the policy does not permit, or does not say how it is.
    #[error("the platform's {flag} is {got}: the policy does not allow it")]
    PlatformFlag {
        /// The flag of the PCK certificate.
        flag: &'static str,
        /// `true`, or that the certificate does not say.
        got: &'static str,
    },
    /// No document of reference values that is in force describes the TD.
    #[error("no document of reference values describes the TD: {got}")]
    NoReferenceValue {
        /// The ids of the policy.
        wanted: Vec<String>,
        /// For each, why not.
        got: String,
    },
    /// A measurement is not a reference value.
    #[error("{field} is {got}: not one of the reference values {wanted:?}")]
    ReferenceValueMismatch {
        /// Which measurement.
        field: &'static str,
        /// The reference values.
        wanted: Vec<String>,
        /// The TD's value.
        got: String,
    },
}

impl AppraisalDenial {
    /// The label of the contract's reason.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Attribute(denial) => denial.label(),
            Self::ReportDataMismatch { .. } => "report_data_mismatch",
            Self::TcbStatusNotAllowed { .. } | Self::AdvisoryRejected(_) | Self::PlatformGraceOver { .. } | Self::PlatformFlag { .. } => {
                "tcb_status_not_allowed"
            }
            Self::CollateralGraceOver { .. } => "collateral_expired",
            Self::EvaluationNumberTooLow { .. } => "collateral_rolled_back",
            Self::NoReferenceValue { .. } | Self::ReferenceValueMismatch { .. } => "reference_value_mismatch",
        }
    }

    /// Wanted and got, without anything secret: quotes carry none.
    pub fn comparison(&self) -> Comparison {
        let (field, wanted, got) = match self {
            Self::Attribute(denial) => ("td_attributes", "the refusing defaults, or an exception".to_owned(), denial.to_string()),
            Self::ReportDataMismatch { wanted, got } => ("report_data", hex::encode(&wanted[..]), hex::encode(&got[..])),
            Self::TcbStatusNotAllowed { wanted, got } => {
                let names: Vec<_> = wanted.iter().map(|status| status.name()).collect();
                ("tcb_status", names.join(" or "), got.to_string())
            }
            Self::AdvisoryRejected(id) => ("advisory_ids", format!("not {id}"), id.clone()),
            Self::EvaluationNumberTooLow { wanted, got } => ("evaluation_number", format!("at least {wanted}"), got.to_string()),
            Self::PlatformGraceOver { tcb_date, grace_seconds, .. } => {
                ("tcb_date", format!("at most {grace_seconds} s ago while out of date"), tcb_date.clone())
            }
            Self::CollateralGraceOver { expired_at, grace_seconds } => {
                ("collateral", format!("expired at most {grace_seconds} s ago"), format!("expired at {expired_at}"))
            }
            Self::PlatformFlag { flag, got } => (*flag, "false".to_owned(), (*got).to_owned()),
            Self::NoReferenceValue { wanted, got } => ("reference_value_ids", wanted.join(" or "), got.clone()),
            Self::ReferenceValueMismatch { field, wanted, got } => (*field, wanted.join(" or "), got.clone()),
        };
        Comparison { field, wanted, got }
    }
}
