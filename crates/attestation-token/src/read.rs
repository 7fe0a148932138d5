//! Reading: what a payload says about its attester, whatever shape it came in. Whether it may be believed is not asked here.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    TOKEN_CHARACTERS_MAX, UNKNOWN_TRUST_ANCHOR,
    authenticate::part,
    claims::{Claims, Nonce},
    denial::TokenDenial,
    names_trust_anchor,
    wire::{Common, Members, NonceText},
};

/// What a payload says about its attester.
pub(crate) struct Statement {
    pub(crate) claims: Claims,
    /// Every member, in the flat shape.
    pub(crate) members: Map<String, Value>,
    pub(crate) held_data: Option<Vec<u8>>,
    pub(crate) nonce: Option<Nonce>,
}

impl Statement {
    /// The attester's members stand inside `sgx` or `tdx`, or at the top. With both objects the enclave's are read, as
    /// Intel's Key Broker Service does.
    pub(crate) fn read(payload: &Value) -> Result<Self, TokenDenial> {
        let malformed = |_| TokenDenial::Malformed { field: "payload" };
        let common = Common::deserialize(payload).map_err(malformed)?;
        let nested = match (common.sgx, common.tdx) {
            (Some(sgx), _) => Some(("SGX", "sgx", sgx)),
            (None, Some(tdx)) => Some(("TDX", "tdx", tdx)),
            (None, None) => None,
        };
        let (mut attester, attester_type, object) = if let Some((kind, object, members)) = nested {
            if members.attester_type.as_deref().is_some_and(|named| named != kind) {
                return Err(TokenDenial::ClaimMalformed { claim: "attester_type" });
            }
            (members, kind.to_owned(), Some(object))
        } else {
            let mut members = Members::deserialize(payload).map_err(malformed)?;
            let named = members.attester_type.take().ok_or(TokenDenial::ClaimMissing { claim: "attester_type" })?;
            (members, named, None)
        };
        let held_data = attester.attester_held_data.take().map(|text| decoded(&text, "attester_held_data")).transpose()?;
        let nonce = attester.verifier_nonce.take().map(|text| nonce(&text)).transpose()?;
        let policy_ids_matched = common.policy_ids_matched.map(|list| list.into_iter().map(|entry| entry.id).collect());
        let members = flat(payload, object, &attester_type);
        Ok(Self { claims: claims(attester, attester_type, policy_ids_matched)?, members, held_data, nonce })
    }
}

/// The payload with the members of `object` at the top, where they win: they are what [`Claims`] were read from.
fn flat(payload: &Value, object: Option<&str>, attester_type: &str) -> Map<String, Value> {
    let mut members = payload.as_object().cloned().unwrap_or_default();
    if let Some(object) = object {
        let lifted = members.remove(object);
        members.remove("tdx");
        members.extend(lifted.as_ref().and_then(Value::as_object).cloned().unwrap_or_default());
    }
    members.insert("attester_type".to_owned(), Value::from(attester_type));
    members
}

fn claims(attester: Members, attester_type: String, policy_ids_matched: Option<Vec<uuid::Uuid>>) -> Result<Claims, TokenDenial> {
    let is_debuggable = is_debuggable(&attester, &attester_type);
    let collateral = attester.tdx_collateral.unwrap_or_default();
    Ok(Claims {
        attester_type,
        tcb_status: attester.attester_tcb_status,
        tcb_date: attester.attester_tcb_date,
        advisory_ids: attester.attester_advisory_ids.unwrap_or_default(),
        mr_td: digits(attester.tdx_mrtd, 96, "tdx_mrtd")?,
        mr_seam: digits(attester.tdx_mrseam, 96, "tdx_mrseam")?,
        mr_signer_seam: digits(attester.tdx_mrsignerseam, 96, "tdx_mrsignerseam")?,
        mr_config_id: digits(attester.tdx_mrconfigid, 96, "tdx_mrconfigid")?,
        mr_owner: digits(attester.tdx_mrowner, 96, "tdx_mrowner")?,
        mr_owner_config: digits(attester.tdx_mrownerconfig, 96, "tdx_mrownerconfig")?,
        rtmrs: [
            digits(attester.tdx_rtmr0, 96, "tdx_rtmr0")?,
            digits(attester.tdx_rtmr1, 96, "tdx_rtmr1")?,
            digits(attester.tdx_rtmr2, 96, "tdx_rtmr2")?,
            digits(attester.tdx_rtmr3, 96, "tdx_rtmr3")?,
        ],
        report_data: digits(attester.tdx_report_data, 128, "tdx_report_data")?,
        tee_tcb_svn: digits(attester.tdx_tee_tcb_svn, 32, "tdx_tee_tcb_svn")?,
        seam_svn: attester.tdx_seamsvn,
        td_attributes: digits(attester.tdx_td_attributes, 16, "tdx_td_attributes")?,
        xfam: digits(attester.tdx_xfam, 16, "tdx_xfam")?,
        seam_attributes: digits(attester.tdx_seam_attributes, 16, "tdx_seam_attributes")?,
        is_debuggable,
        policy_ids_matched,
        fmspc: digits(collateral.fmspc, 12, "tdx_collateral.fmspc")?,
        tcb_evaluation_data_number: collateral.tcbevaluationdatanumber,
        pce_svn: attester.pce_svn.or(attester.tdx_pcesvn),
        sgx_tcb_components: digits(attester.sgx_tcb_comp_svn.or(attester.tdx_tcb_comp_svn), 32, "sgx_tcb_comp_svn")?,
        sgx_mr_signer: digits(attester.sgx_mrsigner, 64, "sgx_mrsigner")?,
        sgx_mr_enclave: digits(attester.sgx_mrenclave, 64, "sgx_mrenclave")?,
        sgx_isv_prod_id: attester.sgx_isvprodid,
        sgx_isv_svn: attester.sgx_isvsvn,
    })
}

/// `None` when nothing in the token says whether the attester can be debugged; else whether anything says that it can. The
/// first byte of the TD attributes is the group of bits that make a TD untrusted, DEBUG among them.
fn is_debuggable(attester: &Members, attester_type: &str) -> Option<bool> {
    let status = attester.dbgstat.as_deref().map(|status| status != "disabled");
    let attributes = attester.tdx_td_attributes.as_deref().and_then(|text| hex::decode(text).ok());
    let attributes = attributes.and_then(|bytes| bytes.first().map(|byte| *byte != 0));
    let words = match attester_type {
        "SGX" => [status, attester.sgx_is_debuggable, None, None],
        _ => [status, attributes, attester.tdx_is_debuggable, attester.tdx_td_attributes_debug],
    };
    words.into_iter().flatten().reduce(|one, other| one || other)
}

/// Lower-case hex of exactly `length` digits; a longer or shorter value is no measurement.
fn digits(text: Option<String>, length: usize, claim: &'static str) -> Result<Option<String>, TokenDenial> {
    match text {
        None => Ok(None),
        Some(text) if text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit()) => Ok(Some(text.to_ascii_lowercase())),
        Some(_) => Err(TokenDenial::ClaimMalformed { claim }),
    }
}

fn nonce(text: &NonceText) -> Result<Nonce, TokenDenial> {
    let member = |text: &str| decoded(text, "verifier_nonce");
    Ok(Nonce { val: member(&text.val)?, iat: member(&text.iat)?, signature: member(&text.signature)? })
}

fn decoded(text: &str, claim: &'static str) -> Result<Vec<u8>, TokenDenial> {
    BASE64_STANDARD.decode(text).map_err(|_| TokenDenial::ClaimMalformed { claim })
}

/// What a payload says, believed by nobody: for explanations and for tests of policies. There is no way from here to an
/// [`crate::AuthenticToken`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnverifiedClaims {
    claims: Claims,
    members: Map<String, Value>,
    trust_anchor: String,
}

impl UnverifiedClaims {
    /// Reads a payload in either shape. The trust anchor is `keyferry.trust_anchor`, or `unknown`.
    pub fn from_payload(payload: &Value) -> Result<Self, TokenDenial> {
        let Statement { claims, members, .. } = Statement::read(payload)?;
        let trust_anchor = match members.get("keyferry.trust_anchor") {
            None => UNKNOWN_TRUST_ANCHOR.to_owned(),
            Some(Value::String(anchor)) if names_trust_anchor(anchor) => anchor.clone(),
            Some(_) => return Err(TokenDenial::ClaimMalformed { claim: "keyferry.trust_anchor" }),
        };
        Ok(Self { claims, members, trust_anchor })
    }

    /// Reads the payload of a compact JWS. Signature, issuer and times are not looked at.
    pub fn from_token(jwt: &str) -> Result<Self, TokenDenial> {
        if jwt.len() > TOKEN_CHARACTERS_MAX {
            return Err(TokenDenial::TooLarge { characters: jwt.len(), max: TOKEN_CHARACTERS_MAX });
        }
        let payload = jwt.split('.').nth(1).ok_or(TokenDenial::Malformed { field: "not three parts joined by dots" })?;
        Self::from_payload(&part(payload, "payload")?)
    }

    /// The same, with `anchor` where the payload names none: as an issuer is configured that does not name it.
    #[must_use]
    pub fn with_absent_anchor(mut self, anchor: &str) -> Self {
        if self.trust_anchor == UNKNOWN_TRUST_ANCHOR {
            anchor.clone_into(&mut self.trust_anchor);
        }
        self
    }

    /// The claims.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }
    /// Every member of the payload, in the flat shape.
    pub fn members(&self) -> &Map<String, Value> {
        &self.members
    }
    /// `intel-sgx-root`, `simulator:<64 hex digits>`, or `unknown`.
    pub fn trust_anchor(&self) -> &str {
        &self.trust_anchor
    }
}
