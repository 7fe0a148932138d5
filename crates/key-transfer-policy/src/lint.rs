//! What a policy's owner should know before relying on it.

use std::fmt;

use keyferry_attestation_token::INTEL_TRUST_ANCHOR;

use crate::document::Policy;

/// A finding: the policy is valid, and weaker than it looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// No measurement and no appraisal policy is demanded.
    NothingPinned,
    /// MRTD covers the firmware, not the kernel, the initrd or the application.
    OnlyMrTdPinned,
    /// An RTMR without MRTD: the firmware that measures is anybody's.
    RtmrsWithoutMrTd,
    /// TDs with a known-vulnerable TCB are served.
    TcbNotEnforced,
    /// A simulator's evidence is accepted: no hardware stands behind it.
    SimulatorAccepted,
    /// A TD is accepted that its host can move or interrupt in ways that are refused by default.
    WeakTdAllowed,
    /// `seamsvn` is an equality.
    SeamSvnPinned,
    /// The `sgx` object is never looked at.
    SgxIgnored,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NothingPinned => {
                "no measurement is pinned: every TD of an accepted trust anchor gets the key; pin mrtd and rtmr0 to rtmr3"
            }
            Self::OnlyMrTdPinned => {
                "only mrtd is pinned: it covers the TD's firmware, not its kernel, initrd and application; pin rtmr1 and rtmr2 too"
            }
            Self::RtmrsWithoutMrTd => "an rtmr is pinned without mrtd: other firmware could extend the same values; pin mrtd too",
            Self::TcbNotEnforced => "enforce_tcb_upto_date is not true: TDs on an out-of-date TCB get the key",
            Self::SimulatorAccepted => "trust_anchor accepts a simulator: no hardware protects the key",
            Self::WeakTdAllowed => "allow accepts TDs that their host can migrate or send exceptions to",
            Self::SeamSvnPinned => "seamsvn is compared for equality: the next TDX module update locks every TD out",
            Self::SgxIgnored => "the sgx object is ignored: keys are released to TDs only",
        })
    }
}

impl Policy {
    /// Findings, worst first. None of them makes the policy invalid.
    pub fn lint(&self) -> Vec<Finding> {
        let any_rtmr = self.rtmrs.iter().any(Option::is_some);
        let (mr_td, ids) = (!self.mr_td.is_empty(), !self.appraisal_ids.is_empty());
        [
            (!mr_td && !any_rtmr && !ids, Finding::NothingPinned),
            (mr_td && !any_rtmr && !ids, Finding::OnlyMrTdPinned),
            (any_rtmr && !mr_td && !ids, Finding::RtmrsWithoutMrTd),
            (!self.enforce_tcb_up_to_date, Finding::TcbNotEnforced),
            (self.trust_anchors.iter().any(|anchor| anchor != INTEL_TRUST_ANCHOR), Finding::SimulatorAccepted),
            (!self.allowed.is_empty(), Finding::WeakTdAllowed),
            (self.seam_svn.is_some(), Finding::SeamSvnPinned),
            (self.has_sgx, Finding::SgxIgnored),
        ]
        .into_iter()
        .filter_map(|(found, finding)| found.then_some(finding))
        .collect()
    }
}
