//! The document: strict JSON in, a checked and normalised policy out.

use keyferry_attestation_token::{INTEL_TRUST_ANCHOR, names_trust_anchor};
use serde::{Deserialize, de::IgnoredAny};
use uuid::Uuid;

/// The longest document that is looked at.
pub const DOCUMENT_BYTES_MAX: usize = 64 * 1024;
/// Entries of one list.
pub const LIST_ENTRIES_MAX: usize = 256;

const MEASUREMENT_DIGITS: usize = 96;

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
    /// `attestation_type` is not `TDX`.
    #[error("attestation_type is {found:?}: keys are released to TDs, so it must be \"TDX\"")]
    AttestationType {
        /// The document's word.
        found: String,
    },
    /// The `tdx` object, or its `attributes`, is absent while nothing else is demanded.
    #[error("the policy has no tdx object: an empty one, {{\"attributes\":{{}}}}, is needed to permit every TD")]
    TdxMissing,
    /// Not hex of the right length.
    #[error("{member} has an entry that is not {MEASUREMENT_DIGITS} hex digits")]
    Hex {
        /// Which member.
        member: &'static str,
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
    #[error("tdx.attributes.trust_anchor must name \"{INTEL_TRUST_ANCHOR}\" or \"simulator:\" and 64 lower-case hex digits, at least one")]
    TrustAnchor,
}

/// A checked policy. Measurements are lower-case hex; an empty list demands nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    pub(crate) trust_anchors: Vec<String>,
    pub(crate) mr_signer_seam: Vec<String>,
    pub(crate) mr_seam: Vec<String>,
    pub(crate) mr_td: Vec<String>,
    pub(crate) rtmrs: [Option<String>; 4],
    pub(crate) seam_svn: Option<u16>,
    pub(crate) enforce_tcb_up_to_date: bool,
    pub(crate) appraisal_ids: Vec<Uuid>,
    pub(crate) allowed: Vec<Weakness>,
    pub(crate) has_sgx: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    attestation_type: String,
    tdx: Option<Tdx>,
    /// Intel stores the other block and never looks at it.
    sgx: Option<IgnoredAny>,
    /// Accepted and replaced, as Intel's server does.
    #[serde(rename = "id")]
    _id: Option<IgnoredAny>,
    #[serde(rename = "created_at")]
    _created_at: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tdx {
    #[serde(default)]
    attributes: Attributes,
    #[serde(default)]
    policy_ids: Vec<Uuid>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Attributes {
    mrsignerseam: Vec<String>,
    mrseam: Vec<String>,
    seamsvn: Option<u16>,
    mrtd: Vec<String>,
    rtmr0: Option<String>,
    rtmr1: Option<String>,
    rtmr2: Option<String>,
    rtmr3: Option<String>,
    enforce_tcb_upto_date: Option<bool>,
    trust_anchor: Option<OneOrMore>,
    allow: Vec<Weakness>,
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

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl Policy {
    /// Reads and checks a document.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        if text.len() > DOCUMENT_BYTES_MAX {
            return Err(PolicyError::TooLarge { bytes: text.len() });
        }
        let document: Document = serde_json::from_str(text).map_err(|error| PolicyError::Malformed { cause: error.to_string() })?;
        if document.attestation_type != "TDX" {
            let found = document.attestation_type.chars().take(32).collect();
            return Err(PolicyError::AttestationType { found });
        }
        let Tdx { attributes, policy_ids } = document.tdx.ok_or(PolicyError::TdxMissing)?;
        bounded("tdx.policy_ids", policy_ids.len())?;
        bounded("tdx.attributes.allow", attributes.allow.len())?;
        Ok(Self {
            trust_anchors: trust_anchors(attributes.trust_anchor)?,
            mr_signer_seam: measurements("tdx.attributes.mrsignerseam", attributes.mrsignerseam)?,
            mr_seam: measurements("tdx.attributes.mrseam", attributes.mrseam)?,
            mr_td: measurements("tdx.attributes.mrtd", attributes.mrtd)?,
            rtmrs: [
                measurement("tdx.attributes.rtmr0", attributes.rtmr0)?,
                measurement("tdx.attributes.rtmr1", attributes.rtmr1)?,
                measurement("tdx.attributes.rtmr2", attributes.rtmr2)?,
                measurement("tdx.attributes.rtmr3", attributes.rtmr3)?,
            ],
            seam_svn: attributes.seamsvn,
            enforce_tcb_up_to_date: attributes.enforce_tcb_upto_date.unwrap_or(false),
            appraisal_ids: policy_ids,
            allowed: attributes.allow,
            has_sgx: document.sgx.is_some(),
        })
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

fn trust_anchors(member: Option<OneOrMore>) -> Result<Vec<String>, PolicyError> {
    let anchors = match member {
        None => vec![INTEL_TRUST_ANCHOR.to_owned()],
        Some(OneOrMore::One(anchor)) => vec![anchor],
        Some(OneOrMore::More(anchors)) => anchors,
    };
    bounded("tdx.attributes.trust_anchor", anchors.len())?;
    if !anchors.is_empty() && anchors.iter().all(|anchor| names_trust_anchor(anchor)) { Ok(anchors) } else { Err(PolicyError::TrustAnchor) }
}

fn bounded(member: &'static str, entries: usize) -> Result<(), PolicyError> {
    if entries > LIST_ENTRIES_MAX { Err(PolicyError::TooMany { member, entries }) } else { Ok(()) }
}

fn measurements(member: &'static str, entries: Vec<String>) -> Result<Vec<String>, PolicyError> {
    bounded(member, entries.len())?;
    entries.into_iter().map(|entry| lower_hex(member, &entry)).collect()
}

/// An empty string demands nothing, as with Intel.
fn measurement(member: &'static str, entry: Option<String>) -> Result<Option<String>, PolicyError> {
    entry.filter(|entry| !entry.is_empty()).map(|entry| lower_hex(member, &entry)).transpose()
}

fn lower_hex(member: &'static str, text: &str) -> Result<String, PolicyError> {
    let is_hex = text.len() == MEASUREMENT_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hex { Ok(text.to_ascii_lowercase()) } else { Err(PolicyError::Hex { member }) }
}
