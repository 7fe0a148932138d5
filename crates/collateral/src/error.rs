//! Why no collateral came.

use keyferry_tls::TlsError;

use crate::{DocumentError, ItemKind};

/// Why no collateral came. Never repeats what a service wrote in prose.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Not the base of an HTTPS service.
    #[error("\"{url}\" is no https URL: give scheme, host and port, without user, query or fragment")]
    Url {
        /// What was configured.
        url: String,
    },
    /// The roots cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The HTTP client could not be made.
    #[error("the HTTP client could not be made")]
    Client,
    /// No connection, or it broke. TLS that does not verify is this too.
    #[error("{host} cannot be reached: check the address, the network and the root of its certificate")]
    Unreachable {
        /// Which host.
        host: String,
    },
    /// No answer in time.
    #[error("{host} did not answer in time")]
    Timeout {
        /// Which host.
        host: String,
    },
    /// Status 404.
    #[error("{host} does not know the {item} of this platform family (404): check FMSPC and CA")]
    UnknownFamily {
        /// Which host.
        host: String,
        /// What was asked for.
        item: ItemKind,
    },
    /// Status 410: the TCB evaluation that was asked for is no longer served.
    #[error("{host} has withdrawn the {item} (410): ask for another update")]
    Withdrawn {
        /// Which host.
        host: String,
        /// What was asked for.
        item: ItemKind,
    },
    /// A PCCS's status 461: it holds nothing for this platform and may not ask.
    #[error("{host} has no {item} in its cache (461): register the platform there")]
    NotCached {
        /// Which host.
        host: String,
        /// What was asked for.
        item: ItemKind,
    },
    /// A PCCS's status 462: it has no certificates for the platform's TCB.
    #[error("{host} has no certificates for this platform's TCB (462)")]
    NoCertificates {
        /// Which host.
        host: String,
    },
    /// Status 429 or 503, also after the repetitions.
    #[error("{host} asks to come back later ({status})")]
    ComeBackLater {
        /// Which host.
        host: String,
        /// 429 or 503.
        status: u16,
        /// Its `Retry-After`, in seconds.
        retry_after: Option<u64>,
    },
    /// Another status than 200. Redirects are such.
    #[error("{host} answered {status} for the {item}")]
    Status {
        /// Which host.
        host: String,
        /// What was asked for.
        item: ItemKind,
        /// Its status.
        status: u16,
    },
    /// More than any real answer has.
    #[error("{host} sent more than {max} bytes as {item}")]
    TooLarge {
        /// Which host.
        host: String,
        /// What was asked for.
        item: ItemKind,
        /// Bytes allowed.
        max: usize,
    },
    /// Not what was asked for.
    #[error("what {host} sent as {item} is malformed: {detail}")]
    Malformed {
        /// Which host.
        host: String,
        /// What was asked for.
        item: ItemKind,
        /// What is wrong with it.
        detail: &'static str,
    },
    /// The parts do not make one document.
    #[error("what {host} sent is no collateral: {source}")]
    Document {
        /// Which host.
        host: String,
        /// Why.
        source: DocumentError,
    },
    /// Collateral for another family or CA than asked for.
    #[error("{host} sent collateral for {got}: {wanted} was asked for")]
    OtherFamily {
        /// Which host.
        host: String,
        /// FMSPC and CA asked for.
        wanted: String,
        /// FMSPC and CA it is for.
        got: String,
    },
}

impl FetchError {
    /// One of a small set of words, for metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Url { .. } | Self::Tls(_) | Self::Client => "configuration",
            Self::Unreachable { .. } => "unreachable",
            Self::Timeout { .. } => "timeout",
            Self::UnknownFamily { .. } | Self::Withdrawn { .. } | Self::NotCached { .. } | Self::NoCertificates { .. } => "not_found",
            Self::ComeBackLater { .. } => "throttled",
            Self::Status { .. } => "status",
            Self::TooLarge { .. } | Self::Malformed { .. } | Self::Document { .. } => "malformed",
            Self::OtherFamily { .. } => "other_family",
        }
    }

    /// Whether the same request can succeed in a while without anybody doing anything.
    pub const fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::ComeBackLater { .. } => true,
            Self::Status { status, .. } => *status >= 500,
            _ => false,
        }
    }

    /// How long the service wants to be left alone, in seconds.
    pub const fn retry_after(&self) -> Option<u64> {
        match self {
            Self::ComeBackLater { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}
