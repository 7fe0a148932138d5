//! Files that hold private keys: made with mode 0600, never widened afterwards.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::SimulatorError;

/// Writes `content` to `path`, readable by its owner only, replacing a file that is there.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), SimulatorError> {
    let failure = at(path);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).map_err(&failure)?;
    // The mode above counts for a new file only.
    file.set_permissions(std::fs::Permissions::from_mode(0o600)).map_err(&failure)?;
    file.write_all(content).map_err(&failure)?;
    file.sync_all().map_err(failure)
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, SimulatorError> {
    std::fs::read(path).map_err(at(path))
}

/// Names the file in an error.
pub(crate) fn at(path: &Path) -> impl Fn(std::io::Error) -> SimulatorError {
    let path = PathBuf::from(path);
    move |source| SimulatorError::File { path: path.clone(), source }
}
