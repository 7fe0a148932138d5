//! Why a KMS gave no key: a closed set that events, metrics and statuses are derived from.

use std::{fmt, io, path::PathBuf};

use keyferry_kmip::{DecodeError, ResponseError, ResultReason};

/// Which step of an exchange took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Waiting for a free connection.
    Pool,
    /// TCP connect.
    Connect,
    /// TLS handshake.
    Handshake,
    /// Request and answer.
    Request,
    /// All of it together.
    Total,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pool => "waiting for a free connection",
            Self::Connect => "the TCP connect",
            Self::Handshake => "the TLS handshake",
            Self::Request => "the request",
            Self::Total => "the whole operation",
        })
    }
}

/// Why there is no key. Holds nothing of the peer's text and no key material.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KmsError {
    /// No connection, or it broke.
    #[error("the KMS cannot be reached ({0}): check that it runs and that its address and port are right")]
    Unreachable(io::ErrorKind),
    /// It failed so often that it is left alone for a while.
    #[error("the KMS failed repeatedly and is left alone for some seconds: check that it runs")]
    CircuitOpen,
    /// Too slow.
    #[error("the KMS took too long: {0} was given up")]
    Timeout(Stage),
    /// The TLS handshake failed: an operator's problem.
    #[error("TLS to the KMS failed: {0}")]
    Tls(&'static str),
    /// It does not accept who we are.
    #[error("the KMS does not accept the broker's identity: check client certificate (extended key usage clientAuth) and password")]
    Auth,
    /// It accepts who we are, and says no.
    #[error("the KMS refused: check that the broker may do this with this key (owner, operation policy)")]
    Denied,
    /// There is no such key.
    #[error("the KMS has no key under this reference")]
    KeyNotFound,
    /// The key was destroyed.
    #[error("the key was destroyed in the KMS")]
    KeyDestroyed,
    /// The key was deactivated.
    #[error("the key is deactivated in the KMS: use its successor")]
    KeyDeactivated,
    /// The key is known to have leaked.
    #[error("the key is marked compromised in the KMS: use its successor")]
    KeyCompromised,
    /// The key is not in use yet.
    #[error("the key is not active in the KMS: activate it, or set accept_pre_active for keys made by a broker that never activates")]
    KeyPreActive,
    /// The key may not be used for decryption.
    #[error("the key's usage mask in the KMS lacks {missing}: give the key that usage, or use another")]
    KeyUsage {
        /// Which bit.
        missing: &'static str,
    },
    /// It is not the key that was recorded.
    #[error("the KMS object differs from the key record in {field}: check for a rebuilt database or a wrong reference")]
    KeyMismatch {
        /// In what.
        field: &'static str,
    },
    /// The KMS has the key, but will not let its bytes out.
    #[error("the KMS does not give out this key's bytes: make it extractable, or use a back end that wraps")]
    KeyNotReleasable,
    /// Not a reference of this back end.
    #[error("the key reference is not usable: {0}")]
    Reference(&'static str),
    /// It answers something we do not understand.
    #[error("the KMS answered outside its protocol: {0}")]
    Protocol(&'static str),
    /// It is sealed, or not initialised.
    #[error("the KMS is sealed: unseal it")]
    Sealed,
    /// It limits our rate.
    #[error("the KMS limits the broker's rate: raise its quota, or retry later")]
    Throttled,
    /// Its own failure.
    #[error("the KMS reports a failure of its own: see its log")]
    Internal,
    /// A file cannot be used.
    #[error("{}: {what}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong, and what to do.
        what: &'static str,
    },
    /// The configuration cannot be used.
    #[error("{field}: {what}")]
    Configuration {
        /// Which setting.
        field: &'static str,
        /// What is wrong, and what to do.
        what: String,
    },
}

impl KmsError {
    /// The stable label for events and metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Unreachable(_) | Self::CircuitOpen => "kms_unreachable",
            Self::Timeout(_) => "kms_timeout",
            Self::Tls(_) => "kms_tls",
            Self::Auth => "kms_auth",
            Self::Denied => "kms_denied",
            Self::KeyNotFound => "key_not_found",
            Self::KeyDestroyed => "key_destroyed",
            Self::KeyDeactivated => "key_deactivated",
            Self::KeyCompromised => "key_compromised",
            Self::KeyPreActive => "key_not_active",
            Self::KeyUsage { .. } => "key_usage",
            Self::KeyMismatch { .. } => "key_mismatch",
            Self::KeyNotReleasable => "key_not_releasable",
            Self::Reference(_) => "key_reference",
            Self::Protocol(_) => "kms_protocol",
            Self::Sealed => "kms_sealed",
            Self::Throttled => "kms_throttled",
            Self::Internal => "kms_internal",
            Self::File { .. } | Self::Configuration { .. } => "kms_configuration",
        }
    }

    /// Whether the same call may succeed later without anybody changing anything.
    pub const fn retryable(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::CircuitOpen | Self::Timeout(_) | Self::Sealed | Self::Throttled | Self::Internal)
    }

    /// Whether the connection, rather than the request, failed: counts for the circuit breaker, and reads are repeated.
    pub(crate) const fn connection_failed(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Timeout(_) | Self::Tls(_))
    }

    /// Whether the server answered in order, so that its connection may be used again.
    pub(crate) const fn connection_usable(&self) -> bool {
        !self.connection_failed() && !matches!(self, Self::Protocol(_) | Self::KeyMismatch { .. })
    }
}

impl From<DecodeError> for KmsError {
    fn from(error: DecodeError) -> Self {
        Self::Protocol(match error {
            DecodeError::Truncated { .. } | DecodeError::Trailing { .. } => "an answer is shorter or longer than it says",
            DecodeError::TooLarge { .. } => "an answer is over 1 MiB",
            DecodeError::TooDeep | DecodeError::TooMany => "an answer is nested too deep or has too many items",
            DecodeError::UnknownType { .. } | DecodeError::WrongLength { .. } | DecodeError::NotText { .. } => {
                "an answer holds an item of a wrong type, length or encoding"
            }
            DecodeError::Missing { .. } | DecodeError::Repeated { .. } => "an answer lacks a required item, or has it twice",
            DecodeError::NotTheAnswer { what } => what,
        })
    }
}

impl From<ResponseError> for KmsError {
    fn from(error: ResponseError) -> Self {
        let reason = match error {
            ResponseError::Malformed(error) => return error.into(),
            ResponseError::Refused { reason, .. } => reason,
        };
        match reason {
            ResultReason::ItemNotFound => Self::KeyNotFound,
            ResultReason::AuthenticationNotSuccessful => Self::Auth,
            ResultReason::PermissionDenied | ResultReason::IllegalOperation => Self::Denied,
            ResultReason::KeyFormatTypeNotSupported | ResultReason::FeatureNotSupported | ResultReason::ObjectArchived => {
                Self::KeyNotReleasable
            }
            ResultReason::GeneralFailure | ResultReason::CryptographicFailure => Self::Internal,
            ResultReason::InvalidMessage => Self::Protocol("it did not understand the request: check the configured KMIP version"),
            ResultReason::OperationNotSupported => Self::Protocol("it does not support an operation that is needed"),
            ResultReason::ResponseTooLarge => Self::Protocol("its answer would be too large"),
            ResultReason::MissingData | ResultReason::InvalidField | ResultReason::Other(_) => {
                Self::Protocol("it refused a field of the request")
            }
        }
    }
}
