//! Root, signing CA, leaf, and the revocation lists of the two authorities.
//!
//! The shape is what Intel's clients demand: they sort the three certificates by words in their common names, check every
//! link as RSA PKCS#1 v1.5, and fetch a DER list from the first distribution point of CA and leaf. The root's key signs
//! the CA and one list and is dropped: nobody can make a second CA under a root that relying parties pinned. The CA's key
//! is kept, because its list has to be renewed and new signing keys certified.

use std::time::Duration;

use keyferry_attestation_token::{Algorithm, SigningKey};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, CrlDistributionPoint, DistinguishedName, DnType,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA512, RsaKeySize, SerialNumber,
    SignatureAlgorithm, SubjectPublicKeyInfo,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};
use zeroize::Zeroizing;

use crate::CRL_NAMES;

/// The chain outlives any plausible deployment of one key directory.
const VALIDITY: Duration = Duration::from_hours(24 * 3650);
/// Certificates and lists begin to be valid this long before they are made: clocks of relying parties differ.
const BACKDATE: Duration = Duration::from_mins(5);
/// How long a list of the signing CA is good. It is renewed at half of it.
const CRL_LIFETIME: Duration = Duration::from_hours(24 * 30);

/// The two authorities of a new directory, and the root's one list.
pub(crate) struct Authorities {
    pub(crate) root: Certificate,
    pub(crate) ca: Certificate,
    pub(crate) root_crl: Vec<u8>,
    pub(crate) signing: Authority,
}

impl Authorities {
    /// Blocks: for RSA, two keys are generated.
    pub(crate) fn make(algorithm: Algorithm, crl_base_url: Option<&str>, now: u64) -> Result<Self, rcgen::Error> {
        let root_params = authority_params("Keyferry Token Broker Root CA", 1, now)?;
        let root_key = generate(algorithm)?;
        let root = root_params.self_signed(&root_key)?;
        let root_issuer = Issuer::new(root_params, root_key);
        let mut ca_params = authority_params("Keyferry Token Broker Signing CA", 0, now)?;
        ca_params.crl_distribution_points = distribution_point(crl_base_url, CRL_NAMES[0]);
        let ca_key = generate(algorithm)?;
        let ca = ca_params.signed_by(&ca_key, &root_issuer)?;
        // Good as long as the root: nobody has its key to sign another one.
        let root_crl = revocation_list(&root_issuer, now, VALIDITY)?;
        Ok(Self { root, ca, root_crl, signing: Authority { issuer: Issuer::new(ca_params, ca_key) } })
    }
}

/// The signing CA with its key.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// From its certificate and PKCS#8 key.
    pub(crate) fn load(certificate: &[u8], key: &[u8]) -> Result<Self, rcgen::Error> {
        let rsa = X509Certificate::from_der(certificate).is_ok_and(|(_, certificate)| {
            certificate.public_key().algorithm.algorithm == x509_parser::oid_registry::OID_PKCS1_RSAENCRYPTION
        });
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(key), signature_algorithm(rsa))?;
        Ok(Self { issuer: Issuer::from_ca_cert_der(&CertificateDer::from(certificate), key)? })
    }

    /// Its private key, PKCS#8.
    pub(crate) fn to_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.issuer.key().serialize_der())
    }

    /// A certificate for a token signing key: digital signatures, no extended usage.
    pub(crate) fn certify(&self, key: &SigningKey, crl_base_url: Option<&str>, now: u64) -> Result<Certificate, rcgen::Error> {
        let mut params = params("Keyferry Attestation Token Signing", now)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.crl_distribution_points = distribution_point(crl_base_url, CRL_NAMES[1]);
        params.signed_by(&SubjectPublicKeyInfo::from_der(key.public_key_der())?, &self.issuer)
    }

    /// A list without entries, DER: a key that must not be believed any more takes its directory's root with it.
    pub(crate) fn revocation_list(&self, now: u64) -> Result<Vec<u8>, rcgen::Error> {
        revocation_list(&self.issuer, now, CRL_LIFETIME)
    }
}

/// Whether a list has lived half of its life, or is none.
pub(crate) fn is_due(crl: &[u8], now: u64) -> bool {
    let Ok((_, list)) = CertificateRevocationList::from_der(crl) else { return true };
    let Some(next) = list.next_update() else { return true };
    let (from, until) = (list.last_update().timestamp(), next.timestamp());
    i64::try_from(now).unwrap_or(i64::MAX) >= from.midpoint(until)
}

fn signature_algorithm(rsa: bool) -> &'static SignatureAlgorithm {
    if rsa { &PKCS_RSA_SHA512 } else { &PKCS_ECDSA_P384_SHA384 }
}

/// RSA all the way up where tokens are signed with RSA: Intel's Python client checks every link as RSA PKCS#1.
fn generate(algorithm: Algorithm) -> Result<KeyPair, rcgen::Error> {
    if algorithm.is_rsa() {
        KeyPair::generate_rsa_for(&PKCS_RSA_SHA512, RsaKeySize::_3072)
    } else {
        KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384)
    }
}

fn revocation_list(issuer: &Issuer<'_, KeyPair>, now: u64, lifetime: Duration) -> Result<Vec<u8>, rcgen::Error> {
    let made = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(now);
    let params = CertificateRevocationListParams {
        this_update: made - BACKDATE,
        next_update: made + lifetime,
        crl_number: SerialNumber::from(now),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    Ok(params.signed_by(issuer)?.der().to_vec())
}

fn distribution_point(base_url: Option<&str>, name: &str) -> Vec<CrlDistributionPoint> {
    base_url.map(|base| CrlDistributionPoint { uris: vec![format!("{}/{name}", base.trim_end_matches('/'))] }).into_iter().collect()
}

fn authority_params(name: &str, path_length: u8, now: u64) -> Result<CertificateParams, rcgen::Error> {
    let mut params = params(name, now)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = path_length == 0;
    Ok(params)
}

fn params(name: &str, now: u64) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let issued = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(now);
    params.not_before = issued - BACKDATE;
    params.not_after = issued + VALIDITY;
    Ok(params)
}
