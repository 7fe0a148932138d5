//! Secrets in files: PEM of mode 0600, sealed where there is a seal key.
//!
//! Sealed with AES-256-GCM under a key that is derived from the seal key, a random 96-bit nonce in front; the file's name
//! is authenticated, so that one file cannot stand in for another. A secret that was written before there was a seal key
//! is still read.

use std::path::Path;

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};
use keyferry_sealed_store::StoreKey;
use zeroize::Zeroizing;

use crate::{
    error::KeysError,
    files::{content, put, read_private},
};

const SEALED: &str = "KEYFERRY SEALED SECRET";
const PURPOSE: &str = "secrets of a verifier's key directory, AES-256-GCM";
const MODE: u32 = 0o600;

/// Writes a secret as PEM with this label, or sealed.
pub(crate) fn write(path: &Path, label: &str, secret: &[u8], seal: Option<&StoreKey>) -> Result<(), KeysError> {
    let block = match seal {
        None => pem::Pem::new(label, secret),
        Some(key) => pem::Pem::new(SEALED, sealed(key, path, secret).ok_or(KeysError::Random)?),
    };
    put(path, Zeroizing::new(pem::encode(&block)).as_bytes(), MODE)
}

/// Reads a secret: PEM of any label, sealed or not.
pub(crate) fn read(path: &Path, seal: Option<&StoreKey>) -> Result<Zeroizing<Vec<u8>>, KeysError> {
    parse(path, &read_private(path)?, seal)
}

/// The same of what was read already.
pub(crate) fn parse(path: &Path, text: &[u8], seal: Option<&StoreKey>) -> Result<Zeroizing<Vec<u8>>, KeysError> {
    let block = pem::parse(text).map_err(|_| content(path, "is no PEM"))?;
    if block.tag() != SEALED {
        return Ok(Zeroizing::new(block.into_contents()));
    }
    let key = seal.ok_or_else(|| content(path, "is sealed: name the seal key's file"))?;
    opened(key, path, block.contents()).ok_or_else(|| content(path, "was sealed with another key, under another name, or altered"))
}

fn cipher(key: &StoreKey) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, &key.derive(PURPOSE)[..]).ok().map(LessSafeKey::new)
}

fn name(path: &Path) -> Vec<u8> {
    [b"keyferry verifier secret\x01", path.file_name().unwrap_or_default().as_encoded_bytes()].concat()
}

fn sealed(key: &StoreKey, path: &Path, secret: &[u8]) -> Option<Vec<u8>> {
    let mut nonce = [0; NONCE_LEN];
    SystemRandom::new().fill(&mut nonce).ok()?;
    let mut body = Zeroizing::new(secret.to_vec());
    let tag = cipher(key)?.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(name(path)), &mut body).ok()?;
    Some([&nonce[..], &body, tag.as_ref()].concat())
}

fn opened(key: &StoreKey, path: &Path, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, body) = sealed.split_at_checked(NONCE_LEN)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let mut secret = Zeroizing::new(body.to_vec());
    let length = cipher(key)?.open_in_place(nonce, Aad::from(name(path)), &mut secret).ok()?.len();
    secret.truncate(length);
    Some(secret)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_sealed_secret_opens_under_its_key_and_name_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.key");
        let key = StoreKey::generate().unwrap();
        write(&path, "PRIVATE KEY", b"the secret", Some(&key)).unwrap();
        assert_eq!(&read(&path, Some(&key)).unwrap()[..], b"the secret");
        let text = fs::read_to_string(&path).unwrap();
        assert!(!pem::parse(&text).unwrap().contents().windows(10).any(|bytes| bytes == b"the secret"));
        assert!(read(&path, None).unwrap_err().to_string().contains("sealed"));
        assert!(read(&path, Some(&StoreKey::generate().unwrap())).is_err());
        assert!(parse(&directory.path().join("b.key"), text.as_bytes(), Some(&key)).is_err(), "another name");
    }

    #[test]
    fn what_was_written_before_there_was_a_seal_key_is_still_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.key");
        write(&path, "PRIVATE KEY", b"the secret", None).unwrap();
        assert_eq!(&read(&path, Some(&StoreKey::generate().unwrap())).unwrap()[..], b"the secret");
    }
}
