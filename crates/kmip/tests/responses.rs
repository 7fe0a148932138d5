//! Answers as a real server gives them, and the same ones changed in every way we could think of.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking; the exemption covers helpers only inside #[test]")]

use keyferry_kmip::{
    Algorithm, DEPTH_MAX, DecodeError, FRAME_BYTES_MAX, ITEMS_MAX, KeyFormat, ObjectId, ObjectType, Operation, Payload, Request,
    ResponseError, ResultReason, State, Tag, UsageMask, decode, frame_length, parse,
};
use proptest::prelude::*;

/// PyKMIP 0.11.0, KMIP 1.4: the answer to GetAttributes and Get of an active AES-256 key with identifier 1.
const FETCHED_1_4: &str = include_str!("data/fetched-1.4.hex");
/// The same in KMIP 2.0.
const FETCHED_2_0: &str = include_str!("data/fetched-2.0.hex");
/// The same server's refusal of an object that does not exist.
const REFUSED: &str = include_str!("data/refused.hex");

fn frame(text: &str) -> Vec<u8> {
    hex::decode(text.trim()).unwrap()
}

fn id() -> ObjectId {
    ObjectId::parse("1").unwrap()
}

fn fetch<'a>(frame: &'a [u8], id: &ObjectId) -> Result<Vec<Payload<'a>>, ResponseError> {
    decode(frame, &[Request::GetAttributes { id }, Request::Get { id }])
}

#[test]
fn a_real_servers_answer_is_read_in_both_dialects() {
    for text in [FETCHED_1_4, FETCHED_2_0] {
        let frame = frame(text);
        let payloads = fetch(&frame, &id()).unwrap();
        let attributes = payloads[0].attributes().unwrap();
        assert_eq!((attributes.id, attributes.state), (Some(id()), Some(State::Active)));
        assert_eq!(attributes.usage, Some(UsageMask::ENCRYPT.with(UsageMask::DECRYPT)));
        assert_eq!((attributes.algorithm, attributes.length_bits), (Some(Algorithm::Aes), Some(256)));
        assert_eq!(attributes.object_type, Some(ObjectType::SymmetricKey));
        let key = payloads[1].key().unwrap();
        assert_eq!((&key.id, key.object_type, key.format, key.wrapped), (&id(), ObjectType::SymmetricKey, KeyFormat::Raw, false));
        assert_eq!(key.material, Some(&[0xA5; 32][..]));
        assert_eq!(frame_length(frame[..8].try_into().unwrap()), Ok(frame.len() - 8));
    }
}

#[test]
fn a_refusal_is_a_reason_without_text() {
    let frame = frame(REFUSED);
    let error = fetch(&frame, &id()).unwrap_err();
    assert_eq!(error, ResponseError::Refused { operation: Operation::GetAttributes, reason: ResultReason::ItemNotFound });
    assert!(!format!("{error} {error:?} {:?}", parse(&frame).unwrap()).contains("locate"));
}

#[test]
fn nothing_printable_shows_key_material() {
    let frame = frame(FETCHED_1_4);
    let payloads = fetch(&frame, &id()).unwrap();
    let printed = format!("{payloads:?} {:?}", payloads[1].key().unwrap()).to_lowercase();
    assert!(!printed.contains("a5") && !printed.contains("165"), "{printed}");
}

fn structure(children: &[u8]) -> Vec<u8> {
    let length = u32::try_from(children.len()).unwrap().to_be_bytes();
    [&[0x42, 0x00, 0x7B, 0x01][..], &length, children].concat()
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth| (1..depth).fold(structure(&[]), |inner, _| structure(&inner));
    assert!(parse(&nested(DEPTH_MAX)).is_ok());
    assert_eq!(parse(&nested(DEPTH_MAX + 1)).unwrap_err(), DecodeError::TooDeep);
    assert_eq!(parse(&nested(100_000)).unwrap_err(), DecodeError::TooDeep, "no recursion to its end");
}

#[test]
fn size_and_number_of_items_are_bounded() {
    assert_eq!(parse(&vec![0; FRAME_BYTES_MAX + 1]).unwrap_err(), DecodeError::TooLarge { bytes: FRAME_BYTES_MAX + 1 });
    let many = structure(&structure(&[]).repeat(ITEMS_MAX));
    assert_eq!(parse(&many).unwrap_err(), DecodeError::TooMany);
    assert!(matches!(frame_length([0x42, 0, 0x7B, 1, 0xFF, 0xFF, 0xFF, 0xFF]), Err(DecodeError::TooLarge { .. })));
    assert_eq!(frame_length([0x42, 0, 0x7B, 1, 0, 0, 0, 0]), Ok(0));
}

#[test]
fn lengths_types_and_texts_are_checked() {
    let item = |kind: u8, length: u32, value: &[u8]| {
        let mut item = vec![0x42, 0x00, 0x8D, kind];
        item.extend_from_slice(&length.to_be_bytes());
        item.extend_from_slice(value);
        structure(&item)
    };
    let error = |frame: Vec<u8>| parse(&frame).unwrap_err();
    for (kind, length) in [(0x02, 8), (0x03, 4), (0x04, 4), (0x05, 0), (0x06, 4), (0x09, 4), (0x0A, 8), (0x0B, 0)] {
        let value = vec![0; (length as usize).next_multiple_of(8)];
        assert!(matches!(error(item(kind, length, &value)), DecodeError::WrongLength { .. }), "type {kind:#x}");
    }
    assert!(matches!(error(item(0x0C, 4, &[0; 8])), DecodeError::UnknownType { kind: 0x0C, .. }));
    assert!(matches!(error(item(0x00, 4, &[0; 8])), DecodeError::UnknownType { kind: 0, .. }));
    assert!(matches!(error(item(0x07, 2, &[0xFF, 0xFE, 0, 0, 0, 0, 0, 0])), DecodeError::NotText { .. }));
    assert!(matches!(error(item(0x08, 9, &[0; 8])), DecodeError::Truncated { .. }), "longer than its parent");
    assert!(matches!(error(item(0x08, 5, &[0; 5])), DecodeError::Truncated { .. }), "padding missing");
    assert!(matches!(parse(&[structure(&[]), vec![0]].concat()), Err(DecodeError::Trailing { bytes: 1 })));
    assert!(matches!(parse(&[0x42]), Err(DecodeError::Truncated { .. })));
}

#[test]
fn every_cut_of_a_real_answer_is_truncated() {
    let frame = frame(FETCHED_1_4);
    for length in 0..frame.len() {
        assert!(matches!(parse(&frame[..length]), Err(DecodeError::Truncated { .. })), "cut to {length}");
    }
}

#[test]
fn answers_must_be_those_of_the_requests() {
    let once = frame(FETCHED_1_4);
    let message = parse(&once).unwrap();
    let items: Vec<_> = message.all(Tag::BATCH_ITEM).collect();
    assert_eq!(items.len(), 2);
    let id = id();
    // Both answers to a request for one of them, and one answer to a request for both.
    assert!(matches!(decode(&once, &[Request::Get { id: &id }]), Err(ResponseError::Malformed(_))));
    assert!(matches!(
        decode(&once, &[Request::Get { id: &id }, Request::GetAttributes { id: &id }]),
        Err(ResponseError::Malformed(DecodeError::NotTheAnswer { .. }))
    ));
}

#[test]
fn an_item_that_is_there_twice_is_refused_where_one_is_meant() {
    let state = |code| [&[0x42, 0x00, 0x8D, 0x05, 0, 0, 0, 4, 0, 0, 0, code][..], &[0; 4]].concat();
    let once = structure(&state(2));
    assert_eq!(parse(&once).unwrap().required(Tag::STATE).unwrap().enumeration(), Ok(2));
    let twice = structure(&[state(3), state(2)].concat());
    assert_eq!(parse(&twice).unwrap().required(Tag::STATE).unwrap_err(), DecodeError::Repeated { tag: Tag::STATE });
}

/// Reads everything there is to read: whatever happens, it must be a value or an error.
fn read_all(frame: &[u8]) {
    let id = id();
    let Ok(payloads) = fetch(frame, &id) else { return };
    for payload in payloads {
        let _ = (
            payload.key().map(|key| key.material.map(<[u8]>::len)),
            payload.attributes(),
            payload.relations(),
            payload.pair(),
            payload.id(),
            payload.ids(),
        );
        let _ = (payload.versions(), payload.operations(), format!("{payload:?}"));
    }
}

#[test]
fn every_single_byte_of_a_real_answer_may_take_any_of_these_values() {
    for text in [FETCHED_1_4, FETCHED_2_0, REFUSED] {
        let good = frame(text);
        for index in 0..good.len() {
            for value in [0x00, 0x01, 0x02, 0x05, 0x07, 0x08, 0x09, 0x0A, 0x7F, 0x80, 0xFF, good[index] ^ 0x01] {
                let mut bad = good.clone();
                bad[index] = value;
                read_all(&bad);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn mutated_answers_never_panic(
        which in 0..3_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = frame([FETCHED_1_4, FETCHED_2_0, REFUSED][which]);
        for (index, value) in changes {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        read_all(&bytes);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        read_all(&bytes);
        let _ = parse(&bytes);
    }
}
