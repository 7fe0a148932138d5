//! Why there are no keys, or no new one.

use std::path::PathBuf;

use keyferry_attestation_token::SigningKeyError;

/// Why a key directory cannot be used. Never repeats what is in a file.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that others may read.
    #[error("{}: mode {mode:o} lets others read a private key: chmod 600", path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A file that does not hold what it should.
    #[error("{}: {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The signing key is not usable.
    #[error("the token signing key: {0}")]
    Signing(#[from] SigningKeyError),
    /// A certificate or revocation list could not be made.
    #[error("a certificate or revocation list of the token signing keys could not be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The random number generator failed.
    #[error("the random number generator failed")]
    Random,
    /// A directory of a version that kept no CA key.
    #[error(
        "{}: made by an earlier version, which kept no CA key, so no second signing key can be certified: make a new directory, \
         and give its root.pem to the relying parties beside the old one before the verifier uses it", path.display()
    )]
    NoAuthority {
        /// The directory.
        path: PathBuf,
    },
    /// Nothing there yet.
    #[error("{}: no key directory: the verifier makes it at its first start", path.display())]
    NotMade {
        /// The directory.
        path: PathBuf,
    },
    /// A rotation is under way.
    #[error("the next key is published already and signs from {signs_from} (unix seconds)")]
    Waiting {
        /// When it begins to sign.
        signs_from: u64,
    },
}
