//! What is refused: malformed public keys, altered or foreign wrapped keys, key material that is none.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::sync::LazyLock;

use aes_kw::KeyInit;
use keyferry_key_wrap::{
    ExportKeyPair, ExportPublicKey, HeldPublicKey, KEY_MATERIAL_BYTES_MAX, KeyMaterial, KeyMaterialError, KeyPairError, KmsWrappedKey,
    PublicKeyError, TdKeyPair, UnwrapError, WrappedKey, wrap,
};
use proptest::prelude::*;

static TD: LazyLock<TdKeyPair> = LazyLock::new(|| TdKeyPair::generate().unwrap());
static OTHER_TD: LazyLock<TdKeyPair> = LazyLock::new(|| TdKeyPair::generate().unwrap());

fn wrapped() -> WrappedKey {
    let held = HeldPublicKey::from_intel(&TD.held_data()).unwrap();
    wrap(&KeyMaterial::new(vec![0x42; 32]).unwrap(), &held).unwrap()
}

fn held(modulus: &[u8], exponent: u32) -> Result<usize, PublicKeyError> {
    let mut bytes = exponent.to_le_bytes().to_vec();
    bytes.extend_from_slice(modulus);
    HeldPublicKey::from_intel(&bytes).map(|key| key.bits())
}

/// `bits` long, odd.
fn modulus(bits: usize) -> Vec<u8> {
    let mut modulus = vec![0x55; bits.div_ceil(8)];
    modulus[0] = 1 << ((bits + 7) % 8);
    *modulus.last_mut().unwrap() |= 1;
    modulus
}

#[test]
fn a_round_trip_gives_the_key_back_and_never_the_same_bytes() {
    let (first, second) = (wrapped(), wrapped());
    assert_ne!(first.wrapped_key(), second.wrapped_key());
    assert_ne!(first.wrapped_swk(), second.wrapped_swk());
    assert_eq!(TD.unwrap_key(&first).unwrap().expose(), [0x42; 32]);
    assert_eq!(TD.unwrap_key(&second).unwrap().expose(), [0x42; 32]);
}

#[test]
fn a_held_modulus_is_longer_than_2048_bits_and_at_most_8192() {
    let too_short = |bits| Err(PublicKeyError::ModulusBits { bits, min: 2049 });
    assert_eq!(held(&modulus(2048), 65537), too_short(2048));
    assert_eq!(held(&modulus(2049), 65537), Ok(2049));
    assert_eq!(held(&modulus(3072), 3), Ok(3072));
    assert_eq!(held(&modulus(8192), 65537), Ok(8192));
    assert_eq!(held(&modulus(8200), 65537), Err(PublicKeyError::HeldLength { bytes: 1029 }));
    for bytes in [0, 1, 3, 4, 5, 100, 259] {
        assert_eq!(HeldPublicKey::from_intel(&vec![1; bytes]).unwrap_err(), PublicKeyError::HeldLength { bytes });
    }
}

#[test]
fn a_held_modulus_is_canonical() {
    let mut even = modulus(3072);
    *even.last_mut().unwrap() &= 0xfe;
    assert_eq!(held(&even, 65537), Err(PublicKeyError::Modulus));
    let mut padded = vec![0];
    padded.extend(modulus(3072));
    assert_eq!(held(&padded, 65537), Err(PublicKeyError::Modulus));
    // A little-endian modulus, as SGX enclaves send it, begins with the lowest byte: odd, and no number we wrap for.
    let mut reversed = modulus(3072);
    reversed[0] = 0x80;
    reversed.reverse();
    assert_eq!(held(&reversed, 65537), Err(PublicKeyError::Modulus));
}

#[test]
fn a_held_exponent_is_odd_from_3_to_24_bits_and_little_endian() {
    for exponent in [0, 1, 2, 4, 65536, 65537_u32.swap_bytes(), 0x0100_0001, u32::from_le_bytes(*b"9ETO")] {
        assert_eq!(held(&modulus(3072), exponent), Err(PublicKeyError::Exponent), "{exponent}");
    }
}

#[test]
fn an_enclaves_modulus_is_little_endian_and_as_bounded() {
    let sgx = |modulus: Vec<u8>| {
        let bytes: Vec<u8> = [1, 0, 1, 0].into_iter().chain(modulus.into_iter().rev()).collect();
        HeldPublicKey::from_intel_sgx(&bytes).map(|key| key.bits())
    };
    assert_eq!(sgx(modulus(3072)), Ok(3072));
    assert_eq!(sgx(modulus(2049)), Ok(2049));
    assert_eq!(sgx(modulus(2048)), Err(PublicKeyError::ModulusBits { bits: 2048, min: 2049 }));
    let mut padded = vec![0];
    padded.extend(modulus(3072));
    assert_eq!(sgx(padded), Err(PublicKeyError::Modulus));
    let mut even = modulus(3072);
    *even.last_mut().unwrap() &= 0xfe;
    assert_eq!(sgx(even), Err(PublicKeyError::Modulus));
    for bytes in [0, 1, 3, 4, 100, 259, 1029] {
        assert_eq!(HeldPublicKey::from_intel_sgx(&vec![1; bytes]).unwrap_err(), PublicKeyError::HeldLength { bytes });
    }
    assert_eq!(HeldPublicKey::from_intel_sgx(&[&[1, 0, 1, 0][..], &modulus(3072)].concat()).unwrap_err(), PublicKeyError::Modulus);
}

/// As a KMS makes it, with the key-encryption key of `kek`.
fn from_kms(kek: &[u8], key: &[u8]) -> Vec<u8> {
    let held = TD.held_data();
    let modulus = rsa::BoxedUint::from_be_slice(&held[4..], 3072).unwrap();
    let public = rsa::PublicKey::new(modulus, rsa::BoxedUint::from(65537_u32)).unwrap();
    let mut wrapped = public.oaep_encrypt::<sha2::Sha256>(kek).unwrap();
    wrapped.extend_from_slice(key);
    wrapped
}

fn kwp(kek: &[u8; 32], key: &[u8]) -> Vec<u8> {
    let mut padded = vec![0; key.len().next_multiple_of(8) + 8];
    aes_kw::KwpAes256::new(kek.into()).wrap_key(key, &mut padded).unwrap();
    padded
}

#[test]
fn a_kms_wrapped_key_of_a_wrong_length_does_not_open() {
    let whole = from_kms(&[7; 32], &kwp(&[7; 32], &[0x42; 32]));
    assert_eq!(TD.unwrap_from_kms(&KmsWrappedKey::new(whole.clone())).unwrap().expose(), [0x42; 32]);
    for length in 0..whole.len() {
        assert!(TD.unwrap_from_kms(&KmsWrappedKey::new(whole[..length].to_vec())).is_err(), "{length}");
    }
    for (tail, bytes) in [(vec![0; 1], 425), (vec![0; KEY_MATERIAL_BYTES_MAX], 424 + KEY_MATERIAL_BYTES_MAX)] {
        let longer = KmsWrappedKey::new([whole.clone(), tail].concat());
        assert_eq!(TD.unwrap_from_kms(&longer).unwrap_err(), UnwrapError::KmsLength { bytes });
    }
}

#[test]
fn a_kms_wrapped_key_for_another_td_or_under_another_kek_does_not_open() {
    let whole = from_kms(&[7; 32], &kwp(&[7; 32], &[0x42; 32]));
    assert_eq!(OTHER_TD.unwrap_from_kms(&KmsWrappedKey::new(whole)).unwrap_err(), UnwrapError::KmsNotForThisKey);
    let foreign_kek = from_kms(&[8; 32], &kwp(&[7; 32], &[0x42; 32]));
    assert_eq!(TD.unwrap_from_kms(&KmsWrappedKey::new(foreign_kek)).unwrap_err(), UnwrapError::KmsAltered);
    let short_kek = from_kms(&[7; 16], &kwp(&[7; 32], &[0x42; 32]));
    assert_eq!(TD.unwrap_from_kms(&KmsWrappedKey::new(short_kek)).unwrap_err(), UnwrapError::SwkLength { bytes: 16 });
}

#[test]
fn an_export_key_is_an_rsa_spki_of_2048_bits_or_more() {
    // RSA-1024 and P-256 public keys: the right label, the wrong contents.
    let rsa_1024 = "-----BEGIN PUBLIC KEY-----\nMIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDNwqLEe9wgTXCbC7+RPdDbBbeqjdbs4kOPOIGzqLpXvJXlxxW8iMz0EaM4BKUqYsIa+ndv3NAn2RxCd5ubVdJJcX43zO6Ko0TFEZx/65gY3BE0O6syCEmUP4qbSd6exou/F+WTISzbQ5FBVPVmhnYhG/kpwt/cIxK5iUn5hm+4tQIDAQAB\n-----END PUBLIC KEY-----";
    assert_eq!(ExportPublicKey::from_spki_pem(rsa_1024).unwrap_err(), PublicKeyError::ModulusBits { bits: 1024, min: 2048 });
    let p256 = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEEVs/o5+uQbTjL3chynL4wXgUg2R9\nq9UU8I5mEovUf86QZ7kOBIjJwqnzD1omageEHWwHdBO6B+dFabmdT9POxg==\n-----END PUBLIC KEY-----";
    assert_eq!(ExportPublicKey::from_spki_pem(p256).unwrap_err(), PublicKeyError::Spki);
    let pair = ExportKeyPair::generate(2048).unwrap();
    let relabelled = pair.public_pem().replace("PUBLIC KEY", "RSA PUBLIC KEY");
    let truncated = pair.public_pem().replace("MII", "");
    for text in ["", "PUBLIC KEY", &relabelled, &"x".repeat(20_000)] {
        assert_eq!(ExportPublicKey::from_spki_pem(text).unwrap_err(), PublicKeyError::Pem, "{text:.40}");
    }
    assert!(ExportPublicKey::from_spki_pem(&truncated).is_err());
    assert_eq!(ExportPublicKey::from_spki_pem(&pair.public_pem()).unwrap().bits(), 2048);
    assert_eq!(ExportKeyPair::generate(1024).unwrap_err(), KeyPairError::Size { bits: 1024 });
}

#[test]
fn a_key_for_another_td_does_not_open() {
    assert_eq!(OTHER_TD.unwrap_key(&wrapped()).unwrap_err(), UnwrapError::NotForThisKey);
}

#[test]
fn halves_of_two_releases_do_not_open() {
    let ((key, _), (_, swk)) = (wrapped().into_parts(), wrapped().into_parts());
    assert_eq!(TD.unwrap_key(&WrappedKey::from_parts(key, swk)).unwrap_err(), UnwrapError::Altered);
}

#[test]
fn every_length_in_the_header_is_checked() {
    for (offset, field) in [(0, "nonce"), (4, "tag"), (8, "ciphertext")] {
        for byte in 0..4 {
            let (mut key, swk) = wrapped().into_parts();
            key[offset + byte] ^= 1;
            match TD.unwrap_key(&WrappedKey::from_parts(key, swk)) {
                Err(UnwrapError::Header { field: named, .. }) => assert_eq!(named, field),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn a_truncated_or_lengthened_wrapped_key_does_not_open() {
    let (key, swk) = wrapped().into_parts();
    for length in 0..key.len() {
        assert!(TD.unwrap_key(&WrappedKey::from_parts(key[..length].to_vec(), swk.clone())).is_err(), "{length}");
    }
    let mut longer = key.clone();
    longer.push(0);
    assert!(TD.unwrap_key(&WrappedKey::from_parts(longer, swk.clone())).is_err());
    assert_eq!(TD.unwrap_key(&WrappedKey::from_parts(key, swk[1..].to_vec())).unwrap_err(), UnwrapError::NotForThisKey);
}

#[test]
fn an_empty_or_huge_key_is_no_key_material() {
    assert_eq!(KeyMaterial::new(Vec::new()).unwrap_err(), KeyMaterialError::Length { bytes: 0 });
    assert_eq!(KeyMaterial::random(0).unwrap_err(), KeyMaterialError::Length { bytes: 0 });
    let over = KEY_MATERIAL_BYTES_MAX + 1;
    assert_eq!(KeyMaterial::new(vec![1; over]).unwrap_err(), KeyMaterialError::Length { bytes: over });
    assert_eq!(KeyMaterial::random(usize::MAX).unwrap_err(), KeyMaterialError::Length { bytes: usize::MAX });
}

#[test]
fn nothing_secret_is_printed() {
    let key = KeyMaterial::new(b"canary-7c1f".to_vec()).unwrap();
    let printed = format!("{key:?} {:?} {:?} {:?}", wrapped(), *TD, ExportKeyPair::generate(2048).unwrap());
    assert!(!printed.contains("canary") && !printed.contains("99, 97, 110") && printed.contains("redacted"), "{printed}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn one_changed_bit_anywhere_is_refused(index in 0_usize..456, bit in 0_u8..8) {
        let (mut key, mut swk) = wrapped().into_parts();
        match key.len().checked_sub(index + 1) {
            Some(position) => key[position] ^= 1 << bit,
            None => swk[index - 72] ^= 1 << bit,
        }
        prop_assert!(TD.unwrap_key(&WrappedKey::from_parts(key, swk)).is_err());
    }

    #[test]
    fn one_changed_bit_of_a_kms_wrapped_key_is_refused(index in 0_usize..424, bit in 0_u8..8) {
        let mut whole = from_kms(&[7; 32], &kwp(&[7; 32], &[0x42; 32]));
        whole[index] ^= 1 << bit;
        let wanted = if index < 384 { UnwrapError::KmsNotForThisKey } else { UnwrapError::KmsAltered };
        prop_assert_eq!(TD.unwrap_from_kms(&KmsWrappedKey::new(whole)).unwrap_err(), wanted);
    }

    #[test]
    fn arbitrary_bytes_are_refused_not_feared(key in proptest::collection::vec(any::<u8>(), 0..200), swk in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(TD.unwrap_key(&WrappedKey::from_parts(key.clone(), swk)).is_err());
        let _ = (HeldPublicKey::from_intel(&key), HeldPublicKey::from_intel_sgx(&key));
        prop_assert!(TD.unwrap_from_kms(&KmsWrappedKey::new(key.clone())).is_err());
        let _ = ExportPublicKey::from_spki_pem(&String::from_utf8_lossy(&key));
    }
}
