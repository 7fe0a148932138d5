//! A secret of the configuration: given inline, or in a file by its `*_file` twin.

use std::{fmt, fs, path::Path};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer};

use crate::Mistake;

/// A secret text: wiped when dropped, never printed.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Keeps `text`.
    pub fn new(text: String) -> Self {
        Self(text.into())
    }

    /// The text. Each use is a place where it can leak.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// The secret called `name` from its two settings, `NAME` and `NAME_file`. One line feed at the end of a file does
    /// not count. Both given is a mistake, as is an empty secret or an unreadable file; neither given is `None`.
    pub fn from_twins(name: &str, inline: Option<&Self>, file: Option<&Path>) -> Result<Option<Self>, Mistake> {
        match (inline, file) {
            (Some(_), Some(_)) => Err(Mistake::new(name, format!("is given twice, as {name} and {name}_file: keep one"))),
            // An unset variable of an orchestrator arrives like this; it must not become a password that everybody has.
            (Some(secret), None) if secret.expose().is_empty() => Err(Mistake::new(name, "is empty")),
            (Some(secret), None) => Ok(Some(secret.clone())),
            (None, Some(path)) => Self::read(path).map(Some).map_err(|problem| Mistake::new(format!("{name}_file"), problem)),
            (None, None) => Ok(None),
        }
    }

    /// As [`Self::from_twins`], where the secret must be there.
    pub fn required_from_twins(name: &str, inline: Option<&Self>, file: Option<&Path>) -> Result<Self, Mistake> {
        let missing = || Mistake::new(name, format!("is missing: set {name}, or {name}_file to a file that holds it"));
        Self::from_twins(name, inline, file)?.ok_or_else(missing)
    }

    fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|error| format!("{} cannot be read ({error})", path.display()))?;
        let secret = Self::new(text.strip_suffix('\n').unwrap_or(&text).to_owned());
        if secret.expose().is_empty() { Err(format!("{} is empty", path.display())) } else { Ok(secret) }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}
