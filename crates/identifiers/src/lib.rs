//! Identifiers that are parsed once, at the edge, and then always safe as NATS subject token, file name and label.
//!
//! This crate knows no I/O and no other crate of ours. No identifier has `Default`, a public field or `From<String>`:
//! the only way to get one is to parse it.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

/// The longest [`TdId`]: a public nkey has 56 characters.
pub const TD_ID_CHARACTERS_MAX: usize = 64;

/// Why a text is no identifier. Never repeats the text: it may be hostile, or a secret in the wrong place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentifierError {
    /// Empty or too long.
    #[error("{kind} has {length} characters: 1 to {max} are allowed")]
    Length {
        /// Which identifier.
        kind: &'static str,
        /// Characters found.
        length: usize,
        /// Characters allowed.
        max: usize,
    },
    /// A character outside the alphabet.
    #[error("{kind} has a character outside [A-Za-z0-9_-] at position {position}")]
    Character {
        /// Which identifier.
        kind: &'static str,
        /// Zero-based position of the first such character.
        position: usize,
    },
    /// Not a canonical UUID.
    #[error("{kind} is not a UUID in canonical form (8-4-4-4-12 hex digits)")]
    Uuid {
        /// Which identifier.
        kind: &'static str,
    },
}

/// A TD's identity on the bus: 1 to 64 characters of `[A-Za-z0-9_-]` (its public nkey fits): no dot, blank, `*` or `>`
/// can reach a NATS subject.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct TdId(Box<str>);

impl TdId {
    /// Parses and keeps the text.
    pub fn parse(text: &str) -> Result<Self, IdentifierError> {
        parse_token("td_id", text).map(Self)
    }
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn parse_token(kind: &'static str, text: &str) -> Result<Box<str>, IdentifierError> {
    let length = text.chars().count();
    if length == 0 || length > TD_ID_CHARACTERS_MAX {
        return Err(IdentifierError::Length { kind, length, max: TD_ID_CHARACTERS_MAX });
    }
    match text.chars().position(|c| !(c.is_ascii_alphanumeric() || c == '_' || c == '-')) {
        Some(position) => Err(IdentifierError::Character { kind, position }),
        None => Ok(text.into()),
    }
}

impl fmt::Display for TdId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for TdId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TdId({})", self.0)
    }
}
impl<'de> Deserialize<'de> for TdId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

macro_rules! uuid_identifier {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A fresh random identifier.
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }
            /// Parses the canonical form, either case.
            pub fn parse(text: &str) -> Result<Self, IdentifierError> {
                if text.len() != 36 {
                    return Err(IdentifierError::Uuid { kind: $kind });
                }
                Uuid::try_parse(text).map(Self).map_err(|_| IdentifierError::Uuid { kind: $kind })
            }
            /// The UUID.
            pub const fn as_uuid(&self) -> &Uuid {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

uuid_identifier!(
    /// Names a key at the key broker, whatever KMS holds it.
    KeyId, "key_id");
uuid_identifier!(
    /// Names a key transfer policy or an appraisal policy.
    PolicyId, "policy_id");
uuid_identifier!(
    /// Names one attestation: one piece of evidence and its answer.
    AttestationId, "attestation_id");
uuid_identifier!(
    /// Names one decision of the key broker, and its audit record.
    ReleaseId, "release_id");
uuid_identifier!(
    /// Names a user of the key broker's administration.
    UserId, "user_id");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_public_nkey_is_a_td_id() {
        let nkey = "UAKZ6LQ5ZSVXCIJJTNRJ3E2KTGGXTWGSDHEYIBG3SYLOVKCYRJOOCBMV";
        assert_eq!(TdId::parse(nkey).unwrap().as_str(), nkey);
    }

    #[test]
    fn nothing_that_could_steer_a_subject_is_a_td_id() {
        for text in ["", ".", "a.b", "*", ">", "a b", "a\n", "td/1", "é", "a\0", &"a".repeat(65)] {
            assert!(TdId::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn only_the_canonical_uuid_form_is_accepted() {
        let id = KeyId::random();
        assert_eq!(KeyId::parse(&id.to_string()).unwrap(), id);
        assert_eq!(KeyId::parse(&id.to_string().to_uppercase()).unwrap(), id);
        for text in ["", "1", &id.as_uuid().simple().to_string(), &format!("urn:uuid:{id}"), &format!("{{{id}}}")] {
            assert!(KeyId::parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_parses_is_one_subject_token(text in ".*") {
            if let Ok(id) = TdId::parse(&text) {
                prop_assert!(!id.as_str().contains(['.', '*', '>', ' ']));
                let json = serde_json::to_string(&id).unwrap();
                prop_assert_eq!(serde_json::from_str::<TdId>(&json).unwrap(), id);
            }
        }
    }
}
