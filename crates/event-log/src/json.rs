//! The JSON text of Intel's older clients: one entry for each register and hash bank, digests in their order.
//!
//! `[{"rtmr":{"index":1,"bank":"SHA384"},"rtmr_events":[{"type_id":"0x80000007","type_name":"..","tags":[..],
//! "measurement":"<96 hex digits>"}]}]`. Tags are texts nobody can check; they are not kept.

use serde::Deserialize;

use crate::{Digest, EV_NO_ACTION, EVENTS_MAX, Event, EventLogError, register, within};

#[derive(Deserialize)]
struct Entry {
    rtmr: Rtmr,
    #[serde(default)]
    rtmr_events: Option<Vec<Logged>>,
}

#[derive(Deserialize)]
struct Rtmr {
    index: u32,
    bank: String,
}

#[derive(Deserialize)]
struct Logged {
    type_id: String,
    measurement: String,
}

pub(crate) fn parse(bytes: &[u8]) -> Result<Vec<Event>, EventLogError> {
    let entries: Vec<Entry> =
        serde_json::from_slice(bytes).map_err(|error| EventLogError::Json(format!("line {} column {}", error.line(), error.column())))?;
    let sha384 = |entry: &&Entry| matches!(entry.rtmr.bank.to_ascii_uppercase().replace('-', "").as_str(), "SHA384");
    let entries: Vec<&Entry> = entries.iter().filter(sha384).collect();
    let offset = offset(&entries);
    let (mut events, mut number) = (Vec::new(), 0);
    for entry in entries {
        let index = entry.rtmr.index.saturating_add(offset);
        for logged in entry.rtmr_events.iter().flatten() {
            let kind = kind(logged, number)?;
            within("events", number + 1, EVENTS_MAX)?;
            let register = if kind == EV_NO_ACTION { None } else { register(index, number)? };
            let digest = digest(logged, number)?;
            events.extend(register.map(|register| Event { register, kind, digest, data: Vec::new() }));
            number += 1;
        }
    }
    Ok(events)
}

/// Clients number the registers as the firmware's log does, MRTD being 0, or by RTMR. The replay decides in the end: under
/// the wrong reading it does not add up.
fn offset(entries: &[&Entry]) -> u32 {
    let measured =
        |entry: &&&Entry| entry.rtmr_events.as_ref().is_some_and(|events| events.iter().any(|event| kind(event, 0) != Ok(EV_NO_ACTION)));
    let indexes: Vec<u32> = entries.iter().filter(measured).map(|entry| entry.rtmr.index).collect();
    u32::from(indexes.contains(&0) && !indexes.contains(&4))
}

fn kind(logged: &Logged, number: usize) -> Result<u32, EventLogError> {
    let digits = logged.type_id.strip_prefix("0x").or_else(|| logged.type_id.strip_prefix("0X"));
    let kind = digits.map_or_else(|| logged.type_id.parse().ok(), |digits| u32::from_str_radix(digits, 16).ok());
    kind.ok_or_else(|| EventLogError::Json(format!("type_id of event {number}")))
}

fn digest(logged: &Logged, number: usize) -> Result<Digest, EventLogError> {
    let mut digest = [0; 48];
    hex::decode_to_slice(logged.measurement.as_bytes(), &mut digest)
        .map_err(|_| EventLogError::Json(format!("measurement of event {number} is not 96 hex digits")))?;
    Ok(digest)
}
