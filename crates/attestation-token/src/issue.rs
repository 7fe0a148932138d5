//! Issuing: claims into a signed token.

use std::fmt;

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use serde::Serialize;
use serde_json::{Map, Value, json, value::RawValue};
use uuid::Uuid;

use crate::{
    claims::{CollateralDigests, MatchedPolicy, Nonce, TdxClaims},
    key::SigningKey,
    wire::{Collateral, Common, Members, NonceText, PolicyEntry},
};

/// `iat` and `nbf` lie this far before the moment of issue: verifiers with a slow clock and no tolerance (Intel's Python
/// client among them) would refuse a fresh token otherwise.
pub const BACKDATED_SECONDS: u64 = 60;

/// Levels of JSON data: parsers, ours among them, stop at 128, and the token adds some of its own.
const DATA_LEVELS_MAX: usize = 100;

/// TDATTRIBUTES bits that have a claim of their own.
const DEBUG: u32 = 0;
const SEPT_VE_DISABLE: u32 = 28;
const MIGRATABLE: u32 = 29;
const PROTECTION_KEYS: u32 = 30;
const KEY_LOCKER: u32 = 31;
const PERFMON: u32 = 63;

/// Where the TDX claims stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Inside `tdx`, `ver` 2.0.0: what `/appraisal/v2` answers.
    V2Nested,
    /// At the top, `ver` 1.0.0: what `/appraisal/v1` answers.
    V1Flat,
}

/// Why no token was issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The cryptographic library failed.
    #[error("signing failed inside the cryptographic library")]
    Sign,
    /// The claims do not serialise.
    #[error("the claims do not serialise")]
    Claims,
}

/// A signed token. Its `Debug` does not show it: whoever has a token may present it.
#[derive(Clone)]
pub struct IssuedToken {
    /// Compact JWS.
    pub jwt: String,
    /// The `jti` claim.
    pub token_id: Uuid,
    /// The `exp` claim, in unix seconds.
    pub expires_at: u64,
}

impl fmt::Debug for IssuedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IssuedToken({}, redacted)", self.token_id)
    }
}

/// A verifier's signature: name, key and how long its word holds.
#[derive(Debug)]
pub struct TokenIssuer {
    issuer: String,
    key: SigningKey,
    lifetime_seconds: u64,
    instance_id: Uuid,
}

/// The flat payload: what the attester says, and the rest, side by side. Nothing on the way to the signature goes through
/// [`Value`]: that would write numbers of the user data in another form.
#[derive(Serialize)]
struct Flat<'a> {
    #[serde(flatten)]
    attester: Members,
    #[serde(flatten)]
    common: &'a Common,
}

impl TokenIssuer {
    /// `issuer` becomes `iss`; where it is an `https://` URL, `jku` and `eat_profile` are derived from it. Tokens are good
    /// for `lifetime_seconds` from the moment of issue (Intel: 300).
    pub fn new(issuer: impl Into<String>, key: SigningKey, lifetime_seconds: u64) -> Self {
        Self { issuer: issuer.into(), key, lifetime_seconds, instance_id: Uuid::new_v4() }
    }

    /// The same verifier with another key: its tokens name the same instance.
    #[must_use]
    pub fn with_key(&self, key: SigningKey) -> Self {
        Self { issuer: self.issuer.clone(), key, lifetime_seconds: self.lifetime_seconds, instance_id: self.instance_id }
    }

    /// The `iss` of its tokens.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The key it signs with.
    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    /// Signs `claims`; `now` in unix seconds. With PS384 this takes 0.7 ms of CPU. No `aud` and no `sub`: Intel's Python
    /// client refuses both.
    pub fn issue(&self, claims: &TdxClaims, shape: Shape, now: u64) -> Result<IssuedToken, IssueError> {
        self.issue_with(claims, Map::new(), shape, now)
    }

    /// As [`Self::issue`], with what the appraisal policies export as `policy_defined_claims`; empty = the claim is left out.
    pub fn issue_with(
        &self,
        claims: &TdxClaims,
        policy_defined_claims: Map<String, Value>,
        shape: Shape,
        now: u64,
    ) -> Result<IssuedToken, IssueError> {
        let token_id = Uuid::new_v4();
        let expires_at = now.saturating_add(self.lifetime_seconds);
        let mut common = self.common(claims, shape);
        common.jti = Some(token_id.to_string());
        common.iat = Some(now.saturating_sub(BACKDATED_SECONDS));
        common.nbf = common.iat;
        common.exp = Some(expires_at);
        common.policy_defined_claims = (!policy_defined_claims.is_empty()).then(|| Value::Object(policy_defined_claims));
        let attester = tdx(claims, shape)?;
        let payload = match shape {
            Shape::V2Nested => {
                common.tdx = Some(attester);
                encoded(&common)?
            }
            Shape::V1Flat => encoded(&Flat { attester, common: &common })?,
        };
        let message = format!("{}.{payload}", encoded(&self.header())?);
        let signature = self.key.sign(message.as_bytes()).map_err(|_| IssueError::Sign)?;
        let jwt = format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature));
        Ok(IssuedToken { jwt, token_id, expires_at })
    }

    fn header(&self) -> Value {
        let mut header = json!({ "alg": self.key.algorithm().name(), "kid": self.key.kid(), "typ": "JWT" });
        if let (Some(base), Some(members)) = (self.base_url(), header.as_object_mut()) {
            members.insert("jku".to_owned(), Value::String(format!("{base}/certs")));
        }
        header
    }

    fn base_url(&self) -> Option<&str> {
        self.issuer.starts_with("https://").then(|| self.issuer.trim_end_matches('/'))
    }

    fn common(&self, claims: &TdxClaims, shape: Shape) -> Common {
        Common {
            appraisal: (shape == Shape::V2Nested).then(|| {
                let method = if claims.azure_runtime.is_some() { "azure" } else { "default" };
                json!({ "method": method, "ver": 2 })
            }),
            eat_profile: self.base_url().map(|base| format!("{base}/eat_profile.html")),
            intuse: Some("generic".to_owned()),
            policy_ids_matched: policies(&claims.policies_matched),
            policy_ids_unmatched: policies(&claims.policies_unmatched),
            ver: Some(match shape {
                Shape::V2Nested => "2.0.0".to_owned(),
                Shape::V1Flat => "1.0.0".to_owned(),
            }),
            verifier_instance_ids: Some(vec![self.instance_id.to_string()]),
            trust_anchor: Some(claims.trust_anchor.clone()),
            td_id: claims.td_id.as_ref().map(ToString::to_string),
            attestation_id: claims.attestation_id.as_ref().map(ToString::to_string),
            iss: Some(self.issuer.clone()),
            ..Common::default()
        }
    }
}

impl TdxClaims {
    /// The TD's own members as they stand in a token, nonce included: what appraisal policies judge.
    pub fn members(&self) -> Result<Map<String, Value>, IssueError> {
        let text = serde_json::to_string(&tdx(self, Shape::V1Flat)?).map_err(|_| IssueError::Claims)?;
        serde_json::from_str(&text).map_err(|_| IssueError::Claims)
    }
}

fn tdx(claims: &TdxClaims, shape: Shape) -> Result<Members, IssueError> {
    let body = &claims.measurements;
    let attributes = u64::from_le_bytes(body.td_attributes);
    let bit = |position: u32| Some(attributes >> position & 1 == 1);
    let data = data(claims)?;
    let hex = |bytes: &[u8]| Some(hex::encode(bytes));
    Ok(Members {
        attester_type: Some("TDX".to_owned()),
        attester_tcb_status: Some(claims.tcb_status.clone()),
        attester_tcb_date: Some(claims.tcb_date.clone()),
        attester_advisory_ids: (!claims.advisory_ids.is_empty()).then(|| claims.advisory_ids.clone()),
        attester_held_data: data.held,
        attester_runtime_data: data.runtime,
        attester_user_data: data.user,
        verifier_nonce: claims.nonce.as_ref().filter(|_| shape == Shape::V1Flat).map(nonce_text),
        dbgstat: Some(if bit(DEBUG) == Some(true) { "enabled" } else { "disabled" }.to_owned()),
        pce_svn: Some(claims.pce_svn),
        sgx_tcb_comp_svn: hex(&claims.sgx_tcb_components),
        tdx_mrtd: hex(&body.mr_td),
        tdx_mrseam: hex(&body.mr_seam),
        tdx_mrsignerseam: hex(&body.mr_signer_seam),
        tdx_mrconfigid: hex(&body.mr_config_id),
        tdx_mrowner: hex(&body.mr_owner),
        tdx_mrownerconfig: hex(&body.mr_owner_config),
        tdx_rtmr0: hex(&body.rtmrs[0]),
        tdx_rtmr1: hex(&body.rtmrs[1]),
        tdx_rtmr2: hex(&body.rtmrs[2]),
        tdx_rtmr3: hex(&body.rtmrs[3]),
        tdx_report_data: hex(&body.report_data),
        tdx_seam_attributes: hex(&body.seam_attributes),
        tdx_seamsvn: Some(u16::from_le_bytes([body.tee_tcb_svn[0], body.tee_tcb_svn[1]])),
        tdx_tee_tcb_svn: hex(&body.tee_tcb_svn),
        tdx_td_attributes: hex(&body.td_attributes),
        tdx_xfam: hex(&body.xfam),
        tdx_td_attributes_debug: bit(DEBUG),
        tdx_td_attributes_septve_disable: bit(SEPT_VE_DISABLE),
        tdx_td_attributes_migratable: bit(MIGRATABLE),
        tdx_td_attributes_protection_keys: bit(PROTECTION_KEYS),
        tdx_td_attributes_key_locker: bit(KEY_LOCKER),
        tdx_td_attributes_perfmon: bit(PERFMON),
        tdx_is_debuggable: bit(DEBUG),
        tdx_is_migratable: bit(MIGRATABLE),
        tdx_collateral: Some(collateral(&claims.collateral, shape)),
        ..Members::default()
    })
}

/// The members `fmspc` and `tcbevaluationdatanumber` are v2's.
fn collateral(digests: &CollateralDigests, shape: Shape) -> Collateral {
    let hex = |bytes: &[u8]| Some(hex::encode(bytes));
    let nested = shape == Shape::V2Nested;
    Collateral {
        fmspc: hex(&digests.fmspc).filter(|_| nested),
        tcbevaluationdatanumber: nested.then_some(digests.tcb_evaluation_data_number),
        qeidcerthash: hex(&digests.qe_identity_certificates),
        qeidcrlhash: hex(&digests.qe_identity_crl),
        qeidhash: hex(&digests.qe_identity),
        quotehash: hex(&digests.quote),
        tcbinfocerthash: hex(&digests.tcb_info_certificates),
        tcbinfocrlhash: hex(&digests.tcb_info_crl),
        tcbinfohash: hex(&digests.tcb_info),
    }
}

/// The three claims that user data and runtime data travel in.
#[derive(Default)]
struct Data {
    held: Option<String>,
    runtime: Option<Box<RawValue>>,
    user: Option<Box<RawValue>>,
}

/// Which claim is a matter of the bytes alone. JSON is carried as the text it is.
fn data(claims: &TdxClaims) -> Result<Data, IssueError> {
    let bytes = claims.held_data.as_slice();
    let mut data = Data::default();
    if let Some(runtime) = &claims.azure_runtime {
        data.runtime = Some(json_object(runtime).ok_or(IssueError::Claims)?);
        data.user = json_text(bytes);
    } else {
        data.runtime = json_object(bytes);
    }
    let travels = (claims.azure_runtime.is_none() && data.runtime.is_some()) || data.user.is_some();
    if !bytes.is_empty() && !travels {
        data.held = Some(BASE64_STANDARD.encode(bytes));
    }
    Ok(data)
}

/// A JSON object, as text.
fn json_object(bytes: &[u8]) -> Option<Box<RawValue>> {
    json_text(bytes).filter(|text| text.get().starts_with('{'))
}

/// The bytes as JSON text without white space around it, if they are JSON that every reader can parse: not nested so deep
/// that the parser of the token around it gives up.
fn json_text(bytes: &[u8]) -> Option<Box<RawValue>> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    if levels(&value) > DATA_LEVELS_MAX {
        return None;
    }
    serde_json::from_slice(bytes).ok()
}

fn levels(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(levels).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(levels).max().unwrap_or(0),
        _ => 0,
    }
}

fn nonce_text(nonce: &Nonce) -> NonceText {
    let text = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
    NonceText { val: text(&nonce.val), iat: text(&nonce.iat), signature: text(&nonce.signature) }
}

/// Absent when empty. `hash` is base64 of base64, as Intel's is.
fn policies(policies: &[MatchedPolicy]) -> Option<Vec<PolicyEntry>> {
    let entry = |policy: &MatchedPolicy| PolicyEntry {
        id: policy.id,
        version: Some(format!("v{}", policy.version)),
        hash: policy.hash.map(|hash| BASE64_STANDARD.encode(BASE64_STANDARD.encode(hash))),
    };
    (!policies.is_empty()).then(|| policies.iter().map(entry).collect())
}

fn encoded(part: &impl Serialize) -> Result<String, IssueError> {
    serde_json::to_vec(part).map(|json| BASE64_URL_SAFE_NO_PAD.encode(json)).map_err(|_| IssueError::Claims)
}
