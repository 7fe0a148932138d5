//! The Ed25519 key that signs a service's checkpoints, in the form `openssl pkey` reads, and its public half beside it.

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use crate::files;

const PRIVATE_TAG: &str = "PRIVATE KEY";
const PUBLIC_TAG: &str = "PUBLIC KEY";
/// Bytes of a key, private or public.
const KEY_BYTES: usize = 32;
/// DER of SubjectPublicKeyInfo up to the 32 public bytes (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Why a key file cannot be used. Never repeats its contents.
#[derive(Debug, thiserror::Error)]
pub enum AuditKeyError {
    /// It cannot be read or written.
    #[error("audit key file {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its contents are no key.
    #[error("audit key file {}: expected an Ed25519 {wanted} in PEM; `openssl genpkey -algorithm ed25519` makes a private one", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Which half.
        wanted: &'static str,
    },
    /// Others may read it.
    #[error("audit key file {}: readable by others (mode {mode:o}): set it to 0600", path.display())]
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

/// A service's signing key. Cheap to clone.
#[derive(Clone)]
pub struct AuditKey(Arc<Ed25519KeyPair>);

impl AuditKey {
    /// A fresh key.
    pub fn generate() -> Result<Self, AuditKeyError> {
        Ok(Self(Arc::new(Ed25519KeyPair::generate().map_err(|_| AuditKeyError::Random)?)))
    }

    /// Reads a key file, mode 0600.
    pub fn load(path: &Path) -> Result<Self, AuditKeyError> {
        let failed = |source| AuditKeyError::File { path: path.to_owned(), source };
        let mode = fs::metadata(path).map_err(failed)?.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(AuditKeyError::Open { path: path.to_owned(), mode });
        }
        let text = Zeroizing::new(fs::read_to_string(path).map_err(failed)?);
        let malformed = || AuditKeyError::Malformed { path: path.to_owned(), wanted: "private key" };
        let der = der(&text, PRIVATE_TAG).ok_or_else(malformed)?;
        Ed25519KeyPair::from_pkcs8(&der).map(Arc::new).map(Self).map_err(|_| malformed())
    }

    /// Reads a key file, or makes it if it is not there; either way its public half is beside it afterwards, under the
    /// same name with `.pub`. Replicas may share a key or have one each.
    pub fn load_or_create(path: &Path) -> Result<Self, AuditKeyError> {
        let key = match Self::load(path) {
            Err(AuditKeyError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Self::create(path)?,
            other => other?,
        };
        let public = public_file(path);
        let text = key.public_key().to_pem();
        if fs::read_to_string(&public).ok().as_deref() != Some(&text) {
            files::replace_public(&public, text.as_bytes()).map_err(|source| AuditKeyError::File { path: public, source })?;
        }
        Ok(key)
    }

    fn create(path: &Path) -> Result<Self, AuditKeyError> {
        let key = Self::generate()?;
        let der = key.0.to_pkcs8v1().map_err(|_| AuditKeyError::Random)?;
        match files::create_private(path, encode(PRIVATE_TAG, der.as_ref()).as_bytes()) {
            Ok(()) => Ok(key),
            // Another replica was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Self::load(path),
            Err(source) => Err(AuditKeyError::File { path: path.to_owned(), source }),
        }
    }

    /// Its public half.
    pub fn public_key(&self) -> AuditPublicKey {
        let mut bytes = [0; KEY_BYTES];
        bytes.copy_from_slice(self.0.public_key().as_ref());
        AuditPublicKey(bytes)
    }

    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message).as_ref().to_vec()
    }
}

impl fmt::Debug for AuditKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuditKey({})", self.public_key())
    }
}

/// What verifies checkpoints. Shown as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct AuditPublicKey([u8; KEY_BYTES]);

impl AuditPublicKey {
    /// From its bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads a file of one or more public keys in PEM: those a service has had, one after another.
    pub fn read_all(path: &Path) -> Result<Vec<Self>, AuditKeyError> {
        let text = fs::read_to_string(path).map_err(|source| AuditKeyError::File { path: path.to_owned(), source })?;
        let malformed = || AuditKeyError::Malformed { path: path.to_owned(), wanted: "public key" };
        let blocks = pem::parse_many(&text).ok().filter(|blocks| !blocks.is_empty()).ok_or_else(malformed)?;
        blocks.iter().map(|block| Self::from_block(block).ok_or_else(malformed)).collect()
    }

    fn from_block(block: &pem::Pem) -> Option<Self> {
        let bytes = block.contents().strip_prefix(&SPKI_PREFIX).filter(|_| block.tag() == PUBLIC_TAG)?;
        Some(Self(bytes.try_into().ok()?))
    }

    /// PEM, as `openssl pkey -pubin` reads it.
    pub fn to_pem(&self) -> String {
        encode(PUBLIC_TAG, &[&SPKI_PREFIX[..], &self.0].concat()).to_string()
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether the key signed this message.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, signature).is_ok()
    }
}

impl fmt::Display for AuditPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}
impl fmt::Debug for AuditPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuditPublicKey({self})")
    }
}
impl FromStr for AuditPublicKey {
    type Err = hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; KEY_BYTES];
        hex::decode_to_slice(text, &mut bytes).map(|()| Self(bytes))
    }
}

/// Where the public half of the key in `path` is.
fn public_file(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    PathBuf::from(name)
}

fn der(text: &str, tag: &str) -> Option<Zeroizing<Vec<u8>>> {
    let block = pem::parse(text).ok().filter(|block| block.tag() == tag)?;
    Some(Zeroizing::new(block.into_contents()))
}

/// PEM. Both halves of an Ed25519 key fit in one line.
fn encode(tag: &str, der: &[u8]) -> Zeroizing<String> {
    let base64 = Zeroizing::new(STANDARD.encode(der));
    Zeroizing::new(format!("-----BEGIN {tag}-----\n{}\n-----END {tag}-----\n", *base64))
}
