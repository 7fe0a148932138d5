//! Collateral, and where it comes from: Intel's Provisioning Certification Service, a PCCS of one's own, or a bundle that
//! somebody carried to where there is no network.
//!
//! Nothing here is believed because of where it came from. What a service or a file says is a [`Document`]; only
//! [`Document::verify`] makes a [`VerifiedDocument`] of it, item by item under the pinned root and at a time that the
//! caller gives. TLS and pinned servers keep nosy networks out and decide nothing.
//!
//! The only addresses that are ever contacted are those of [`Settings`]. Certificates, CRLs and answers name addresses
//! too (distribution points, redirects); none of them is followed. What a caller chooses per request is six bytes of
//! FMSPC and one of two CAs.
//!
//! Texts that Intel signed are kept as they were received, byte for byte: a re-serialised copy would not verify.
//!
//! This crate has no clock and keeps nothing: no cache, no refresh. It waits (between repetitions, for answers), and it
//! reads no files but the roots of [`Settings`].

mod bundle;
mod client;
mod document;
mod encoding;
mod error;
mod family;
mod http_client;

pub use bundle::{Bundle, BundleError, Entry};
pub use client::{CollateralClient, INTEL_CERTIFICATES_URL, INTEL_PCS_URL, NoCollateral, Settings, Source};
pub use document::{Document, DocumentError, Item, ItemKind, Refused, VerifiedDocument};
pub use error::FetchError;
pub use family::{Ca, Family, Update};
