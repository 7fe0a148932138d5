//! A verified quote against an appraisal policy: an attestation result, or why not.
//!
//! A verifier that stops at "the signature is good" accepts debug TDs and evidence made for somebody else. [`appraise`]
//! takes the last output of verification and answers the remaining questions: is the evidence about *this* nonce and
//! user data, is the TD one that may be vouched for, is its platform current enough, and is it made of what the operator
//! expects? [`Appraised`] comes from nowhere else, so nothing that was not appraised can become a token.
//!
//! The defaults refuse: debug and profiling, service TDs, migratable TDs, TDs without SEPT_VE_DISABLE, reserved bits,
//! revoked and unknown TCBs. Every other TCB status passes by default and is named in the token, because how old a
//! platform may be is the relying party's decision (and Intel's verifier does the same); `tcb_statuses` narrows it.
//!
//! This crate knows nothing of signatures, collateral, tokens, clocks and files.

mod appraised;
mod denial;
mod policy;
mod rego_policy;

pub use appraised::{Appraised, appraise};
pub use denial::{AppraisalDenial, Comparison};
pub use keyferry_dcap::{Allowances, AttributeDenial, TcbStatus};
pub use keyferry_event_log::{EventLog, EventLogError, Mismatch, ReplayedLog, type_name};
pub use keyferry_reference_value::{Catalog, Measurement};
pub use keyferry_rego::{RuleError, RuleFailure};
pub use policy::{AppraisalPolicy, PolicyError, ReferenceValues};
pub use rego_policy::{EXPORT_BYTES_MAX, REGO_BYTES_MAX, RegoPolicy, RegoVerdict};
