//! Logs built by hand from the format: sound ones, and what a hostile TD may send.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use keyferry_event_log::{ALGORITHMS_MAX, EVENTS_MAX, EventLog, EventLogError, LOG_BYTES_MAX, Register};
use sha2::{Digest, Sha384};

const SHA384: u16 = 0x0c;

fn specification(algorithms: &[(u16, u16)]) -> Vec<u8> {
    let mut data = b"Spec ID Event03\0".to_vec();
    data.extend([0, 0, 0, 0, 0, 2, 0, 2]);
    data.extend(u32::try_from(algorithms.len()).unwrap().to_le_bytes());
    for (algorithm, size) in algorithms {
        data.extend(algorithm.to_le_bytes());
        data.extend(size.to_le_bytes());
    }
    data.push(0);
    let mut record = [1_u32.to_le_bytes(), 3_u32.to_le_bytes()].concat();
    record.extend([0; 20]);
    record.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
    record.extend(data);
    record
}

fn header() -> Vec<u8> {
    specification(&[(SHA384, 48)])
}

fn event(index: u32, kind: u32, digest: &[u8; 48], data: &[u8]) -> Vec<u8> {
    let mut record = [index.to_le_bytes(), kind.to_le_bytes(), 1_u32.to_le_bytes()].concat();
    record.extend(SHA384.to_le_bytes());
    record.extend(digest);
    record.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
    record.extend(data);
    record
}

fn measured(index: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    event(index, kind, &hash(data), data)
}

fn hash(data: &[u8]) -> [u8; 48] {
    Sha384::digest(data).into()
}

fn extended(digests: &[[u8; 48]]) -> [u8; 48] {
    digests.iter().fold([0; 48], |register, digest| hash(&[register, *digest].concat()))
}

#[track_caller]
fn refused(log: &[u8]) -> EventLogError {
    EventLog::parse(log).unwrap_err()
}

#[test]
fn a_log_makes_the_registers_of_its_quote() {
    let unproved = event(3, 0xd, &[7; 48], b"root=/dev/vda");
    let records = [header(), measured(1, 4, &[0; 4]), measured(2, 0x8000_0006, b"gpt"), unproved, measured(1, 0x8000_0007, b"Exit")];
    let rtmrs = [extended(&[hash(&[0; 4]), hash(b"Exit")]), extended(&[hash(b"gpt")]), extended(&[[7; 48]]), [9; 48]];
    for filling in [vec![], vec![0xff; 4096], vec![0; 4096], vec![0; 7], vec![0xff; 3]] {
        let log = EventLog::parse(&[records.concat(), filling].concat()).unwrap();
        let replayed = log.replay_against(&rtmrs).unwrap();
        assert_eq!(replayed.events().len(), 4);
        assert_eq!(replayed.digests(Register::new(0).unwrap()).count(), 2);
        let ipl = replayed.events().iter().find(|event| event.kind() == 0xd).unwrap();
        assert_eq!((ipl.register().name(), ipl.digest(), ipl.data()), ("rtmr2", &[7; 48], None), "its text proves nothing");
        let separator = &replayed.events()[0];
        assert_eq!((separator.data(), separator.register().measurement_index()), (Some(&[0; 4][..]), 1));
    }
}

#[test]
fn a_log_of_another_quote_names_the_register() {
    let log = || EventLog::parse(&[header(), measured(1, 4, b"a"), measured(4, 0xd, b"app")].concat()).unwrap();
    let sound = [extended(&[hash(b"a")]), [0; 48], [0; 48], extended(&[hash(b"app")])];
    log().replay_against(&sound).unwrap();
    for register in 0..4 {
        let mut other = sound;
        other[register][0] ^= 1;
        let mismatch = log().replay_against(&other).unwrap_err();
        assert_eq!(usize::from(mismatch.register.number()), register);
        assert_eq!((*mismatch.wanted, *mismatch.got), (other[register], sound[register]));
        assert!(mismatch.to_string().contains(&format!("makes rtmr{register} {}", hex(&sound[register]))), "{mismatch}");
    }
    // The same digests in another order.
    let swapped = EventLog::parse(&[header(), measured(1, 4, b"b"), measured(1, 4, b"a")].concat()).unwrap();
    assert!(swapped.replay_against(&[extended(&[hash(b"a"), hash(b"b")]), [0; 48], [0; 48], [0; 48]]).is_err());
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

#[test]
fn what_software_extends_at_run_time_is_in_no_firmwares_log() {
    let log = EventLog::parse(&[header(), measured(1, 4, b"a")].concat()).unwrap();
    log.replay_against(&[extended(&[hash(b"a")]), [0; 48], [0; 48], [5; 48]]).unwrap();
}

#[test]
fn events_that_are_not_measured_are_skipped() {
    let records = [
        header(),
        event(0, 0x8000_000a, &[3; 48], b"of MRTD"),
        event(77, 3, &[0; 48], b"EV_NO_ACTION, whatever its index"),
        measured(2, 4, b"x"),
        u32::MAX.to_le_bytes().to_vec(),
        b"nothing that follows counts".to_vec(),
    ];
    let log = EventLog::parse(&records.concat()).unwrap();
    assert_eq!(log.registers(), [[0; 48], extended(&[hash(b"x")]), [0; 48], [0; 48]]);
    let zeros = [header(), measured(1, 4, b"x"), vec![0; 12], measured(1, 4, b"y")].concat();
    assert_eq!(EventLog::parse(&zeros).unwrap().registers()[0], extended(&[hash(b"x")]), "a header of zeros ends the log");
    assert_eq!(EventLog::parse(&header()).unwrap().registers(), [[0; 48]; 4]);
}

#[test]
fn every_truncation_is_an_error_or_a_shorter_log_and_none_is_read_beyond() {
    let whole = [header(), measured(1, 4, b"some data"), measured(2, 0xd, &[1; 40])].concat();
    for length in 0..whole.len() {
        match EventLog::parse(&whole[..length]) {
            Ok(log) => assert_ne!(log.registers(), EventLog::parse(&whole).unwrap().registers(), "{length}"),
            Err(error) => assert!(matches!(error, EventLogError::Truncated { .. }), "{length}: {error}"),
        }
    }
    // One byte changed anywhere: an answer, never a panic.
    for at in 0..whole.len() {
        for flip in [1, 0x80, 0xff] {
            let mut changed = whole.clone();
            changed[at] ^= flip;
            drop(EventLog::parse(&changed));
        }
    }
}

#[test]
fn sizes_and_counts_that_lie_are_refused_before_anything_is_read() {
    let absurd = |offset: usize, value: u32| {
        let (start, mut log) = (header().len(), [header(), measured(1, 4, b"data")].concat());
        log[start + offset..start + offset + 4].copy_from_slice(&value.to_le_bytes());
        refused(&log)
    };
    assert!(matches!(absurd(8, u32::MAX), EventLogError::TooLarge { what: "digests of one event", .. }));
    assert!(matches!(absurd(8, ALGORITHMS_MAX + 1), EventLogError::TooLarge { .. }));
    assert!(matches!(absurd(8, 0), EventLogError::Truncated { .. } | EventLogError::NoSha384 { .. }));
    assert!(matches!(absurd(62, u32::MAX), EventLogError::Truncated { what: "an event's data", .. }));
    assert!(matches!(absurd(62, 5), EventLogError::Truncated { .. }));
    assert_eq!(absurd(0, 5), EventLogError::UnknownRegister { number: 0, index: 5 });

    let mut first = header();
    first[28..32].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(refused(&first), EventLogError::Truncated { what: "the first record", .. }));
    let mut count = header();
    count[32 + 24..32 + 28].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(refused(&count), EventLogError::TooLarge { what: "hash algorithms", .. }));

    assert!(matches!(refused(&vec![0; LOG_BYTES_MAX + 1]), EventLogError::TooLarge { what: "bytes", .. }));
    let many = [header(), measured(1, 4, b"").repeat(EVENTS_MAX + 1)].concat();
    assert!(matches!(refused(&many), EventLogError::TooLarge { what: "events", .. }));
}

#[test]
fn the_header_has_to_declare_what_the_events_use() {
    assert!(matches!(refused(&[]), EventLogError::Truncated { .. }));
    assert!(matches!(refused(&[0; 100]), EventLogError::Header(_)));
    assert!(matches!(refused(&[0xff; 100]), EventLogError::Header(_)));
    assert!(matches!(refused(&specification(&[])), EventLogError::Header(_)));
    assert!(matches!(refused(&specification(&[(0x0b, 32)])), EventLogError::Header(_)));
    assert!(matches!(refused(&specification(&[(SHA384, 32)])), EventLogError::Algorithm { .. }));
    assert!(matches!(refused(&specification(&[(SHA384, 48), (0x99, 65)])), EventLogError::Algorithm { .. }));
    assert!(matches!(refused(&specification(&[(SHA384, 48), (SHA384, 48)])), EventLogError::Algorithm { .. }));
    let mut signature = header();
    signature[32] = b'X';
    assert!(matches!(refused(&signature), EventLogError::Header(_)));

    let mut other = event(1, 4, &[1; 48], b"");
    other[12..14].copy_from_slice(&0x0b_u16.to_le_bytes());
    assert!(matches!(refused(&[header(), other.clone()].concat()), EventLogError::Algorithm { algorithm: 0x0b, .. }));
    // Declared, but no SHA-384 among the digests: the sizes do not fit either, so take the bytes apart anew.
    let mut only_sha256 = [1_u32.to_le_bytes(), 4_u32.to_le_bytes(), 1_u32.to_le_bytes()].concat();
    only_sha256.extend(0x0b_u16.to_le_bytes());
    only_sha256.extend([1; 32]);
    only_sha256.extend(0_u32.to_le_bytes());
    let log = [specification(&[(0x0b, 32), (SHA384, 48)]), only_sha256].concat();
    assert_eq!(refused(&log), EventLogError::NoSha384 { number: 0 });
    let mut twice = [1_u32.to_le_bytes(), 4_u32.to_le_bytes(), 2_u32.to_le_bytes()].concat();
    for _ in 0..2 {
        twice.extend(SHA384.to_le_bytes());
        twice.extend([1; 48]);
    }
    twice.extend(0_u32.to_le_bytes());
    assert!(matches!(refused(&[header(), twice].concat()), EventLogError::Algorithm { .. }));
}

#[test]
fn several_banks_replay_by_sha384() {
    let mut both = [2_u32.to_le_bytes(), 4_u32.to_le_bytes(), 2_u32.to_le_bytes()].concat();
    both.extend(0x0b_u16.to_le_bytes());
    both.extend([1; 32]);
    both.extend(SHA384.to_le_bytes());
    both.extend([2; 48]);
    both.extend(0_u32.to_le_bytes());
    let log = EventLog::parse(&[specification(&[(0x0b, 32), (SHA384, 48)]), both].concat()).unwrap();
    assert_eq!(log.registers()[1], extended(&[[2; 48]]));
}

#[test]
fn intels_json_text_is_read_with_either_numbering() {
    let digest = "ab".repeat(48);
    let entry = |index: u32, bank: &str| {
        format!(
            r#"{{"rtmr":{{"index":{index},"bank":"{bank}"}},"rtmr_events":[{{"type_id":"0x80000007","type_name":"EV_EFI_ACTION","tags":["lie"],"measurement":"{digest}"}},{{"type_id":"0x00000003","measurement":"{digest}"}}]}}"#
        )
    };
    let extended = extended(&[[0xab; 48]]);
    let log = |text: String| EventLog::parse(text.as_bytes()).unwrap();
    assert_eq!(log(format!("[{},{}]", entry(1, "SHA384"), entry(4, "SHA-384"))).registers(), [extended, [0; 48], [0; 48], extended]);
    assert_eq!(log(format!(" [{},{}]", entry(0, "SHA384"), entry(3, "sha384"))).registers(), [extended, [0; 48], [0; 48], extended]);
    assert_eq!(log(format!("[{}]", entry(2, "SHA256"))).registers(), [[0; 48]; 4], "another bank extends nothing");
    assert_eq!(log("[]".to_owned()).registers(), [[0; 48]; 4]);
    let replayed = log(format!("[{}]", entry(1, "SHA384"))).replay_against(&[extended, [0; 48], [0; 48], [0; 48]]).unwrap();
    assert_eq!(replayed.events()[0].data(), None, "the text of this form cannot be checked");
    for text in [
        "[".to_owned(),
        "[1]".to_owned(),
        r#"[{"rtmr":{"index":1,"bank":"SHA384"},"rtmr_events":[{"type_id":"x","measurement":""}]}]"#.to_owned(),
        format!(r#"[{{"rtmr":{{"index":1,"bank":"SHA384"}},"rtmr_events":[{{"type_id":"0x4","measurement":"{}"}}]}}]"#, "ab".repeat(47)),
    ] {
        assert!(matches!(refused(text.as_bytes()), EventLogError::Json(_)), "{text}");
    }
    let unknown = format!("[{}]", entry(9, "SHA384"));
    assert!(matches!(refused(unknown.as_bytes()), EventLogError::UnknownRegister { index: 9, .. }));
    let one = r#"{"type_id":"0x4","measurement":"{}"}"#.replace("{}", &digest);
    let many = format!(r#"[{{"rtmr":{{"index":1,"bank":"SHA384"}},"rtmr_events":[{}]}}]"#, vec![one; EVENTS_MAX + 1].join(","));
    assert!(matches!(refused(many.as_bytes()), EventLogError::TooLarge { what: "events", .. }));
}
