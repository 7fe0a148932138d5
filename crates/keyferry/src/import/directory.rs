//! Reading a directory that somebody else filled: regular files only, no links, bounded sizes and counts, and each file a
//! finding of its own.

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use rustix::fs::OFlags;
use zeroize::Zeroizing;

/// Records have some 1 kB; a policy may have 64 KiB.
pub(super) const RECORD_BYTES_MAX: u64 = 128 * 1024;
/// Files of one directory that are looked at.
const FILES_MAX: usize = 1_000_000;

/// One name in the directory, and what the file holds or why it was not read.
pub(super) struct Found {
    pub(super) name: String,
    pub(super) content: Result<Zeroizing<Vec<u8>>, String>,
}

/// Every file of a directory, in the order of names. A directory that is not there has none.
pub(super) fn files(directory: &Path) -> io::Result<Vec<Found>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name());
        if names.len() > FILES_MAX {
            return Err(io::Error::other(format!("more than {FILES_MAX} files")));
        }
    }
    names.sort();
    let found = |name: std::ffi::OsString| Found { content: file(&directory.join(&name)), name: name.to_string_lossy().into_owned() };
    Ok(names.into_iter().map(found).collect())
}

/// What a regular file holds. It is opened without following a link at its name, and without waiting for a pipe's writer.
pub(super) fn file(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    const FLAGS: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK);
    let flags = i32::try_from(FLAGS.bits()).map_err(|error| error.to_string())?;
    let opened = fs::OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|error| {
        let is_link = fs::symlink_metadata(path).is_ok_and(|about| about.is_symlink());
        if is_link { "it is a symbolic link".to_owned() } else { error.to_string() }
    })?;
    let about = opened.metadata().map_err(|error| error.to_string())?;
    if !about.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    let mut bytes = Zeroizing::new(Vec::new());
    opened.take(RECORD_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > RECORD_BYTES_MAX {
        return Err(format!("it has more than {RECORD_BYTES_MAX} bytes"));
    }
    Ok(bytes)
}
