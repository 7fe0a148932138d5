//! The relying party: releases keys to TDs that a trusted verifier vouches for, wrapped so that only they can open them.
//!
//! Read on in this order: [`Config`]; [`release`], the decision, a chain of types in which each step accepts only what the
//! step before made (`AuthenticToken -> Permitted -> Fetched -> Wrapped -> Releasable`); [`surface`], where gRPC meets it;
//! [`refusal`], the one place that knows what a refusal looks like from outside.
//!
//! * No audit, no release: the answer is built from a value that exists only after the audit stream acknowledged.
//! * Fail closed: an unreachable KMS, key set, policy store or audit stream is a refusal with a reason.
//! * The caller sees a code and advice; an administrator and the audit see wanted and got, claim by claim.
//!
//! It knows nothing of quotes: evidence goes to a verifier and comes back as a token. It keeps no secret of its own but
//! the store key, under which its records are sealed on a bus that is not trusted.

mod administration;
mod audit;
mod body_budget;
mod broker;
mod budget;
mod case;
mod config;
mod connections;
mod events;
mod fetched;
mod fleet;
pub mod issuers;
pub mod pinned_root;
mod records;
pub mod refusal;
pub mod release;
pub mod rest;
pub mod self_signed;
mod serve;
pub mod surface;
pub mod users;

pub use config::{AdminConfig, Config, IssuerConfig, TraceContext, UsersConfig, VerifierConfig};
pub use refusal::Denial;
pub use serve::serve;
