//! The addresses a service listens on, for whoever started it with port 0.

use std::{collections::BTreeMap, fs, io, path::Path};

/// Writes `{name: address}` as JSON, complete or not at all: a reader never sees half a file.
pub(crate) fn write(path: &Path, addresses: &BTreeMap<String, String>) -> io::Result<()> {
    let text = serde_json::to_vec(addresses).map_err(io::Error::other)?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".part");
    fs::write(&temporary, text)?;
    fs::rename(&temporary, path)
}
