//! The decision, condition by condition.

use keyferry_attestation_token::{AuthenticToken, Claims};
use keyferry_identifiers::KeyId;

use crate::document::{Policy, Weakness};

/// What a policy that does not enforce an up-to-date TCB accepts. `Revoked`, unknown and absent are in no list.
const TCB_STATUS_KNOWN: [&str; 7] = [
    "OK",
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
];
/// Bits of the TD attributes.
const SEPT_VE_DISABLE: u32 = 28;
const MIGRATABLE: u32 = 29;
/// `OK` is what tokens of 2023 said.
const TCB_STATUS_UP_TO_DATE: [&str; 2] = ["OK", "UpToDate"];

/// One condition: what the policy wants, what the token says. For administrators and the audit, not for the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// The claim, by its name in the token.
    pub claim: &'static str,
    /// One value, or several joined by ` | `.
    pub wanted: String,
    /// The token's value, or `(absent)`.
    pub got: String,
    /// Whether the condition holds.
    pub matched: bool,
}

/// Proof that a policy permits this token's TD to have this key. Made by [`evaluate`] alone.
#[derive(Debug)]
pub struct Permitted {
    key_id: KeyId,
    token: AuthenticToken,
    comparisons: Vec<Comparison>,
}

impl Permitted {
    /// The key that may be released, and no other.
    pub fn key_id(&self) -> KeyId {
        self.key_id
    }
    /// The token of the TD that may have it.
    pub fn token(&self) -> &AuthenticToken {
        &self.token
    }
    /// Every condition, all of them matched.
    pub fn comparisons(&self) -> &[Comparison] {
        &self.comparisons
    }
}

/// Why a policy does not permit. Both carry every comparison, the matched ones too.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyDenial {
    /// The evidence's root is not one the policy accepts.
    #[error("the policy does not accept the trust anchor of this evidence")]
    TrustAnchor {
        /// All comparisons.
        comparisons: Vec<Comparison>,
    },
    /// Another claim does not satisfy the policy.
    #[error("claims do not satisfy the policy: {}", failed(comparisons))]
    Mismatch {
        /// All comparisons.
        comparisons: Vec<Comparison>,
    },
}

impl PolicyDenial {
    /// Every comparison, in the order of evaluation.
    pub fn comparisons(&self) -> &[Comparison] {
        match self {
            Self::TrustAnchor { comparisons } | Self::Mismatch { comparisons } => comparisons,
        }
    }
}

/// Names of the claims that failed; values stay in the comparisons.
fn failed(comparisons: &[Comparison]) -> String {
    let names: Vec<_> = comparisons.iter().filter(|comparison| !comparison.matched).map(|comparison| comparison.claim).collect();
    names.join(", ")
}

/// Whether `policy` permits the TD of `token` to have `key`.
pub fn evaluate(policy: &Policy, token: AuthenticToken, key: KeyId) -> Result<Permitted, PolicyDenial> {
    let comparisons = explain(policy, &token);
    match comparisons.iter().find(|comparison| !comparison.matched) {
        None => Ok(Permitted { key_id: key, token, comparisons }),
        Some(first) if first.claim == TRUST_ANCHOR => Err(PolicyDenial::TrustAnchor { comparisons }),
        Some(_) => Err(PolicyDenial::Mismatch { comparisons }),
    }
}

const TRUST_ANCHOR: &str = "keyferry.trust_anchor";

/// Every condition of `policy` against `token`; the trust anchor first, since no other claim means anything without it.
pub fn explain(policy: &Policy, token: &AuthenticToken) -> Vec<Comparison> {
    let claims = token.claims();
    let mut comparisons = vec![
        one_of(TRUST_ANCHOR, &policy.trust_anchors, Some(token.trust_anchor())),
        one_of("attester_type", &["TDX"], Some(&claims.attester_type)),
        one_of("dbgstat", &["disabled"], claims.is_debuggable.map(|debuggable| if debuggable { "enabled" } else { "disabled" })),
        tcb_status(policy, claims),
    ];
    comparisons.extend(td_attributes(policy, claims));
    for (claim, wanted, got) in [
        ("tdx_mrsignerseam", &policy.mr_signer_seam, &claims.mr_signer_seam),
        ("tdx_mrseam", &policy.mr_seam, &claims.mr_seam),
        ("tdx_mrtd", &policy.mr_td, &claims.mr_td),
    ] {
        if !wanted.is_empty() {
            comparisons.push(one_of(claim, wanted, got.as_deref()));
        }
    }
    if let Some(wanted) = policy.seam_svn {
        let got = claims.seam_svn.map(|svn| svn.to_string());
        comparisons.push(one_of("tdx_seamsvn", &[wanted.to_string()], got.as_deref()));
    }
    let rtmrs = ["tdx_rtmr0", "tdx_rtmr1", "tdx_rtmr2", "tdx_rtmr3"].into_iter().zip(&policy.rtmrs).zip(&claims.rtmrs);
    for ((claim, wanted), got) in rtmrs {
        comparisons.extend(wanted.as_ref().map(|wanted| one_of(claim, &[wanted], got.as_deref())));
    }
    if !policy.appraisal_ids.is_empty() {
        comparisons.push(policy_ids(policy, claims));
    }
    comparisons
}

fn tcb_status(policy: &Policy, claims: &Claims) -> Comparison {
    let wanted: &[&str] = if policy.enforce_tcb_up_to_date { &TCB_STATUS_UP_TO_DATE } else { &TCB_STATUS_KNOWN };
    one_of("attester_tcb_status", wanted, claims.tcb_status.as_deref())
}

/// Two bits of the TD attributes (Intel TDX module specification, ATTRIBUTES), unless the policy allows either value.
fn td_attributes(policy: &Policy, claims: &Claims) -> impl Iterator<Item = Comparison> {
    // The claim is in memory order: little-endian.
    let attributes = claims.td_attributes.as_deref().and_then(|hex| u64::from_str_radix(hex, 16).ok()).map(u64::swap_bytes);
    [
        (Weakness::NoSeptVeDisable, "tdx_td_attributes_septve_disable", SEPT_VE_DISABLE, true),
        (Weakness::Migratable, "tdx_td_attributes_migratable", MIGRATABLE, false),
    ]
    .into_iter()
    .filter(|(weakness, ..)| !policy.allowed.contains(weakness))
    .map(move |(_, claim, bit, wanted)| {
        let got = attributes.map(|attributes| (attributes >> bit & 1 == 1).to_string());
        one_of(claim, &[wanted.to_string()], got.as_deref())
    })
}

/// At least one id in common.
fn policy_ids(policy: &Policy, claims: &Claims) -> Comparison {
    let texts = |ids: &[uuid::Uuid]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
    let matched = claims.policy_ids_matched.as_deref().unwrap_or_default();
    Comparison {
        claim: "policy_ids_matched",
        wanted: texts(&policy.appraisal_ids).join(" | "),
        got: if matched.is_empty() { ABSENT.to_owned() } else { texts(matched).join(" & ") },
        matched: policy.appraisal_ids.iter().any(|id| matched.contains(id)),
    }
}

const ABSENT: &str = "(absent)";

/// An absent claim equals nothing.
fn one_of<T: AsRef<str>>(claim: &'static str, wanted: &[T], got: Option<&str>) -> Comparison {
    Comparison {
        claim,
        wanted: wanted.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" | "),
        got: got.unwrap_or(ABSENT).to_owned(),
        matched: got.is_some_and(|got| wanted.iter().any(|wanted| wanted.as_ref() == got)),
    }
}
