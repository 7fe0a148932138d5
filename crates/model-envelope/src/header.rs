//! The header of a KFM1 container: what the file holds and which key it wants. Public, and authenticated.

use std::{collections::BTreeMap, fmt};

use prost::Message;
use uuid::Uuid;

use crate::EnvelopeError;

/// The longest encoded header, in bytes.
pub(crate) const HEADER_BYTES_MAX: usize = 64 * 1024;
const WORD_CHARACTERS_MAX: usize = 64;

macro_rules! word {
    ($(#[$doc:meta])* $name:ident, $field:literal, $extra:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// Parses and keeps the text.
            pub fn parse(text: &str) -> Result<Self, EnvelopeError> {
                let allowed = |c: char| c.is_ascii_alphanumeric() || $extra.contains(c);
                let plain_start = text.starts_with(|c: char| c.is_ascii_alphanumeric());
                if text.len() > WORD_CHARACTERS_MAX || !plain_start || !text.chars().all(allowed) {
                    let problem = concat!("1 to 64 characters of [A-Za-z0-9", $extra, "], beginning with a letter or digit");
                    return Err(EnvelopeError::HeaderMember { field: $field, problem });
                }
                Ok(Self(text.into()))
            }
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

word!(
    /// The name a model is served under: safe as a URL path segment, a file name and a label.
    ModelName, "name", "._-");
word!(
    /// What the plaintext is, e.g. `onnx` or `intel-linreg`. Which ones can be served is the runner's business.
    MediaType, "media_type", ".+/-");

/// What a KFM1 header says beside the sizes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The key it is sealed with, as the key broker names it.
    pub key_id: Uuid,
    /// What the plaintext is.
    pub media_type: MediaType,
    /// The name the model is served under.
    pub name: ModelName,
    /// The publisher's version of the model; may be empty, at most 64 bytes.
    pub version: String,
    /// When it was sealed, Unix seconds; 0 = not told.
    pub sealed_at: u64,
    /// Parameters for the runtime, e.g. `quirk` = `intended`.
    pub parameters: BTreeMap<String, String>,
}

impl Header {
    /// A header without version, time and parameters.
    pub fn new(key_id: Uuid, media_type: MediaType, name: ModelName) -> Self {
        Self { key_id, media_type, name, version: String::new(), sealed_at: 0, parameters: BTreeMap::new() }
    }

    pub(crate) fn encode(&self, plaintext_length: u64) -> Result<Vec<u8>, EnvelopeError> {
        check_version(&self.version)?;
        let message = Encoded {
            plaintext_length,
            key_id: self.key_id.as_bytes().to_vec(),
            media_type: self.media_type.as_str().to_owned(),
            name: self.name.as_str().to_owned(),
            version: self.version.clone(),
            sealed_at: self.sealed_at,
            parameters: self.parameters.clone(),
        };
        let bytes = message.encode_to_vec();
        if bytes.len() > HEADER_BYTES_MAX {
            return Err(EnvelopeError::HeaderTooLong { bytes: bytes.len() as u64 });
        }
        Ok(bytes)
    }

    /// The header and the plaintext length. Only the one canonical encoding is accepted.
    pub(crate) fn decode(bytes: &[u8]) -> Result<(Self, u64), EnvelopeError> {
        let message =
            Encoded::decode(bytes).map_err(|_| EnvelopeError::HeaderMember { field: "header", problem: "does not decode as protobuf" })?;
        if message.encode_to_vec() != bytes {
            return Err(EnvelopeError::HeaderNotCanonical);
        }
        let key_id = Uuid::from_slice(&message.key_id)
            .map_err(|_| EnvelopeError::HeaderMember { field: "key_id", problem: "must have 16 bytes" })?;
        check_version(&message.version)?;
        if message.plaintext_length == 0 {
            return Err(EnvelopeError::HeaderMember { field: "plaintext_length", problem: "must be over 0" });
        }
        let header = Self {
            key_id,
            media_type: MediaType::parse(&message.media_type)?,
            name: ModelName::parse(&message.name)?,
            version: message.version,
            sealed_at: message.sealed_at,
            parameters: message.parameters,
        };
        Ok((header, message.plaintext_length))
    }
}

fn check_version(version: &str) -> Result<(), EnvelopeError> {
    if version.len() > WORD_CHARACTERS_MAX || version.chars().any(char::is_control) {
        return Err(EnvelopeError::HeaderMember { field: "version", problem: "at most 64 bytes, no control characters" });
    }
    Ok(())
}

/// The wire form. prost writes fields in tag order and a `BTreeMap` in key order, so equal headers have equal bytes.
#[derive(Clone, PartialEq, Message)]
struct Encoded {
    #[prost(uint64, tag = "1")]
    plaintext_length: u64,
    #[prost(bytes = "vec", tag = "2")]
    key_id: Vec<u8>,
    #[prost(string, tag = "3")]
    media_type: String,
    #[prost(string, tag = "4")]
    name: String,
    #[prost(string, tag = "5")]
    version: String,
    #[prost(uint64, tag = "6")]
    sealed_at: u64,
    #[prost(btree_map = "string, string", tag = "7")]
    parameters: BTreeMap<String, String>,
}
