//! Key transfer policies: which attested TD may have a key.
//!
//! [`Policy::parse`] reads the JSON document of Intel's Key Broker Service for TDX; [`evaluate`] turns an
//! [`AuthenticToken`] into [`Permitted`] or a [`PolicyDenial`] that says wanted and got for every condition. Nothing but an
//! authentic token gets in, and nothing but `Permitted` is accepted by what fetches keys.
//!
//! This crate knows nothing of clocks, networks, key stores and audit. A policy has no name and no version here: those
//! belong to the record that holds it.
//!
//! # Where it is stricter than Intel's server
//!
//! Adding a condition never permits more; a property test holds that. So:
//! * `policy_ids` is a condition *beside* the attributes. Intel's server releases on a matching id alone and looks at no
//!   attribute, and ignores the ids when the token names none; here both refuse.
//! * A TD that is debuggable, or of which the token does not say that it is not, and a `Revoked`, unknown or absent TCB status never match, whatever the policy says.
//! * A migratable TD, a TD without SEPT_VE_DISABLE, and a token without TD attributes never match, unless `allow` (a list,
//!   inside `tdx.attributes`) names `migratable` or `no-sept-ve-disable`. Intel's service issues tokens for such TDs.
//! * `trust_anchor` (string or list, inside `tdx.attributes`) names the roots of evidence that are accepted. Absent, it is
//!   Intel's SGX root alone: evidence of a simulator needs the owner's consent, policy by policy.
//!
//! Where Intel's server can never match, it is kinder: hex compares without case, and `UpToDate` counts as well as `OK`.
//! `seamsvn` stays an equality, as Intel's code has it.

mod document;
mod evaluate;
mod lint;

pub use document::{DOCUMENT_BYTES_MAX, LIST_ENTRIES_MAX, Policy, PolicyError};
pub use evaluate::{Comparison, Permitted, PolicyDenial, evaluate, explain};
pub use keyferry_attestation_token::AuthenticToken;
pub use lint::Finding;
