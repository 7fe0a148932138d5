//! The TCG crypto-agile log. Source: TCG PC Client Platform Firmware Profile, sections 10.2 and 10.4.5; the measurement
//! indexes are those of the UEFI specification, EFI_CC_MEASUREMENT_PROTOCOL.
//!
//! The first record has the older form: u32 index, u32 type, 20 bytes of digest, u32 size, data; its data declare the
//! algorithms. The others: u32 index, u32 type, u32 count, for each digest u16 algorithm and the digest, u32 size, data.
//! Little-endian. The log ends with the area, at index `0xFFFFFFFF`, or at a header of zeros.

use crate::{ALGORITHMS_MAX, Digest, EV_NO_ACTION, EVENTS_MAX, Event, EventLogError, register, within};

const SIGNATURE: &[u8; 16] = b"Spec ID Event03\0";
const SHA384: u16 = 0x000c;
const END: u32 = u32::MAX;
/// Index, type and count.
const HEADER_BYTES: usize = 12;
const DIGEST_BYTES_MAX: u16 = 64;
/// Sizes of the digests that have a fixed one, by TCG algorithm id.
const SIZES: [(u16, u16); 8] =
    [(0x0004, 20), (0x000b, 32), (SHA384, 48), (0x000d, 64), (0x0012, 32), (0x0027, 32), (0x0028, 48), (0x0029, 64)];

pub(crate) fn parse(bytes: &[u8]) -> Result<Vec<Event>, EventLogError> {
    let mut reader = Reader { bytes, at: 0 };
    let algorithms = specification(&mut reader)?;
    let (mut events, mut number) = (Vec::new(), 0);
    while !reader.at_end() {
        let Some(event) = record(&mut reader, &algorithms, number)? else { break };
        number += 1;
        within("events", number, EVENTS_MAX)?;
        events.extend(event.measured);
    }
    Ok(events)
}

/// A record of the log, whether it is replayed or not.
struct Record {
    measured: Option<Event>,
}

/// `None` at the end of the log.
fn record(reader: &mut Reader<'_>, algorithms: &[(u16, u16)], number: usize) -> Result<Option<Record>, EventLogError> {
    let index = reader.u32("an event's header")?;
    if index == END {
        return Ok(None);
    }
    let (kind, count) = (reader.u32("an event's header")?, reader.u32("an event's header")?);
    if (index, kind, count) == (0, 0, 0) {
        return Ok(None);
    }
    within("digests of one event", usize::try_from(count).unwrap_or(usize::MAX), ALGORITHMS_MAX as usize)?;
    let mut digest = None;
    for _ in 0..count {
        let at = reader.at;
        let algorithm = reader.u16("a digest")?;
        let declared = algorithms.iter().find(|(id, _)| *id == algorithm);
        let (_, size) = declared.ok_or(EventLogError::Algorithm { algorithm, problem: "is not declared in the header", at })?;
        let value = reader.take(usize::from(*size), "a digest")?;
        if algorithm == SHA384 {
            if digest.is_some() {
                return Err(EventLogError::Algorithm { algorithm, problem: "comes twice in one event", at });
            }
            digest = Digest::try_from(value).ok();
        }
    }
    let size = usize::try_from(reader.u32("an event's size")?).unwrap_or(usize::MAX);
    let data = reader.take(size, "an event's data")?;
    if kind == EV_NO_ACTION {
        return Ok(Some(Record { measured: None }));
    }
    let register = register(index, number)?;
    let digest = digest.ok_or(EventLogError::NoSha384 { number })?;
    Ok(Some(Record { measured: register.map(|register| Event { register, kind, digest, data: data.to_vec() }) }))
}

/// Reads the first record. Returns the declared algorithms and their sizes.
fn specification(reader: &mut Reader<'_>) -> Result<Vec<(u16, u16)>, EventLogError> {
    let (_, kind) = (reader.u32("the first record")?, reader.u32("the first record")?);
    if kind != EV_NO_ACTION {
        return Err(EventLogError::Header("its type is not EV_NO_ACTION"));
    }
    reader.take(20, "the first record")?;
    let size = usize::try_from(reader.u32("the first record")?).unwrap_or(usize::MAX);
    let data = reader.take(size, "the first record")?;
    let mut reader = Reader { bytes: data, at: 0 };
    if reader.take(SIGNATURE.len(), "the specification event")? != SIGNATURE {
        return Err(EventLogError::Header("its signature is not \"Spec ID Event03\""));
    }
    // Platform class, versions, size of UINTN.
    reader.take(8, "the specification event")?;
    let count = reader.u32("the specification event")?;
    within("hash algorithms", usize::try_from(count).unwrap_or(usize::MAX), ALGORITHMS_MAX as usize)?;
    let mut algorithms: Vec<(u16, u16)> = Vec::new();
    for _ in 0..count {
        let at = reader.at;
        let (algorithm, size) = (reader.u16("the specification event")?, reader.u16("the specification event")?);
        let wrong = SIZES.iter().any(|(id, bytes)| *id == algorithm && *bytes != size);
        if wrong || size > DIGEST_BYTES_MAX {
            return Err(EventLogError::Algorithm { algorithm, problem: "has another digest size than declared", at });
        }
        if algorithms.iter().any(|(id, _)| *id == algorithm) {
            return Err(EventLogError::Algorithm { algorithm, problem: "is declared twice", at });
        }
        algorithms.push((algorithm, size));
    }
    if algorithms.iter().any(|(id, _)| *id == SHA384) { Ok(algorithms) } else { Err(EventLogError::Header("it declares no SHA-384")) }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Nothing is left but filling that is too short for a header.
    fn at_end(&self) -> bool {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        rest.is_empty() || (rest.len() < HEADER_BYTES && (rest.iter().all(|byte| *byte == 0) || rest.iter().all(|byte| *byte == 0xff)))
    }
    fn take(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], EventLogError> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(EventLogError::Truncated { what, at: self.at })?;
        let taken = self.bytes.get(self.at..end).unwrap_or_default();
        self.at = end;
        Ok(taken)
    }
    fn u16(&mut self, what: &'static str) -> Result<u16, EventLogError> {
        let mut bytes = [0; 2];
        bytes.copy_from_slice(self.take(2, what)?);
        Ok(u16::from_le_bytes(bytes))
    }
    fn u32(&mut self, what: &'static str) -> Result<u32, EventLogError> {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(self.take(4, what)?);
        Ok(u32::from_le_bytes(bytes))
    }
}
