//! Credentials files: a user's JWT and the seed that proves it, in the form `nats` tools read (`.creds`).

use std::{fmt, fs, io, path::Path};

use nkeys::{KeyPair, KeyPairType};
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
    #[error("{path}: {source}: check the path and that this user may read it")]
    Read {
        /// Which file.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The file is no credentials file.
    #[error("{path} has no {part}: make it with `keyferry bus init` or `keyferry bus enroll`")]
    Malformed {
        /// Which file.
        path: String,
        /// What is missing or broken.
        part: &'static str,
    },
    /// JWT and seed are not of the same user.
    #[error("{path}: the JWT is for another key than the seed: take both from the same enrolment")]
    Mismatch {
        /// Which file.
        path: String,
    },
}

/// A user's key pair on its own: made inside a TD, before it is enrolled.
pub struct UserKey(KeyPair);

impl UserKey {
    /// A fresh key.
    pub fn generate() -> Self {
        Self(KeyPair::new_user())
    }

    /// Reads a key file: one line, the seed.
    pub fn read(path: &Path) -> Result<Self, CredentialsError> {
        let text = read(path)?;
        let key = KeyPair::from_seed(text.trim()).ok().filter(|key| key.key_pair_type() == KeyPairType::User);
        key.map(Self).ok_or_else(|| CredentialsError::Malformed { path: path.display().to_string(), part: "user seed" })
    }

    /// Writes a key file, mode 0600; fails if it exists.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        files::create_private(path, seed(&self.0)?.as_bytes())
    }

    /// The public nkey; a TD's is its td_id.
    pub fn public_key(&self) -> String {
        self.0.public_key()
    }
}

impl fmt::Debug for UserKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserKey({})", self.public_key())
    }
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

    /// The key made inside a TD with the JWT that enrolment issued for it.
    pub fn join(jwt: &str, key: UserKey) -> Result<Self, CredentialsError> {
        Self::checked(jwt, key.0, "the JWT from enrolment")
    }

    /// Reads a credentials file.
    pub fn read(path: &Path) -> Result<Self, CredentialsError> {
        let shown = path.display().to_string();
        let text = read(path)?;
        let missing = |part| CredentialsError::Malformed { path: shown.clone(), part };
        let token = between(&text, JWT_BEGIN, JWT_END).ok_or_else(|| missing("user JWT"))?;
        let seed = between(&text, SEED_BEGIN, SEED_END).ok_or_else(|| missing("user seed"))?;
        let key = KeyPair::from_seed(seed).map_err(|_| missing("valid user seed"))?;
        Self::checked(token, key, &shown)
    }

    fn checked(jwt: &str, key: KeyPair, origin: &str) -> Result<Self, CredentialsError> {
        let malformed = || CredentialsError::Malformed { path: origin.to_owned(), part: "readable user JWT" };
        let claims = jwt::claims(jwt).ok_or_else(malformed)?;
        if claims["sub"].as_str() != Some(&key.public_key()) {
            return Err(CredentialsError::Mismatch { path: origin.to_owned() });
        }
        Ok(Self { jwt: jwt.to_owned(), key })
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
        let seed = seed(&self.key)?;
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

fn read(path: &Path) -> Result<Zeroizing<String>, CredentialsError> {
    let text = fs::read_to_string(path).map(Zeroizing::new);
    text.map_err(|source| CredentialsError::Read { path: path.display().to_string(), source })
}

fn seed(key: &KeyPair) -> io::Result<Zeroizing<String>> {
    key.seed().map(Zeroizing::new).map_err(|_| io::Error::other("the user key has no seed"))
}

fn between<'a>(text: &'a str, begin: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(begin)?;
    let (inside, _) = rest.split_once(end)?;
    Some(inside.trim()).filter(|inside| !inside.is_empty())
}
