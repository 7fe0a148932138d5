//! Just enough X.509 to explain a refusal: who signed what, when it is valid, what is revoked.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

/// A certificate, parsed.
pub(crate) struct Certificate<'a> {
    parsed: X509Certificate<'a>,
}

/// A certificate revocation list, parsed.
pub(crate) struct RevocationList<'a> {
    parsed: CertificateRevocationList<'a>,
}

impl<'a> Certificate<'a> {
    /// `None` unless the bytes are exactly one certificate.
    pub(crate) fn parse(der: &'a [u8]) -> Option<Self> {
        match X509Certificate::from_der(der) {
            Ok(([], parsed)) => Some(Self { parsed }),
            _ => None,
        }
    }
    pub(crate) fn is_signed_by(&self, issuer: &Certificate<'_>) -> bool {
        self.parsed.issuer().as_raw() == issuer.parsed.subject().as_raw()
            && issuer.verifies_asn1(self.parsed.tbs_certificate.as_ref(), &self.parsed.signature_value.data)
    }
    /// Whether `signature` (DER) over `message` is by this certificate's key.
    fn verifies_asn1(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, self.public_key()).verify(message, signature).is_ok()
    }
    /// Whether `signature` (r and s) over `message` is by this certificate's key.
    pub(crate) fn verifies_raw(&self, message: &[u8], signature: &[u8]) -> bool {
        verifies_raw(self.public_key(), message, signature)
    }
    fn public_key(&self) -> &[u8] {
        &self.parsed.public_key().subject_public_key.data
    }
    /// First and last second of validity, both included.
    pub(crate) fn validity(&self) -> (u64, u64) {
        let validity = self.parsed.validity();
        (seconds(validity.not_before.timestamp()), seconds(validity.not_after.timestamp()))
    }
    /// Of the subject.
    pub(crate) fn common_name(&self) -> Option<&str> {
        self.parsed.subject().iter_common_name().next()?.as_str().ok()
    }
    pub(crate) fn issuer(&self) -> &[u8] {
        self.parsed.issuer().as_raw()
    }
}

impl<'a> RevocationList<'a> {
    /// `None` unless the bytes are exactly one list.
    pub(crate) fn parse(der: &'a [u8]) -> Option<Self> {
        match CertificateRevocationList::from_der(der) {
            Ok(([], parsed)) => Some(Self { parsed }),
            _ => None,
        }
    }
    pub(crate) fn is_signed_by(&self, issuer: &Certificate<'_>) -> bool {
        self.parsed.issuer().as_raw() == issuer.parsed.subject().as_raw()
            && issuer.verifies_asn1(self.parsed.tbs_cert_list.as_ref(), &self.parsed.signature_value.data)
    }
    pub(crate) fn lists(&self, certificate: &Certificate<'_>) -> bool {
        let serial = &certificate.parsed.tbs_certificate.serial;
        self.parsed.issuer().as_raw() == certificate.issuer()
            && self.parsed.iter_revoked_certificates().any(|revoked| revoked.serial() == serial)
    }
    /// Issue second, and the second of the next update, at which the list has already expired.
    pub(crate) fn validity(&self) -> (u64, u64) {
        let next_update = self.parsed.next_update().map_or(0, |time| seconds(time.timestamp()));
        (seconds(self.parsed.last_update().timestamp()), next_update)
    }
}

/// Whether `signature` (r and s) over `message` is by the P-256 `public_key` (uncompressed point).
pub(crate) fn verifies_raw(public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, public_key).verify(message, signature).is_ok()
}

/// Before 1970 is as good as 1970: every comparison with a present time comes out the same.
fn seconds(timestamp: i64) -> u64 {
    u64::try_from(timestamp).unwrap_or(0)
}
