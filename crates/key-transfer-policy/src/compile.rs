//! From a document's members to conditions, in the order of evaluation: the trust anchor first, the rule last.

use std::sync::Arc;

use keyferry_attestation_token::{INTEL_TRUST_ANCHOR, names_trust_anchor};

use crate::{
    condition::{Condition, Test, components, instant},
    document::{
        AttestationType, Bits, Block, LIST_ENTRIES_MAX, MIGRATABLE_CLAIM, MaskedBits, OneOrMore, POLICY_IDS_CLAIM, Policy, PolicyError,
        RULE_CLAIM, SEPT_VE_DISABLE_CLAIM, SgxAttributes, TRUST_ANCHOR_CLAIM, TdxAttributes, Weakness,
    },
    rego::Rule,
};

/// What a policy that does not enforce an up-to-date TCB accepts. `Revoked`, unknown and absent are in no list.
pub(crate) const TCB_STATUS_KNOWN: [&str; 7] = [
    "OK",
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
];
/// `OK` is what tokens of 2023 said.
const TCB_STATUS_UP_TO_DATE: [&str; 2] = ["OK", "UpToDate"];

const TDX_DIGITS: usize = 96;
const SGX_DIGITS: usize = 64;

/// What both kinds of policy have.
struct Common {
    policy_ids: Vec<uuid::Uuid>,
    trust_anchor: Option<OneOrMore<String>>,
    enforce: Option<bool>,
    tcb_statuses: Option<OneOrMore<String>>,
    tcb_date_min: Option<String>,
    pce_svn_min: Option<u16>,
    advisory_ids_allowed: Option<Vec<String>>,
    advisory_ids_refused: Vec<String>,
    rego: Option<String>,
    allows_weakness: bool,
    has_other_object: bool,
}

/// A policy about TDs.
pub(crate) fn tdx(block: Block<TdxAttributes>, has_other_object: bool) -> Result<Policy, PolicyError> {
    let Block { attributes: own, policy_ids } = block;
    bounded("tdx.attributes.allow", own.allow.len())?;
    let mut conditions = td_bits(&own.allow);
    for (claim, member, wanted) in [
        ("tdx_mrsignerseam", "tdx.attributes.mrsignerseam", Some(OneOrMore(own.mrsignerseam))),
        ("tdx_mrseam", "tdx.attributes.mrseam", Some(OneOrMore(own.mrseam))),
        ("tdx_mrtd", "tdx.attributes.mrtd", Some(OneOrMore(own.mrtd))),
        ("tdx_mrconfigid", "tdx.attributes.mrconfigid", own.mrconfigid),
        ("tdx_mrowner", "tdx.attributes.mrowner", own.mrowner),
        ("tdx_mrownerconfig", "tdx.attributes.mrownerconfig", own.mrownerconfig),
    ] {
        conditions.extend(measurements(claim, member, wanted, TDX_DIGITS)?);
    }
    conditions.extend(own.seamsvn.map(|svn| equals("tdx_seamsvn", svn)));
    conditions.extend(own.seamsvn_min.map(|svn| at_least("tdx_seamsvn", svn)));
    if let Some(min) = own.tee_tcb_svn_min {
        let min = components(&min).ok_or(PolicyError::Hex { member: "tdx.attributes.tee_tcb_svn_min", digits: 32 })?;
        conditions.push(Condition { claim: "tdx_tee_tcb_svn", test: Test::EachAtLeast(min) });
    }
    for (claim, member, wanted) in [
        ("tdx_rtmr0", "tdx.attributes.rtmr0", own.rtmr0),
        ("tdx_rtmr1", "tdx.attributes.rtmr1", own.rtmr1),
        ("tdx_rtmr2", "tdx.attributes.rtmr2", own.rtmr2),
        ("tdx_rtmr3", "tdx.attributes.rtmr3", own.rtmr3),
    ] {
        conditions.extend(measurements(claim, member, wanted, TDX_DIGITS)?);
    }
    for (claim, member, bits) in
        [("tdx_td_attributes", "tdx.attributes.td_attributes", own.td_attributes), ("tdx_xfam", "tdx.attributes.xfam", own.xfam)]
    {
        conditions.extend(bits.map(|wanted| masked(claim, member, wanted)).transpose()?);
    }
    conditions.extend(own.tcb_evaluation_data_number_min.map(|min| at_least("tdx_collateral.tcbevaluationdatanumber", min)));
    let common = Common {
        policy_ids,
        trust_anchor: own.trust_anchor,
        enforce: own.enforce_tcb_upto_date,
        tcb_statuses: own.tcb_statuses,
        tcb_date_min: own.tcb_date_min,
        pce_svn_min: own.pce_svn_min,
        advisory_ids_allowed: own.advisory_ids_allowed,
        advisory_ids_refused: own.advisory_ids_refused,
        rego: own.rego,
        allows_weakness: !own.allow.is_empty(),
        has_other_object,
    };
    policy(AttestationType::Tdx, conditions, common)
}

/// A policy about enclaves.
pub(crate) fn sgx(block: Block<SgxAttributes>, has_other_object: bool) -> Result<Policy, PolicyError> {
    let Block { attributes: own, policy_ids } = block;
    let mut conditions = Vec::new();
    for (claim, member, wanted) in
        [("sgx_mrsigner", "sgx.attributes.mrsigner", own.mrsigner), ("sgx_mrenclave", "sgx.attributes.mrenclave", own.mrenclave)]
    {
        // Intel's server takes blanks around these.
        let wanted = wanted.iter().map(|entry| entry.trim().to_owned()).collect();
        conditions.extend(measurements(claim, member, Some(OneOrMore(wanted)), SGX_DIGITS)?);
    }
    bounded("sgx.attributes.isvprodid", own.isvprodid.len())?;
    if !own.isvprodid.is_empty() {
        let wanted = own.isvprodid.iter().map(ToString::to_string).collect();
        conditions.push(Condition { claim: "sgx_isvprodid", test: Test::OneOf(wanted) });
    }
    conditions.extend(own.isvsvn.map(|svn| equals("sgx_isvsvn", svn)));
    conditions.extend(own.isvsvn_min.map(|svn| at_least("sgx_isvsvn", svn)));
    let common = Common {
        policy_ids,
        trust_anchor: own.trust_anchor,
        enforce: own.enforce_tcb_upto_date,
        tcb_statuses: own.tcb_statuses,
        tcb_date_min: own.tcb_date_min,
        pce_svn_min: own.pce_svn_min,
        advisory_ids_allowed: own.advisory_ids_allowed,
        advisory_ids_refused: own.advisory_ids_refused,
        rego: own.rego,
        allows_weakness: false,
        has_other_object,
    };
    policy(AttestationType::Sgx, conditions, common)
}

fn policy(attestation_type: AttestationType, attester: Vec<Condition>, common: Common) -> Result<Policy, PolicyError> {
    let enforces_tcb = common.enforce == Some(true);
    let trust_anchors = trust_anchors(common.trust_anchor)?;
    let texts = |entries: &[&str]| entries.iter().map(ToString::to_string).collect();
    let mut conditions = vec![
        Condition { claim: TRUST_ANCHOR_CLAIM, test: Test::OneOf(trust_anchors.clone()) },
        Condition { claim: "attester_type", test: Test::OneOf(texts(&[attestation_type.label()])) },
        Condition { claim: "dbgstat", test: Test::OneOf(texts(&["disabled"])) },
        Condition { claim: "attester_tcb_status", test: Test::OneOf(tcb_statuses(enforces_tcb, common.tcb_statuses)?) },
    ];
    conditions.extend(attester);
    if let Some(min) = common.tcb_date_min {
        let min = instant(&min).ok_or(PolicyError::Time { member: "attributes.tcb_date_min" })?;
        conditions.push(Condition { claim: "attester_tcb_date", test: Test::NotBefore(min) });
    }
    conditions.extend(common.pce_svn_min.map(|min| at_least("pce_svn", min)));
    if let Some(allowed) = common.advisory_ids_allowed {
        let allowed = advisories("attributes.advisory_ids_allowed", allowed)?.into_iter().collect();
        conditions.push(Condition { claim: "attester_advisory_ids", test: Test::Within(allowed) });
    }
    let refused = advisories("attributes.advisory_ids_refused", common.advisory_ids_refused)?;
    if !refused.is_empty() {
        conditions.push(Condition { claim: "attester_advisory_ids", test: Test::NoneOf(refused.into_iter().collect()) });
    }
    bounded("policy_ids", common.policy_ids.len())?;
    if !common.policy_ids.is_empty() {
        conditions.push(Condition { claim: POLICY_IDS_CLAIM, test: Test::AnyOf(common.policy_ids.clone()) });
    }
    if let Some(source) = common.rego {
        conditions.push(Condition { claim: RULE_CLAIM, test: Test::Rule(Arc::new(Rule::compile(&source)?)) });
    }
    Ok(Policy {
        attestation_type,
        conditions,
        trust_anchors,
        appraisal_ids: common.policy_ids,
        allows_weakness: common.allows_weakness,
        enforces_tcb,
        has_other_object: common.has_other_object,
    })
}

/// Two bits of the TD attributes (Intel TDX module specification, ATTRIBUTES), unless the policy allows either value.
fn td_bits(allowed: &[Weakness]) -> Vec<Condition> {
    [(Weakness::NoSeptVeDisable, SEPT_VE_DISABLE_CLAIM, "true"), (Weakness::Migratable, MIGRATABLE_CLAIM, "false")]
        .into_iter()
        .filter(|(weakness, ..)| !allowed.contains(weakness))
        .map(|(_, claim, wanted)| Condition { claim, test: Test::OneOf(vec![wanted.to_owned()]) })
        .collect()
}

/// Enforcement and the set both hold. Whoever names `UpToDate` means `OK` too.
fn tcb_statuses(enforced: bool, member: Option<OneOrMore<String>>) -> Result<Vec<String>, PolicyError> {
    let base: &[&str] = if enforced { &TCB_STATUS_UP_TO_DATE } else { &TCB_STATUS_KNOWN };
    let Some(OneOrMore(named)) = member else { return Ok(base.iter().map(ToString::to_string).collect()) };
    if named.is_empty() || named.iter().any(|status| !TCB_STATUS_KNOWN.contains(&status.as_str())) {
        return Err(PolicyError::TcbStatus);
    }
    let is_named = |status: &str| named.iter().any(|named| named == status || (named == "UpToDate" && status == "OK"));
    Ok(base.iter().filter(|status| is_named(status)).map(ToString::to_string).collect())
}

fn trust_anchors(member: Option<OneOrMore<String>>) -> Result<Vec<String>, PolicyError> {
    let anchors = member.map_or_else(|| vec![INTEL_TRUST_ANCHOR.to_owned()], |OneOrMore(anchors)| anchors);
    bounded("attributes.trust_anchor", anchors.len())?;
    if !anchors.is_empty() && anchors.iter().all(|anchor| names_trust_anchor(anchor)) { Ok(anchors) } else { Err(PolicyError::TrustAnchor) }
}

fn equals(claim: &'static str, number: u16) -> Condition {
    Condition { claim, test: Test::OneOf(vec![number.to_string()]) }
}

fn at_least(claim: &'static str, min: impl Into<u64>) -> Condition {
    Condition { claim, test: Test::AtLeast(min.into()) }
}

/// `None` where nothing is demanded: an empty list and an empty string demand nothing, as with Intel.
fn measurements(
    claim: &'static str,
    member: &'static str,
    wanted: Option<OneOrMore<String>>,
    digits: usize,
) -> Result<Option<Condition>, PolicyError> {
    let OneOrMore(wanted) = wanted.unwrap_or(OneOrMore(Vec::new()));
    bounded(member, wanted.len())?;
    // One empty string is how Intel's documents leave an RTMR open; they are no lists there, and its lists take none.
    let open = wanted.is_empty() || (member.starts_with("tdx.attributes.rtmr") && wanted.len() == 1 && wanted[0].is_empty());
    if open {
        return Ok(None);
    }
    let wanted = wanted.iter().map(|entry| lower_hex(member, entry, digits)).collect::<Result<_, _>>()?;
    Ok(Some(Condition { claim, test: Test::OneOf(wanted) }))
}

fn masked(claim: &'static str, member: &'static str, bits: Bits) -> Result<Condition, PolicyError> {
    let number = |text: &str| {
        let digits = lower_hex(member, text, 16)?;
        u64::from_str_radix(&digits, 16).map_err(|_| PolicyError::Hex { member, digits: 16 })
    };
    let (mask, value) = match bits {
        Bits::Exact(value) => (u64::MAX, number(&value)?),
        Bits::Masked(MaskedBits { mask, value }) => (number(&mask)?, number(&value)?),
    };
    if value & !mask != 0 {
        return Err(PolicyError::Mask { member });
    }
    Ok(Condition { claim, test: Test::Masked { mask, value } })
}

fn advisories(member: &'static str, entries: Vec<String>) -> Result<Vec<String>, PolicyError> {
    bounded(member, entries.len())?;
    let is_advisory = |entry: &String| {
        entry.strip_prefix("INTEL-SA-").is_some_and(|number| number.len() >= 5 && number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    if entries.iter().all(is_advisory) { Ok(entries) } else { Err(PolicyError::Advisory { member }) }
}

fn bounded(member: &'static str, entries: usize) -> Result<(), PolicyError> {
    if entries > LIST_ENTRIES_MAX { Err(PolicyError::TooMany { member, entries }) } else { Ok(()) }
}

fn lower_hex(member: &'static str, text: &str, digits: usize) -> Result<String, PolicyError> {
    let is_hex = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hex { Ok(text.to_ascii_lowercase()) } else { Err(PolicyError::Hex { member, digits }) }
}
