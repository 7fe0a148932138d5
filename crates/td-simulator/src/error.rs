//! Why something could not be simulated.

use std::path::PathBuf;

/// Why something could not be simulated.
#[derive(Debug, thiserror::Error)]
pub enum SimulatorError {
    /// A certificate or CRL could not be made or read.
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A private key was refused or would not sign.
    #[error("private key of the {0}: not a usable P-256 key in PKCS #8")]
    Key(&'static str),
    /// A time that no calendar has.
    #[error("time {0}: out of the range of calendar dates")]
    Time(i64),
    /// A stored TD is not what [`crate::SimulatedTd::to_json`] wrote.
    #[error("simulated TD: {0}")]
    Json(#[from] serde_json::Error),
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}
