//! Why something could not be started: one clear sentence and a hint.

use std::{fs, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

/// What a person reads when a server or service could not be started.
#[derive(Debug, thiserror::Error)]
#[error("{sentence}")]
pub struct StartFailure {
    sentence: String,
    hint: String,
}

impl StartFailure {
    /// `sentence` says what happened, `hint` what to do.
    pub fn new(sentence: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), hint: hint.into() }
    }
    /// What to do about it.
    pub fn hint(&self) -> &str {
        &self.hint
    }
}

/// Makes a directory and its parents; the last one is readable by its owner only.
pub fn private_directory(path: &Path) -> Result<(), StartFailure> {
    use std::os::unix::fs::PermissionsExt;
    fs::create_dir_all(path).and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o700))).map_err(|error| {
        StartFailure::new(format!("cannot make the directory {}: {error}", path.display()), "check its parent's permissions and the disk")
    })
}

/// Writes a file of mode 0600, replacing what was there.
pub fn write_private(path: &Path, contents: impl AsRef<[u8]>) -> Result<(), StartFailure> {
    let write = || -> std::io::Result<()> {
        let _ = fs::remove_file(path);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(contents.as_ref())
    };
    write().map_err(|error| {
        StartFailure::new(format!("cannot write {}: {error}", path.display()), "check the directory's permissions and the disk")
    })
}
