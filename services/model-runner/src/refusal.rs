//! Why a model is not loaded or does not answer: one reason of the contract's table, and what to tell.

use std::fmt;

use keyferry_contract::{DOMAIN, Reason, Retry};
use keyferry_key_wrap::UnwrapError;
use keyferry_model_envelope::EnvelopeError;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::{
    memory::MemoryError,
    runtime::{InferError, LoadError},
};

/// A refusal or failure. `detail` names the field and what to do; it never repeats a peer's text, a path or a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
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

    /// Whether the same step may succeed later without anybody acting.
    pub fn is_retryable(&self) -> bool {
        matches!(self.reason.advice().retry, Retry::AfterSeconds(_))
    }

    /// From a peer's gRPC status: its own reason where it gives one of ours, else one that fits `peer`.
    pub(crate) fn from_status(peer: Peer, status: &Status) -> Self {
        let stated = status.get_details_error_info().filter(|info| info.domain == DOMAIN);
        if let Some(reason) = stated.and_then(|info| Reason::from_label(&info.reason)) {
            return Self::new(reason, format!("the {peer} refuses: {}", reason.advice().text));
        }
        match status.code() {
            Code::DeadlineExceeded | Code::Cancelled => Self::new(Reason::DeadlineExceeded, format!("the {peer} did not answer in time")),
            Code::Unavailable | Code::Unknown => Self::new(peer.unavailable(), format!("the {peer} cannot be reached")),
            code => Self::new(Reason::Internal, format!("the {peer} answers {code:?} without a reason")),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.detail, self.reason)
    }
}

/// Whom we asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Attester,
    KeyBroker,
}

impl Peer {
    const fn unavailable(self) -> Reason {
        match self {
            Self::Attester => Reason::PlatformUnavailable,
            Self::KeyBroker => Reason::KmsUnavailable,
        }
    }
}
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Attester => "attester",
            Self::KeyBroker => "key broker",
        })
    }
}

impl From<UnwrapError> for Refusal {
    fn from(error: UnwrapError) -> Self {
        Self::new(Reason::WrappedKeyInvalid, error.to_string())
    }
}

impl From<EnvelopeError> for Refusal {
    fn from(error: EnvelopeError) -> Self {
        let reason = match error {
            EnvelopeError::KeyWrong | EnvelopeError::KeyLength { .. } => Reason::ModelKeyWrong,
            EnvelopeError::HeaderAltered
            | EnvelopeError::Corrupt { .. }
            | EnvelopeError::NotOpened
            | EnvelopeError::Size { .. }
            | EnvelopeError::Truncated { .. } => Reason::ModelCorrupt,
            EnvelopeError::Destination { .. } | EnvelopeError::Crypto => Reason::Internal,
            _ => Reason::ModelMalformed,
        };
        Self::new(reason, error.to_string())
    }
}

impl From<LoadError> for Refusal {
    fn from(error: LoadError) -> Self {
        Self::new(Reason::ModelMalformed, error.to_string())
    }
}

impl From<MemoryError> for Refusal {
    fn from(error: MemoryError) -> Self {
        Self::new(Reason::Internal, error.to_string())
    }
}

impl From<InferError> for Refusal {
    fn from(error: InferError) -> Self {
        let reason = match error {
            InferError::Input(_) => Reason::RequestMalformed,
            InferError::Runtime => Reason::Internal,
        };
        Self::new(reason, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::{ErrorDetails, StatusExt};

    use super::*;

    fn with_info(domain: &str, reason: &str) -> Status {
        let details = ErrorDetails::with_error_info(reason, domain, std::collections::HashMap::new());
        Status::with_error_details(Code::PermissionDenied, "canary text of the peer", details)
    }

    #[test]
    fn a_peers_own_reason_is_kept_and_its_text_is_not() {
        let refusal = Refusal::from_status(Peer::KeyBroker, &with_info("keyferry", "policy_mismatch"));
        assert_eq!(refusal.reason, Reason::PolicyMismatch);
        assert!(!refusal.to_string().contains("canary"));
    }

    #[test]
    fn a_reason_of_another_domain_or_none_of_ours_does_not_count() {
        for status in [with_info("example.org", "policy_mismatch"), with_info("keyferry", "made_up")] {
            assert_eq!(Refusal::from_status(Peer::KeyBroker, &status).reason, Reason::Internal);
        }
    }

    #[test]
    fn a_peer_that_is_not_there_is_worth_a_retry() {
        for (peer, reason) in [(Peer::Attester, Reason::PlatformUnavailable), (Peer::KeyBroker, Reason::KmsUnavailable)] {
            let refusal = Refusal::from_status(peer, &Status::unavailable("connection refused"));
            assert_eq!(refusal.reason, reason);
            assert!(refusal.is_retryable());
        }
        assert!(!Refusal::from(EnvelopeError::KeyWrong).is_retryable());
    }
}
