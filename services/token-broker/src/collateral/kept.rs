//! The directory of the last good: one document for each family, `<fmspc>.json`. Replicas may share it, and `keyferry
//! collateral import` may write into it. Nothing in it is believed for being there.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use keyferry_collateral::{Document, Family, Refused};
use keyferry_dcap::CollateralError;

use super::FAMILIES_MAX;
use crate::directory;

/// A document has about 30 kB.
const DOCUMENT_BYTES_MAX: usize = 1024 * 1024;

/// The documents in the directory, in the order of their names. A directory that is not there has none.
pub(super) fn files(directory: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_family = |path: &Path| path.file_stem().and_then(|stem| stem.to_str()).and_then(Family::parse_fmspc).is_some();
    let documents = names.filter(|path| path.extension().is_some_and(|extension| extension == "json") && is_family(path));
    let mut documents: Vec<PathBuf> = documents.take(FAMILIES_MAX).collect();
    documents.sort();
    documents
}

pub(super) fn document(path: &Path) -> Result<Document, Refused> {
    let unreadable = |error: io::Error| Refused::Document(CollateralError::Json(error.to_string()).into());
    Ok(Document::parse(&read(path, DOCUMENT_BYTES_MAX).map_err(unreadable)?)?)
}

/// A text of at most `max` bytes.
pub(super) fn read(path: &Path, max: usize) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(max as u64 + 1).read_to_string(&mut text)?;
    if text.len() > max {
        return Err(io::Error::other(format!("it has more than {max} bytes")));
    }
    Ok(text)
}

/// Writes a family's document, whole or not at all. Blocks.
pub(super) fn keep(directory: &Path, document: &Document) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let _alone = directory::lock(directory)?;
    directory::write(&directory.join(format!("{}.json", document.family())), document.text().as_bytes(), 0o644)
}
