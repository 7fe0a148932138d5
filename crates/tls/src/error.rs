//! Why a TLS configuration, certificate or channel could not be made.

use std::{io, path::PathBuf};

/// What is wrong and what to do about it. Never repeats key material.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read.
    #[error("{}: cannot be read ({source}): check the path and its permissions", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("{}: cannot be written ({source}): check that the directory exists and is writable", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No `CERTIFICATE` block was found, or one of them is damaged.
    #[error("{origin}: holds no readable certificate: expected PEM with at least one CERTIFICATE block")]
    NoCertificate {
        /// The file, or what else the bytes came from.
        origin: String,
    },
    /// No private key block was found, or it is damaged.
    #[error("{origin}: holds no readable private key: expected PEM with a PKCS#8, SEC1 or PKCS#1 block")]
    NoKey {
        /// The file, or what else the bytes came from.
        origin: String,
    },
    /// rustls refused the material: a key that does not fit its certificate, a root that is no X.509.
    #[error("{what} was refused: {source}")]
    Material {
        /// Which part was refused.
        what: &'static str,
        /// Why.
        source: rustls::Error,
    },
    /// A certificate could not be made.
    #[error("certificate for \"{subject}\" could not be made: {source}")]
    Issue {
        /// Whom it was for.
        subject: String,
        /// Why.
        source: rcgen::Error,
    },
    /// The address of a peer is no usable URL.
    #[error("\"{url}\" is no address of a gRPC server: expected https://host:port")]
    Url {
        /// What was given.
        url: String,
    },
}
