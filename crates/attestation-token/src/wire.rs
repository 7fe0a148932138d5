//! The JSON of a token's payload: one set of members, at the top (v1) or inside `tdx` or `sgx` (v2).

use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

/// Members of the payload besides those of the attester.
#[derive(Serialize, Deserialize, Default)]
pub(crate) struct Common {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) appraisal: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) eat_profile: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) intuse: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) policy_ids_matched: Option<Vec<PolicyEntry>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) policy_ids_unmatched: Option<Vec<PolicyEntry>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) policy_defined_claims: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tdx: Option<Members>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sgx: Option<Members>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ver: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) verifier_instance_ids: Option<Vec<String>>,
    #[serde(rename = "keyferry.trust_anchor", skip_serializing_if = "Option::is_none")]
    pub(crate) trust_anchor: Option<String>,
    #[serde(rename = "keyferry.td_id", skip_serializing_if = "Option::is_none")]
    pub(crate) td_id: Option<String>,
    #[serde(rename = "keyferry.attestation_id", skip_serializing_if = "Option::is_none")]
    pub(crate) attestation_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) iss: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) jti: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) iat: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nbf: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exp: Option<u64>,
}

/// The members that move between the top and `tdx` or `sgx`.
#[derive(Serialize, Deserialize, Default)]
pub(crate) struct Members {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) attester_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) attester_tcb_status: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) attester_tcb_date: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) attester_advisory_ids: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) attester_held_data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) attester_runtime_data: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) attester_user_data: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) verifier_nonce: Option<NonceText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dbgstat: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pce_svn: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sgx_tcb_comp_svn: Option<String>,
    /// What Intel's documentation calls `pce_svn`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tdx_pcesvn: Option<u16>,
    /// What Intel's documentation calls `sgx_tcb_comp_svn`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tdx_tcb_comp_svn: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sgx_mrsigner: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sgx_mrenclave: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sgx_isvprodid: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sgx_isvsvn: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sgx_is_debuggable: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tdx_mrtd: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tdx_mrseam: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tdx_mrsignerseam: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tdx_mrconfigid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tdx_mrowner: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tdx_mrownerconfig: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tdx_rtmr0: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tdx_rtmr1: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tdx_rtmr2: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tdx_rtmr3: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tdx_report_data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tdx_seam_attributes: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tdx_seamsvn: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tdx_tee_tcb_svn: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tdx_td_attributes: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tdx_xfam: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tdx_td_attributes_debug: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tdx_td_attributes_septve_disable: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tdx_td_attributes_migratable: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tdx_td_attributes_protection_keys: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tdx_td_attributes_key_locker: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tdx_td_attributes_perfmon: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tdx_is_debuggable: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tdx_is_migratable: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tdx_collateral: Option<Collateral>,
}

/// `tdx_collateral`.
#[derive(Serialize, Deserialize, Default)]
pub(crate) struct Collateral {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fmspc: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tcbevaluationdatanumber: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) qeidcerthash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) qeidcrlhash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) qeidhash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) quotehash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tcbinfocerthash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tcbinfocrlhash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tcbinfohash: Option<String>,
}

/// Base64 texts.
#[derive(Serialize, Deserialize)]
pub(crate) struct NonceText {
    pub(crate) val: String,
    pub(crate) iat: String,
    pub(crate) signature: String,
}

/// One entry of `policy_ids_matched`.
#[derive(Serialize, Deserialize)]
pub(crate) struct PolicyEntry {
    pub(crate) id: uuid::Uuid,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hash: Option<String>,
}
