//! Credentials files: a user's JWT and the seed that proves it, in the form `nats` tools read (`.creds`).

use std::{fmt, fs, io, path::Path};

use nkeys::KeyPair;
use zeroize::Zeroizing;

use crate::{files, jwt};

const JWT_BEGIN: &str = "-----BEGIN NATS USER JWT-----";
const JWT_END: &str = "------END NATS USER JWT------";
const SEED_BEGIN: &str = "-----BEGIN USER NKEY SEED-----";
const SEED_END: &str = "------END USER NKEY SEED------";

/// Why credentials cannot be used. Never repeats their contents.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The file cannot be read.
    #[error("credentials file {path}: {source}: check the path and that this user may read it")]
    Read {
        /// Which file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The file is no credentials file.
    #[error("credentials file {path} has no {part}: make it with `keyferry bus init` or `keyferry bus enroll`")]
    Malformed {
        /// Which file.
        path: String,
        /// What is missing or broken.
        part: &'static str,
    },
    /// JWT and seed are not of the same user.
    #[error("credentials file {path}: the JWT is for another key than the seed: take both from the same enrolment")]
    Mismatch {
        /// Which file.
        path: String,
    },
}

/// A user's JWT and key pair.
pub struct Credentials {
    jwt: String,
    key: KeyPair,
}

impl Credentials {
    /// From a JWT and the key pair it is for.
    pub(crate) fn new(jwt: String, key: KeyPair) -> Self {
        Self { jwt, key }
    }

    /// Reads a credentials file.
    pub fn read(path: &Path) -> Result<Self, CredentialsError> {
        let shown = || path.display().to_string();
        let text = Zeroizing::new(fs::read_to_string(path).map_err(|source| CredentialsError::Read { path: shown(), source })?);
        let missing = |part| CredentialsError::Malformed { path: shown(), part };
        let token = between(&text, JWT_BEGIN, JWT_END).ok_or_else(|| missing("user JWT"))?;
        let seed = between(&text, SEED_BEGIN, SEED_END).ok_or_else(|| missing("user seed"))?;
        let key = KeyPair::from_seed(seed).map_err(|_| missing("valid user seed"))?;
        let claims = jwt::claims(token).ok_or_else(|| missing("readable user JWT"))?;
        if claims["sub"].as_str() != Some(&key.public_key()) {
            return Err(CredentialsError::Mismatch { path: shown() });
        }
        Ok(Self { jwt: token.to_owned(), key })
    }

    /// Writes a credentials file, mode 0600; fails if it exists.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        files::create_private(path, self.text()?.as_bytes())
    }

    /// Writes a credentials file, mode 0600, in place of the one that is there, in one step.
    pub fn replace(&self, path: &Path) -> io::Result<()> {
        files::replace_private(path, self.text()?.as_bytes())
    }

    fn text(&self) -> io::Result<Zeroizing<String>> {
        let seed = Zeroizing::new(self.key.seed().map_err(|_| io::Error::other("the user key has no seed"))?);
        Ok(Zeroizing::new(format!(
            "{JWT_BEGIN}\n{}\n{JWT_END}\n\nThe seed below is a secret: keep this file to its owner.\n\n{SEED_BEGIN}\n{}\n{SEED_END}\n",
            self.jwt, *seed
        )))
    }

    /// The public nkey: the identity on the bus; a TD's is its td_id.
    pub fn public_key(&self) -> String {
        self.key.public_key()
    }
    /// The JWT.
    pub fn jwt(&self) -> &str {
        &self.jwt
    }
    /// When the JWT ends, unix seconds; none = never.
    pub fn expires_at(&self) -> Option<u64> {
        jwt::claims(&self.jwt)?["exp"].as_u64()
    }
    /// Signs the server's nonce.
    pub(crate) fn sign(&self, nonce: &[u8]) -> Option<Vec<u8>> {
        self.key.sign(nonce).ok()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({})", self.public_key())
    }
}

fn between<'a>(text: &'a str, begin: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(begin)?;
    let (inside, _) = rest.split_once(end)?;
    Some(inside.trim()).filter(|inside| !inside.is_empty())
}
