//! The document.

use std::{collections::BTreeMap, fmt};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A SHA-384 measurement; 96 hex digits in documents, either case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Measurement(pub [u8; 48]);

/// Every measurement of a TD that a document or a policy may name.
pub const FIELDS: [&str; 11] = [
    "mr_td",
    "mr_seam",
    "mr_signer_seam",
    "rtmr0",
    "rtmr1",
    "rtmr2",
    "rtmr3",
    "mr_config_id",
    "mr_owner",
    "mr_owner_config",
    "mr_service_td",
];

const ID_CHARACTERS_MAX: usize = 64;
const TEXT_CHARACTERS_MAX: usize = 1000;

/// Measurements of one build. Parsed by [`Document::parse`] only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    id: String,
    source: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_before: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_after: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    note: String,
    values: BTreeMap<String, Measurement>,
}

/// Why a text is no document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Not the JSON object it has to be.
    #[error("reference values: {0}")]
    Json(String),
    /// Its id would be no name of a file.
    #[error("reference values: the id is 1 to 64 of [A-Za-z0-9._-], the first a letter or digit")]
    Id,
    /// A member that nothing has.
    #[error("reference values: `values.{0}` is no measurement of a TD: these are: {names}", names = FIELDS.join(", "))]
    UnknownField(String),
    /// A text is longer than anybody reads.
    #[error("reference values: `{0}` is longer than 1000 characters")]
    TooLong(&'static str),
    /// It ends before it begins.
    #[error("reference values: `not_after` is before `not_before`")]
    Window,
}

impl Document {
    /// Parses a document. Unknown members are errors: a misspelt measurement must not be a missing one.
    pub fn parse(json: &[u8]) -> Result<Self, DocumentError> {
        let document: Self = serde_json::from_slice(json).map_err(|error| DocumentError::Json(error.to_string()))?;
        if !is_id(&document.id) {
            return Err(DocumentError::Id);
        }
        if let Some(unknown) = document.values.keys().find(|name| !FIELDS.contains(&name.as_str())) {
            return Err(DocumentError::UnknownField(unknown.clone()));
        }
        for (name, text) in [("source", &document.source), ("note", &document.note)] {
            if text.chars().count() > TEXT_CHARACTERS_MAX {
                return Err(DocumentError::TooLong(name));
            }
        }
        if document.not_before.zip(document.not_after).is_some_and(|(begin, end)| end < begin) {
            return Err(DocumentError::Window);
        }
        Ok(document)
    }

    /// What policies and the history call it; also the stem of its file's name.
    pub fn id(&self) -> &str {
        &self.id
    }
    /// Where the values come from, for people.
    pub fn source(&self) -> &str {
        &self.source
    }
    /// Anything else, for people.
    pub fn note(&self) -> &str {
        &self.note
    }
    /// The first moment at which it is good.
    pub const fn not_before(&self) -> Option<Timestamp> {
        self.not_before
    }
    /// The last moment at which it is good.
    pub const fn not_after(&self) -> Option<Timestamp> {
        self.not_after
    }
    /// The measurements by name; names are of [`FIELDS`]. A TD is of this build if it has all of them.
    pub const fn values(&self) -> &BTreeMap<String, Measurement> {
        &self.values
    }
}

/// Safe as the stem of a file's name, on every file system.
pub(crate) fn is_id(text: &str) -> bool {
    text.len() <= ID_CHARACTERS_MAX
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.chars().all(|character| character.is_ascii_alphanumeric() || "._-".contains(character))
}

impl fmt::Display for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}
impl fmt::Debug for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Measurement({self})")
    }
}
impl Serialize for Measurement {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Measurement {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let mut bytes = [0; 48];
        hex::decode_to_slice(text.as_bytes(), &mut bytes)
            .map_err(|_| serde::de::Error::custom("a measurement is 96 hex digits (SHA-384)"))?;
        Ok(Self(bytes))
    }
}
