//! Names of objects in a KMIP server, parsed once.

use std::fmt;

/// The longest identifier or name, in bytes.
const BYTES_MAX: usize = 255;

/// Why a text is no identifier or name. Never repeats the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty, or too long.
    #[error("KMIP {kind} has {bytes} bytes: 1 to 255 are allowed")]
    Length {
        /// Which of the two.
        kind: &'static str,
        /// Bytes found.
        bytes: usize,
    },
    /// A control character.
    #[error("KMIP {kind} has a control character at byte {position}")]
    Control {
        /// Which of the two.
        kind: &'static str,
        /// Zero-based byte position.
        position: usize,
    },
}

/// A Unique Identifier: chosen by the server, 1 to 255 bytes, no control characters. Never empty.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId(Box<str>);

impl ObjectId {
    /// Parses and keeps the text.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check("unique identifier", text).map(Self)
    }
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectId({})", self.0)
    }
}

/// A Name attribute: chosen by us, 1 to 255 bytes, no control characters. Servers do not promise that it is unique.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName(Box<str>);

impl ObjectName {
    /// Parses and keeps the text.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check("name", text).map(Self)
    }
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectName({})", self.0)
    }
}

fn check(kind: &'static str, text: &str) -> Result<Box<str>, NameError> {
    if text.is_empty() || text.len() > BYTES_MAX {
        return Err(NameError::Length { kind, bytes: text.len() });
    }
    match text.char_indices().find(|(_, c)| c.is_control()) {
        Some((position, _)) => Err(NameError::Control { kind, position }),
        None => Ok(text.into()),
    }
}
