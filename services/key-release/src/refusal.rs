//! Every refusal of this service, and the one place that knows what it looks like from outside.

use std::{collections::HashMap, time::Duration};

use keyferry_attestation_token::TokenDenial;
use keyferry_bus::{BucketError, PublishError};
use keyferry_contract::{DOMAIN, Decision, Reason, Retry};
use keyferry_key_transfer_policy::{PolicyDenial, PolicyError};
use keyferry_key_wrap::{PublicKeyError, WrapError};
use keyferry_kms::KmsError;
use keyferry_sealed_store::StoreError;
use keyferry_trust_authority::TrustAuthorityError;
use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt};

use crate::users::Permission;

/// Why a request was refused or failed. Its text is for the audit and for administrators; callers get [`Denial::status`].
#[derive(Debug, thiserror::Error)]
pub enum Denial {
    /// A field is missing or does not decode.
    #[error("{field} {problem}")]
    Malformed {
        /// Which field.
        field: &'static str,
        /// What it must be.
        problem: String,
    },
    /// A field is over its bound.
    #[error("{field} has {bytes} bytes, {max} are allowed")]
    TooLarge {
        /// Which field.
        field: &'static str,
        /// Bytes found.
        bytes: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// The whole request is over its bound, and was not read.
    #[error("the request has more than {max} bytes")]
    RequestTooLarge {
        /// Bytes allowed.
        max: usize,
    },
    /// Evidence without a nonce.
    #[error("the evidence carries no nonce")]
    NonceMissing,
    /// Evidence without a quote.
    #[error("the evidence carries no quote")]
    EvidenceIncomplete,
    /// Evidence, or a token, of another type than the policy is for.
    #[error("the evidence is of type {got}, the policy asks for {wanted}")]
    AttestationType {
        /// Of the policy.
        wanted: &'static str,
        /// As the caller said.
        got: &'static str,
    },
    /// No, or no valid, administrator's credential.
    #[error("no valid administrator's credential")]
    Unauthenticated,
    /// The caller is known, and may not do this.
    #[error("the permission {permission} is missing")]
    PermissionMissing {
        /// Which one.
        permission: Permission,
    },
    /// Too many wrong passwords came from there; also for the right one.
    #[error("too many wrong passwords from this address")]
    LockedOut,
    /// No such user.
    #[error("there is no such user")]
    UserNotFound,
    /// Somebody has this name or id already.
    #[error("a {what} of this name or id is there already")]
    AlreadyExists {
        /// Of what kind.
        what: &'static str,
    },
    /// Others changed the same record all the time.
    #[error("the record changed while it was being changed")]
    Conflict,
    /// The bounded work pool is full.
    #[error("too many requests at the same time")]
    Overloaded,
    /// Too many in a short time.
    #[error("too many requests in a short time")]
    RateLimited,
    /// The token is not believed.
    #[error(transparent)]
    Token(#[from] TokenDenial),
    /// The token is good, and for other evidence than was presented.
    #[error("the verifier's token does not hold the user data of the evidence")]
    TokenForeign,
    /// The token holds no public key.
    #[error("the token holds no attester_held_data")]
    HeldDataAbsent,
    /// The public key in the token is not one we wrap for.
    #[error("attester_held_data: {0}")]
    HeldData(#[source] PublicKeyError),
    /// The policy does not permit.
    #[error(transparent)]
    Policy(#[from] PolicyDenial),
    /// The key has no policy, or its policy is gone.
    #[error("the key has no key transfer policy, or its policy is gone")]
    PolicyNotFound,
    /// Keys are under the policy.
    #[error("a key is under this policy: put it under another one, or delete it, first")]
    PolicyInUse,
    /// An administrator's policy document is refused, or a stored one is no longer read.
    #[error("policy document: {0}")]
    PolicyDocument(#[from] PolicyError),
    /// No such key.
    #[error("there is no such key")]
    KeyNotFound,
    /// The KMS returned other bytes than were registered.
    #[error("the KMS returned other bytes than were registered under this reference")]
    FingerprintMismatch,
    /// The key is in another kind of KMS than this broker is connected to.
    #[error("the key is in a KMS of kind {recorded}, this broker is connected to one of kind {connected}")]
    OtherKms {
        /// Where the key is.
        recorded: String,
        /// What we are connected to.
        connected: &'static str,
    },
    /// The KMS gave no key.
    #[error(transparent)]
    Kms(#[from] KmsError),
    /// The verifier gave no nonce or token.
    #[error(transparent)]
    Verifier(#[from] TrustAuthorityError),
    /// Background-check mode is not configured.
    #[error("no verifier is configured: background-check mode is off")]
    NoVerifier,
    /// There is no usable key set of the token's issuer.
    #[error("the issuer's key set is not available")]
    JwksUnavailable,
    /// A record could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The fleet's record of the TD could not be read.
    #[error(transparent)]
    Fleet(BucketError),
    /// An operator revoked the TD.
    #[error("the TD was revoked by an operator")]
    TdRevoked,
    /// A stored record is not one.
    #[error("the record {name} is not readable by this version")]
    Record {
        /// Which record.
        name: String,
    },
    /// The audit stream did not acknowledge.
    #[error("the audit record was not stored: {0}")]
    Audit(#[source] PublishError),
    /// The audit stream did not acknowledge in time.
    #[error("the audit record was not stored in time")]
    AuditTooSlow,
    /// Not wrapped.
    #[error(transparent)]
    Wrap(#[from] WrapError),
    /// An administrator's public key is refused.
    #[error("public_key_pem: {0}")]
    ExportKey(#[source] PublicKeyError),
    /// The decision took too long.
    #[error("the decision was not reached in time")]
    DeadlineExceeded,
    /// Ours to fix.
    #[error("internal: {0}")]
    Internal(&'static str),
}

impl Denial {
    pub(crate) fn malformed(field: &'static str, problem: impl std::fmt::Display) -> Self {
        Self::Malformed { field, problem: problem.to_string() }
    }

    /// The contract's reason.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Malformed { .. } | Self::PolicyDocument(_) | Self::ExportKey(_) | Self::Wrap(WrapError::TooLong { .. }) => {
                Reason::RequestMalformed
            }
            Self::TooLarge { .. } | Self::RequestTooLarge { .. } => Reason::RequestTooLarge,
            Self::NonceMissing => Reason::NonceMissing,
            Self::EvidenceIncomplete => Reason::QuoteMalformed,
            Self::Unauthenticated => Reason::Unauthenticated,
            Self::PermissionMissing { .. } => Reason::PermissionDenied,
            Self::LockedOut => Reason::LockedOut,
            Self::UserNotFound => Reason::UserNotFound,
            Self::AlreadyExists { .. } => Reason::AlreadyExists,
            Self::Conflict | Self::Store(StoreError::Conflict { .. }) => Reason::Conflict,
            Self::Overloaded => Reason::Overloaded,
            Self::RateLimited => Reason::RateLimited,
            Self::Token(denial) => token(denial),
            Self::TokenForeign => Reason::TokenForeign,
            Self::HeldDataAbsent | Self::HeldData(_) => Reason::HeldDataInvalid,
            Self::Policy(PolicyDenial::TrustAnchor { .. }) => Reason::TrustAnchorNotAllowed,
            Self::AttestationType { .. } | Self::Policy(PolicyDenial::Mismatch { .. }) => Reason::PolicyMismatch,
            Self::Policy(PolicyDenial::RuleFailed { .. }) => Reason::PolicyRuleFailed,
            Self::PolicyNotFound => Reason::PolicyNotFound,
            Self::PolicyInUse => Reason::PolicyInUse,
            Self::KeyNotFound => Reason::KeyNotFound,
            Self::FingerprintMismatch => Reason::KeyMismatch,
            Self::OtherKms { .. } => Reason::KmsUnavailable,
            Self::Kms(error) => kms(error),
            Self::Verifier(error) => verifier(error),
            Self::NoVerifier => Reason::VerifierUnavailable,
            Self::JwksUnavailable => Reason::JwksUnavailable,
            Self::Store(_) | Self::Fleet(_) | Self::Record { .. } => Reason::StoreUnavailable,
            Self::TdRevoked => Reason::TdRevoked,
            Self::Audit(_) | Self::AuditTooSlow => Reason::AuditUnavailable,
            Self::DeadlineExceeded => Reason::DeadlineExceeded,
            Self::Wrap(WrapError::Crypto) | Self::Internal(_) => Reason::Internal,
        }
    }

    /// Whether this is a denial or a failure, for spans, metrics and audit.
    pub fn decision(&self) -> Decision {
        self.reason().decision()
    }

    /// What the caller reads: the reason's label, and advice. Only where the fault is in the caller's own input does the
    /// text name it; claims, policies and errors of other systems never leave.
    pub(crate) fn public_text(&self) -> String {
        let advice = self.reason().advice();
        match self {
            Self::Malformed { .. }
            | Self::TooLarge { .. }
            | Self::RequestTooLarge { .. }
            | Self::PermissionMissing { .. }
            | Self::AlreadyExists { .. }
            | Self::PolicyDocument(_)
            | Self::ExportKey(_)
            | Self::HeldData(_)
            | Self::Wrap(WrapError::TooLong { .. }) => format!("{}: {self}", advice.label),
            _ => format!("{}: {}", advice.label, advice.text),
        }
    }

    /// What a gRPC caller sees: code, text, and `google.rpc.ErrorInfo` with the reason's label.
    pub fn status(&self) -> Status {
        let advice = self.reason().advice();
        let mut details = ErrorDetails::with_error_info(advice.label, DOMAIN, HashMap::new());
        if let Retry::AfterSeconds(seconds) = advice.retry {
            details.set_retry_info(Some(Duration::from_secs(seconds)));
        }
        Status::with_error_details(advice.grpc, self.public_text(), details)
    }
}

fn token(denial: &TokenDenial) -> Reason {
    match denial {
        TokenDenial::ClaimMalformed { claim: "attester_held_data" } => Reason::HeldDataInvalid,
        // A test holds every label against the table.
        denial => Reason::from_label(denial.label()).unwrap_or(Reason::Internal),
    }
}

fn kms(error: &KmsError) -> Reason {
    match error {
        KmsError::Denied => Reason::KmsDenied,
        KmsError::KeyNotFound | KmsError::Reference(_) => Reason::KeyNotFound,
        KmsError::KeyDestroyed => Reason::KeyDestroyed,
        KmsError::KeyDeactivated => Reason::KeyDeactivated,
        KmsError::KeyCompromised => Reason::KeyCompromised,
        KmsError::KeyPreActive => Reason::KeyNotActive,
        KmsError::KeyUsage { .. } => Reason::KeyUsageNotAllowed,
        KmsError::KeyMismatch { .. } => Reason::KeyMismatch,
        KmsError::KeyNotReleasable => Reason::KeyNotReleasable,
        KmsError::Unreachable(_) | KmsError::CircuitOpen => Reason::KmsUnreachable,
        KmsError::Timeout(_) => Reason::KmsTimeout,
        KmsError::Tls(_) => Reason::KmsTls,
        KmsError::Auth => Reason::KmsAuth,
        KmsError::Sealed => Reason::KmsSealed,
        KmsError::Throttled => Reason::KmsThrottled,
        KmsError::Protocol(_) => Reason::KmsProtocol,
        KmsError::Internal => Reason::KmsInternal,
        KmsError::File { .. } | KmsError::Configuration { .. } => Reason::KmsUnavailable,
    }
}

/// A token-broker names its reason; Intel's service does not, and of its statuses only some speak of the evidence.
fn verifier(error: &TrustAuthorityError) -> Reason {
    match error {
        TrustAuthorityError::Status { status: status @ 400..=499, reason: Some(label), .. } => match Reason::from_label(label) {
            // Of us, not of the TD: our API key is wrong.
            Some(Reason::Unauthenticated) => Reason::VerifierUnavailable,
            None if matches!(status, 401 | 403) => Reason::VerifierUnavailable,
            reason => reason.unwrap_or(Reason::RequestMalformed),
        },
        TrustAuthorityError::Status { status: 400, .. } => Reason::RequestMalformed,
        TrustAuthorityError::Status { status: 413, .. } | TrustAuthorityError::RequestTooLarge { .. } => Reason::RequestTooLarge,
        TrustAuthorityError::Status { status: 429, .. } => Reason::RateLimited,
        _ => Reason::VerifierUnavailable,
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn every_denial_of_a_token_has_its_row_in_the_table() {
        let text = String::new;
        let denials = [
            TokenDenial::TooLarge { characters: 2, max: 1 },
            TokenDenial::Malformed { field: "" },
            TokenDenial::AlgorithmNotAllowed { found: text(), allowed: text() },
            TokenDenial::SignatureInvalid,
            TokenDenial::Expired { at: 0 },
            TokenDenial::NotYetValid { from: 0 },
            TokenDenial::ClaimMissing { claim: "" },
            TokenDenial::ClaimMalformed { claim: "" },
            TokenDenial::ClaimMalformed { claim: "attester_held_data" },
        ];
        for denial in denials {
            assert_ne!(token(&denial), Reason::Internal, "{denial:?}");
        }
        for label in ["token_issuer_unknown", "token_key_unknown", "trust_anchor_not_allowed"] {
            assert!(Reason::from_label(label).is_some(), "{label}");
        }
    }

    #[test]
    fn a_status_carries_the_reason_and_no_internals() {
        let denial = Denial::Kms(KmsError::Unreachable(std::io::ErrorKind::ConnectionRefused));
        let status = denial.status();
        assert_eq!(status.code(), Code::Unavailable);
        let info = status.get_details_error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("kms_unreachable", "keyferry"));
        assert!(status.get_details_retry_info().is_some());
        assert!(!status.message().contains("refused"), "{}", status.message());
    }

    #[test]
    fn the_callers_own_mistake_is_named() {
        let status = Denial::malformed("key_id", "is not a UUID").status();
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "request_malformed: key_id is not a UUID"));
        assert!(status.get_details_retry_info().is_none());
    }

    #[test]
    fn a_brokers_label_is_passed_on_and_an_invented_one_is_not() {
        let error = |status, reason: Option<&str>| {
            Denial::Verifier(TrustAuthorityError::Status { host: String::new(), status, reason: reason.map(str::to_owned), trace_id: None })
                .reason()
        };
        assert_eq!(error(400, Some("debug_enabled")), Reason::DebugEnabled);
        assert_eq!(error(400, Some("nonsense")), Reason::RequestMalformed);
        assert_eq!(error(401, None), Reason::VerifierUnavailable);
        assert_eq!(error(401, Some("unauthenticated")), Reason::VerifierUnavailable, "that is about this service's API key");
        assert_eq!(error(403, Some("nonsense")), Reason::VerifierUnavailable);
        assert_eq!(error(401, Some("debug_enabled")), Reason::DebugEnabled);
        assert_eq!(error(500, Some("debug_enabled")), Reason::VerifierUnavailable);
    }
}
