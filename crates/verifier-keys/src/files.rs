//! A directory that replicas share: one of them writes at a time, and whole files only.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use zeroize::Zeroizing;

use crate::error::KeysError;

const LOCK: &str = "lock";

/// Waits until no other process is at work in the directory; held until it is dropped, or its process ends. Blocks.
pub fn lock(directory: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(directory.join(LOCK))?;
    file.lock()?;
    Ok(file)
}

/// Written beside its place, forced to the disk and renamed: a reader sees the whole file or the one before, even after a
/// power failure. Only one process at a time may write: see [`lock`].
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    // What a cut-off writer left may have another mode.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

pub(crate) fn failed(path: &Path, source: io::Error) -> KeysError {
    KeysError::File { path: path.to_owned(), source }
}

pub(crate) fn content(path: &Path, problem: impl Into<String>) -> KeysError {
    KeysError::Content { path: path.to_owned(), problem: problem.into() }
}

pub(crate) fn put(path: &Path, bytes: &[u8], mode: u32) -> Result<(), KeysError> {
    write(path, bytes, mode).map_err(|source| failed(path, source))
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, KeysError> {
    fs::read(path).map_err(|source| failed(path, source))
}

/// `None` where there is no such file.
pub(crate) fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, KeysError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed(path, source)),
    }
}

/// A file that nobody else may read.
pub(crate) fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeysError> {
    let mode = fs::metadata(path).map_err(|source| failed(path, source))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeysError::Mode { path: path.to_owned(), mode });
    }
    read(path).map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_cut_off_writer_left_widens_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("signing.key");
        let left = directory.path().join("signing.key.new");
        fs::write(&left, "half").unwrap();
        fs::set_permissions(&left, fs::Permissions::from_mode(0o644)).unwrap();
        write(&path, b"whole", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!left.exists());
    }
}
