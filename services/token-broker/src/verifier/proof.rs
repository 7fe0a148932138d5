//! Whether a token of the upstream is for exactly the evidence that was sent. The connection it came over is nobody's
//! witness: a confused or hostile upstream, or a cache before it, could answer with another TD's token.

use keyferry_attestation_token::{AuthenticToken, Claims};
use keyferry_tdx_quote::TdReportBody;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::evidence::Evidence;

/// What of a token is not that of the evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its {0} is not that of the evidence")]
pub(super) struct Foreign(pub(super) &'static str);

/// Everything that ties a token to its evidence. The report data is the strongest tie: it hashes nonce and user data, and it
/// was inside the quote. `digest` says whether a quote digest counts.
pub(super) fn check(evidence: &Evidence, token: &AuthenticToken, digest: bool) -> Result<(), Foreign> {
    holds(token.claims().attester_type == "TDX", "attester type")?;
    measurements(token.claims(), evidence.quote.body())?;
    holds(holds_user_data(evidence, token), "held data")?;
    let nonce = match (token.nonce(), &evidence.nonce) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(told), Some(sent)) => (&told.val, &told.iat, &told.signature) == (&sent.val, &sent.iat, &sent.signature),
    };
    holds(nonce, "nonce")?;
    holds(!digest || quote_digest(evidence, token.members()), "quote digest")?;
    holds(token.td_id().is_none() || token.td_id() == evidence.td_id.as_ref(), "TD")?;
    holds(token.attestation_id().is_none() || token.attestation_id() == evidence.attestation_id.as_ref(), "attestation")
}

fn holds(condition: bool, what: &'static str) -> Result<(), Foreign> {
    if condition { Ok(()) } else { Err(Foreign(what)) }
}

/// Report data and MRTD have to be there; what else is there has to be right.
fn measurements(claims: &Claims, body: &TdReportBody) -> Result<(), Foreign> {
    let [rtmr0, rtmr1, rtmr2, rtmr3] = &claims.rtmrs;
    let told: [(&Option<String>, &[u8], &'static str); 15] = [
        (&claims.report_data, &body.report_data, "report data"),
        (&claims.mr_td, &body.mr_td, "MRTD"),
        (rtmr0, &body.rtmrs[0], "RTMR0"),
        (rtmr1, &body.rtmrs[1], "RTMR1"),
        (rtmr2, &body.rtmrs[2], "RTMR2"),
        (rtmr3, &body.rtmrs[3], "RTMR3"),
        (&claims.mr_seam, &body.mr_seam, "MRSEAM"),
        (&claims.mr_signer_seam, &body.mr_signer_seam, "MRSIGNERSEAM"),
        (&claims.mr_config_id, &body.mr_config_id, "MRCONFIGID"),
        (&claims.mr_owner, &body.mr_owner, "MROWNER"),
        (&claims.mr_owner_config, &body.mr_owner_config, "MROWNERCONFIG"),
        (&claims.tee_tcb_svn, &body.tee_tcb_svn, "TEE TCB SVN"),
        (&claims.td_attributes, &body.td_attributes.to_bytes(), "TD attributes"),
        (&claims.xfam, &body.xfam.to_bytes(), "XFAM"),
        (&claims.seam_attributes, &body.seam_attributes, "SEAM attributes"),
    ];
    for (index, (claim, measured, what)) in told.into_iter().enumerate() {
        let is_right = claim.as_ref().map_or(index > 1, |claim| *claim == hex::encode(measured));
        holds(is_right, what)?;
    }
    Ok(())
}

/// As held data, or, where it is JSON, as runtime data - or as Azure's user data, whose runtime data is the paravisor's.
fn holds_user_data(evidence: &Evidence, token: &AuthenticToken) -> bool {
    let object = |name: &str| token.members().get(name).filter(|value| !value.is_null());
    let told_as = if evidence.azure_runtime.is_some() { "attester_user_data" } else { "attester_runtime_data" };
    match (token.held_data(), object(told_as)) {
        (Some(held), None) => held == evidence.user_data,
        (None, Some(told)) => serde_json::from_slice::<Value>(&evidence.user_data).is_ok_and(|sent| sent == *told),
        (None, None) => evidence.user_data.is_empty(),
        (Some(_), Some(_)) => false,
    }
}

/// Over the signed part, as our own verifier has it, or over the whole quote.
fn quote_digest(evidence: &Evidence, members: &Map<String, Value>) -> bool {
    let told = members.get("tdx_collateral").and_then(|collateral| collateral.get("quotehash")).and_then(Value::as_str);
    let digests = [evidence.quote.digest(), Sha256::digest(evidence.quote.without_tail()).into()];
    told.is_none_or(|told| digests.iter().any(|digest: &[u8; 32]| told.eq_ignore_ascii_case(&hex::encode(digest))))
}
