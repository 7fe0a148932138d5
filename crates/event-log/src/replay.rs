//! Replay: a register is the digests of its events, one extended after the other.

use std::fmt;

use sha2::{Digest as _, Sha384};

use crate::{Digest, Event, EventLog, Register, names::type_name};

/// A log whose digests make the registers of a quote. Made by [`EventLog::replay_against`] only.
#[derive(Clone)]
pub struct ReplayedLog {
    events: Vec<ReplayedEvent>,
}

/// An event whose digest is in a register.
#[derive(Clone, PartialEq, Eq)]
pub struct ReplayedEvent {
    register: Register,
    kind: u32,
    digest: Digest,
    data: Option<Vec<u8>>,
}

/// The log is not that of the quote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the event log makes {} {}: the quote has {}", register.name(), hex::encode(**got), hex::encode(**wanted))]
pub struct Mismatch {
    /// Which register.
    pub register: Register,
    /// The quote's value.
    pub wanted: Box<Digest>,
    /// What the log adds up to.
    pub got: Box<Digest>,
}

impl EventLog {
    /// What RTMR0 to RTMR3 are after the events of this log: from zeros, each digest extended by SHA-384.
    pub fn registers(&self) -> [Digest; 4] {
        let mut registers = [[0; 48]; 4];
        for event in &self.events {
            if let Some(register) = registers.get_mut(usize::from(event.register.number())) {
                *register = Sha384::new().chain_update(*register).chain_update(event.digest).finalize().into();
            }
        }
        registers
    }

    /// Holds the log against the registers of a quote. RTMR0 to RTMR2 have to be made by it. RTMR3 only if it has an event
    /// of it: what software extends at run time is in no firmware's log.
    pub fn replay_against(self, rtmrs: &[Digest; 4]) -> Result<ReplayedLog, Mismatch> {
        for ((number, got), wanted) in (0..).zip(self.registers()).zip(rtmrs) {
            let Some(register) = Register::new(number) else { continue };
            let covered = number < 3 || self.events.iter().any(|event| event.register == register);
            if covered && got != *wanted {
                return Err(Mismatch { register, wanted: Box::new(*wanted), got: Box::new(got) });
            }
        }
        Ok(ReplayedLog { events: self.events.into_iter().map(ReplayedEvent::of).collect() })
    }
}

impl ReplayedLog {
    /// The events in the order of the log.
    pub fn events(&self) -> &[ReplayedEvent] {
        &self.events
    }
    /// The digests that made this register, in their order.
    pub fn digests(&self, register: Register) -> impl Iterator<Item = &Digest> {
        self.events.iter().filter(move |event| event.register == register).map(|event| &event.digest)
    }
}

impl fmt::Debug for ReplayedLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReplayedLog({} events)", self.events.len())
    }
}

impl fmt::Debug for ReplayedEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReplayedEvent({} {} {})", self.register.name(), type_name(self.kind), hex::encode(self.digest))
    }
}

impl ReplayedEvent {
    fn of(event: Event) -> Self {
        let Event { register, kind, digest, data } = event;
        let proved = Digest::from(Sha384::digest(&data)) == digest;
        Self { register, kind, digest, data: proved.then_some(data) }
    }
    /// The register that it extended.
    pub const fn register(&self) -> Register {
        self.register
    }
    /// The type that the sender gives it. No digest covers it.
    pub const fn kind(&self) -> u32 {
        self.kind
    }
    /// What was extended.
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }
    /// The data, where the digest is SHA-384 of it; otherwise nobody knows what was measured.
    pub fn data(&self) -> Option<&[u8]> {
        self.data.as_deref()
    }
}
