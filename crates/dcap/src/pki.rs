//! Certificates and revocation lists as the cached verification needs them: path rules by webpki, ECDSA on P-256 with
//! SHA-256 and nothing else.

use std::collections::HashSet;
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use webpki::{BorrowedCertRevocationList, EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::prelude::{AlgorithmIdentifier, CertificateRevocationList, FromDer, X509Certificate};

use crate::collateral::Window;
use crate::pck_extension;

const ALGORITHM: &dyn SignatureVerificationAlgorithm = webpki::aws_lc_rs::ECDSA_P256_SHA256;
/// SubjectPublicKeyInfo of an uncompressed P-256 point, up to its coordinates.
const P256_KEY: [u8; 27] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01,
    0x07, 0x03, 0x42, 0x00, 0x04,
];
/// 1.2.840.10045.4.3.2.
const ECDSA_WITH_SHA256: [u8; 8] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];

/// A P-256 point: 4, x, y.
pub(crate) type Point = [u8; 65];

/// Checks `der` as an end certificate that `issuer` signed, at `now` (Unix seconds): signature, validity, basic constraints,
/// name constraints, critical extensions. The issuer itself is taken as good.
pub(crate) fn check_issued(der: &[u8], issuer: &[u8], now: u64) -> Option<()> {
    check_path(der, issuer, &[], now)
}

/// The same over `intermediate`, whose every property is checked too.
pub(crate) fn check_issued_through(der: &[u8], intermediate: &[u8], root: &[u8], now: u64) -> Option<()> {
    check_path(der, root, &[CertificateDer::from(intermediate)], now)
}

fn check_path(der: &[u8], anchor: &[u8], intermediates: &[CertificateDer<'_>], now: u64) -> Option<()> {
    let (der, anchor) = (CertificateDer::from(der), CertificateDer::from(anchor));
    let certificate = EndEntityCert::try_from(&der).ok()?;
    let anchors = [anchor_from_trusted_cert(&anchor).ok()?];
    let time = UnixTime::since_unix_epoch(Duration::from_secs(now));
    let path = certificate.verify_for_usage(&[ALGORITHM], &anchors, intermediates, time, KeyUsage::server_auth(), None, None).ok()?;
    (path.intermediate_certificates().count() == intermediates.len()).then_some(())
}

/// What is asked of a certificate besides its path.
pub(crate) struct Details {
    pub(crate) serial: Vec<u8>,
    pub(crate) issuer: Vec<u8>,
    pub(crate) subject: Vec<u8>,
    pub(crate) point: Point,
    /// Both seconds included.
    pub(crate) window: Window,
    /// Whether it may sign revocation lists.
    pub(crate) signs_lists: bool,
    /// The value of Intel's extension, if it has exactly one.
    pub(crate) sgx_extension: Option<Vec<u8>>,
}

impl Details {
    pub(crate) fn of(der: &[u8]) -> Option<Self> {
        let certificate = CertificateDer::from(der);
        let certificate = EndEntityCert::try_from(&certificate).ok()?;
        let Ok(([], parsed)) = X509Certificate::from_der(der) else { return None };
        let validity = parsed.validity();
        let mut sgx = parsed.extensions().iter().filter(|extension| extension.oid.as_bytes() == pck_extension::OID);
        let sgx_extension = match (sgx.next(), sgx.next()) {
            (Some(extension), None) => Some(extension.value.to_vec()),
            _ => None,
        };
        Some(Self {
            serial: certificate.serial().to_vec(),
            issuer: certificate.issuer().to_vec(),
            subject: certificate.subject().to_vec(),
            point: point(&certificate.subject_public_key_info())?,
            window: Window { from: seconds(validity.not_before.timestamp())?, until: seconds(validity.not_after.timestamp())? },
            signs_lists: parsed.key_usage().ok()?.is_none_or(|usage| usage.value.crl_sign()),
            sgx_extension,
        })
    }
}

fn point(key: &[u8]) -> Option<Point> {
    let coordinates: &[u8; 64] = key.strip_prefix(&P256_KEY)?.try_into().ok()?;
    let mut point = [4; 65];
    point[1..].copy_from_slice(coordinates);
    Some(point)
}

fn seconds(timestamp: i64) -> Option<u64> {
    u64::try_from(timestamp).ok()
}

/// A revocation list whose signature was checked.
#[derive(Debug)]
pub(crate) struct SerialNumbers {
    revoked: HashSet<Vec<u8>>,
    /// First second, and the last one before the next update.
    pub(crate) window: Window,
    /// The second of the next update.
    pub(crate) next_update: u64,
}

impl SerialNumbers {
    /// A list that covers everything its issuer ever issued, by the issuer with this name and key.
    pub(crate) fn of(der: &[u8], issuer: &Details) -> Option<Self> {
        let list = BorrowedCertRevocationList::from_der(der).ok()?;
        let revoked = list.into_iter().map(|entry| entry.map(|entry| entry.serial_number.to_vec())).collect::<Result<_, _>>().ok()?;
        let list = webpki::CertRevocationList::from(list);
        let Ok(([], parsed)) = CertificateRevocationList::from_der(der) else { return None };
        let signed = list.issuer() == issuer.subject
            && list.issuing_distribution_point().is_none()
            && issuer.signs_lists
            && is_ecdsa_with_sha256(&parsed.signature_algorithm)
            && UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &issuer.point)
                .verify(parsed.tbs_cert_list.as_ref(), &parsed.signature_value.data)
                .is_ok();
        let next_update = seconds(parsed.next_update()?.timestamp())?;
        let window = Window { from: seconds(parsed.last_update().timestamp())?, until: next_update.checked_sub(1)? };
        signed.then_some(Self { revoked, window, next_update })
    }

    pub(crate) fn list(&self, certificate: &Details) -> bool {
        self.revoked.contains(&certificate.serial)
    }
}

/// webpki made sure that the list says the same inside and outside of what is signed.
fn is_ecdsa_with_sha256(algorithm: &AlgorithmIdentifier<'_>) -> bool {
    algorithm.algorithm.as_bytes() == ECDSA_WITH_SHA256 && algorithm.parameters.is_none()
}
