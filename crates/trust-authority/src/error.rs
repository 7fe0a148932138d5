//! Why there is no nonce, token or key set.

use std::path::PathBuf;

/// What went wrong and what to do. Never holds a peer's free text.
#[derive(Debug, thiserror::Error)]
pub enum TrustAuthorityError {
    /// Not an `https://` URL.
    #[error("{url:?} is no https:// URL: evidence and tokens travel over TLS only")]
    Url {
        /// What was configured.
        url: String,
    },
    /// The roots cannot be used.
    #[error("the trust authority's root: {0}")]
    Roots(#[from] keyferry_tls::TlsError),
    /// The HTTP client cannot be built.
    #[error("the HTTP client cannot be built")]
    Client,
    /// Not a header value.
    #[error("the API key has characters that no HTTP header can carry")]
    ApiKey,
    /// The API key file cannot be used.
    #[error("the API key file {} cannot be used: {cause}", path.display())]
    ApiKeyFile {
        /// Which file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// The evidence is bigger than the service takes.
    #[error("the request has {bytes} bytes, the trust authority takes {max}: send less user data or event log")]
    RequestTooLarge {
        /// Bytes to send.
        bytes: usize,
        /// Bytes taken.
        max: usize,
    },
    /// No connection, TLS failed, or it broke.
    #[error("the trust authority at {host} cannot be reached: check address, network and pinned root")]
    Unreachable {
        /// Which host.
        host: String,
    },
    /// No answer in time.
    #[error("the trust authority at {host} did not answer in time")]
    Timeout {
        /// Which host.
        host: String,
    },
    /// It answered with another status than 200.
    #[error("the trust authority at {host} answered with status {status}{}{}", labelled(reason.as_deref()), traced(trace_id.as_deref()))]
    Status {
        /// Which host.
        host: String,
        /// The status.
        status: u16,
        /// The reason label with which a token-broker's error text begins, or the one that fits the words of Intel's.
        reason: Option<String>,
        /// What the service calls this answer: good for a question to its operator.
        trace_id: Option<String>,
    },
    /// The answer is over the bound.
    #[error("the trust authority at {host} sent more than {max} bytes")]
    AnswerTooLarge {
        /// Which host.
        host: String,
        /// Bytes allowed.
        max: usize,
    },
    /// The answer is not what the API documents.
    #[error("the trust authority's answer is malformed: {field}")]
    Malformed {
        /// Which member.
        field: &'static str,
    },
}

fn labelled(reason: Option<&str>) -> String {
    reason.map_or_else(String::new, |reason| format!(" ({reason})"))
}

fn traced(trace_id: Option<&str>) -> String {
    trace_id.map_or_else(String::new, |trace_id| format!(", trace id {trace_id}"))
}
