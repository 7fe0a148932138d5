//! Both ends against an independent second implementation: `rsa` 0.10 and `aes-gcm`.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::sync::LazyLock;

use aes_gcm::{Aes256Gcm, KeyInit, aead::Aead};
use aes_kw::KwpAes256;
use aws_lc_rs::{
    encoding::AsDer,
    rsa::{KeySize, PrivateDecryptingKey},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use keyferry_key_wrap::{
    ExportKeyPair, ExportPublicKey, HeldPublicKey, KeyMaterial, KmsWrappedKey, TdKeyPair, WrapError, WrappedKey, export, wrap,
};
use rsa::{
    PrivateKey, PublicKey,
    pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePublicKey, LineEnding},
    traits::PublicKeyParts,
};
use sha2::{Sha256, Sha384};

static TD: LazyLock<TdKeyPair> = LazyLock::new(|| TdKeyPair::generate().unwrap());
/// A pair whose private half the other implementation has.
static FOREIGN: LazyLock<PrivateKey> = LazyLock::new(|| {
    let pair = PrivateDecryptingKey::generate(KeySize::Rsa3072).unwrap();
    PrivateKey::from_pkcs8_der(pair.as_der().unwrap().as_ref()).unwrap()
});

fn held_data(key: &PublicKey) -> Vec<u8> {
    let mut held_data = 65537_u32.to_le_bytes().to_vec();
    held_data.extend(key.n_bytes());
    held_data
}

#[test]
fn what_we_wrap_opens_with_the_other_implementation() {
    let key = KeyMaterial::new(vec![0x5a; 32]).unwrap();
    let held = HeldPublicKey::from_intel(&held_data(FOREIGN.as_public_key())).unwrap();
    let wrapped = wrap(&key, &held).unwrap();

    let swk = FOREIGN.oaep_decrypt::<Sha256>(wrapped.wrapped_swk()).unwrap();
    assert_eq!(swk.len(), 32);
    let frame = wrapped.wrapped_key();
    assert_eq!(frame.len(), 72);
    assert!(BASE64_STANDARD.encode(frame).starts_with("DAAAABAAAAAwAAAA"), "the prefix of Intel's own sample");
    let cipher = Aes256Gcm::new_from_slice(&swk).unwrap();
    let nonce: [u8; 12] = frame[12..24].try_into().unwrap();
    assert_eq!(cipher.decrypt(&nonce.into(), &frame[24..]).unwrap(), key.expose());
}

#[test]
fn what_the_other_implementation_wraps_opens_here() {
    let held = TD.held_data();
    assert_eq!(held.len(), 388);
    assert_eq!(&held[..4], [1, 0, 1, 0], "65537, little-endian");
    let public = PublicKey::new(rsa::BoxedUint::from_be_slice(&held[4..], 3072).unwrap(), rsa::BoxedUint::from(65537_u32)).unwrap();
    let (swk, nonce) = ([7_u8; 32], [9_u8; 12]);
    let sealed = Aes256Gcm::new_from_slice(&swk).unwrap().encrypt(&nonce.into(), b"sixteen byte key".as_slice()).unwrap();
    let mut frame = Vec::new();
    for length in [12, 16, u32::try_from(sealed.len()).unwrap()] {
        frame.extend(length.to_le_bytes());
    }
    frame.extend(nonce);
    frame.extend(sealed);
    let wrapped = WrappedKey::from_parts(frame, public.oaep_encrypt::<Sha256>(&swk).unwrap());
    assert_eq!(TD.unwrap_key(&wrapped).unwrap().expose(), b"sixteen byte key");
}

#[test]
fn an_export_opens_with_the_other_implementation() {
    let key = KeyMaterial::random(32).unwrap();
    let pem = FOREIGN.as_public_key().to_public_key_pem(LineEnding::LF).unwrap();
    let without_last_newline = format!("leading text\n{}", pem.trim_end());
    let exported = export(&key, &ExportPublicKey::from_spki_pem(&without_last_newline).unwrap()).unwrap();
    assert_eq!(FOREIGN.oaep_decrypt::<Sha384>(&exported).unwrap(), key.expose());
}

#[test]
fn an_export_of_the_other_implementation_opens_here() {
    let pair = ExportKeyPair::generate(2048).unwrap();
    let public = PublicKey::from_public_key_pem(&pair.public_pem()).unwrap();
    let exported = public.oaep_encrypt::<Sha384>(b"0123456789abcdef").unwrap();
    assert_eq!(pair.open(&exported).unwrap().expose(), b"0123456789abcdef");
}

#[test]
fn an_export_is_as_long_as_oaep_allows_and_no_longer() {
    let pair = ExportKeyPair::generate(2048).unwrap();
    let recipient = ExportPublicKey::from_spki_pem(&pair.public_pem()).unwrap();
    let longest = export(&KeyMaterial::new(vec![1; 158]).unwrap(), &recipient).unwrap();
    assert_eq!(pair.open(&longest).unwrap().len(), 158);
    let refused = export(&KeyMaterial::new(vec![1; 159]).unwrap(), &recipient);
    assert_eq!(refused.unwrap_err(), WrapError::TooLong { bytes: 159, max: 158 });
}

fn td_public() -> PublicKey {
    let held = TD.held_data();
    PublicKey::new(rsa::BoxedUint::from_be_slice(&held[4..], 3072).unwrap(), rsa::BoxedUint::from(65537_u32)).unwrap()
}

/// What a KMS sends that wraps by itself, made by the other implementation.
fn kms_wrapped(key: &[u8], kek: &[u8; 32]) -> Vec<u8> {
    let mut wrapped = td_public().oaep_encrypt::<Sha256>(kek).unwrap();
    let mut padded = vec![0; key.len().next_multiple_of(8) + 8];
    let length = KwpAes256::new(kek.into()).wrap_key(key, &mut padded).unwrap().len();
    wrapped.extend(&padded[..length]);
    wrapped
}

#[test]
fn what_a_kms_wraps_by_itself_opens_here() {
    for length in [1, 7, 8, 9, 16, 24, 32, 121, 1217, 16 * 1024] {
        let key: Vec<u8> = (0..length).map(|index: usize| u8::try_from(index % 251).unwrap()).collect();
        let wrapped = kms_wrapped(&key, &[0x3c; 32]);
        assert!(length != 32 || wrapped.len() == 384 + 40, "the length for an AES-256 key");
        assert_eq!(TD.unwrap_from_kms(&KmsWrappedKey::new(wrapped)).unwrap().expose(), key, "{length}");
    }
}

/// An enclave's key is the same number written the other way round.
#[test]
fn what_is_wrapped_for_an_enclave_opens_with_the_other_implementation() {
    let mut held = held_data(FOREIGN.as_public_key());
    let big_endian = HeldPublicKey::from_intel(&held).unwrap();
    held[4..].reverse();
    let enclave = HeldPublicKey::from_intel_sgx(&held).unwrap();
    assert_eq!((enclave.bits(), enclave.to_spki_pem()), (3072, big_endian.to_spki_pem()));
    let wrapped = wrap(&KeyMaterial::random(32).unwrap(), &enclave).unwrap();
    assert_eq!(FOREIGN.oaep_decrypt::<Sha256>(wrapped.wrapped_swk()).unwrap().len(), 32);
}
