//! Why there is no token or no evidence: one reason of the contract's table.

use std::collections::HashMap;
use std::time::Duration;

use keyferry_bus::{PublishError, RequestError};
use keyferry_contract::{DOMAIN, Reason, Retry};
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt};

use crate::PlatformError;

/// A refusal or failure. `detail` names the field and what to do; it never repeats a peer's text or a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail} ({reason})")]
pub struct Refusal {
    /// The row of the table.
    pub reason: Reason,
    /// One sentence.
    pub detail: String,
}

impl Refusal {
    /// With a sentence of our own.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    pub(crate) fn deadline() -> Self {
        Self::new(Reason::DeadlineExceeded, "no answer of the verifier proved to be for this evidence before the deadline")
    }

    /// The gRPC status with `google.rpc.ErrorInfo`, and `RetryInfo` where a retry may help.
    pub(crate) fn status(&self) -> Status {
        let advice = self.reason.advice();
        let metadata = HashMap::from([("advice".to_owned(), advice.text.to_owned())]);
        let mut details = ErrorDetails::with_error_info(advice.label, DOMAIN, metadata);
        if let Retry::AfterSeconds(seconds) = advice.retry {
            details.set_retry_info(Some(Duration::from_secs(seconds)));
        }
        Status::with_error_details(advice.grpc, self.detail.clone(), details)
    }
}

impl From<PlatformError> for Refusal {
    fn from(error: PlatformError) -> Self {
        Self::new(Reason::PlatformUnavailable, error.to_string())
    }
}

impl From<RequestError> for Refusal {
    fn from(error: RequestError) -> Self {
        let reason = match &error {
            RequestError::Refused { reason, .. } => *reason,
            RequestError::NoResponders { .. } | RequestError::TimedOut { .. } | RequestError::Malformed { .. } => {
                Reason::VerifierUnavailable
            }
            RequestError::Bus { .. } => Reason::BusUnavailable,
        };
        Self::new(reason, error.to_string())
    }
}

impl From<PublishError> for Refusal {
    fn from(error: PublishError) -> Self {
        let reason = match &error {
            PublishError::Full { .. } => Reason::Overloaded,
            PublishError::Unacknowledged { .. } => Reason::BusUnavailable,
            PublishError::Forbidden { .. } => Reason::PermissionDenied,
            PublishError::Identity | PublishError::Conflict | PublishError::Refused { .. } => Reason::Internal,
        };
        Self::new(reason, error.to_string())
    }
}
