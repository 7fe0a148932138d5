//! The product's only clock. Decisions take the time as an argument; this is where that argument comes from.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970. A clock before 1970 reads as 0, at which every token and certificate is not yet valid.
pub fn now() -> u64 {
    #[allow(clippy::disallowed_methods, reason = "this is the one clock")]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The time with its fraction of a second, for records and logs.
pub fn timestamp() -> jiff::Timestamp {
    #[allow(clippy::disallowed_methods, reason = "this is the one clock")]
    jiff::Timestamp::now()
}
