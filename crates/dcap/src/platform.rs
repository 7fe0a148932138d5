//! The second cached level: a platform, its PCK certificate and its quoting enclave checked once per generation.

use aws_lc_rs::digest::{Context, SHA256};
use keyferry_tdx_quote::Quote;

use crate::cache::Key;
use crate::collateral::{Window, sha256};
use crate::generation::{Generation, Lives};
use crate::pck_extension::PckExtension;
use crate::pki::Details;
use crate::x509::verifies_raw;

/// A platform whose PCK certificate and quoting enclave are genuine under one generation of collateral. The attestation
/// key is not repeated here: it is part of the key under which this is found.
#[derive(Clone, Copy)]
pub(crate) struct Platform {
    pub(crate) pck: PckExtension,
    /// Of the PCK certificate.
    pub(crate) window: Window,
    /// Among [`Generation::enclaves`].
    pub(crate) enclave_level: u16,
    /// Among the issuers of the generation.
    pub(crate) issuer: u8,
}

/// A platform seen for the first time.
pub(crate) struct FirstSight {
    /// Its issuer's number is nothing unless the platform may be remembered.
    pub(crate) platform: Platform,
    pub(crate) may_be_remembered: bool,
    /// Of collateral and issuer.
    pub(crate) lives: Lives,
}

/// Everything that vouches for the attestation key of a quote, and that key, under one generation. The intermediate
/// certificate is compared instead: nearly all platforms have the same.
pub(crate) fn key(generation: &Generation, quote: &Quote) -> Key {
    let (signature, leaf) = (quote.signature(), quote.certification().leaf());
    let mut context = Context::new(&SHA256);
    for fixed in [
        &generation.key[..],
        signature.qe_report.bytes(),
        &signature.qe_report_signature,
        &signature.qe_authentication_data,
        &signature.attestation_key,
        // The one part without a fixed length is the last.
        leaf,
    ] {
        context.update(fixed);
    }
    let mut key = [0; 32];
    key.copy_from_slice(context.finish().as_ref());
    key
}

impl Platform {
    /// Checks chain, QE report and binding of the attestation key at `now`. Two ECDSA verifications under a known issuer.
    pub(crate) fn first_sight(generation: &Generation, quote: &Quote, now: u64) -> Option<FirstSight> {
        let (signature, certification) = (quote.signature(), quote.certification());
        let details = Details::of(certification.leaf())?;
        let pck = PckExtension::parse(details.sgx_extension.as_deref()?)?;
        let enclave_level = generation.enclaves.matched(&signature.qe_report)?;
        let bound = sha256(&[&signature.attestation_key[..], &signature.qe_authentication_data[..]].concat());
        if (pck.fmspc, pck.pce_id) != (generation.fmspc, generation.pce_id)
            || signature.qe_report.report_data().get(..32) != Some(&bound[..])
        {
            return None;
        }
        let (lives, issuer) = generation.check_pck(certification.leaf(), &details, certification.intermediate(), now)?;
        if !verifies_raw(&details.point, signature.qe_report.bytes(), &signature.qe_report_signature) {
            return None;
        }
        let platform = Self { pck, window: details.window, enclave_level, issuer: issuer.unwrap_or_default() };
        Some(FirstSight { platform, may_be_remembered: issuer.is_some(), lives })
    }
}
