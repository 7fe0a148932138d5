//! A quote's signature chain and collateral: a [`VerifiedQuote`], or why not.
//!
//! [`Verifier::verify`] answers one question: was this quote made by a genuine platform under the pinned root, and how
//! current is that platform? A verification is nine ECDSA checks, of which six concern the collateral alone and two the
//! platform alone, so those are made once and what they showed is remembered: collateral by all its bytes, a platform by
//! everything that vouches for its attestation key. What a known platform signs under known collateral costs one check.
//! Times are never remembered, only compared: with `now`, on every quote. The second opinion is `dcap-qvl`, which
//! remembers nothing: the tests hold both against each other over every rule, every mutation and every state of the cache.
//!
//! Beyond what Intel's and other libraries check:
//!
//! * the root inside the quote and inside the collateral must be the pinned one, byte for byte;
//! * the PCK chain is taken from the quote only: one in the collateral may repeat it and decides nothing;
//! * PCEID must match, not only FMSPC;
//! * TCB info and QE identity must carry the same evaluation number, and never a lower one than already seen for that
//!   FMSPC ([`EvaluationMemory`]): signed but old collateral would hide a TCB recovery;
//! * of the launch TCB and the current TCB of a TD 1.5, the worse counts;
//! * nothing is accepted before its time: CRL issue dates are checked too;
//! * debug, profiling, service TD, migration, missing SEPT_VE_DISABLE and reserved bits are refused by name, unless
//!   [`Allowances`] permit them (reserved bits never).
//!
//! Layout checks (zero tail, outer certification type, exact sizes) are the parser's, in `tdx-quote`.
//!
//! A refused quote is walked through once more, stage by stage and without the cache, until the first stage that fails:
//! that is its [`DcapDenial`]. The walk can only explain a refusal, never turn it into an acceptance, and nothing of a
//! refused platform is remembered.
//!
//! This crate knows nothing of policy, reference values or nonces (that is `appraisal`), of clocks (time is an argument)
//! and of networks (collateral is an argument).

mod allowances;
mod authenticated;
mod cache;
mod cached;
mod collateral;
mod denial;
mod diagnosis;
mod engine;
mod evaluation;
mod family;
mod generation;
mod levels;
mod oracle;
mod pck_extension;
mod pki;
mod platform;
mod tcb;
mod trust_anchor;
mod verified;
mod verifier;
mod x509;

pub use allowances::{Allowances, AttributeDenial};
pub use authenticated::Authenticated;
pub use collateral::{Collateral, CollateralError};
pub use denial::{CollateralPart, DcapDenial, SignedPart};
pub use evaluation::EvaluationMemory;
pub use family::{CertifiedFamily, certified_family};
pub use tcb::{TcbStatus, UnknownTcbStatus};
pub use trust_anchor::{TrustAnchor, TrustAnchorError};
pub use verified::{CollateralDigests, PckIdentity, VerifiedQuote};
pub use verifier::{Verifier, claimed_fmspc};
