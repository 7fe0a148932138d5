//! The closed table of reasons: the only place that knows gRPC status, HTTP status, metric label, advice and retry
//! safety of a refusal.

use std::fmt;

use tonic::Code;

use crate::attestation::v1::Reason;

/// `google.rpc.ErrorInfo.domain` of every refusal.
pub const DOMAIN: &str = "keyferry";

/// Whether the same request may succeed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The same request will be refused again.
    Never,
    /// It may succeed after this many seconds.
    AfterSeconds(u64),
    /// It may succeed once an operator changed something.
    WhenOperatorActed,
}

/// What a decision came to, for `keyferry.decision`: a denial is good service, an error is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Refused on purpose.
    Denied,
    /// Could not be decided: an outage or a fault of ours.
    Error,
}

impl Decision {
    /// The value of `keyferry.decision`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Error => "error",
        }
    }
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Advice {
    /// Lower-case name: metric label, JSON value and `ErrorInfo.reason`.
    pub label: &'static str,
    /// gRPC status.
    pub grpc: Code,
    /// HTTP status of the REST surfaces (Intel KBS rules: 401 for every denial).
    pub http: u16,
    /// Whether a retry can help.
    pub retry: Retry,
    /// What to do, in one clause.
    pub text: &'static str,
}

impl Reason {
    /// Every reason but `Unspecified`.
    pub const ALL: [Self; 81] = [
        Self::RequestMalformed,
        Self::RequestTooLarge,
        Self::SubjectMismatch,
        Self::Unauthenticated,
        Self::PermissionDenied,
        Self::Overloaded,
        Self::RateLimited,
        Self::LockedOut,
        Self::AlreadyExists,
        Self::Conflict,
        Self::NonceSignatureInvalid,
        Self::NonceExpired,
        Self::NonceReplayed,
        Self::NonceMissing,
        Self::QuoteMalformed,
        Self::QuoteSignatureInvalid,
        Self::QuoteRootUntrusted,
        Self::ReportDataMismatch,
        Self::CollateralMissing,
        Self::CollateralInvalid,
        Self::CollateralExpired,
        Self::CollateralRolledBack,
        Self::PlatformRevoked,
        Self::TcbStatusNotAllowed,
        Self::TcbUnknown,
        Self::DebugEnabled,
        Self::SeptVeDisableMissing,
        Self::Migratable,
        Self::ServiceTd,
        Self::ReservedBitsSet,
        Self::ReferenceValueMismatch,
        Self::EventLogMismatch,
        Self::TokenMalformed,
        Self::TokenAlgorithmNotAllowed,
        Self::TokenSignatureInvalid,
        Self::TokenKeyUnknown,
        Self::TokenIssuerUnknown,
        Self::TokenExpired,
        Self::TokenNotYetValid,
        Self::TokenClaimMissing,
        Self::HeldDataInvalid,
        Self::TokenForeign,
        Self::PolicyNotFound,
        Self::PolicyMismatch,
        Self::TrustAnchorNotAllowed,
        Self::KeyNotFound,
        Self::KeyMismatch,
        Self::KeyStateNotAllowed,
        Self::KeyUsageNotAllowed,
        Self::KeyNotReleasable,
        Self::KeyRevoked,
        Self::TdRevoked,
        Self::KmsDenied,
        Self::PolicyInUse,
        Self::PolicyRuleFailed,
        Self::UserNotFound,
        Self::KeyNotActive,
        Self::KeyDeactivated,
        Self::KeyCompromised,
        Self::KeyDestroyed,
        Self::KmsUnavailable,
        Self::VerifierUnavailable,
        Self::JwksUnavailable,
        Self::StoreUnavailable,
        Self::AuditUnavailable,
        Self::BusUnavailable,
        Self::PlatformUnavailable,
        Self::DeadlineExceeded,
        Self::Internal,
        Self::KmsUnreachable,
        Self::KmsTimeout,
        Self::KmsTls,
        Self::KmsAuth,
        Self::KmsSealed,
        Self::KmsThrottled,
        Self::KmsProtocol,
        Self::KmsInternal,
        Self::ModelMalformed,
        Self::ModelKeyWrong,
        Self::ModelCorrupt,
        Self::WrappedKeyInvalid,
    ];

    /// The row of this reason.
    #[allow(clippy::too_many_lines)] // a table: one line a reason, best read in one place
    pub const fn advice(self) -> Advice {
        let (label, grpc, http, retry, text) = match self {
            Self::Unspecified => ("unspecified", Code::Unknown, 500, Retry::Never, "report this: a refusal without a reason"),
            Self::RequestMalformed => {
                ("request_malformed", Code::InvalidArgument, 400, Retry::Never, "correct the field named in the message")
            }
            Self::RequestTooLarge => ("request_too_large", Code::InvalidArgument, 413, Retry::Never, "send less than the documented bound"),
            Self::SubjectMismatch => {
                ("subject_mismatch", Code::InvalidArgument, 400, Retry::Never, "publish on the subject of your own identity")
            }
            Self::Unauthenticated => ("unauthenticated", Code::Unauthenticated, 401, Retry::Never, "send a valid credential"),
            Self::PermissionDenied => {
                ("permission_denied", Code::PermissionDenied, 401, Retry::Never, "ask an administrator for the permission")
            }
            Self::Overloaded => {
                ("overloaded", Code::ResourceExhausted, 503, Retry::AfterSeconds(1), "retry after a second; add replicas if this lasts")
            }
            Self::RateLimited => ("rate_limited", Code::ResourceExhausted, 429, Retry::AfterSeconds(5), "retry later, and less often"),
            Self::NonceSignatureInvalid => (
                "nonce_signature_invalid",
                Code::PermissionDenied,
                401,
                Retry::Never,
                "ask this verifier for a fresh nonce and return it unchanged",
            ),
            Self::NonceExpired => {
                ("nonce_expired", Code::PermissionDenied, 401, Retry::Never, "ask for a fresh nonce and quote it at once")
            }
            Self::NonceReplayed => ("nonce_replayed", Code::PermissionDenied, 401, Retry::Never, "ask for a fresh nonce for each quote"),
            Self::NonceMissing => {
                ("nonce_missing", Code::InvalidArgument, 400, Retry::Never, "ask the verifier for a nonce and bind it into the quote")
            }
            Self::QuoteMalformed => {
                ("quote_malformed", Code::InvalidArgument, 400, Retry::Never, "send the TDX quote exactly as the platform returned it")
            }
            Self::QuoteSignatureInvalid => {
                ("quote_signature_invalid", Code::PermissionDenied, 401, Retry::Never, "collect a fresh quote on genuine TDX hardware")
            }
            Self::QuoteRootUntrusted => (
                "quote_root_untrusted",
                Code::PermissionDenied,
                401,
                Retry::Never,
                "configure the root that signed this platform, if you trust it",
            ),
            Self::ReportDataMismatch => {
                ("report_data_mismatch", Code::PermissionDenied, 401, Retry::Never, "quote SHA-512(nonce.val || nonce.iat || user_data)")
            }
            Self::CollateralMissing => (
                "collateral_missing",
                Code::Unavailable,
                503,
                Retry::WhenOperatorActed,
                "provide the verifier with collateral for this platform",
            ),
            Self::CollateralInvalid => (
                "collateral_invalid",
                Code::Unavailable,
                503,
                Retry::WhenOperatorActed,
                "fetch the verifier's collateral anew from a trusted source",
            ),
            Self::CollateralExpired => (
                "collateral_expired",
                Code::Unavailable,
                503,
                Retry::WhenOperatorActed,
                "refresh the verifier's collateral and check its clock",
            ),
            Self::CollateralRolledBack => (
                "collateral_rolled_back",
                Code::Unavailable,
                503,
                Retry::WhenOperatorActed,
                "fetch current collateral; older evaluation data is never accepted again",
            ),
            Self::PlatformRevoked => {
                ("platform_revoked", Code::PermissionDenied, 401, Retry::Never, "move the workload to a platform that is not revoked")
            }
            Self::TcbStatusNotAllowed => (
                "tcb_status_not_allowed",
                Code::PermissionDenied,
                401,
                Retry::WhenOperatorActed,
                "update the platform's firmware and TDX module, or allow the status in the policy",
            ),
            Self::TcbUnknown => {
                ("tcb_unknown", Code::PermissionDenied, 401, Retry::WhenOperatorActed, "update the platform, or the verifier's collateral")
            }
            Self::DebugEnabled => ("debug_enabled", Code::PermissionDenied, 401, Retry::Never, "start the TD without debug"),
            Self::SeptVeDisableMissing => {
                ("sept_ve_disable_missing", Code::PermissionDenied, 401, Retry::Never, "start the TD with SEPT_VE_DISABLE")
            }
            Self::Migratable => {
                ("migratable", Code::PermissionDenied, 401, Retry::Never, "start the TD without migration, or allow it explicitly")
            }
            Self::ServiceTd => {
                ("service_td", Code::PermissionDenied, 401, Retry::Never, "start the TD without a service TD, or allow it explicitly")
            }
            Self::ReservedBitsSet => {
                ("reserved_bits_set", Code::PermissionDenied, 401, Retry::Never, "use a TDX module that this verifier knows")
            }
            Self::ReferenceValueMismatch => (
                "reference_value_mismatch",
                Code::PermissionDenied,
                401,
                Retry::WhenOperatorActed,
                "add the measurement to the reference values if the image is yours",
            ),
            Self::EventLogMismatch => {
                ("event_log_mismatch", Code::PermissionDenied, 401, Retry::Never, "send the event log that belongs to this quote")
            }
            Self::TokenMalformed => {
                ("token_malformed", Code::InvalidArgument, 401, Retry::Never, "send a compact JWS issued by the verifier")
            }
            Self::TokenAlgorithmNotAllowed => (
                "token_algorithm_not_allowed",
                Code::Unauthenticated,
                401,
                Retry::Never,
                "use a token signed with an algorithm allowed for its issuer",
            ),
            Self::TokenSignatureInvalid => {
                ("token_signature_invalid", Code::Unauthenticated, 401, Retry::Never, "obtain a fresh token from the verifier")
            }
            Self::TokenKeyUnknown => (
                "token_key_unknown",
                Code::Unauthenticated,
                401,
                Retry::AfterSeconds(5),
                "obtain a fresh token; the verifier may have rotated its key",
            ),
            Self::TokenIssuerUnknown => {
                ("token_issuer_unknown", Code::Unauthenticated, 401, Retry::WhenOperatorActed, "configure the issuer, if you trust it")
            }
            Self::TokenExpired => ("token_expired", Code::Unauthenticated, 401, Retry::Never, "attest again and present the new token"),
            Self::TokenNotYetValid => {
                ("token_not_yet_valid", Code::Unauthenticated, 401, Retry::AfterSeconds(5), "check the clocks of verifier and key broker")
            }
            Self::TokenClaimMissing => {
                ("token_claim_missing", Code::Unauthenticated, 401, Retry::Never, "use a verifier that issues this claim")
            }
            Self::HeldDataInvalid => (
                "held_data_invalid",
                Code::InvalidArgument,
                500,
                Retry::Never,
                "bind an RSA public key of at least 3072 bits into the quote, in Intel's form",
            ),
            Self::TokenForeign => ("token_foreign", Code::PermissionDenied, 401, Retry::Never, "wait for the token of your own evidence"),
            Self::PolicyNotFound => (
                "policy_not_found",
                Code::FailedPrecondition,
                500,
                Retry::WhenOperatorActed,
                "check the policy id; a key needs a key transfer policy",
            ),
            Self::PolicyMismatch => (
                "policy_mismatch",
                Code::PermissionDenied,
                401,
                Retry::WhenOperatorActed,
                "compare the claims with the policy: wanted and got are in the audit record",
            ),
            Self::TrustAnchorNotAllowed => (
                "trust_anchor_not_allowed",
                Code::PermissionDenied,
                401,
                Retry::WhenOperatorActed,
                "name the trust anchor in the key transfer policy, if you trust it",
            ),
            Self::KeyNotFound => ("key_not_found", Code::NotFound, 404, Retry::Never, "check the key id"),
            Self::KeyMismatch => (
                "key_mismatch",
                Code::FailedPrecondition,
                500,
                Retry::WhenOperatorActed,
                "the KMS holds other bytes under this reference: check for a rebuilt or tampered database",
            ),
            Self::KeyStateNotAllowed => (
                "key_state_not_allowed",
                Code::FailedPrecondition,
                500,
                Retry::WhenOperatorActed,
                "activate the key in the KMS, or register another",
            ),
            Self::KeyUsageNotAllowed => (
                "key_usage_not_allowed",
                Code::FailedPrecondition,
                500,
                Retry::WhenOperatorActed,
                "give the KMS object the usage it is released for",
            ),
            Self::KeyNotReleasable => (
                "key_not_releasable",
                Code::FailedPrecondition,
                500,
                Retry::WhenOperatorActed,
                "make the key extractable in the KMS, or use a back end that wraps",
            ),
            Self::KeyRevoked => ("key_revoked", Code::PermissionDenied, 401, Retry::Never, "use the key's successor"),
            Self::TdRevoked => ("td_revoked", Code::PermissionDenied, 401, Retry::Never, "this TD was revoked by an operator"),
            Self::KmsDenied => {
                ("kms_denied", Code::PermissionDenied, 500, Retry::WhenOperatorActed, "the KMS refused: check the broker's KMS permissions")
            }
            Self::KmsUnavailable => (
                "kms_unavailable",
                Code::Unavailable,
                500,
                Retry::AfterSeconds(2),
                "retry; check that the KMS is up and reachable from the broker",
            ),
            Self::VerifierUnavailable => (
                "verifier_unavailable",
                Code::Unavailable,
                502,
                Retry::AfterSeconds(2),
                "retry; check that the verifier is up and reachable",
            ),
            Self::JwksUnavailable => (
                "jwks_unavailable",
                Code::Unavailable,
                502,
                Retry::AfterSeconds(2),
                "retry; check that the verifier's key set is reachable",
            ),
            Self::StoreUnavailable => {
                ("store_unavailable", Code::Unavailable, 503, Retry::AfterSeconds(2), "retry; check that the bus and its buckets are up")
            }
            Self::AuditUnavailable => (
                "audit_unavailable",
                Code::Unavailable,
                503,
                Retry::AfterSeconds(2),
                "retry; check the AUDIT stream: without audit nothing is released",
            ),
            Self::BusUnavailable => {
                ("bus_unavailable", Code::Unavailable, 503, Retry::AfterSeconds(2), "retry; check that the bus is up and reachable")
            }
            Self::PlatformUnavailable => {
                ("platform_unavailable", Code::Unavailable, 503, Retry::AfterSeconds(2), "retry; check the host's quoting service")
            }
            Self::DeadlineExceeded => {
                ("deadline_exceeded", Code::DeadlineExceeded, 504, Retry::AfterSeconds(1), "retry with a longer deadline")
            }
            Self::Internal => {
                ("internal", Code::Internal, 500, Retry::AfterSeconds(2), "retry once; report the trace id if it happens again")
            }
            Self::LockedOut => {
                ("locked_out", Code::ResourceExhausted, 429, Retry::AfterSeconds(60), "wait: too many failed logins came from this address")
            }
            Self::AlreadyExists => {
                ("already_exists", Code::AlreadyExists, 400, Retry::Never, "choose another name or id, or change the record that is there")
            }
            Self::Conflict => ("conflict", Code::Aborted, 409, Retry::AfterSeconds(1), "read the record again, then decide again"),
            Self::PolicyInUse => (
                "policy_in_use",
                Code::FailedPrecondition,
                400,
                Retry::WhenOperatorActed,
                "give the keys of this policy another one, or delete them",
            ),
            Self::PolicyRuleFailed => (
                "policy_rule_failed",
                Code::PermissionDenied,
                401,
                Retry::WhenOperatorActed,
                "correct the policy's Rego: it failed, or took more time or memory than a rule may",
            ),
            Self::UserNotFound => ("user_not_found", Code::NotFound, 404, Retry::Never, "check the user id"),
            Self::KeyNotActive => (
                "key_not_active",
                Code::FailedPrecondition,
                500,
                Retry::WhenOperatorActed,
                "activate the key in the KMS, or accept keys that were never activated",
            ),
            Self::KeyDeactivated => (
                "key_deactivated",
                Code::PermissionDenied,
                500,
                Retry::WhenOperatorActed,
                "the key is deactivated in the KMS: use its successor",
            ),
            Self::KeyCompromised => (
                "key_compromised",
                Code::PermissionDenied,
                500,
                Retry::WhenOperatorActed,
                "the key is marked compromised in the KMS: use its successor",
            ),
            Self::KeyDestroyed => {
                ("key_destroyed", Code::PermissionDenied, 404, Retry::Never, "the key was destroyed in the KMS: use its successor")
            }
            Self::KmsUnreachable => (
                "kms_unreachable",
                Code::Unavailable,
                500,
                Retry::AfterSeconds(2),
                "retry; check that the KMS is up and reachable from the broker",
            ),
            Self::KmsTimeout => {
                ("kms_timeout", Code::Unavailable, 500, Retry::AfterSeconds(2), "retry; check the load and the network of the KMS")
            }
            Self::KmsTls => (
                "kms_tls",
                Code::Internal,
                500,
                Retry::WhenOperatorActed,
                "check the certificates and cipher suites between broker and KMS",
            ),
            Self::KmsAuth => ("kms_auth", Code::Internal, 500, Retry::WhenOperatorActed, "renew the broker's credential for the KMS"),
            Self::KmsSealed => ("kms_sealed", Code::Unavailable, 500, Retry::AfterSeconds(10), "retry; unseal the KMS"),
            Self::KmsThrottled => {
                ("kms_throttled", Code::Unavailable, 500, Retry::AfterSeconds(2), "retry; raise the rate that the KMS allows the broker")
            }
            Self::KmsProtocol => (
                "kms_protocol",
                Code::Internal,
                500,
                Retry::WhenOperatorActed,
                "check that the address is a KMS of the configured kind and version",
            ),
            Self::KmsInternal => {
                ("kms_internal", Code::Unavailable, 500, Retry::AfterSeconds(2), "retry; see the log of the KMS, its audit device included")
            }
            Self::ModelMalformed => {
                ("model_malformed", Code::InvalidArgument, 400, Retry::Never, "seal the model in a format this runner reads")
            }
            Self::ModelKeyWrong => {
                ("model_key_wrong", Code::FailedPrecondition, 500, Retry::WhenOperatorActed, "request the key this model was sealed with")
            }
            Self::ModelCorrupt => {
                ("model_corrupt", Code::DataLoss, 500, Retry::WhenOperatorActed, "copy the sealed model again: it was altered or truncated")
            }
            Self::WrappedKeyInvalid => {
                ("wrapped_key_invalid", Code::DataLoss, 500, Retry::AfterSeconds(1), "request the key again with a fresh token")
            }
        };
        Advice { label, grpc, http, retry, text }
    }

    /// Lower-case name: metric label, JSON value and `ErrorInfo.reason`.
    pub const fn label(self) -> &'static str {
        self.advice().label
    }

    /// Whether this is a denial or a failure.
    pub const fn decision(self) -> Decision {
        match self.advice().grpc {
            Code::Unavailable | Code::DeadlineExceeded | Code::Internal | Code::ResourceExhausted | Code::Unknown => Decision::Error,
            _ => Decision::Denied,
        }
    }

    /// The reason with this label, for clients that got one in `ErrorInfo`.
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.label().eq_ignore_ascii_case(label))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_of_the_contract_has_a_row_with_its_own_label() {
        let pool = prost_reflect::DescriptorPool::decode(crate::DESCRIPTORS).unwrap();
        let declared = pool.get_enum_by_name("keyferry.attestation.v1.Reason").unwrap();
        let declared: Vec<String> =
            declared.values().skip(1).map(|value| value.name().trim_start_matches("REASON_").to_lowercase()).collect();
        let listed: Vec<&str> = Reason::ALL.iter().map(|reason| reason.label()).collect();
        assert_eq!(declared, listed);
        for reason in Reason::ALL {
            assert_eq!(Reason::from_label(reason.label()), Some(reason));
            assert!(!reason.advice().text.is_empty() && reason.advice().grpc != Code::Ok);
        }
    }
}
