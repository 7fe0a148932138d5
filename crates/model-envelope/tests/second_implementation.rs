//! The format once more, from its description alone, on other libraries (RustCrypto `hkdf`, `sha2`, `aes-gcm`,
//! `aead-stream`): what one side seals the other opens.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails by panicking")]

use aead_stream::{DecryptorBE32, EncryptorBE32, StreamBE32};
use aes_gcm::{Aes256Gcm, KeyInit, aead::Payload};
use hkdf::Hkdf;
use keyferry_key_wrap::KeyMaterial;
use keyferry_model_envelope::{ChunkSize, Header, Kfm1, MediaType, ModelName, seal};
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use uuid::Uuid;

struct Reference {
    commitment: [u8; 32],
    header_tag: [u8; 32],
    header_hash: [u8; 32],
    stream: StreamBE32<Aes256Gcm>,
}

fn reference(key: &[u8], prelude_and_salt: &[u8], header: &[u8]) -> Reference {
    use aead_stream::NewStream;
    let header_hash: [u8; 32] = Sha256::new().chain_update(prelude_and_salt).chain_update(header).finalize().into();
    let hkdf = Hkdf::<Sha256>::new(Some(&prelude_and_salt[12..44]), key);
    let expand = |info: &[u8], with_header: bool, out: &mut [u8]| {
        let info = if with_header { [info, &header_hash].concat() } else { info.to_vec() };
        hkdf.expand(&info, out).unwrap();
    };
    let (mut commitment, mut header_tag, mut chunks) = ([0; 32], [0; 32], [0; 39]);
    expand(b"keyferry KFM1 v1 key commitment", false, &mut commitment);
    expand(b"keyferry KFM1 v1 header tag", true, &mut header_tag);
    expand(b"keyferry KFM1 v1 chunk key and nonce prefix", true, &mut chunks);
    let aead = Aes256Gcm::new_from_slice(&chunks[..32]).unwrap();
    let prefix: [u8; 7] = chunks[32..].try_into().unwrap();
    Reference { commitment, header_tag, header_hash, stream: StreamBE32::from_aead(aead, &prefix.into()) }
}

fn reference_open(key: &[u8], file: &[u8]) -> Vec<u8> {
    let header_length = usize::try_from(u32::from_be_bytes(file[8..12].try_into().unwrap())).unwrap();
    let (prelude, rest) = file.split_at(108);
    let (header, body) = rest.split_at(header_length);
    let reference = reference(key, &prelude[..44], header);
    assert_eq!(prelude[44..76], reference.commitment);
    assert_eq!(prelude[76..108], reference.header_tag);
    let mut decryptor = Some(DecryptorBE32::from_stream_primitive(reference.stream));
    let chunks: Vec<&[u8]> = body.chunks((1 << prelude[6]) + 16).collect();
    let mut plaintext = Vec::new();
    for (i, chunk) in chunks.iter().enumerate() {
        let payload = Payload { msg: chunk, aad: &reference.header_hash };
        plaintext.extend(if i + 1 == chunks.len() {
            decryptor.take().unwrap().decrypt_last(payload).unwrap()
        } else {
            decryptor.as_mut().unwrap().decrypt_next(payload).unwrap()
        });
    }
    plaintext
}

/// Takes a file of ours for its header, and seals the plaintext again under another salt.
fn reference_seal(key: &[u8], ours: &[u8], salt: [u8; 32], plaintext: &[u8]) -> Vec<u8> {
    let header_length = usize::try_from(u32::from_be_bytes(ours[8..12].try_into().unwrap())).unwrap();
    let header = &ours[108..108 + header_length];
    let mut file = ours[..12].to_vec();
    file.extend_from_slice(&salt);
    let reference = reference(key, &file, header);
    file.extend_from_slice(&reference.commitment);
    file.extend_from_slice(&reference.header_tag);
    file.extend_from_slice(header);
    let mut encryptor = Some(EncryptorBE32::from_stream_primitive(reference.stream));
    let pieces: Vec<&[u8]> = plaintext.chunks(1 << ours[6]).collect();
    for (i, piece) in pieces.iter().enumerate() {
        let payload = Payload { msg: piece, aad: &reference.header_hash };
        file.extend(if i + 1 == pieces.len() {
            encryptor.take().unwrap().encrypt_last(payload).unwrap()
        } else {
            encryptor.as_mut().unwrap().encrypt_next(payload).unwrap()
        });
    }
    file
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Lengths around the chunk borders are where such formats go wrong.
    #[test]
    fn both_implementations_open_each_others_files(
        key in any::<[u8; 32]>(),
        salt in any::<[u8; 32]>(),
        chunks in 0_usize..4,
        around in -1_isize..=1,
        fill in any::<u8>(),
        parameters in proptest::collection::btree_map("[a-z]{1,8}", ".{0,16}", 0..4),
    ) {
        let length = (chunks << 16).saturating_add_signed(around).max(1);
        let plaintext: Vec<u8> = (0..length).map(|i| fill.wrapping_add(u8::try_from(i % 251).unwrap())).collect();
        let mut header = Header::new(Uuid::from_bytes([fill; 16]), MediaType::parse("onnx").unwrap(), ModelName::parse("m").unwrap());
        header.parameters = parameters;
        let material = KeyMaterial::new(key.to_vec()).unwrap();
        let ours = seal(&material, &header, ChunkSize::from_log2(16).unwrap(), &plaintext).unwrap();
        prop_assert!(reference_open(&key, &ours) == plaintext);

        let theirs = reference_seal(&key, &ours, salt, &plaintext);
        let parsed = Kfm1::parse(&theirs).unwrap();
        prop_assert_eq!(parsed.header(), &header);
        let mut opened = vec![0; parsed.plaintext_length()];
        parsed.open_into(&material, &mut opened).unwrap();
        prop_assert!(opened == plaintext);
    }

    #[test]
    fn no_bytes_make_the_parser_fall_over(mut bytes in proptest::collection::vec(any::<u8>(), 0..400), like_kfm1 in any::<bool>()) {
        if like_kfm1 && bytes.len() > 12 {
            bytes[..8].copy_from_slice(b"KFM1\x01\x01\x10\x00");
            bytes[8..11].fill(0);
        }
        let _ = Kfm1::parse(&bytes);
    }
}
