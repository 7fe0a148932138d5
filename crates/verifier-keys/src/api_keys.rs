//! The keys of callers: one line `name:sha256` each, with the SHA-256 of the key in hex.
//!
//! A key is 256 random bits, so a plain digest gives nothing away: there is nothing to guess, and a slow hash would only
//! slow down the verifier.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::{Engine, prelude::BASE64_STANDARD};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use zeroize::Zeroizing;

use crate::files;

const NAME_CHARACTERS_MAX: usize = 64;
const KEYS_MAX: usize = 1024;
const KEY_BYTES: usize = 32;
const MODE: u32 = 0o600;

/// Why there are no API keys. Never repeats a key.
#[derive(Debug, thiserror::Error)]
pub enum ApiKeysError {
    /// A line is not `name:sha256`.
    #[error("line {line}: expected `name:` and the SHA-256 of the key in 64 hex digits")]
    Line {
        /// Counted from 1.
        line: usize,
    },
    /// A name is there twice.
    #[error("line {line}: the name is there already")]
    Twice {
        /// Counted from 1.
        line: usize,
    },
    /// More than a linear search should go through.
    #[error("more than {KEYS_MAX} keys")]
    TooMany,
    /// Not a name.
    #[error("a name has 1 to {NAME_CHARACTERS_MAX} characters of A-Z a-z 0-9 _ . -")]
    Name,
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The random number generator failed.
    #[error("the random number generator failed")]
    Random,
}

/// Names and digests.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ApiKeys {
    keys: Vec<(String, [u8; 32])>,
}

impl ApiKeys {
    /// One key without a file.
    pub fn single(name: &str, key: &str) -> Self {
        Self { keys: vec![(name.to_owned(), Sha256::digest(key.as_bytes()).into())] }
    }

    /// Reads the lines of a file. Empty lines and lines that begin with `#` say nothing.
    pub fn parse(text: &str) -> Result<Self, ApiKeysError> {
        let mut all = Self::default();
        for (index, line) in text.lines().enumerate() {
            let (line, number) = (line.trim(), index + 1);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, digest) = line.split_once(':').ok_or(ApiKeysError::Line { line: number })?;
            let mut bytes = [0; 32];
            let decoded = hex::decode_to_slice(digest, &mut bytes);
            if !is_name(name) || decoded.is_err() {
                return Err(ApiKeysError::Line { line: number });
            }
            if all.names().any(|known| known == name) {
                return Err(ApiKeysError::Twice { line: number });
            }
            all.keys.push((name.to_owned(), bytes));
        }
        if all.keys.len() > KEYS_MAX { Err(ApiKeysError::TooMany) } else { Ok(all) }
    }

    /// Both: names of `other` win.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.keys.retain(|(name, _)| !other.names().any(|known| known == name));
        self.keys.extend(other.keys);
        self
    }

    /// The names, in the order of the file.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|(name, _)| name.as_str())
    }

    /// Whose key this is. Takes the same time wherever the key stands in the file, and if it does not.
    pub fn name_of(&self, given: &[u8]) -> Option<&str> {
        let digest: [u8; 32] = Sha256::digest(given).into();
        let mut found = u64::MAX;
        for (index, (_, known)) in self.keys.iter().enumerate() {
            let equal: Choice = digest.ct_eq(known);
            found.conditional_assign(&(index as u64), equal);
        }
        let index = usize::try_from(found).ok()?;
        self.keys.get(index).map(|(name, _)| name.as_str())
    }

    /// Makes a key for `name`, adds its digest to the file (made if it is not there) and returns it: it is nowhere else.
    ///
    /// Standard base64 with padding, without the two characters that base64url writes otherwise: Intel's clients check a
    /// key as one or as the other before they send it.
    pub fn create(path: &Path, name: &str) -> Result<Zeroizing<String>, ApiKeysError> {
        if !is_name(name) {
            return Err(ApiKeysError::Name);
        }
        let failed = |source| ApiKeysError::File { path: path.to_owned(), source };
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let _alone = files::lock(directory).map_err(failed)?;
        let mut text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            read => read.map_err(failed)?,
        };
        let line = text.lines().count() + 1;
        if Self::parse(&text)?.names().any(|known| known == name) {
            return Err(ApiKeysError::Twice { line });
        }
        let key = random_key()?;
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        let digest = hex::encode(Sha256::digest(key.as_bytes()));
        text.extend([name, ":", &digest, "\n"]);
        files::write(path, text.as_bytes(), MODE).map_err(failed)?;
        Ok(key)
    }
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

fn is_name(name: &str) -> bool {
    (1..=NAME_CHARACTERS_MAX).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// One in four has neither `+` nor `/`.
fn random_key() -> Result<Zeroizing<String>, ApiKeysError> {
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    loop {
        SystemRandom::new().fill(&mut bytes[..]).map_err(|_| ApiKeysError::Random)?;
        let key = Zeroizing::new(BASE64_STANDARD.encode(&bytes[..]));
        if !key.contains(['+', '/']) {
            return Ok(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::prelude::BASE64_URL_SAFE;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_known_by_its_digest() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("api-keys");
        let (one, two) = (ApiKeys::create(&path, "one").unwrap(), ApiKeys::create(&path, "two").unwrap());
        assert!(matches!(ApiKeys::create(&path, "one").unwrap_err(), ApiKeysError::Twice { .. }));
        assert!(matches!(ApiKeys::create(&path, "a b").unwrap_err(), ApiKeysError::Name));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains(one.as_str()) && !text.contains(two.as_str()));
        let keys = ApiKeys::parse(&text).unwrap();
        assert_eq!((keys.name_of(one.as_bytes()), keys.name_of(two.as_bytes())), (Some("one"), Some("two")));
        for wrong in [&b""[..], b"x", &one.as_bytes()[1..]] {
            assert_eq!(keys.name_of(wrong), None);
        }
        for key in [one, two] {
            assert_eq!(BASE64_STANDARD.decode(&*key).unwrap(), BASE64_URL_SAFE.decode(&*key).unwrap());
            assert_eq!(BASE64_STANDARD.encode(BASE64_STANDARD.decode(&*key).unwrap()), *key, "canonical");
        }
    }

    #[test]
    fn lines_that_are_no_key_are_named() {
        let digest = "0".repeat(64);
        let good = ApiKeys::parse(&format!("# callers\n\n a:{digest} \nb.c-d_9:{}\n", "F".repeat(64))).unwrap();
        assert_eq!(good.names().collect::<Vec<_>>(), ["a", "b.c-d_9"]);
        for (text, line) in [("a", 1), ("a:", 1), ("\na:00", 2), (&format!(":{digest}"), 1), (&format!("a b:{digest}"), 1)] {
            assert!(matches!(ApiKeys::parse(text).unwrap_err(), ApiKeysError::Line { line: found } if found == line), "{text}");
        }
        assert!(matches!(ApiKeys::parse(&format!("a:{digest}\na:{digest}")).unwrap_err(), ApiKeysError::Twice { line: 2 }));
    }

    #[test]
    fn the_settings_key_stands_beside_the_files() {
        let both = ApiKeys::single("configured", "k").and(ApiKeys::single("other", "o"));
        assert_eq!((both.name_of(b"k"), both.name_of(b"o")), (Some("configured"), Some("other")));
        assert!(ApiKeys::default().name_of(b"k").is_none());
    }
}
