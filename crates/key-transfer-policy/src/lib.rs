//! Key transfer policies: which attested TD or enclave may have a key.
//!
//! [`Policy::parse`] reads the JSON document of Intel's Key Broker Service, for TDX and SGX, and the members Keyferry adds;
//! [`evaluate`] turns an [`AuthenticToken`] into [`Permitted`] or a [`PolicyDenial`] that says wanted and got for every
//! condition. Nothing but an authentic token gets in, and nothing but `Permitted` is accepted by what fetches keys.
//! [`explain_claims`] and [`Case`] try a policy out on claims that nobody signed; no `Permitted` comes of them. [`diff`]
//! says which conditions of a new version permit more. The document is described in `docs/policies.md`.
//!
//! This crate knows nothing of clocks, networks, key stores and audit. A policy has no name and no version here: those
//! belong to the record that holds it.
//!
//! # Where it is stricter than Intel's server
//!
//! A policy is a conjunction: adding a condition never permits more; a property test holds that. So:
//! * `policy_ids` is a condition *beside* the attributes. Intel's server releases on a matching id alone and looks at no
//!   attribute, and ignores the ids when the token names none; here both refuse.
//! * An attester that is debuggable, or of which the token does not say that it is not, and a `Revoked`, unknown or absent
//!   TCB status never match, whatever the policy says.
//! * A migratable TD, a TD without SEPT_VE_DISABLE, and a token without TD attributes never match, unless `allow` (a list,
//!   inside `tdx.attributes`) names `migratable` or `no-sept-ve-disable`. Intel's service issues tokens for such TDs.
//! * `trust_anchor` (string or list) names the roots of evidence that are accepted. Absent, it is Intel's SGX root alone:
//!   evidence of a simulator needs the owner's consent, policy by policy.
//! * A claim that the token lacks passes no condition, where Intel's server ends in a panic.
//!
//! Where Intel's server can never match, it is kinder: hex compares without case, and `UpToDate` counts as well as `OK`.
//! `seamsvn` and `isvsvn` stay equalities, as Intel's code has them; the minima are members of their own.

mod cases;
mod compile;
mod condition;
mod diff;
mod document;
mod evaluate;
mod lint;
mod rego;

pub use cases::{CASES_BYTES_MAX, CASES_MAX, Case, CasesError, Expected, Outcome};
pub use diff::{Change, Effect, diff};
pub use document::{AttestationType, DOCUMENT_BYTES_MAX, LIST_ENTRIES_MAX, Policy, PolicyError};
pub use evaluate::{Comparison, Permitted, PolicyDenial, evaluate, explain, explain_claims, explain_for};
pub use keyferry_attestation_token::{AuthenticToken, UnverifiedClaims};
pub use lint::Finding;
pub use rego::{EVALUATION_STEPS_MAX, RULE_BYTES_MAX, RuleError};
