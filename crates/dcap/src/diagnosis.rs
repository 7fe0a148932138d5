//! Why a quote was refused: the same chain, walked stage by stage until the first that fails.
//!
//! Signatures come before dates and dates before contents, so that an altered byte is called an altered byte and not what
//! it would have meant. Nothing here can accept a quote: the result is a reason, or no explanation.

use dcap_qvl::{TcbLevel, TcbStatus};
use keyferry_tdx_quote::Quote;

use crate::denial::{CollateralPart, SignedPart};
use crate::x509::{Certificate, RevocationList, verifies_raw};
use crate::{Collateral, DcapDenial, TrustAnchor};

type Stage = Result<(), DcapDenial>;

/// When collateral is looked at: how long after its end it still counts. Certificates have no grace.
#[derive(Clone, Copy)]
pub(crate) struct Moment {
    /// Unix seconds.
    pub(crate) now: u64,
    /// Seconds.
    pub(crate) grace: u64,
}

/// The first stage that fails, if any does.
pub(crate) fn diagnose(anchor: &TrustAnchor, quote: &Quote, collateral: &Collateral, moment: Moment) -> Option<DcapDenial> {
    walk(anchor, quote, collateral, moment).err()
}

fn walk(anchor: &TrustAnchor, quote: &Quote, collateral: &Collateral, moment: Moment) -> Stage {
    let root = Certificate::parse(anchor.root_der()).ok_or(DcapDenial::Unexplained)?;
    let root_crl = revocation_list(CollateralPart::RootCrl, &collateral.for_engine().root_ca_crl, &root, moment)?;
    check_signed_documents(collateral, &root, &root_crl, moment)?;
    let chain = PckChain::check(quote, collateral, &root, &root_crl, moment)?;
    check_quote_signatures(quote, &chain.leaf)?;
    check_kinds(collateral)?;
    let pck = pck_extension(quote)?;
    check_platform_family(&pck.fmspc, &pck.pce_id, collateral)?;
    check_qe_identity(quote, collateral)?;
    check_tdx_module(quote, collateral)?;
    check_tcb(quote, collateral)
}

pub(crate) fn revocation_list<'a>(
    part: CollateralPart,
    der: &'a [u8],
    issuer: &Certificate<'_>,
    moment: Moment,
) -> Result<RevocationList<'a>, DcapDenial> {
    let list = RevocationList::parse(der).ok_or(DcapDenial::CollateralMalformed { part, detail: "not a DER revocation list" })?;
    if !list.is_signed_by(issuer) {
        return Err(DcapDenial::CollateralSignatureInvalid(part));
    }
    let (from, next_update) = list.validity();
    check_item(part, from, next_update.saturating_sub(1), moment)?;
    Ok(list)
}

/// An item of collateral, which the grace prolongs.
fn check_item(part: CollateralPart, from: u64, until: u64, moment: Moment) -> Stage {
    if moment.now <= until.saturating_add(moment.grace) && moment.now > until {
        Ok(())
    } else {
        check_window(part, from, until, moment.now)
    }
}

fn check_window(part: CollateralPart, from: u64, until: u64, now: u64) -> Stage {
    if now < from {
        return Err(DcapDenial::CollateralNotYetValid { part, valid_from: from });
    }
    if now > until {
        return Err(DcapDenial::CollateralExpired { part, expires_at: until });
    }
    Ok(())
}

pub(crate) fn check_signed_documents(
    collateral: &Collateral,
    root: &Certificate<'_>,
    root_crl: &RevocationList<'_>,
    moment: Moment,
) -> Stage {
    let parts = collateral.for_engine();
    let documents = [
        (
            CollateralPart::TcbInfoSigner,
            collateral.tcb_info_chain(),
            CollateralPart::TcbInfo,
            parts.tcb_info.as_bytes(),
            &parts.tcb_info_signature,
            collateral.tcb_info_window(),
        ),
        (
            CollateralPart::QeIdentitySigner,
            collateral.qe_identity_chain(),
            CollateralPart::QeIdentity,
            parts.qe_identity.as_bytes(),
            &parts.qe_identity_signature,
            collateral.qe_identity_window(),
        ),
    ];
    for (signer_part, chain, part, text, signature, window) in documents {
        let signer_der = chain.first().map(Vec::as_slice).unwrap_or_default();
        let signer =
            Certificate::parse(signer_der).ok_or(DcapDenial::CollateralMalformed { part: signer_part, detail: "not a DER certificate" })?;
        if !signer.is_signed_by(root) {
            return Err(DcapDenial::CollateralSignatureInvalid(signer_part));
        }
        let (from, until) = signer.validity();
        check_window(signer_part, from, until, moment.now)?;
        if root_crl.lists(&signer) {
            return Err(DcapDenial::CertificateRevoked("the certificate that signs the collateral"));
        }
        if !signer.verifies_raw(text, signature) {
            return Err(DcapDenial::CollateralSignatureInvalid(part));
        }
        check_item(part, window.from, window.until, moment)?;
    }
    Ok(())
}

struct PckChain<'a> {
    leaf: Certificate<'a>,
}

impl<'a> PckChain<'a> {
    fn check(
        quote: &'a Quote,
        collateral: &Collateral,
        root: &Certificate<'_>,
        root_crl: &RevocationList<'_>,
        moment: Moment,
    ) -> Result<Self, DcapDenial> {
        let certification = quote.certification();
        let issuer = Certificate::parse(certification.intermediate()).ok_or(DcapDenial::SignatureInvalid(SignedPart::PckIssuer))?;
        if !issuer.is_signed_by(root) {
            return Err(DcapDenial::SignatureInvalid(SignedPart::PckIssuer));
        }
        if root_crl.lists(&issuer) {
            return Err(DcapDenial::CertificateRevoked("the PCK certificate's issuer"));
        }
        let pck_crl = revocation_list(CollateralPart::PckCrl, &collateral.for_engine().pck_crl, &issuer, moment)?;
        let leaf = Certificate::parse(certification.leaf()).ok_or(DcapDenial::SignatureInvalid(SignedPart::PckCertificate))?;
        if !leaf.is_signed_by(&issuer) {
            return Err(DcapDenial::SignatureInvalid(SignedPart::PckCertificate));
        }
        for certificate in [&issuer, &leaf] {
            let (from, until) = certificate.validity();
            check_window(CollateralPart::PckChain, from, until, moment.now)?;
        }
        if pck_crl.lists(&leaf) {
            return Err(DcapDenial::CertificateRevoked("the PCK certificate"));
        }
        Ok(Self { leaf })
    }
}

fn check_quote_signatures(quote: &Quote, pck: &Certificate<'_>) -> Stage {
    let signature = quote.signature();
    if !pck.verifies_raw(signature.qe_report.bytes(), &signature.qe_report_signature) {
        return Err(DcapDenial::SignatureInvalid(SignedPart::QeReport));
    }
    let bound = crate::collateral::sha256(&[&signature.attestation_key[..], &signature.qe_authentication_data[..]].concat());
    if signature.qe_report.report_data().get(..32) != Some(&bound[..]) {
        return Err(DcapDenial::SignatureInvalid(SignedPart::QeBinding));
    }
    let point = [&[4], &signature.attestation_key[..]].concat();
    if !verifies_raw(&point, quote.signed_bytes(), &signature.quote) {
        return Err(DcapDenial::SignatureInvalid(SignedPart::Quote));
    }
    Ok(())
}

fn mismatch(field: &'static str, wanted: impl Into<String>, got: impl Into<String>) -> DcapDenial {
    DcapDenial::CollateralMismatch { field, wanted: wanted.into(), got: got.into() }
}

pub(crate) fn check_kinds(collateral: &Collateral) -> Stage {
    let (tcb_info, qe_identity) = (collateral.tcb_info(), collateral.qe_identity());
    if tcb_info.id != "TDX" || tcb_info.version < 3 {
        return Err(mismatch("TEE", format!("{} version {}", tcb_info.id, tcb_info.version), "TDX version 3"));
    }
    if qe_identity.id != "TD_QE" || !matches!(qe_identity.version, 2 | 3) {
        return Err(mismatch("enclave", format!("{} version {}", qe_identity.id, qe_identity.version), "TD_QE version 2"));
    }
    Ok(())
}

/// FMSPC and PCEID of the PCK certificate against the TCB info.
pub(crate) fn check_platform_family(fmspc: &[u8], pce_id: &[u8], collateral: &Collateral) -> Stage {
    for (field, got, wanted) in [("FMSPC", fmspc, &collateral.tcb_info().fmspc), ("PCEID", pce_id, &collateral.tcb_info().pce_id)] {
        let got = hex::encode(got);
        if !got.eq_ignore_ascii_case(wanted) {
            return Err(mismatch(field, wanted.as_str(), got));
        }
    }
    Ok(())
}

fn pck_extension(quote: &Quote) -> Result<dcap_qvl::intel::PckExtension, DcapDenial> {
    dcap_qvl::intel::parse_pck_extension(quote.certification().leaf()).map_err(|_| DcapDenial::SignatureInvalid(SignedPart::PckCertificate))
}

fn check_qe_identity(quote: &Quote, collateral: &Collateral) -> Stage {
    let (report, identity) = (&quote.signature().qe_report, collateral.qe_identity());
    if report.mr_signer() != identity.mrsigner {
        return Err(mismatch("QE MRSIGNER", hex::encode(identity.mrsigner), hex::encode(report.mr_signer())));
    }
    if report.isv_prod_id() != identity.isvprodid {
        return Err(mismatch("QE ISVPRODID", identity.isvprodid.to_string(), report.isv_prod_id().to_string()));
    }
    let attributes = masked(&report.attributes(), &identity.attributes_mask);
    if report.debug() || attributes != masked(&identity.attributes, &identity.attributes_mask) {
        return Err(mismatch("QE ATTRIBUTES", hex::encode(identity.attributes), hex::encode(report.attributes())));
    }
    let misc_select = masked(&report.misc_select(), &identity.miscselect_mask);
    if misc_select != masked(&identity.miscselect, &identity.miscselect_mask) {
        return Err(mismatch("QE MISCSELECT", hex::encode(identity.miscselect), hex::encode(report.misc_select())));
    }
    match identity.tcb_levels.iter().find(|level| level.tcb.isvsvn <= report.isv_svn()) {
        None => Err(DcapDenial::TcbUnknown("quoting enclave")),
        Some(level) if level.tcb_status == TcbStatus::Revoked => revoked(&level.advisory_ids),
        Some(_) => Ok(()),
    }
}

fn masked<const N: usize>(value: &[u8; N], mask: &[u8; N]) -> [u8; N] {
    std::array::from_fn(|index| value[index] & mask[index])
}

fn revoked(advisory_ids: &[String]) -> Stage {
    Err(DcapDenial::TcbRevoked { advisory_ids: advisory_ids.to_vec() })
}

/// Signer and attributes of the TDX module that launched the TD.
fn check_tdx_module(quote: &Quote, collateral: &Collateral) -> Stage {
    let body = quote.body();
    let Ok(identity) = collateral.tcb_info().tdx_module_identity(&body.tee_tcb_svn) else {
        return Err(DcapDenial::TcbUnknown("TDX module version"));
    };
    let expected = match (identity, &collateral.tcb_info().tdx_module) {
        (Some(identity), Some(_)) => &identity.mrsigner,
        (None, Some(module)) => &module.mrsigner,
        (_, None) => {
            return Err(DcapDenial::CollateralMalformed { part: CollateralPart::TcbInfo, detail: "tdxModule is missing" });
        }
    };
    let signer = hex::encode(body.mr_signer_seam);
    if !signer.eq_ignore_ascii_case(expected) {
        return Err(mismatch("MRSIGNERSEAM", expected.as_str(), signer));
    }
    if body.seam_attributes != [0; 8] {
        return Err(crate::AttributeDenial::SeamAttributes.into());
    }
    Ok(())
}

/// TCB and module levels of the launch SVNs, and of the current ones where the body has them.
fn check_tcb(quote: &Quote, collateral: &Collateral) -> Stage {
    let pck = pck_extension(quote)?;
    let body = quote.body();
    for svn in [Some(body.tee_tcb_svn), body.tee_tcb_svn2].into_iter().flatten() {
        match best_level(collateral, &pck.cpu_svn, pck.pce_svn, &svn) {
            None => return Err(DcapDenial::TcbUnknown("platform's SVNs")),
            Some(level) if level.tcb_status == TcbStatus::Revoked => return revoked(&level.advisory_ids),
            Some(_) => {}
        }
        let Ok(identity) = collateral.tcb_info().tdx_module_identity(&svn) else {
            return Err(DcapDenial::TcbUnknown("TDX module version"));
        };
        let Some(identity) = identity else { continue };
        match identity.tcb_levels.iter().find(|level| level.shortfall(&svn).is_none()) {
            None => return Err(DcapDenial::TcbUnknown("TDX module's SVN")),
            Some(level) if level.tcb_status == TcbStatus::Revoked => return revoked(&level.advisory_ids),
            Some(_) => {}
        }
    }
    Ok(())
}

/// The first level that the platform meets, from the highest down, whatever the order of the document.
fn best_level<'a>(collateral: &'a Collateral, cpu_svn: &[u8; 16], pce_svn: u16, tee_svn: &[u8; 16]) -> Option<&'a TcbLevel> {
    let mut levels: Vec<&TcbLevel> = collateral.tcb_info().tcb_levels.iter().collect();
    levels.sort_by(|a, b| {
        let key = |level: &TcbLevel| (level.tcb.sgx_components.clone(), level.tcb.pce_svn, level.tcb.tdx_components.clone());
        key(b).cmp(&key(a))
    });
    levels.into_iter().find(|level| level.shortfalls(cpu_svn, pce_svn, Some(tee_svn)).is_ok_and(|short| short.is_empty()))
}
