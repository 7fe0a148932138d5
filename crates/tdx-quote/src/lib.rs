//! Intel TDX quotes as bytes: their layout, the measurements inside, and the report-data formula.
//!
//! [`Quote::parse`] reads hostile bytes and either returns every field of a version 4 or 5 TDX quote or says which
//! field is wrong and where. It is strict on purpose: every declared size ends where its content ends, and only a tail of
//! zero bytes, which some hosts append, may follow. What still varies without a change of meaning (the tail, line breaks
//! of the PEM text, the second form of an ECDSA signature) lies outside [`Quote::digest`], the one identity of a quote.
//! SGX quotes, unknown body types and certification data other than a PEM chain in the quote are recognised and refused
//! by name.
//!
//! This crate knows nothing of signatures, certificates or policy: a parsed quote is *not* a verified one. That is
//! `dcap`'s work, so that the parser can be fuzzed alone and shared by the simulator, the attester and the command line.
//!
//! ```
//! # fn main() -> Result<(), keyferry_tdx_quote::QuoteError> {
//! # let bytes = include_bytes!("../../dcap/testdata/tdx/v4-uptodate/quote.bin");
//! let quote = keyferry_tdx_quote::Quote::parse(bytes)?;
//! assert_eq!(quote.header().version, 4);
//! assert!(quote.body().td_attributes.sept_ve_disable());
//! assert_eq!(quote.signed_bytes().len(), 632);
//! # Ok(())
//! # }
//! ```

mod attributes;
mod body;
mod certification;
mod error;
pub mod layout;
mod quote;
mod reader;
mod report_data;

pub use attributes::{TdAttributes, Xfam};
pub use body::{BodyType, QeReport, TdReportBody, TdReportExtension};
pub use certification::Certification;
pub use error::QuoteError;
pub use quote::{Header, Quote, Signature};
pub use report_data::report_data;
