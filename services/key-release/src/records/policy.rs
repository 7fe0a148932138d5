//! One version of a policy, as stored.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use keyferry_identifiers::PolicyId;
use keyferry_key_transfer_policy::Policy;
use serde::{Deserialize, Serialize};

use super::moment;

/// One version of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PolicyRecord {
    pub(crate) policy_id: PolicyId,
    pub(crate) version: u32,
    /// As the administrator gave it.
    pub(crate) document: String,
    /// Of this version.
    #[serde(with = "moment")]
    pub(crate) created_at: Timestamp,
    /// Who made this version; empty in records of the first version of this service.
    #[serde(default)]
    pub(crate) actor: String,
    /// The version whose document this is again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rolled_back_to: Option<u32>,
    #[serde(default, skip_serializing_if = "Standing::is_there")]
    pub(crate) standing: Standing,
}

/// Whether a policy is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Standing {
    #[default]
    There,
    /// Somebody wants to delete it, or died over it. It governs all the same.
    Leaving,
    /// Deleted. The record stays, so that a version number is never used twice.
    Deleted,
}

impl Standing {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
    fn is_there(&self) -> bool {
        *self == Self::There
    }
}

impl PolicyRecord {
    /// A version that is made now.
    pub(crate) fn new(policy_id: PolicyId, version: u32, document: String, actor: &str, created_at: Timestamp) -> Self {
        Self { policy_id, version, document, created_at, actor: actor.to_owned(), rolled_back_to: None, standing: Standing::There }
    }

    /// The same, made from the document of an older version.
    pub(crate) fn rolled_back_to(self, version: Option<u32>) -> Self {
        Self { rolled_back_to: version, ..self }
    }

    /// SHA-256 of the document, lower-case hex.
    pub(crate) fn document_digest(&self) -> String {
        hex::encode(digest(&SHA256, self.document.as_bytes()))
    }
}

/// A policy that can be evaluated, at the moment of reading.
#[derive(Clone)]
pub(crate) struct Rule {
    pub(crate) policy_id: PolicyId,
    pub(crate) version: u32,
    pub(crate) policy: Arc<Policy>,
}
