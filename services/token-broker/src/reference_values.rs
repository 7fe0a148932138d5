//! The directory of reference values, read anew for each appraisal: a revocation counts at once.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use keyferry_appraisal::Catalog;
use keyferry_contract::Reason;
use keyferry_reference_value::{DOCUMENTS_MAX, FILE_BYTES_MAX, HISTORY_FILE, VerificationKey};

use crate::{config::ReferenceValueConfig, refusal::Refusal};

/// Where documents are, and whose are believed.
#[derive(Debug, Default)]
pub(crate) struct ReferenceValueDirectory {
    config: Option<ReferenceValueConfig>,
    keys: Vec<VerificationKey>,
}

impl ReferenceValueDirectory {
    /// Reads the keys, and the directory once, so that a wrong path is found at the start.
    pub(crate) fn open(config: Option<&ReferenceValueConfig>) -> io::Result<Self> {
        let Some(config) = config else { return Ok(Self::default()) };
        let keys = config.keys.iter().map(key).collect::<io::Result<_>>()?;
        let directory = Self { config: Some(config.clone()), keys };
        directory.catalog()?;
        Ok(directory)
    }

    /// The documents as they are now. A directory that cannot be read decides nothing.
    pub(crate) fn read(&self) -> Result<Catalog, Refusal> {
        self.catalog().map_err(|error| Refusal::new(Reason::StoreUnavailable, format!("evidence.reference_values: {error}")))
    }

    fn catalog(&self) -> io::Result<Catalog> {
        let Some(config) = &self.config else { return Ok(Catalog::default()) };
        let mut files = Vec::new();
        for entry in fs::read_dir(&config.directory)?.take(DOCUMENTS_MAX + 1) {
            let path = entry?.path();
            if let Some(id) = path.extension().filter(|end| *end == "json").and(path.file_stem()).and_then(|stem| stem.to_str()) {
                files.push((id.to_owned(), bounded(&path)?));
            }
        }
        let history = match bounded(&config.directory.join(HISTORY_FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read?,
        };
        Ok(Catalog::new(files, &String::from_utf8_lossy(&history), &self.keys, config.trust_unsigned))
    }
}

fn key(path: &PathBuf) -> io::Result<VerificationKey> {
    let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()));
    let text = fs::read(path).map_err(|error| invalid(error.to_string()))?;
    VerificationKey::from_pem(&text).map_err(|error| invalid(error.to_string()))
}

/// One byte more than is allowed is enough to be refused.
fn bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
