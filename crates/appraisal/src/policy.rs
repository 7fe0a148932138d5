//! What a verifier asks of a TD before it vouches for it.

use keyferry_dcap::{Allowances, TcbStatus};
use keyferry_reference_value::Measurement;
use serde::{Deserialize, Serialize};

/// An appraisal policy. Parsed from JSON, or [`Default`]: the refusing defaults without reference values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AppraisalPolicy {
    allow: Allowances,
    tcb_statuses: Vec<TcbStatus>,
    rejected_advisory_ids: Vec<String>,
    evaluation_number_min: u32,
    collateral_grace_seconds: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform_grace_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allow_dynamic_platform: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allow_cached_keys: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allow_smt: Option<bool>,
    reference_value_ids: Vec<String>,
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
    collateral_grace_seconds: u64,
    platform_grace_seconds: Option<u64>,
    allow_dynamic_platform: Option<bool>,
    allow_cached_keys: Option<bool>,
    allow_smt: Option<bool>,
    reference_value_ids: Vec<String>,
    reference_values: ReferenceValues,
}

impl Default for Document {
    fn default() -> Self {
        let default = AppraisalPolicy::default();
        Self {
            allow: default.allow,
            tcb_statuses: default.tcb_statuses,
            rejected_advisory_ids: Vec::new(),
            evaluation_number_min: 0,
            collateral_grace_seconds: 0,
            platform_grace_seconds: None,
            allow_dynamic_platform: None,
            allow_cached_keys: None,
            allow_smt: None,
            reference_value_ids: Vec::new(),
            reference_values: ReferenceValues::default(),
        }
    }
}

impl Default for AppraisalPolicy {
    fn default() -> Self {
        Self {
            allow: Allowances::NONE,
            tcb_statuses: TcbStatus::ALL.into_iter().filter(|status| *status != TcbStatus::Revoked).collect(),
            rejected_advisory_ids: Vec::new(),
            evaluation_number_min: 0,
            collateral_grace_seconds: 0,
            platform_grace_seconds: None,
            allow_dynamic_platform: None,
            allow_cached_keys: None,
            allow_smt: None,
            reference_value_ids: Vec::new(),
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
    /// How long collateral counts after its end.
    pub const fn collateral_grace_seconds(&self) -> u64 {
        self.collateral_grace_seconds
    }
    /// How long a platform that is out of date passes after the date of its TCB level; `None`: without end, where
    /// `tcb_statuses` permits it at all.
    pub const fn platform_grace_seconds(&self) -> Option<u64> {
        self.platform_grace_seconds
    }
    /// For each flag of the PCK certificate what the policy says of it; `None` permits either.
    pub(crate) const fn flags(&self) -> [(&'static str, Option<bool>); 3] {
        [("dynamic_platform", self.allow_dynamic_platform), ("cached_keys", self.allow_cached_keys), ("smt", self.allow_smt)]
    }
    /// Documents of reference values, of which the TD has to match one; empty: none is asked for.
    pub fn reference_value_ids(&self) -> &[String] {
        &self.reference_value_ids
    }
    /// Permitted measurements.
    pub const fn reference_values(&self) -> &ReferenceValues {
        &self.reference_values
    }
}

impl TryFrom<Document> for AppraisalPolicy {
    type Error = PolicyError;
    fn try_from(document: Document) -> Result<Self, PolicyError> {
        if document.tcb_statuses.is_empty() {
            return Err(PolicyError::EmptyList("tcb_statuses"));
        }
        if document.tcb_statuses.contains(&TcbStatus::Revoked) {
            return Err(PolicyError::RevokedPermitted);
        }
        if let Some((field, _)) = document.reference_values.lists().into_iter().find(|(_, list)| list.is_some_and(<[_]>::is_empty)) {
            return Err(PolicyError::EmptyList(field));
        }
        if (document.allow.service_td || document.allow.migratable) && document.reference_values.mr_service_td.is_none() {
            return Err(PolicyError::ServiceTdNotPinned);
        }
        Ok(Self {
            allow: document.allow,
            tcb_statuses: document.tcb_statuses,
            rejected_advisory_ids: document.rejected_advisory_ids,
            evaluation_number_min: document.evaluation_number_min,
            collateral_grace_seconds: document.collateral_grace_seconds,
            platform_grace_seconds: document.platform_grace_seconds,
            allow_dynamic_platform: document.allow_dynamic_platform,
            allow_cached_keys: document.allow_cached_keys,
            allow_smt: document.allow_smt,
            reference_value_ids: document.reference_value_ids,
            reference_values: document.reference_values,
        })
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
