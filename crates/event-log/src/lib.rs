//! What a TD says it measured, replayed against the run-time registers of its quote.
//!
//! [`EventLog::parse`] reads both forms that clients send: the raw CCEL area (TCG crypto-agile log, as Linux has it in
//! `/sys/firmware/acpi/tables/data/CCEL`) and the JSON text of Intel's older clients. [`EventLog::replay_against`] is the
//! only way to a [`ReplayedLog`], whose digests are those that made the registers.
//!
//! # The trust rule
//!
//! A log is not signed: its sender may write what it likes. Replay proves the *digests*, in their order, because the quote
//! signs what they add up to. It proves nothing of the event's text: firmware logs other bytes than it hashes for PE images,
//! boot variables and command lines. So a [`ReplayedEvent`] has data only where the digest is SHA-384 of that very data, and
//! type names are labels that prove nothing either. Events of MRTD are dropped: MRTD is not made by extension.
//!
//! A log is hostile bytes of a bounded size: every length is checked against what is left before anything is read, and
//! counts are bounded by constants. This crate knows nothing of quotes, policies and files.

mod ccel;
mod json;
mod names;
mod replay;

pub use names::type_name;
pub use replay::{Mismatch, ReplayedEvent, ReplayedLog};

/// The longest log. Areas of 64 and 256 KiB are usual.
pub const LOG_BYTES_MAX: usize = 512 * 1024;
/// The most events of one log. A log of a cloud TD has 30 to 60.
pub const EVENTS_MAX: usize = 2048;
/// The most hash algorithms of one log, and digests of one event.
pub const ALGORITHMS_MAX: u32 = 8;
/// The event that is logged and not measured.
pub const EV_NO_ACTION: u32 = 3;

/// A SHA-384 digest.
pub type Digest = [u8; 48];

/// One of RTMR0 to RTMR3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Register(u8);

impl Register {
    /// By its number, 0 to 3.
    pub const fn new(number: u8) -> Option<Self> {
        if number < 4 { Some(Self(number)) } else { None }
    }
    /// 0 to 3.
    pub const fn number(self) -> u8 {
        self.0
    }
    /// The index that logs have for it: one higher, because MRTD is 0.
    pub const fn measurement_index(self) -> u32 {
        self.0 as u32 + 1
    }
    /// `rtmr0` to `rtmr3`.
    pub const fn name(self) -> &'static str {
        match self.0 {
            0 => "rtmr0",
            1 => "rtmr1",
            2 => "rtmr2",
            _ => "rtmr3",
        }
    }
}

/// Why bytes are no event log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventLogError {
    /// Over a bound.
    #[error("the event log has {found} {what}: {max} are allowed")]
    TooLarge {
        /// What was counted.
        what: &'static str,
        /// How many.
        found: usize,
        /// The bound.
        max: usize,
    },
    /// A record says that it is longer than the log.
    #[error("the event log ends within {what} at byte {at}")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Where it begins.
        at: usize,
    },
    /// The first record is no specification event.
    #[error("the event log does not begin with a TCG specification event: {0}")]
    Header(&'static str),
    /// An algorithm that the header does not declare, or with another size than it has.
    #[error("event log: algorithm {algorithm:#06x} {problem} (byte {at})")]
    Algorithm {
        /// Its TCG id.
        algorithm: u16,
        /// What is wrong with it.
        problem: &'static str,
        /// Where.
        at: usize,
    },
    /// An event that cannot be replayed.
    #[error("event {number} has no SHA-384 digest: nothing else extends a register")]
    NoSha384 {
        /// Its place in the log, from 0.
        number: usize,
    },
    /// An event of a register that no TD has.
    #[error("event {number} is for measurement register {index}: a TD has 0 (MRTD) to 4 (RTMR3)")]
    UnknownRegister {
        /// Its place in the log, from 0.
        number: usize,
        /// The index.
        index: u32,
    },
    /// The JSON form, and not as Intel's clients write it.
    #[error("the event log is no JSON of Intel's form: {0}")]
    Json(String),
}

/// A parsed log. Nothing is known of its truth.
#[derive(Clone, PartialEq, Eq)]
pub struct EventLog {
    pub(crate) events: Vec<Event>,
}

/// As it stands in the log.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) register: Register,
    pub(crate) kind: u32,
    pub(crate) digest: Digest,
    /// What was logged; the JSON form has none.
    pub(crate) data: Vec<u8>,
}

impl std::fmt::Debug for EventLog {
    /// Without the contents, which are somebody's machine.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EventLog({} events)", self.events.len())
    }
}

impl EventLog {
    /// Reads a log in either form: JSON text begins with a bracket, a CCEL area never does.
    pub fn parse(bytes: &[u8]) -> Result<Self, EventLogError> {
        within("bytes", bytes.len(), LOG_BYTES_MAX)?;
        let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
        let events = if first == Some(&b'[') { json::parse(bytes)? } else { ccel::parse(bytes)? };
        Ok(Self { events })
    }
}

pub(crate) fn within(what: &'static str, found: usize, max: usize) -> Result<(), EventLogError> {
    if found > max { Err(EventLogError::TooLarge { what, found, max }) } else { Ok(()) }
}

/// The register of a measurement index; `None` for MRTD.
pub(crate) fn register(index: u32, number: usize) -> Result<Option<Register>, EventLogError> {
    match index {
        0 => Ok(None),
        1..=4 => Ok(u8::try_from(index - 1).ok().and_then(Register::new)),
        _ => Err(EventLogError::UnknownRegister { number, index }),
    }
}
