//! What is known of one request while it is being decided: for the audit, the events and the span.

use keyferry_attestation_token::AuthenticToken;
use keyferry_identifiers::{KeyId, ReleaseId, TdId};
use keyferry_key_transfer_policy::Comparison;
use keyferry_telemetry::{SpanAttributes, names};
use tracing::Span;

use crate::records::Rule;

/// How the token came here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Passport,
    BackgroundCheck,
}

impl Mode {
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Passport => "passport",
            Self::BackgroundCheck => "background_check",
        }
    }
}

/// Grows as the decision proceeds; what is not known yet is empty.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) release_id: ReleaseId,
    pub(crate) key_id: KeyId,
    pub(crate) mode: Mode,
    pub(crate) td_id: Option<TdId>,
    pub(crate) token_id: String,
    pub(crate) attestation_id: String,
    pub(crate) trust_anchor: String,
    pub(crate) tcb_status: String,
    pub(crate) policy_id: String,
    pub(crate) policy_version: u32,
    pub(crate) comparisons: Vec<Comparison>,
}

impl Case {
    pub(crate) fn new(key_id: KeyId, mode: Mode) -> Self {
        Span::current().attribute(names::KEY_ID, &key_id.to_string());
        Span::current().attribute(names::MODE, mode.label());
        Self {
            release_id: ReleaseId::random(),
            key_id,
            mode,
            td_id: None,
            token_id: String::new(),
            attestation_id: String::new(),
            trust_anchor: String::new(),
            tcb_status: String::new(),
            policy_id: String::new(),
            policy_version: 0,
            comparisons: Vec::new(),
        }
    }

    pub(crate) fn identified(&mut self, token: &AuthenticToken) {
        let span = Span::current();
        self.td_id = token.td_id().cloned();
        token.token_id().clone_into(&mut self.token_id);
        self.attestation_id = token.attestation_id().map(ToString::to_string).unwrap_or_default();
        token.trust_anchor().clone_into(&mut self.trust_anchor);
        self.tcb_status = token.claims().tcb_status.clone().unwrap_or_default();
        span.attribute(names::TOKEN_ID, &self.token_id);
        span.attribute(names::TRUST_ANCHOR, &self.trust_anchor);
        if let Some(td_id) = &self.td_id {
            span.attribute(names::TD_ID, td_id.as_str());
        }
        if !self.attestation_id.is_empty() {
            span.attribute(names::ATTESTATION_ID, &self.attestation_id);
        }
    }

    pub(crate) fn governed(&mut self, rule: &Rule) {
        self.policy_id = rule.policy_id.to_string();
        self.policy_version = rule.version;
        Span::current().attribute(names::POLICY_ID, &self.policy_id);
        Span::current().attribute(names::POLICY_VERSION, u64::from(rule.version));
    }
}
