//! The second opinion: `dcap-qvl` with AWS-LC as its cryptography, and a way past its two refusals that have no switch.
//!
//! The engine refuses MIGRATABLE TDs and TDs without SEPT_VE_DISABLE whatever it is told, and its refusal cannot be told
//! apart from a bad signature. Whether such a TD is acceptable is a decision of [`crate::Allowances`], and its reason is
//! owed to whoever asked, so a quote with unusual attributes is shown to the engine with ordinary ones. Only the eight
//! attribute bytes differ, and the quote signature is still checked over the bytes that were really signed: [`StandIn`]
//! swaps them back at the one place that matters. What the engine then reports about authenticity and TCB holds for the
//! real quote, because neither looks at the attributes.

use std::cell::RefCell;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use dcap_qvl::config::{Config, CryptoProvider};
use dcap_qvl::verify::QuoteVerifier;
use dcap_qvl::{QuoteClaims, QuotePolicy};
use keyferry_tdx_quote::layout::{BODY_DESCRIPTOR_BYTES, HEADER_BYTES, td_report};
use keyferry_tdx_quote::{Quote, TdAttributes};
use rustls_pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id};

use crate::{Collateral, TrustAnchor};

/// What the engine concluded, or nothing: its prose is not for branching.
pub(crate) fn verify(anchor: &TrustAnchor, quote: &Quote, collateral: &Collateral, now: u64) -> Option<QuoteClaims> {
    let verifier = QuoteVerifier::<AwsLc>::new_with_config(anchor.root_der().to_vec()).allow_service_td(true);
    let policy = QuotePolicy::claims_only(now);
    let shown = shown_to_the_engine(quote);
    let _stand_in = shown.as_ref().map(|shown| StandIn::install(shown, quote));
    let bytes = shown.as_deref().unwrap_or_else(|| quote.without_tail());
    verifier.verify_with_policy(bytes, collateral.for_engine(), now, &policy).ok()
}

/// The quote with ordinary attributes, if its own are not.
fn shown_to_the_engine(quote: &Quote) -> Option<Vec<u8>> {
    const SWITCHLESS: u64 = TdAttributes::SEPT_VE_DISABLE.with(TdAttributes::PERFMON).bits();
    let attributes = quote.body().td_attributes;
    let ordinary = TdAttributes::from_bits(attributes.bits() & SWITCHLESS).with(TdAttributes::SEPT_VE_DISABLE);
    let unusual = attributes.under_debug()
        || attributes.service_td_extension()
        || attributes.migratable()
        || !attributes.sept_ve_disable()
        || attributes.reserved() != 0;
    if !unusual {
        return None;
    }
    let descriptor = if quote.header().version == 4 { 0 } else { BODY_DESCRIPTOR_BYTES };
    let start = HEADER_BYTES + descriptor + td_report::TD_ATTRIBUTES;
    let mut shown = quote.without_tail().to_vec();
    shown.get_mut(start..start + 8)?.copy_from_slice(&ordinary.to_bytes());
    Some(shown)
}

thread_local! {
    /// The engine's cryptography has no `self`, so what it needs to know travels with the thread.
    static STAND_IN: RefCell<Option<(Vec<u8>, Vec<u8>)>> = const { RefCell::new(None) };
}

/// While it lives, a signature asked for over the shown bytes is checked over the signed bytes, on this thread only.
struct StandIn;

impl StandIn {
    fn install(shown: &[u8], quote: &Quote) -> Self {
        let signed = quote.signed_bytes().to_vec();
        let shown = shown.get(..signed.len()).unwrap_or_default().to_vec();
        STAND_IN.with_borrow_mut(|slot| *slot = Some((shown, signed)));
        Self
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        STAND_IN.with_borrow_mut(|slot| *slot = None);
    }
}

/// The engine's configuration: its own parsers, our cryptography.
struct AwsLc;

impl Config for AwsLc {
    type X509 = dcap_qvl::x509::X509CertBackend;
    type SigEncoder = dcap_qvl::signature::DerSigEncoder;
    type Crypto = Self;
}

impl CryptoProvider for AwsLc {
    fn sig_algo() -> &'static dyn SignatureVerificationAlgorithm {
        &EcdsaP256
    }
    fn sha256(data: &[u8]) -> [u8; 32] {
        digest_array(&digest::SHA256, data)
    }
    fn sha384(data: &[u8]) -> [u8; 48] {
        digest_array(&digest::SHA384, data)
    }
}

fn digest_array<const N: usize>(algorithm: &'static digest::Algorithm, data: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(digest::digest(algorithm, data).as_ref());
    array
}

/// ECDSA with P-256 and SHA-256 by AWS-LC.
#[derive(Debug)]
struct EcdsaP256;

impl SignatureVerificationAlgorithm for EcdsaP256 {
    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P256
    }
    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_SHA256
    }
    fn verify_signature(&self, public_key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, public_key);
        STAND_IN
            .with_borrow(|slot| match slot {
                Some((shown, signed)) if shown == message => key.verify(signed, signature),
                _ => key.verify(message, signature),
            })
            .map_err(|_| InvalidSignature)
    }
}
