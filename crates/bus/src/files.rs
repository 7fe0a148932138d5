//! Files of mode 0600, and the public ones beside them: whole or not at all.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

/// Writes a new file of mode 0600; fails if it exists.
pub(crate) fn create_private(path: &Path, contents: &[u8]) -> io::Result<()> {
    create(path, contents, 0o600)
}

/// Writes a file of mode 0600 in place of the one that is there: readers see the old one or the new one.
pub(crate) fn replace_private(path: &Path, contents: &[u8]) -> io::Result<()> {
    replace(path, contents, 0o600)
}

/// As [`replace_private`], for a file that anybody may read.
pub(crate) fn replace_public(path: &Path, contents: &[u8]) -> io::Result<()> {
    replace(path, contents, 0o644)
}

fn replace(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.file_name().ok_or_else(|| io::Error::other("the path names no file"))?.to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let scratch = path.with_file_name(name);
    create(&scratch, contents, mode).and_then(|()| fs::rename(&scratch, path)).inspect_err(|_| {
        let _ = fs::remove_file(&scratch);
    })
}

fn create(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(contents)?;
    file.sync_all()
}

/// Makes a directory of mode 0700 and its parents.
pub(crate) fn private_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}
