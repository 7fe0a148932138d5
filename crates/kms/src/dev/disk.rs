//! Files of the development store: private, locked, replaced whole.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use zeroize::Zeroizing;

use super::format::MasterKey;
use crate::KmsError;

/// A store over this size is not read.
const FILE_BYTES_MAX: u64 = 64 << 20;

pub(super) fn unusable(path: &Path, what: &'static str) -> KmsError {
    KmsError::File { path: path.to_owned(), what }
}

/// Takes the store for this process. Held until the file is dropped.
pub(super) fn lock(store: &Path) -> Result<File, KmsError> {
    let path = beside(store, ".lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = file.map_err(|_| unusable(&path, "the lock file cannot be made: check that the directory exists and is writable"))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| unusable(store, "is in use by another process: only one may open a development store"))?;
    Ok(file)
}

/// A private file's bytes, or `None` if there is no such file. Refuses one that others may read or write.
pub(super) fn read_private(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, KmsError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(_) => return Err(unusable(path, "cannot be read: check its owner and permissions")),
    };
    let metadata = file.metadata().map_err(|_| unusable(path, "cannot be examined"))?;
    if !metadata.is_file() {
        return Err(unusable(path, "is not a file"));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(unusable(path, "is open to others: set its mode to 0600 (chmod 600)"));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(unusable(path, "is over 64 MiB: not a file of ours"));
    }
    // Sized in advance: a buffer that grows leaves its old copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1));
    file.read_to_end(&mut bytes).map_err(|_| unusable(path, "cannot be read"))?;
    Ok(Some(bytes))
}

/// The key file's 32 bytes, or `None` if there is no such file.
pub(super) fn read_master_key(path: &Path) -> Result<Option<MasterKey>, KmsError> {
    let Some(bytes) = read_private(path)? else { return Ok(None) };
    let key = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| unusable(path, "must hold exactly 32 bytes"))?;
    Ok(Some(Zeroizing::new(key)))
}

/// Makes a key file that did not exist.
pub(super) fn create_master_key(path: &Path) -> Result<MasterKey, KmsError> {
    let mut key = Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(key.as_mut_slice()).map_err(|_| KmsError::Internal)?;
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(key.as_slice())?;
        file.sync_all()?;
        sync_directory(path)
    };
    write().map_err(|_| unusable(path, "cannot be made: check that the directory exists and is writable"))?;
    Ok(key)
}

/// Replaces the store by `bytes`, all or nothing; the one before stays beside it as `.bak`.
pub(super) fn replace(store: &Path, bytes: &[u8]) -> Result<(), KmsError> {
    let (fresh, backup) = (beside(store, ".new"), beside(store, ".bak"));
    let write = || -> io::Result<()> {
        remove_if_there(&fresh)?; // left by a crash; we hold the lock
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        if store.exists() {
            remove_if_there(&backup)?;
            fs::hard_link(store, &backup)?;
        }
        fs::rename(&fresh, store)?;
        sync_directory(store)
    };
    write().map_err(|_| unusable(store, "cannot be written: check the disk and the directory's permissions"))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
