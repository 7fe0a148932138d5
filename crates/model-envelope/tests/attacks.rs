//! What somebody who holds the file but not the key may try. Each attack has its own refusal.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails by panicking")]

use keyferry_key_wrap::KeyMaterial;
use keyferry_model_envelope::{ChunkSize, EnvelopeError, Header, Kfm1, MediaType, ModelName, is_kfm1, one_shot, seal};
use uuid::Uuid;

const CHUNK: usize = 1 << 16;
const SEALED_CHUNK: usize = CHUNK + 16;

fn key(seed: u8) -> KeyMaterial {
    KeyMaterial::new(vec![seed; 32]).unwrap()
}
fn header() -> Header {
    let mut header = Header::new(Uuid::from_u128(7), MediaType::parse("onnx").unwrap(), ModelName::parse("classifier").unwrap());
    header.version = "1.2".into();
    header.parameters.insert("quirk".into(), "intended".into());
    header
}
/// Four chunks, the last one short.
fn plaintext() -> Vec<u8> {
    (0..3 * CHUNK + 1000).map(|i| u8::try_from(i % 249).unwrap()).collect()
}
fn sealed() -> Vec<u8> {
    seal(&key(1), &header(), ChunkSize::from_log2(16).unwrap(), &plaintext()).unwrap()
}
fn body_at(file: &[u8]) -> usize {
    108 + usize::try_from(u32::from_be_bytes(file[8..12].try_into().unwrap())).unwrap()
}
/// Opens into a destination full of ones and, on failure, shows that nothing of the plaintext is left in it.
fn open(file: &[u8], key: &KeyMaterial) -> Result<Vec<u8>, EnvelopeError> {
    let sealed = Kfm1::parse(file)?;
    let mut destination = vec![0xff; sealed.plaintext_length()];
    match sealed.open_into(key, &mut destination) {
        Ok(()) => Ok(destination),
        Err(error) => {
            assert!(destination.iter().all(|b| *b == 0) || destination.iter().all(|b| *b == 0xff), "plaintext left behind: {error}");
            Err(error)
        }
    }
}

#[test]
fn what_was_sealed_opens_and_says_what_it_is() {
    let file = sealed();
    assert!(is_kfm1(&file));
    let parsed = Kfm1::parse(&file).unwrap();
    assert_eq!(parsed.header(), &header());
    assert_eq!(open(&file, &key(1)).unwrap(), plaintext());
    assert_ne!(sealed(), file, "a fresh salt each time");
}

#[test]
fn another_key_is_named_as_such_and_not_as_damage() {
    assert_eq!(open(&sealed(), &key(2)), Err(EnvelopeError::KeyWrong));
    let short = KeyMaterial::new(vec![1; 16]).unwrap();
    assert_eq!(open(&sealed(), &short), Err(EnvelopeError::KeyLength { bytes: 16, wanted: "32" }));
}

#[test]
fn one_changed_byte_names_its_chunk() {
    let file = sealed();
    for chunk in 0..4_usize {
        let at = body_at(&file) + chunk * SEALED_CHUNK + 17;
        let mut changed = file.clone();
        changed[at] ^= 1;
        assert_eq!(open(&changed, &key(1)), Err(EnvelopeError::Corrupt { chunk: chunk as u64 }));
    }
    let mut tag = file.clone();
    *tag.last_mut().unwrap() ^= 0x80;
    assert_eq!(open(&tag, &key(1)), Err(EnvelopeError::Corrupt { chunk: 3 }));
}

#[test]
fn a_failure_in_the_last_chunk_leaves_nothing_of_the_first() {
    let mut file = sealed();
    *file.last_mut().unwrap() ^= 1;
    let mut destination = vec![0xff; plaintext().len()];
    Kfm1::parse(&file).unwrap().open_into(&key(1), &mut destination).unwrap_err();
    assert!(destination.iter().all(|byte| *byte == 0));
}

#[test]
fn every_changed_byte_before_the_chunks_is_refused() {
    let file = sealed();
    for at in 0..body_at(&file) {
        for bit in [0, 7] {
            let mut changed = file.clone();
            changed[at] ^= 1 << bit;
            let error = open(&changed, &key(1)).unwrap_err();
            match at {
                12..76 => assert_eq!(error, EnvelopeError::KeyWrong, "salt and commitment, byte {at}"),
                76..108 => assert_eq!(error, EnvelopeError::HeaderAltered, "header tag, byte {at}"),
                _ => assert!(!matches!(error, EnvelopeError::KeyWrong | EnvelopeError::Corrupt { .. }), "byte {at}: {error}"),
            }
        }
    }
}

#[test]
fn a_header_that_is_well_formed_but_another_is_refused() {
    let file = sealed();
    let at = file.windows(10).position(|window| window == b"classifier").unwrap();
    let mut renamed = file.clone();
    renamed[at..at + 10].copy_from_slice(b"classifieR");
    assert_eq!(Kfm1::parse(&renamed).unwrap().header().name.as_str(), "classifieR");
    assert_eq!(open(&renamed, &key(1)), Err(EnvelopeError::HeaderAltered));
}

#[test]
fn truncation_at_every_kind_of_place_is_refused() {
    let file = sealed();
    let body = body_at(&file);
    for length in [0, 3, 4, 11, 107, 108, body - 1, body, body + SEALED_CHUNK, body + 3 * SEALED_CHUNK, file.len() - 1] {
        let error = Kfm1::parse(&file[..length]).unwrap_err();
        assert!(matches!(error, EnvelopeError::Truncated { .. } | EnvelopeError::Size { .. }), "{length}: {error}");
    }
    let mut longer = file.clone();
    longer.push(0);
    assert!(matches!(Kfm1::parse(&longer), Err(EnvelopeError::Size { .. })));
}

#[test]
fn a_shorter_model_cannot_be_made_of_whole_chunks() {
    let whole = seal(&key(1), &header(), ChunkSize::from_log2(16).unwrap(), &vec![5; 2 * CHUNK]).unwrap();
    let mut cut = seal(&key(1), &header(), ChunkSize::from_log2(16).unwrap(), &vec![5; CHUNK]).unwrap();
    let (at, from) = (body_at(&cut), body_at(&whole));
    cut.truncate(at);
    cut.extend_from_slice(&whole[from..from + SEALED_CHUNK]);
    assert_eq!(open(&cut, &key(1)), Err(EnvelopeError::Corrupt { chunk: 0 }));
}

#[test]
fn reordered_and_duplicated_chunks_are_refused() {
    let file = sealed();
    let chunk = |i: usize| body_at(&file) + i * SEALED_CHUNK..body_at(&file) + (i + 1) * SEALED_CHUNK;
    let mut reordered = file.clone();
    reordered[chunk(1)].copy_from_slice(&file[chunk(2)]);
    reordered[chunk(2)].copy_from_slice(&file[chunk(1)]);
    assert_eq!(open(&reordered, &key(1)), Err(EnvelopeError::Corrupt { chunk: 1 }));
    let mut duplicated = file.clone();
    duplicated[chunk(2)].copy_from_slice(&file[chunk(1)]);
    assert_eq!(open(&duplicated, &key(1)), Err(EnvelopeError::Corrupt { chunk: 2 }));
}

#[test]
fn a_chunk_of_another_model_under_the_same_key_is_refused() {
    let (file, other) = (sealed(), sealed());
    let at = body_at(&file);
    let mut swapped = file.clone();
    swapped[at..at + SEALED_CHUNK].copy_from_slice(&other[at..at + SEALED_CHUNK]);
    assert_eq!(open(&swapped, &key(1)), Err(EnvelopeError::Corrupt { chunk: 0 }));
    assert_ne!(Kfm1::parse(&swapped).unwrap().digest(), Kfm1::parse(&file).unwrap().digest());
}

#[test]
fn a_header_of_another_model_under_the_same_key_is_refused() {
    let file = sealed();
    let mut renamed = header();
    renamed.name = ModelName::parse("classifieR").unwrap();
    let other = seal(&key(1), &renamed, ChunkSize::from_log2(16).unwrap(), &plaintext()).unwrap();
    let mut spliced = other[..body_at(&other)].to_vec();
    spliced.extend_from_slice(&file[body_at(&file)..]);
    assert_eq!(open(&spliced, &key(1)), Err(EnvelopeError::Corrupt { chunk: 0 }));
}

#[test]
fn a_header_that_is_not_canonical_is_refused() {
    let file = sealed();
    let mut header = file[108..body_at(&file)].to_vec();
    header.extend_from_slice(&[0x78, 0x01]); // an unknown member, tag 15
    let mut padded = file[..8].to_vec();
    padded.extend_from_slice(&u32::try_from(header.len()).unwrap().to_be_bytes());
    padded.extend_from_slice(&file[12..108]);
    padded.extend_from_slice(&header);
    padded.extend_from_slice(&file[body_at(&file)..]);
    assert_eq!(Kfm1::parse(&padded).unwrap_err(), EnvelopeError::HeaderNotCanonical);
}

#[test]
fn an_announced_header_of_four_gigabytes_is_refused_before_anything_is_read() {
    let mut file = sealed();
    file[8..12].copy_from_slice(&u32::MAX.to_be_bytes());
    assert_eq!(Kfm1::parse(&file).unwrap_err(), EnvelopeError::HeaderTooLong { bytes: u32::MAX.into() });
}

#[test]
fn a_destination_of_another_length_is_refused() {
    let file = sealed();
    let wanted = plaintext().len();
    let mut short = vec![0; wanted - 1];
    let error = Kfm1::parse(&file).unwrap().open_into(&key(1), &mut short).unwrap_err();
    assert_eq!(error, EnvelopeError::Destination { wanted, got: wanted - 1 });
}

#[test]
fn what_is_not_worth_sealing_is_not_sealed() {
    let default = ChunkSize::DEFAULT;
    assert_eq!(seal(&key(1), &header(), default, b""), Err(EnvelopeError::Empty));
    let mut long = header();
    long.parameters.insert("p".into(), "x".repeat(70_000));
    assert!(matches!(seal(&key(1), &long, default, b"m"), Err(EnvelopeError::HeaderTooLong { .. })));
    long = header();
    long.version = "v\n".into();
    assert!(matches!(seal(&key(1), &long, default, b"m"), Err(EnvelopeError::HeaderMember { field: "version", .. })));
    for name in ["", ".", "../etc", "a b", "a/b", &"a".repeat(65)] {
        assert!(ModelName::parse(name).is_err(), "{name:?}");
    }
    assert_eq!(ChunkSize::from_log2(15), Err(EnvelopeError::ChunkSize(15)));
    assert_eq!(ChunkSize::from_log2(25), Err(EnvelopeError::ChunkSize(25)));
}

#[test]
fn one_shot_files_open_under_every_aes_length_and_wipe_on_failure() {
    for bytes in [16, 24, 32] {
        let key = KeyMaterial::new(vec![9; bytes]).unwrap();
        let file = one_shot::seal(&key, b"nine numbers").unwrap();
        let mut plaintext = vec![0; one_shot::plaintext_length(&file).unwrap()];
        one_shot::open_into(&key, &file, &mut plaintext).unwrap();
        assert_eq!(plaintext, b"nine numbers");
        for at in 0..file.len() {
            let mut changed = file.clone();
            changed[at] ^= 1;
            assert_eq!(one_shot::open_into(&key, &changed, &mut plaintext), Err(EnvelopeError::NotOpened));
            assert_eq!(plaintext, [0; 12]);
        }
    }
    let file = one_shot::seal(&key(1), b"nine numbers").unwrap();
    let mut plaintext = vec![0; 12];
    assert_eq!(one_shot::open_into(&key(2), &file, &mut plaintext), Err(EnvelopeError::NotOpened));
    let odd = KeyMaterial::new(vec![9; 20]).unwrap();
    assert!(matches!(one_shot::open_into(&odd, &file, &mut plaintext), Err(EnvelopeError::KeyLength { bytes: 20, .. })));
    assert!(matches!(one_shot::plaintext_length(&file[..27]), Err(EnvelopeError::Truncated { .. })));
}
