//! One sealed record: version, key id, nonce, ciphertext, tag.
//!
//! Nonces are random: 96 bits carry 2^32 writes under one key, and writes are made by people.

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};
use zeroize::Zeroizing;

use crate::key::{KEY_ID_BYTES, StoreKey};

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 1 + KEY_ID_BYTES + NONCE_LEN;
const PURPOSE: &str = "sealed records, AES-256-GCM";

/// Where a record belongs: all of it is authenticated.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) bucket: &'a str,
    pub(crate) name: &'a str,
    /// The revision it replaces.
    pub(crate) replaced: u64,
}

impl Place<'_> {
    /// Unambiguous: each text is preceded by its length.
    fn associated_data(&self) -> Vec<u8> {
        let mut data = b"keyferry sealed record\x01".to_vec();
        for text in [self.bucket, self.name] {
            data.extend_from_slice(&(text.len() as u64).to_be_bytes());
            data.extend_from_slice(text.as_bytes());
        }
        data.extend_from_slice(&self.replaced.to_be_bytes());
        data
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum OpenError {
    OtherKey,
    Broken,
}

pub(crate) fn seal(key: &StoreKey, place: Place<'_>, value: &[u8]) -> Option<Vec<u8>> {
    let mut nonce = [0; NONCE_LEN];
    SystemRandom::new().fill(&mut nonce).ok()?;
    let mut sealed = Vec::with_capacity(HEADER_BYTES + value.len() + AES_256_GCM.tag_len());
    sealed.push(VERSION);
    sealed.extend_from_slice(&key.id());
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(value);
    let (_, in_place) = sealed.split_at_mut(HEADER_BYTES);
    let associated = Aad::from(place.associated_data());
    let tag = cipher(key)?.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), associated, in_place).ok()?;
    sealed.extend_from_slice(tag.as_ref());
    Some(sealed)
}

pub(crate) fn open(key: &StoreKey, place: Place<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    let (header, body) = sealed.split_at_checked(HEADER_BYTES).ok_or(OpenError::Broken)?;
    if header[0] != VERSION {
        return Err(OpenError::Broken);
    }
    if header[1..=KEY_ID_BYTES] != key.id() {
        return Err(OpenError::OtherKey);
    }
    let nonce = Nonce::try_assume_unique_for_key(&header[1 + KEY_ID_BYTES..]).map_err(|_| OpenError::Broken)?;
    let mut value = Zeroizing::new(body.to_vec());
    let associated = Aad::from(place.associated_data());
    let length = cipher(key).ok_or(OpenError::Broken)?.open_in_place(nonce, associated, &mut value).map_err(|_| OpenError::Broken)?.len();
    value.truncate(length);
    Ok(value)
}

fn cipher(key: &StoreKey) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, &key.derive(PURPOSE)[..]).ok().map(LessSafeKey::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place<'static> = Place { bucket: "keys", name: "a", replaced: 7 };

    #[test]
    fn what_was_sealed_opens_in_its_place_and_nowhere_else() {
        let key = StoreKey::generate().unwrap();
        let sealed = seal(&key, PLACE, b"secret").unwrap();
        assert_eq!(&open(&key, PLACE, &sealed).unwrap()[..], b"secret");
        let others = [Place { bucket: "users", ..PLACE }, Place { name: "b", ..PLACE }, Place { replaced: 8, ..PLACE }];
        for place in others {
            assert_eq!(open(&key, place, &sealed).unwrap_err(), OpenError::Broken);
        }
        // A border between bucket and name cannot be moved.
        let (left, right) = (Place { bucket: "ab", name: "c", replaced: 0 }, Place { bucket: "a", name: "bc", replaced: 0 });
        assert!(open(&key, right, &seal(&key, left, b"x").unwrap()).is_err());
    }

    #[test]
    fn every_flipped_or_missing_byte_is_noticed() {
        let key = StoreKey::generate().unwrap();
        let sealed = seal(&key, PLACE, b"secret").unwrap();
        for index in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[index] ^= 1;
            assert!(open(&key, PLACE, &altered).is_err(), "byte {index}");
            assert!(open(&key, PLACE, &sealed[..index]).is_err(), "length {index}");
        }
    }

    #[test]
    fn another_store_key_is_told_apart_from_damage() {
        let sealed = seal(&StoreKey::generate().unwrap(), PLACE, b"secret").unwrap();
        assert_eq!(open(&StoreKey::generate().unwrap(), PLACE, &sealed).unwrap_err(), OpenError::OtherKey);
    }
}
