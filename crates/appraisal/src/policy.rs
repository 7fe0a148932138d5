//! What a verifier asks of a TD before it vouches for it.

use std::fmt;

use keyferry_dcap::{Allowances, TcbStatus};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A SHA-384 measurement; 96 hex digits in documents, either case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Measurement(pub [u8; 48]);

/// An appraisal policy. Parsed from JSON, or [`Default`]: the refusing defaults without reference values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AppraisalPolicy {
    allow: Allowances,
    tcb_statuses: Vec<TcbStatus>,
    rejected_advisory_ids: Vec<String>,
    evaluation_number_min: u32,
    reference_values: ReferenceValues,
}

/// Permitted measurements. An absent member permits any value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReferenceValues {
    /// Initial memory of the TD: its firmware.
    pub mr_td: Option<Vec<Measurement>>,
    /// The TDX module.
    pub mr_seam: Option<Vec<Measurement>>,
    /// Signer of the TDX module.
    pub mr_signer_seam: Option<Vec<Measurement>>,
    /// Run-time register 0: firmware configuration.
    pub rtmr0: Option<Vec<Measurement>>,
    /// Run-time register 1: kernel.
    pub rtmr1: Option<Vec<Measurement>>,
    /// Run-time register 2: operating system.
    pub rtmr2: Option<Vec<Measurement>>,
    /// Run-time register 3: the workload's own.
    pub rtmr3: Option<Vec<Measurement>>,
    /// MRCONFIGID.
    pub mr_config_id: Option<Vec<Measurement>>,
    /// MROWNER.
    pub mr_owner: Option<Vec<Measurement>>,
    /// MROWNERCONFIG.
    pub mr_owner_config: Option<Vec<Measurement>>,
    /// Hash over the bound service TDs. Has to be given where service TDs or migration are allowed.
    pub mr_service_td: Option<Vec<Measurement>>,
}

/// Why a document is no appraisal policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Not the JSON object it has to be.
    #[error("appraisal policy: {0}")]
    Json(String),
    /// A list that permits nothing.
    #[error("appraisal policy: `{0}` is empty and would permit nothing: fill or remove it")]
    EmptyList(&'static str),
    /// `Revoked` in the permitted statuses.
    #[error("appraisal policy: `tcb_statuses` names Revoked, which is never permitted: remove it")]
    RevokedPermitted,
    /// A service TD is allowed but not pinned.
    #[error("appraisal policy: `allow` permits service TDs or migration: list the permitted `reference_values.mr_service_td`")]
    ServiceTdNotPinned,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Document {
    allow: Allowances,
    tcb_statuses: Vec<TcbStatus>,
    rejected_advisory_ids: Vec<String>,
    evaluation_number_min: u32,
    reference_values: ReferenceValues,
}

impl Default for Document {
    fn default() -> Self {
        let AppraisalPolicy { allow, tcb_statuses, rejected_advisory_ids, evaluation_number_min, reference_values } =
            AppraisalPolicy::default();
        Self { allow, tcb_statuses, rejected_advisory_ids, evaluation_number_min, reference_values }
    }
}

impl Default for AppraisalPolicy {
    fn default() -> Self {
        Self {
            allow: Allowances::NONE,
            tcb_statuses: TcbStatus::ALL.into_iter().filter(|status| *status != TcbStatus::Revoked).collect(),
            rejected_advisory_ids: Vec::new(),
            evaluation_number_min: 0,
            reference_values: ReferenceValues::default(),
        }
    }
}

impl AppraisalPolicy {
    /// Parses a policy document. Unknown members are errors: a misspelt condition must not be a missing one.
    pub fn from_json(json: &str) -> Result<Self, PolicyError> {
        let document: Document = serde_json::from_str(json).map_err(|error| PolicyError::Json(error.to_string()))?;
        document.try_into()
    }
    /// Exceptions from the refusing defaults; a verifier needs the same ones.
    pub const fn allowances(&self) -> Allowances {
        self.allow
    }
    /// The TCB statuses that pass.
    pub fn tcb_statuses(&self) -> &[TcbStatus] {
        &self.tcb_statuses
    }
    /// Advisories with which no platform passes.
    pub fn rejected_advisory_ids(&self) -> &[String] {
        &self.rejected_advisory_ids
    }
    /// The lowest TCB evaluation number that passes.
    pub const fn evaluation_number_min(&self) -> u32 {
        self.evaluation_number_min
    }
    /// Permitted measurements.
    pub const fn reference_values(&self) -> &ReferenceValues {
        &self.reference_values
    }
}

impl TryFrom<Document> for AppraisalPolicy {
    type Error = PolicyError;
    fn try_from(document: Document) -> Result<Self, PolicyError> {
        let Document { allow, tcb_statuses, rejected_advisory_ids, evaluation_number_min, reference_values } = document;
        if tcb_statuses.is_empty() {
            return Err(PolicyError::EmptyList("tcb_statuses"));
        }
        if tcb_statuses.contains(&TcbStatus::Revoked) {
            return Err(PolicyError::RevokedPermitted);
        }
        if let Some((field, _)) = reference_values.lists().into_iter().find(|(_, list)| list.is_some_and(<[_]>::is_empty)) {
            return Err(PolicyError::EmptyList(field));
        }
        if (allow.service_td || allow.migratable) && reference_values.mr_service_td.is_none() {
            return Err(PolicyError::ServiceTdNotPinned);
        }
        Ok(Self { allow, tcb_statuses, rejected_advisory_ids, evaluation_number_min, reference_values })
    }
}

impl ReferenceValues {
    /// Every list by its name.
    pub(crate) fn lists(&self) -> [(&'static str, Option<&[Measurement]>); 11] {
        [
            ("mr_td", self.mr_td.as_deref()),
            ("mr_seam", self.mr_seam.as_deref()),
            ("mr_signer_seam", self.mr_signer_seam.as_deref()),
            ("rtmr0", self.rtmr0.as_deref()),
            ("rtmr1", self.rtmr1.as_deref()),
            ("rtmr2", self.rtmr2.as_deref()),
            ("rtmr3", self.rtmr3.as_deref()),
            ("mr_config_id", self.mr_config_id.as_deref()),
            ("mr_owner", self.mr_owner.as_deref()),
            ("mr_owner_config", self.mr_owner_config.as_deref()),
            ("mr_service_td", self.mr_service_td.as_deref()),
        ]
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_document_is_the_default() {
        assert_eq!(AppraisalPolicy::from_json("{}"), Ok(AppraisalPolicy::default()));
        assert!(!AppraisalPolicy::default().tcb_statuses().contains(&TcbStatus::Revoked));
        assert_eq!(AppraisalPolicy::default().allowances(), Allowances::NONE);
        let printed = serde_json::to_string(&AppraisalPolicy::default()).unwrap();
        assert_eq!(AppraisalPolicy::from_json(&printed), Ok(AppraisalPolicy::default()));
    }

    #[test]
    fn a_document_that_could_be_meant_otherwise_is_refused() {
        let refused = |json: &str| AppraisalPolicy::from_json(json).unwrap_err().to_string();
        assert!(refused(r#"{"alow":{}}"#).contains("unknown field"));
        assert!(refused(r#"{"allow":{"debugging":true}}"#).contains("unknown field"));
        assert!(refused(r#"{"reference_values":{"mrtd":[]}}"#).contains("unknown field"));
        assert!(refused(r#"{"reference_values":{"mr_td":[]}}"#).contains("`mr_td` is empty"));
        assert!(refused(r#"{"reference_values":{"mr_td":["00"]}}"#).contains("96 hex digits"));
        assert!(refused(r#"{"tcb_statuses":[]}"#).contains("`tcb_statuses` is empty"));
        assert!(refused(r#"{"tcb_statuses":["UpToDate","Revoked"]}"#).contains("never permitted"));
        assert!(refused(r#"{"tcb_statuses":["uptodate"]}"#).contains("unknown variant"));
        assert!(refused(r#"{"allow":{"migratable":true}}"#).contains("mr_service_td"));
        assert!(refused(r#"{"allow":{"service_td":true}}"#).contains("mr_service_td"));
    }

    #[test]
    fn hex_is_read_in_either_case() {
        let policy = |text: String| AppraisalPolicy::from_json(&format!(r#"{{"reference_values":{{"mr_td":["{text}"]}}}}"#)).unwrap();
        assert_eq!(policy("ab".repeat(48)), policy("AB".repeat(48)));
    }
}
