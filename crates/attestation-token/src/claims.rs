//! Claims: what an issuer fills in, and what a reader gets, whatever shape they travelled in.

use std::fmt;

use keyferry_identifiers::{AttestationId, TdId};
use uuid::Uuid;

/// A verifier's nonce: the three decoded byte strings.
#[derive(Clone, PartialEq, Eq)]
pub struct Nonce {
    /// Itself the base64 text of 64 random bytes.
    pub val: Vec<u8>,
    /// Text, such as `2026-03-04 10:11:12 +0000 UTC`.
    pub iat: Vec<u8>,
    /// Opaque to everybody but the verifier.
    pub signature: Vec<u8>,
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nonce({}, {} and {} bytes)", self.val.len(), self.iat.len(), self.signature.len())
    }
}

/// Everything the quote says about the TD, in quote order (memory byte order).
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are Intel's: TDX module specification, TDREPORT_STRUCT")]
pub struct TdMeasurements {
    pub mr_td: [u8; 48],
    pub mr_seam: [u8; 48],
    pub mr_signer_seam: [u8; 48],
    pub mr_config_id: [u8; 48],
    pub mr_owner: [u8; 48],
    pub mr_owner_config: [u8; 48],
    pub rtmrs: [[u8; 48]; 4],
    pub report_data: [u8; 64],
    pub tee_tcb_svn: [u8; 16],
    pub td_attributes: [u8; 8],
    pub xfam: [u8; 8],
    pub seam_attributes: [u8; 8],
}

/// SHA-256 digests of the collateral and the quote that the verdict rests on, and which collateral it was.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say what is hashed")]
pub struct CollateralDigests {
    /// Six bytes.
    pub fmspc: [u8; 6],
    /// The TCB evaluation data number of TCB info and QE identity.
    pub tcb_evaluation_data_number: u32,
    pub qe_identity_certificates: [u8; 32],
    pub qe_identity_crl: [u8; 32],
    pub qe_identity: [u8; 32],
    pub quote: [u8; 32],
    pub tcb_info_certificates: [u8; 32],
    pub tcb_info_crl: [u8; 32],
    pub tcb_info: [u8; 32],
}

/// An appraisal policy that the evidence satisfied, or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatchedPolicy {
    /// The policy.
    pub id: Uuid,
    /// 1, 2, ...; travels as `v1`, `v2`, ...
    pub version: u32,
    /// SHA-384 of the policy text.
    pub hash: Option<[u8; 48]>,
}

/// What a verifier found out about one TD; [`crate::TokenIssuer::issue`] signs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TdxClaims {
    /// `UpToDate`, `SWHardeningNeeded`, ...: the worse of platform and module.
    pub tcb_status: String,
    /// RFC 3339, e.g. `2025-05-14T00:00:00Z`: the date of the TCB level.
    pub tcb_date: String,
    /// `INTEL-SA-...`; empty = the claim is left out.
    pub advisory_ids: Vec<String>,
    /// The user data bound into the quote; empty = none. A JSON *object* travels as `attester_runtime_data`, as the text it
    /// is, without white space around it; anything else as `attester_held_data`. With `azure_runtime`, JSON of any kind
    /// travels as `attester_user_data`.
    pub held_data: Vec<u8>,
    /// The runtime JSON of Azure's paravisor, byte for byte, when the evidence is Azure's.
    pub azure_runtime: Option<Vec<u8>>,
    /// The quote's body.
    pub measurements: TdMeasurements,
    /// What the verdict rests on.
    pub collateral: CollateralDigests,
    /// The PCE's security version.
    pub pce_svn: u16,
    /// The sixteen SGX TCB component versions.
    pub sgx_tcb_components: [u8; 16],
    /// The nonce as submitted; in the token only in the flat shape.
    pub nonce: Option<Nonce>,
    /// `intel-sgx-root` or `simulator:<64 hex digits>`.
    pub trust_anchor: String,
    /// The TD's bus identity, when the evidence came over the bus.
    pub td_id: Option<TdId>,
    /// Which attestation this answers.
    pub attestation_id: Option<AttestationId>,
    /// Appraisal policies that matched; empty = none.
    pub policies_matched: Vec<MatchedPolicy>,
    /// Appraisal policies that did not match; empty = none.
    pub policies_unmatched: Vec<MatchedPolicy>,
}

/// The claims of an authenticated token, the same for the nested and the flat shape. Hex is lower case. A member that
/// the verifier left out is `None`: a reader that needs it refuses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the claims without their prefix")]
pub struct Claims {
    /// `TDX`, `SGX`, ...
    pub attester_type: String,
    pub tcb_status: Option<String>,
    pub tcb_date: Option<String>,
    /// Empty when absent.
    pub advisory_ids: Vec<String>,
    pub mr_td: Option<String>,
    pub mr_seam: Option<String>,
    pub mr_signer_seam: Option<String>,
    pub mr_config_id: Option<String>,
    pub mr_owner: Option<String>,
    pub mr_owner_config: Option<String>,
    pub rtmrs: [Option<String>; 4],
    pub report_data: Option<String>,
    pub tee_tcb_svn: Option<String>,
    pub seam_svn: Option<u16>,
    /// Memory (little-endian) byte order.
    pub td_attributes: Option<String>,
    pub xfam: Option<String>,
    pub seam_attributes: Option<String>,
    /// True when any of the debug claims of the attester's family or the TD attributes say so, `None` when none of them is
    /// there.
    pub is_debuggable: Option<bool>,
    /// Appraisal policy ids that matched; `None` when the verifier names none.
    pub policy_ids_matched: Option<Vec<Uuid>>,
    pub fmspc: Option<String>,
    pub tcb_evaluation_data_number: Option<u32>,
    pub pce_svn: Option<u16>,
    /// The sixteen SGX TCB component versions, 32 digits.
    pub sgx_tcb_components: Option<String>,
    /// 64 digits; of an SGX enclave, as the three below.
    pub sgx_mr_signer: Option<String>,
    pub sgx_mr_enclave: Option<String>,
    pub sgx_isv_prod_id: Option<u16>,
    pub sgx_isv_svn: Option<u16>,
}
