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
            Self::TcbStatusNotAllowed { .. } | Self::AdvisoryRejected(_) => "tcb_status_not_allowed",
            Self::EvaluationNumberTooLow { .. } => "collateral_rolled_back",
            Self::ReferenceValueMismatch { .. } => "reference_value_mismatch",
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
            Self::ReferenceValueMismatch { field, wanted, got } => (*field, wanted.join(" or "), got.clone()),
        };
        Comparison { field, wanted, got }
    }
}
