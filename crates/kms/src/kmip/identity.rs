//! Who we are to the server: certificate, private key and password, read from files and read again when they change.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use zeroize::Zeroizing;

use super::connector::{Tls, configuration};
use crate::{KmipConfig, KmsError};

/// Requests look at the files at most this often; [`crate::Kms::health`] always does.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// One consistent set of credentials. Connections made with an older one are not used again.
pub(crate) struct Identity {
    pub(crate) tls: Tls,
    pub(crate) login: Option<Login>,
}

pub(crate) struct Login {
    pub(crate) username: String,
    pub(crate) password: Zeroizing<String>,
}

/// The credentials of now.
pub(crate) struct Identities {
    config: KmipConfig,
    current: ArcSwap<Identity>,
    seen: Mutex<Seen>,
}

struct Seen {
    files: Vec<Option<Stamp>>,
    at: Instant,
}

/// Changes whenever a file is replaced or written.
#[derive(PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl Identities {
    /// Reads everything once. Whatever is unusable now ends the start.
    pub(crate) fn load(config: &KmipConfig) -> Result<Self, KmsError> {
        let seen = Seen { files: stamps(config), at: Instant::now() };
        let identity = Identity::load(config)?;
        Ok(Self { config: config.clone(), current: ArcSwap::from_pointee(identity), seen: Mutex::new(seen) })
    }

    pub(crate) fn current(&self) -> Arc<Identity> {
        self.current.load_full()
    }

    /// Looks at the files if nobody did for a while.
    pub(crate) async fn look_sometimes(self: &Arc<Self>) {
        let due = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let due = seen.at.elapsed() >= LOOK_INTERVAL;
            if due {
                seen.at = Instant::now();
            }
            due
        };
        if due {
            self.look().await;
        }
    }

    /// Reads the files again if one of them changed. Unusable ones change nothing: a certificate and its key are rarely
    /// replaced in one moment, and the second of them is noticed too.
    pub(crate) async fn look(self: &Arc<Self>) {
        let this = Arc::clone(self);
        // A panic of the TLS library is the only error, and the credentials of before stay in use then too.
        let _ = tokio::task::spawn_blocking(move || this.reload_if_changed()).await;
    }

    fn reload_if_changed(&self) {
        let files = stamps(&self.config);
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.files == files {
                return;
            }
            seen.files = files;
        }
        match Identity::load(&self.config) {
            Ok(identity) => {
                self.current.store(Arc::new(identity));
                tracing::info!("the credentials for the KMIP server changed and were read again");
            }
            Err(error) => tracing::warn!(%error, "changed credentials for the KMIP server cannot be used; those of before stay"),
        }
    }
}

impl Identity {
    fn load(config: &KmipConfig) -> Result<Self, KmsError> {
        require_private("key_file", &config.key_file)?;
        Ok(Self { tls: Tls::new(config)?, login: login(config)? })
    }
}

fn login(config: &KmipConfig) -> Result<Option<Login>, KmsError> {
    let (username, file) = match (&config.username, &config.password, &config.password_file) {
        (None, None, None) => return Ok(None),
        (Some(username), Some(password), None) => {
            return Ok(Some(Login { username: username.clone(), password: Zeroizing::new(password.as_str().to_owned()) }));
        }
        (Some(username), None, Some(file)) => (username.clone(), file),
        _ => return Err(configuration("username", "username and password_file belong together")),
    };
    require_private("password_file", file)?;
    let password = fs::read_to_string(file).map(Zeroizing::new);
    let password = password.map_err(|_| KmsError::File { path: file.clone(), what: "the password file cannot be read as text" })?;
    Ok(Some(Login { username, password: Zeroizing::new(password.trim_end_matches(['\r', '\n']).to_owned()) }))
}

/// A secret that others may read is one no longer.
fn require_private(field: &'static str, path: &Path) -> Result<(), KmsError> {
    let metadata = fs::metadata(path).map_err(|_| configuration(field, format!("{} cannot be read", path.display())))?;
    if metadata.mode() & 0o077 != 0 {
        return Err(configuration(field, format!("{} is open to others: set its mode to 0600 (chmod 600)", path.display())));
    }
    Ok(())
}

fn stamps(config: &KmipConfig) -> Vec<Option<Stamp>> {
    let stamp = |path: &PathBuf| {
        let metadata = fs::metadata(path).ok()?;
        Some(Stamp { inode: metadata.ino(), bytes: metadata.len(), modified: (metadata.mtime(), metadata.mtime_nsec()) })
    };
    let files = [&config.ca_file, &config.certificate_file, &config.key_file].into_iter().chain(&config.password_file);
    files.map(stamp).collect()
}
