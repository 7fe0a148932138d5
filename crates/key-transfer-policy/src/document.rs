//! The document: strict JSON in, a checked policy out. What each member means is in `docs/policies.md`; how it becomes a
//! condition is in [`crate::compile`].

use std::fmt;

use keyferry_attestation_token::INTEL_TRUST_ANCHOR;
use serde::{Deserialize, Deserializer, de::IgnoredAny};
use uuid::Uuid;

use crate::{compile, condition::Condition, rego::RuleError};

/// The longest document that is looked at.
pub const DOCUMENT_BYTES_MAX: usize = 64 * 1024;
/// Entries of one list.
pub const LIST_ENTRIES_MAX: usize = 256;

pub(crate) const TRUST_ANCHOR_CLAIM: &str = "keyferry.trust_anchor";
pub(crate) const POLICY_IDS_CLAIM: &str = "policy_ids_matched";
pub(crate) const SEPT_VE_DISABLE_CLAIM: &str = "tdx_td_attributes_septve_disable";
pub(crate) const MIGRATABLE_CLAIM: &str = "tdx_td_attributes_migratable";
pub(crate) const RULE_CLAIM: &str = "rego";

/// Why a text is no policy: which member, and what it must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Over [`DOCUMENT_BYTES_MAX`].
    #[error("the policy has {bytes} bytes, {DOCUMENT_BYTES_MAX} are allowed")]
    TooLarge {
        /// Bytes found.
        bytes: usize,
    },
    /// Not JSON of the right shape: an unknown member, a wrong type.
    #[error("the policy is malformed: {cause}")]
    Malformed {
        /// Member and position.
        cause: String,
    },
    /// `attestation_type` names another attester, several, or none.
    #[error("attestation_type is {found}: it must be \"TDX\" or \"SGX\", alone or as the one entry of a list")]
    AttestationType {
        /// The document's words.
        found: String,
    },
    /// The object that `attestation_type` names is absent.
    #[error("the policy has no {object} object: an empty one, {{\"attributes\":{{}}}}, is needed to permit every attester of its type")]
    ObjectMissing {
        /// `tdx` or `sgx`.
        object: &'static str,
    },
    /// Not hex of the right length.
    #[error("{member} has an entry that is not {digits} hex digits")]
    Hex {
        /// Which member.
        member: &'static str,
        /// How many digits there must be.
        digits: usize,
    },
    /// Over [`LIST_ENTRIES_MAX`].
    #[error("{member} has {entries} entries, {LIST_ENTRIES_MAX} are allowed")]
    TooMany {
        /// Which member.
        member: &'static str,
        /// Entries found.
        entries: usize,
    },
    /// An empty list, or an entry that names no root.
    #[error("attributes.trust_anchor must name \"{INTEL_TRUST_ANCHOR}\" or \"simulator:\" and 64 lower-case hex digits, at least one")]
    TrustAnchor,
    /// An empty list, or a word that is no status a policy can accept.
    #[error("attributes.tcb_statuses must name statuses, at least one: {}; Revoked is never accepted", compile::TCB_STATUS_KNOWN.join(", "))]
    TcbStatus,
    /// Not a date or a time in UTC.
    #[error("{member} must be a date such as 2025-05-14, or a time such as 2025-05-14T00:00:00Z")]
    Time {
        /// Which member.
        member: &'static str,
    },
    /// Bits that are wanted outside of the mask.
    #[error("{member}.value has bits outside of {member}.mask: they could never match")]
    Mask {
        /// Which member.
        member: &'static str,
    },
    /// Not an advisory's name.
    #[error("{member} has an entry that is no advisory such as INTEL-SA-00837")]
    Advisory {
        /// Which member.
        member: &'static str,
    },
    /// The rule is not one that is evaluated here.
    #[error("attributes.rego: {0}")]
    Rule(#[from] RuleError),
}

/// Whose tokens a policy is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttestationType {
    /// Trust domains.
    Tdx,
    /// Enclaves.
    Sgx,
}

impl AttestationType {
    /// `TDX` or `SGX`, as in documents, headers and tokens.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tdx => "TDX",
            Self::Sgx => "SGX",
        }
    }
}

impl fmt::Display for AttestationType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A checked policy: every condition must hold. Its rule, if any, is compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub(crate) attestation_type: AttestationType,
    /// In the order of evaluation.
    pub(crate) conditions: Vec<Condition>,
    pub(crate) trust_anchors: Vec<String>,
    pub(crate) appraisal_ids: Vec<Uuid>,
    pub(crate) allows_weakness: bool,
    pub(crate) enforces_tcb: bool,
    pub(crate) has_other_object: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    attestation_type: OneOrMore<String>,
    tdx: Option<serde_json::Value>,
    sgx: Option<serde_json::Value>,
    /// Accepted and replaced, as Intel's server does.
    #[serde(rename = "id")]
    _id: Option<IgnoredAny>,
    #[serde(rename = "created_at")]
    _created_at: Option<IgnoredAny>,
}

/// The object that `attestation_type` names.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Block<T: Default> {
    #[serde(default)]
    pub(crate) attributes: T,
    #[serde(default)]
    pub(crate) policy_ids: Vec<Uuid>,
}

/// `tdx.attributes`. Intel's members first.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TdxAttributes {
    pub(crate) mrsignerseam: Vec<String>,
    pub(crate) mrseam: Vec<String>,
    pub(crate) seamsvn: Option<u16>,
    pub(crate) mrtd: Vec<String>,
    pub(crate) rtmr0: Option<OneOrMore<String>>,
    pub(crate) rtmr1: Option<OneOrMore<String>>,
    pub(crate) rtmr2: Option<OneOrMore<String>>,
    pub(crate) rtmr3: Option<OneOrMore<String>>,
    pub(crate) enforce_tcb_upto_date: Option<bool>,
    pub(crate) allow: Vec<Weakness>,
    pub(crate) seamsvn_min: Option<u16>,
    pub(crate) tee_tcb_svn_min: Option<String>,
    pub(crate) mrconfigid: Option<OneOrMore<String>>,
    pub(crate) mrowner: Option<OneOrMore<String>>,
    pub(crate) mrownerconfig: Option<OneOrMore<String>>,
    pub(crate) td_attributes: Option<Bits>,
    pub(crate) xfam: Option<Bits>,
    pub(crate) trust_anchor: Option<OneOrMore<String>>,
    pub(crate) tcb_statuses: Option<OneOrMore<String>>,
    pub(crate) tcb_date_min: Option<String>,
    pub(crate) tcb_evaluation_data_number_min: Option<u32>,
    pub(crate) pce_svn_min: Option<u16>,
    pub(crate) advisory_ids_allowed: Option<Vec<String>>,
    pub(crate) advisory_ids_refused: Vec<String>,
    pub(crate) rego: Option<String>,
}

/// `sgx.attributes`. Intel's members first.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SgxAttributes {
    pub(crate) mrsigner: Vec<String>,
    pub(crate) isvprodid: Vec<u16>,
    pub(crate) mrenclave: Vec<String>,
    pub(crate) isvsvn: Option<u16>,
    pub(crate) enforce_tcb_upto_date: Option<bool>,
    pub(crate) isvsvn_min: Option<u16>,
    pub(crate) trust_anchor: Option<OneOrMore<String>>,
    pub(crate) tcb_statuses: Option<OneOrMore<String>>,
    pub(crate) tcb_date_min: Option<String>,
    pub(crate) pce_svn_min: Option<u16>,
    pub(crate) advisory_ids_allowed: Option<Vec<String>>,
    pub(crate) advisory_ids_refused: Vec<String>,
    pub(crate) rego: Option<String>,
}

/// What is refused unless the policy says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Weakness {
    /// The host may move the TD to another machine.
    Migratable,
    /// The host may inject exceptions by taking pages away.
    NoSeptVeDisable,
}

/// A value, or a list of them.
pub(crate) struct OneOrMore<T>(pub(crate) Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMore<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either<T> {
            One(T),
            More(Vec<T>),
        }
        Ok(Self(match Either::deserialize(deserializer)? {
            Either::One(one) => vec![one],
            Either::More(more) => more,
        }))
    }
}

/// Sixteen hex digits as the claim has them, or some bits of them.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Bits {
    Exact(String),
    Masked(MaskedBits),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MaskedBits {
    pub(crate) mask: String,
    pub(crate) value: String,
}

impl Policy {
    /// Reads and checks a document, and compiles its rule.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        if text.len() > DOCUMENT_BYTES_MAX {
            return Err(PolicyError::TooLarge { bytes: text.len() });
        }
        let document: Document = serde_json::from_str(text).map_err(|error| PolicyError::Malformed { cause: error.to_string() })?;
        match document.attestation_type.0.as_slice() {
            [one] if one == "TDX" => compile::tdx(block("tdx", document.tdx)?, document.sgx.is_some()),
            [one] if one == "SGX" => compile::sgx(block("sgx", document.sgx)?, document.tdx.is_some()),
            other => Err(PolicyError::AttestationType { found: format!("{other:?}").chars().take(64).collect() }),
        }
    }

    /// Whose tokens it is about.
    pub fn attestation_type(&self) -> AttestationType {
        self.attestation_type
    }

    /// The appraisal policies that a verifier should be asked to match.
    pub fn policy_ids(&self) -> &[Uuid] {
        &self.appraisal_ids
    }

    /// The trust anchors whose evidence is accepted; never empty.
    pub fn trust_anchors(&self) -> &[String] {
        &self.trust_anchors
    }
}

/// The object that counts; Intel stores the other one and never looks at it.
fn block<T: Default + for<'de> Deserialize<'de>>(object: &'static str, value: Option<serde_json::Value>) -> Result<Block<T>, PolicyError> {
    let value = value.ok_or(PolicyError::ObjectMissing { object })?;
    serde_json::from_value(value).map_err(|error| PolicyError::Malformed { cause: format!("{object}: {error}") })
}
