//! What a user may do. Intel's names, with one more for changing policies, and both of its spellings.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Denial;

/// Permissions of one request are read up to this number; there are 13.
const LISTED_MAX: usize = 64;

macro_rules! permissions {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// One permission.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Permission {
            $($(#[$doc])* $name,)*
        }

        impl Permission {
            /// Every permission there is.
            pub const ALL: [Self; 13] = [$(Self::$name,)*];

            /// As a token's `scope` spells it: with an underscore, as Intel's does.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

permissions! {
    /// Create and import users.
    UsersCreate = "users:create",
    /// Read users.
    UsersSearch = "users:search",
    /// Change users; replace the key that signs tokens.
    UsersUpdate = "users:update",
    /// Delete users.
    UsersDelete = "users:delete",
    /// Create, register and import keys. It does not release them.
    KeysCreate = "keys:create",
    /// Read what is known of keys; never a key.
    KeysSearch = "keys:search",
    /// Put a key under another policy.
    KeysUpdate = "keys:update",
    /// Delete keys.
    KeysDelete = "keys:delete",
    /// Have a key wrapped for a public key of one's own.
    KeysTransfer = "keys:transfer",
    /// Create and import policies.
    PoliciesCreate = "key_transfer_policies:create",
    /// Read and explain policies.
    PoliciesSearch = "key_transfer_policies:search",
    /// Make new versions of policies. Ours: Intel's policies cannot be changed.
    PoliciesUpdate = "key_transfer_policies:update",
    /// Delete policies.
    PoliciesDelete = "key_transfer_policies:delete",
}

/// Pairs that Intel's user API takes and nothing ever asks for. A script that grants them must not fail over it.
const MEANINGLESS: [&str; 2] = ["users:transfer", "key_transfer_policies:transfer"];

impl Permission {
    /// Reads either spelling, `key_transfer_policies` or `key-transfer-policies`.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.replace('-', "_");
        Self::ALL.into_iter().find(|permission| permission.as_str() == text)
    }

    /// Reads a list that somebody sent. What never means anything is left out; at least one must be left.
    pub fn parse_all<S: AsRef<str>>(texts: &[S]) -> Result<BTreeSet<Self>, Denial> {
        if texts.len() > LISTED_MAX {
            return Err(Denial::malformed("permissions", format_args!("has {} entries, {LISTED_MAX} are allowed", texts.len())));
        }
        let mut permissions = BTreeSet::new();
        for text in texts.iter().map(AsRef::as_ref) {
            match Self::parse(text) {
                Some(permission) => {
                    permissions.insert(permission);
                }
                None if MEANINGLESS.contains(&text.replace('-', "_").as_str()) => {}
                None => return Err(Denial::malformed("permissions", "must be such as keys:create or key_transfer_policies:search")),
            }
        }
        if permissions.is_empty() { Err(Denial::malformed("permissions", "must name at least one permission")) } else { Ok(permissions) }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Permission {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Permission {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("no permission"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_are_one_permission_and_nothing_else_is() {
        for permission in Permission::ALL {
            assert_eq!(Permission::parse(permission.as_str()), Some(permission));
            assert_eq!(Permission::parse(&permission.as_str().replace('_', "-")), Some(permission));
        }
        for text in ["", "keys", "keys:", ":create", "keys:Create", " keys:create", "users:transfer", "keys:create,keys:search"] {
            assert_eq!(Permission::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn what_means_nothing_is_left_out_and_something_must_be_left() {
        let some = Permission::parse_all(&["key-transfer-policies:transfer", "keys:create", "keys:create"]).unwrap();
        assert_eq!(some, BTreeSet::from([Permission::KeysCreate]));
        let none: [&[&str]; 3] = [&[], &["users:transfer"], &["keys:create", "keys:everything"]];
        for texts in none {
            assert!(Permission::parse_all(texts).is_err(), "{texts:?}");
        }
    }
}
