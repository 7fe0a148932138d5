//! The API key: given, or in a file that may change while we run.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::SystemTime,
};

use http::HeaderValue;
use secrecy::{ExposeSecret, SecretString};

use crate::TrustAuthorityError;

/// The API key in a file: one line. The value is sent as it is, whatever form the service gives its keys.
pub fn read_api_key(path: &Path) -> Result<SecretString, TrustAuthorityError> {
    let unusable = |cause: String| TrustAuthorityError::ApiKeyFile { path: path.to_owned(), cause };
    let text = SecretString::from(std::fs::read_to_string(path).map_err(|error| unusable(error.to_string()))?);
    let key = text.expose_secret().trim_end_matches(['\r', '\n']);
    match HeaderValue::from_str(key) {
        Ok(value) if !value.is_empty() => Ok(SecretString::from(key)),
        _ => Err(unusable("it holds no API key: one line of visible characters is needed".to_owned())),
    }
}

/// The key as a header. With a file, a changed file is read again before the next call; one that cannot be used leaves the
/// key as it was, because rotation may be half done.
pub(crate) struct ApiKey {
    file: Option<PathBuf>,
    current: Mutex<(HeaderValue, Option<SystemTime>)>,
}

impl ApiKey {
    pub(crate) fn new(key: &SecretString, file: Option<PathBuf>) -> Result<Self, TrustAuthorityError> {
        let read = file.as_deref().and_then(modified);
        Ok(Self { file, current: Mutex::new((sensitive(key).ok_or(TrustAuthorityError::ApiKey)?, read)) })
    }

    pub(crate) fn header(&self) -> HeaderValue {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &self.file {
            let changed = modified(file);
            if changed.is_some()
                && changed != current.1
                && let Some(key) = read_api_key(file).ok().as_ref().and_then(sensitive)
            {
                *current = (key, changed);
            }
        }
        current.0.clone()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(redacted)")
    }
}

fn sensitive(key: &SecretString) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(key.expose_secret()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}
