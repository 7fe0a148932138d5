//! What a policy's owner should know before relying on it.

use std::fmt;

use keyferry_attestation_token::INTEL_TRUST_ANCHOR;

use crate::{
    condition::{Got, Test},
    document::{AttestationType, Policy},
};

/// A finding: the policy is valid, and weaker than it looks, or will not do for long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// Two conditions exclude each other.
    NeverMatches,
    /// No measurement and no appraisal policy is demanded.
    NothingPinned,
    /// The rule is all there is: what it demands is not looked into.
    OnlyRulePins,
    /// MRTD covers the firmware, not the kernel, the initrd or the application.
    OnlyMrTdPinned,
    /// An RTMR without MRTD: the firmware that measures is anybody's.
    RtmrsWithoutMrTd,
    /// MRSIGNER without a product: every enclave of that signer.
    AnyProductOfSigner,
    /// MRSIGNER without a version: enclaves with known bugs too.
    AnyVersionOfSigner,
    /// Attesters with a known-vulnerable TCB are served.
    TcbNotEnforced,
    /// A simulator's evidence is accepted: no hardware stands behind it.
    SimulatorAccepted,
    /// A TD is accepted that its host can move or interrupt in ways that are refused by default.
    WeakTdAllowed,
    /// The rule is content with a token that has no claims.
    RuleDemandsNothing,
    /// `seamsvn` is an equality.
    SeamSvnPinned,
    /// `isvsvn` is an equality.
    IsvSvnPinned,
    /// The object of the other attester is never looked at.
    OtherObjectIgnored,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NeverMatches => "no token can satisfy this policy: two of its conditions on one claim exclude each other",
            Self::NothingPinned => {
                "no measurement is pinned: every attester of an accepted trust anchor gets the key; pin mrtd and rtmr0 to rtmr3, or mrenclave"
            }
            Self::OnlyRulePins => "only the rule in rego limits who gets the key: pin measurements beside it, where they can be compared",
            Self::OnlyMrTdPinned => {
                "only mrtd is pinned: it covers the TD's firmware, not its kernel, initrd and application; pin rtmr1 and rtmr2 too"
            }
            Self::RtmrsWithoutMrTd => "an rtmr is pinned without mrtd: other firmware could extend the same values; pin mrtd too",
            Self::AnyProductOfSigner => "mrsigner is pinned without isvprodid: every enclave of that signer gets the key",
            Self::AnyVersionOfSigner => "mrsigner is pinned without isvsvn_min: old enclaves with known bugs get the key",
            Self::TcbNotEnforced => "enforce_tcb_upto_date is not true: attesters on an out-of-date TCB get the key",
            Self::SimulatorAccepted => "trust_anchor accepts a simulator: no hardware protects the key",
            Self::WeakTdAllowed => "allow accepts TDs that their host can migrate or send exceptions to",
            Self::RuleDemandsNothing => "the rule in rego permits a token without any claim: it demands nothing",
            Self::SeamSvnPinned => "seamsvn is compared for equality: the next TDX module update locks every TD out; seamsvn_min is a minimum",
            Self::IsvSvnPinned => "isvsvn is compared for equality: the enclave's next version is locked out; isvsvn_min is a minimum",
            Self::OtherObjectIgnored => "the object of the other attestation type is ignored",
        })
    }
}

impl Policy {
    /// Findings, worst first. None of them makes the policy invalid.
    pub fn lint(&self) -> Vec<Finding> {
        let pins = |claim: &str| self.conditions.iter().any(|condition| condition.claim == claim);
        let equals =
            |claim: &str| self.conditions.iter().any(|condition| condition.claim == claim && matches!(condition.test, Test::OneOf(_)));
        let rule = self.conditions.iter().find_map(|condition| if let Test::Rule(rule) = &condition.test { Some(rule) } else { None });
        let ids = !self.appraisal_ids.is_empty();
        let any_rtmr = ["tdx_rtmr0", "tdx_rtmr1", "tdx_rtmr2", "tdx_rtmr3"].into_iter().any(pins);
        let (mr_td, signer, enclave) = (pins("tdx_mrtd"), pins("sgx_mrsigner"), pins("sgx_mrenclave"));
        let is_tdx = self.attestation_type == AttestationType::Tdx;
        let pinned = ids || if is_tdx { mr_td || any_rtmr } else { signer || enclave };
        let by_signer = signer && !enclave && !ids;
        [
            (self.never_matches(), Finding::NeverMatches),
            (!pinned && rule.is_none(), Finding::NothingPinned),
            (!pinned && rule.is_some(), Finding::OnlyRulePins),
            (mr_td && !any_rtmr && !ids, Finding::OnlyMrTdPinned),
            (any_rtmr && !mr_td && !ids, Finding::RtmrsWithoutMrTd),
            (by_signer && !pins("sgx_isvprodid"), Finding::AnyProductOfSigner),
            (by_signer && !pins("sgx_isvsvn"), Finding::AnyVersionOfSigner),
            (!self.enforces_tcb && !self.names_up_to_date_alone(), Finding::TcbNotEnforced),
            (self.trust_anchors.iter().any(|anchor| anchor != INTEL_TRUST_ANCHOR), Finding::SimulatorAccepted),
            (self.allows_weakness, Finding::WeakTdAllowed),
            (rule.is_some_and(|rule| rule.permits_everything()), Finding::RuleDemandsNothing),
            (equals("tdx_seamsvn"), Finding::SeamSvnPinned),
            (equals("sgx_isvsvn"), Finding::IsvSvnPinned),
            (self.has_other_object, Finding::OtherObjectIgnored),
        ]
        .into_iter()
        .filter_map(|(found, finding)| found.then_some(finding))
        .collect()
    }

    fn names_up_to_date_alone(&self) -> bool {
        self.conditions.iter().any(|condition| {
            condition.claim == "attester_tcb_status"
                && matches!(&condition.test, Test::OneOf(wanted) if wanted.iter().all(|status| status == "OK" || status == "UpToDate"))
        })
    }

    /// A list of values of which none passes the other tests of its claim.
    fn never_matches(&self) -> bool {
        self.conditions.iter().any(|condition| {
            let Test::OneOf(wanted) = &condition.test else { return false };
            let others: Vec<&Test> = self
                .conditions
                .iter()
                .filter(|other| other.claim == condition.claim && !matches!(other.test, Test::OneOf(_)))
                .map(|other| &other.test)
                .collect();
            !wanted.iter().any(|value| others.iter().all(|test| test.holds(&Got::text(Some(value)))))
        })
    }
}
