//! The store key: the one secret that makes the bus's storage worthless to whoever holds it.

use std::{
    fmt, fs,
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use aws_lc_rs::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use zeroize::Zeroizing;

/// Bytes of a store key.
const KEY_BYTES: usize = 32;
/// Bytes of the name a sealed record carries for its key.
pub(crate) const KEY_ID_BYTES: usize = 8;

/// Why a key file cannot be used. Never repeats its contents.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read or written.
    #[error("store key file {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its contents are no key.
    #[error("store key file {}: expected 64 hex digits; make one with `openssl rand -hex 32`, or remove it and let one be made", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// Others may read it.
    #[error("store key file {}: readable by others (mode {mode:o}): set it to 0600", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The system gives no random numbers.
    #[error("the operating system gives no random numbers")]
    Random,
}

/// 32 secret bytes, and what is derived from them.
pub struct StoreKey {
    secret: Zeroizing<[u8; KEY_BYTES]>,
}

impl StoreKey {
    /// A key from its bytes.
    pub fn new(secret: Zeroizing<[u8; KEY_BYTES]>) -> Self {
        Self { secret }
    }

    /// A fresh key.
    pub fn generate() -> Result<Self, KeyFileError> {
        let mut secret = Zeroizing::new([0; KEY_BYTES]);
        SystemRandom::new().fill(&mut secret[..]).map_err(|_| KeyFileError::Random)?;
        Ok(Self { secret })
    }

    /// Reads a key file: 64 hex digits, mode 0600.
    pub fn load(path: &Path) -> Result<Self, KeyFileError> {
        let failed = |source| KeyFileError::File { path: path.to_owned(), source };
        let mode = fs::metadata(path).map_err(failed)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyFileError::Open { path: path.to_owned(), mode });
        }
        let text = Zeroizing::new(fs::read_to_string(path).map_err(failed)?);
        decode(text.trim()).map(Self::new).ok_or_else(|| KeyFileError::Malformed { path: path.to_owned() })
    }

    /// Reads a key file, or makes it if it is not there. Several replicas must be given the same file.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyFileError> {
        match Self::load(path) {
            Err(KeyFileError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let key = Self::generate()?;
        let written = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).and_then(|mut file| {
            file.write_all(encode(&key.secret).as_bytes())?;
            file.sync_all()
        });
        written.map_err(|source| KeyFileError::File { path: path.to_owned(), source })?;
        Ok(key)
    }

    /// A key for another use, which tells nothing about this one or about those for other uses.
    pub fn derive(&self, purpose: &str) -> Zeroizing<[u8; KEY_BYTES]> {
        // HKDF-SHA256 (RFC 5869) for one digest of output. Written out, because it then cannot fail: a failure could only
        // be answered with an all-zero key.
        let extracted = hmac_sha256(b"keyferry store key", &[&self.secret[..]]);
        hmac_sha256(&extracted[..], &[purpose.as_bytes(), &[1]])
    }

    /// Names the key without telling anything about it.
    pub(crate) fn id(&self) -> [u8; KEY_ID_BYTES] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.secret[..]);
        let tag = hmac::sign(&key, b"keyferry store key id");
        let mut id = [0; KEY_ID_BYTES];
        id.copy_from_slice(&tag.as_ref()[..KEY_ID_BYTES]);
        id
    }
}

fn hmac_sha256(key: &[u8], message: &[&[u8]]) -> Zeroizing<[u8; KEY_BYTES]> {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in message {
        context.update(part);
    }
    let mut tag = Zeroizing::new([0; KEY_BYTES]);
    tag.copy_from_slice(context.sign().as_ref());
    tag
}

impl fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreKey(redacted)")
    }
}

fn encode(secret: &[u8; KEY_BYTES]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(2 * KEY_BYTES + 1));
    for byte in secret {
        for nibble in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(nibble.into(), 16));
        }
    }
    text.push('\n');
    text
}

fn decode(text: &str) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    let mut secret = Zeroizing::new([0; KEY_BYTES]);
    if text.len() != 2 * KEY_BYTES || !text.is_ascii() {
        return None;
    }
    for (byte, pair) in secret.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |index: usize| char::from(pair[index]).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        *byte = digit(0)? << 4 | digit(1)?;
    }
    Some(secret)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use aws_lc_rs::hkdf;

    use super::*;

    #[test]
    fn a_key_file_is_made_once_private_and_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.key");
        let made = StoreKey::load_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let read = StoreKey::load_or_create(&path).unwrap();
        assert_eq!(*made.secret, *read.secret);
        assert_ne!(*made.derive("a"), *made.derive("b"));
    }

    /// The library's own HKDF is the second implementation.
    #[test]
    fn derivation_is_hkdf() {
        let key = StoreKey::generate().unwrap();
        let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, b"keyferry store key").extract(&key.secret[..]);
        let mut wanted = [0; KEY_BYTES];
        extracted.expand(&[b"a purpose"], hkdf::HKDF_SHA256).unwrap().fill(&mut wanted).unwrap();
        assert_eq!(*key.derive("a purpose"), wanted);
    }

    #[test]
    fn a_key_file_that_others_may_read_or_that_is_no_key_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.key");
        drop(StoreKey::load_or_create(&path).unwrap());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(StoreKey::load(&path), Err(KeyFileError::Open { mode: 0o644, .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for text in ["", "abc", &"g".repeat(64), &"0".repeat(63), &"é".repeat(32)] {
            fs::write(&path, text).unwrap();
            assert!(matches!(StoreKey::load_or_create(&path), Err(KeyFileError::Malformed { .. })), "{text:?}");
        }
    }
}
