//! The decision, condition by condition.

use keyferry_attestation_token::{AuthenticToken, Claims, UnverifiedClaims};
use keyferry_identifiers::KeyId;
use serde_json::{Map, Value};

use crate::{
    condition::{Condition, Got, Test},
    document::{MIGRATABLE_CLAIM, POLICY_IDS_CLAIM, Policy, SEPT_VE_DISABLE_CLAIM, TRUST_ANCHOR_CLAIM},
};

/// Bits of the TD attributes (Intel TDX module specification, ATTRIBUTES).
const SEPT_VE_DISABLE: u32 = 28;
const MIGRATABLE: u32 = 29;
const NOT_EVALUATED: &str = "(not evaluated: another condition does not hold)";

/// One condition: what the policy wants, what the token says. For administrators and the audit, not for the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// The claim, by its name in the token; `rego` for the policy's rule.
    pub claim: &'static str,
    /// One value, or several joined by ` | `, or a minimum.
    pub wanted: String,
    /// The token's value, or `(absent)`.
    pub got: String,
    /// Whether the condition holds.
    pub matched: bool,
}

/// Proof that a policy permits this token's attester to have this key. Made by [`evaluate`] alone.
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
    /// The token of the attester that may have it.
    pub fn token(&self) -> &AuthenticToken {
        &self.token
    }
    /// Every condition, all of them matched.
    pub fn comparisons(&self) -> &[Comparison] {
        &self.comparisons
    }
}

/// Why a policy does not permit. Each carries every comparison, the matched ones too.
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
    /// Everything else holds, and the policy's rule could not be evaluated, or not within its bounds.
    #[error("the policy's rule could not be evaluated within its bounds")]
    RuleFailed {
        /// All comparisons.
        comparisons: Vec<Comparison>,
    },
}

impl PolicyDenial {
    /// Every comparison, in the order of evaluation.
    pub fn comparisons(&self) -> &[Comparison] {
        match self {
            Self::TrustAnchor { comparisons } | Self::Mismatch { comparisons } | Self::RuleFailed { comparisons } => comparisons,
        }
    }
}

/// Names of the claims that failed; values stay in the comparisons.
fn failed(comparisons: &[Comparison]) -> String {
    let names: Vec<_> = comparisons.iter().filter(|comparison| !comparison.matched).map(|comparison| comparison.claim).collect();
    names.join(", ")
}

/// Whether `policy` permits the attester of `token` to have `key`.
pub fn evaluate(policy: &Policy, token: AuthenticToken, key: KeyId) -> Result<Permitted, PolicyDenial> {
    let Judgement { comparisons, rule_failed } = judge(policy, &Subject::of(&token, Some(key)));
    match comparisons.iter().find(|comparison| !comparison.matched) {
        None => Ok(Permitted { key_id: key, token, comparisons }),
        Some(first) if first.claim == TRUST_ANCHOR_CLAIM => Err(PolicyDenial::TrustAnchor { comparisons }),
        Some(_) if rule_failed => Err(PolicyDenial::RuleFailed { comparisons }),
        Some(_) => Err(PolicyDenial::Mismatch { comparisons }),
    }
}

/// Every condition of `policy` against `token`; the trust anchor first, since no other claim means anything without it. A
/// rule that looks at `input.key_id` finds none: see [`explain_for`].
pub fn explain(policy: &Policy, token: &AuthenticToken) -> Vec<Comparison> {
    judge(policy, &Subject::of(token, None)).comparisons
}

/// The same for one key: exactly the comparisons of [`evaluate`].
pub fn explain_for(policy: &Policy, token: &AuthenticToken, key: KeyId) -> Vec<Comparison> {
    judge(policy, &Subject::of(token, Some(key))).comparisons
}

/// The same for claims that nobody vouches for: to try a policy out. No [`Permitted`] comes of it.
pub fn explain_claims(policy: &Policy, claims: &UnverifiedClaims, key: Option<KeyId>) -> Vec<Comparison> {
    let subject = Subject { claims: claims.claims(), members: claims.members(), trust_anchor: claims.trust_anchor(), key };
    judge(policy, &subject).comparisons
}

/// Whom the conditions are about.
struct Subject<'a> {
    claims: &'a Claims,
    members: &'a Map<String, Value>,
    trust_anchor: &'a str,
    key: Option<KeyId>,
}

struct Judgement {
    comparisons: Vec<Comparison>,
    rule_failed: bool,
}

/// The rule is the last condition, and asked only if everything else holds: nobody but who passes the rest spends its time.
fn judge(policy: &Policy, subject: &Subject<'_>) -> Judgement {
    let mut judgement = Judgement { comparisons: Vec::with_capacity(policy.conditions.len()), rule_failed: false };
    for Condition { claim, test } in &policy.conditions {
        let (got, matched) = if let Test::Rule(rule) = test {
            if judgement.comparisons.iter().all(|comparison| comparison.matched) {
                let answer = rule.permits(subject.members, subject.trust_anchor, subject.key);
                judgement.rule_failed = answer.is_err();
                let got = answer.as_ref().map_or_else(ToString::to_string, ToString::to_string);
                (got, answer == Ok(true))
            } else {
                (NOT_EVALUATED.to_owned(), false)
            }
        } else {
            let got = subject.claim(claim);
            (got.describe(), test.holds(&got))
        };
        judgement.comparisons.push(Comparison { claim, wanted: test.describe(), got, matched });
    }
    judgement
}

impl<'a> Subject<'a> {
    fn of(token: &'a AuthenticToken, key: Option<KeyId>) -> Self {
        Self { claims: token.claims(), members: token.members(), trust_anchor: token.trust_anchor(), key }
    }

    /// A claim that no arm knows is absent, and what is absent passes no test.
    fn claim(&self, claim: &str) -> Got {
        let claims = self.claims;
        let text = |text: &Option<String>| Got::text(text.as_deref());
        match claim {
            TRUST_ANCHOR_CLAIM => Got::text(Some(self.trust_anchor)),
            "attester_type" => Got::text(Some(&claims.attester_type)),
            "dbgstat" => Got::text(claims.is_debuggable.map(|debuggable| if debuggable { "enabled" } else { "disabled" })),
            "attester_tcb_status" => text(&claims.tcb_status),
            "attester_tcb_date" => text(&claims.tcb_date),
            "attester_advisory_ids" => Got::List(claims.advisory_ids.clone()),
            POLICY_IDS_CLAIM => match &claims.policy_ids_matched {
                Some(ids) if !ids.is_empty() => Got::List(ids.iter().map(ToString::to_string).collect()),
                _ => Got::Absent,
            },
            SEPT_VE_DISABLE_CLAIM => self.td_attribute(SEPT_VE_DISABLE),
            MIGRATABLE_CLAIM => self.td_attribute(MIGRATABLE),
            "pce_svn" => Got::number(claims.pce_svn),
            "tdx_collateral.tcbevaluationdatanumber" => Got::number(claims.tcb_evaluation_data_number),
            "tdx_mrsignerseam" => text(&claims.mr_signer_seam),
            "tdx_mrseam" => text(&claims.mr_seam),
            "tdx_mrtd" => text(&claims.mr_td),
            "tdx_mrconfigid" => text(&claims.mr_config_id),
            "tdx_mrowner" => text(&claims.mr_owner),
            "tdx_mrownerconfig" => text(&claims.mr_owner_config),
            "tdx_seamsvn" => Got::number(claims.seam_svn),
            "tdx_tee_tcb_svn" => text(&claims.tee_tcb_svn),
            "tdx_rtmr0" => text(&claims.rtmrs[0]),
            "tdx_rtmr1" => text(&claims.rtmrs[1]),
            "tdx_rtmr2" => text(&claims.rtmrs[2]),
            "tdx_rtmr3" => text(&claims.rtmrs[3]),
            "tdx_td_attributes" => text(&claims.td_attributes),
            "tdx_xfam" => text(&claims.xfam),
            "sgx_mrsigner" => text(&claims.sgx_mr_signer),
            "sgx_mrenclave" => text(&claims.sgx_mr_enclave),
            "sgx_isvprodid" => Got::number(claims.sgx_isv_prod_id),
            "sgx_isvsvn" => Got::number(claims.sgx_isv_svn),
            _ => Got::Absent,
        }
    }

    /// The claim is in memory order: little-endian.
    fn td_attribute(&self, bit: u32) -> Got {
        let attributes = self.claims.td_attributes.as_deref().and_then(|hex| u64::from_str_radix(hex, 16).ok()).map(u64::swap_bytes);
        Got::number(attributes.map(|attributes| attributes >> bit & 1 == 1))
    }
}
