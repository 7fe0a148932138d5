//! The certificates of the simulated provisioning service: root, platform CA, TCB signer, and PCK leaves.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DistinguishedName, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason, RevokedCertParams, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use crate::SimulatorError;
use crate::collateral::Window;
use crate::pck_extension::{OID, PckExtension};
use crate::signer::Signer;

const DAY: i64 = 86_400;
const YEAR: i64 = 365 * DAY;
/// Certificates are valid since a day before they are made, so that a verifier's clock may lag.
const BACKDATE: i64 = DAY;
const ROOT_LIFE: i64 = 25 * YEAR;
const CA_LIFE: i64 = 15 * YEAR;
const LEAF_LIFE: i64 = 7 * YEAR;

/// A certificate with its key.
#[derive(Debug)]
pub(crate) struct Authority {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) signer: Signer,
}

impl Authority {
    pub(crate) fn root(name: &str, now: i64) -> Result<Self, SimulatorError> {
        let signer = Signer::generate("root")?;
        let mut params = params(&format!("Simulated SGX Root CA {name}"), &signer, now, ROOT_LIFE)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = false;
        let certificate = params.self_signed(&signer.certificate_key()?)?.der().clone();
        Ok(Self { certificate, signer })
    }

    pub(crate) fn platform_ca(root: &Self, name: &str, now: i64) -> Result<Self, SimulatorError> {
        let signer = Signer::generate("platform CA")?;
        let mut params = params(&format!("Simulated SGX PCK Platform CA {name}"), &signer, now, CA_LIFE)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        root.issue(&params, signer)
    }

    pub(crate) fn tcb_signer(root: &Self, name: &str, now: i64) -> Result<Self, SimulatorError> {
        let signer = Signer::generate("TCB signer")?;
        let params = leaf_params(&format!("Simulated SGX TCB Signing {name}"), &signer, now)?;
        root.issue(&params, signer)
    }

    /// A PCK certificate under this platform CA.
    pub(crate) fn pck(&self, extension: &PckExtension, now: i64) -> Result<Self, SimulatorError> {
        let signer = Signer::generate("PCK")?;
        let mut params = leaf_params("Simulated SGX PCK Certificate", &signer, now)?;
        params.custom_extensions.push(CustomExtension::from_oid_content(&OID, extension.to_der()));
        self.issue(&params, signer)
    }

    /// A CRL of this authority over `serials`, valid in `window` around `now`.
    pub(crate) fn crl(&self, serials: &[Vec<u8>], window: Window, number: u32, now: i64) -> Result<Vec<u8>, SimulatorError> {
        let revoked = |serial: &Vec<u8>| -> Result<RevokedCertParams, SimulatorError> {
            Ok(RevokedCertParams {
                serial_number: SerialNumber::from_slice(serial),
                revocation_time: date_time(now + window.from)?,
                reason_code: Some(RevocationReason::KeyCompromise),
                invalidity_date: None,
            })
        };
        let params = CertificateRevocationListParams {
            this_update: date_time(now + window.from)?,
            next_update: date_time(now + window.until)?,
            crl_number: SerialNumber::from(u64::from(number)),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect::<Result<_, _>>()?,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(params.signed_by(&self.issuer()?)?.der().to_vec())
    }

    /// The serial number as the certificate has it.
    pub(crate) fn serial(&self) -> Vec<u8> {
        serial(self.signer.public_key().as_slice())
    }

    pub(crate) fn pem(&self) -> String {
        let block = pem::Pem::new("CERTIFICATE", self.certificate.to_vec());
        pem::encode_config(&block, pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF))
    }

    fn issue(&self, params: &CertificateParams, signer: Signer) -> Result<Self, SimulatorError> {
        let certificate = params.signed_by(&signer.certificate_key()?, &self.issuer()?)?.der().clone();
        Ok(Self { certificate, signer })
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, SimulatorError> {
        Ok(Issuer::from_ca_cert_der(&self.certificate, self.signer.certificate_key()?)?)
    }
}

fn leaf_params(common_name: &str, signer: &Signer, now: i64) -> Result<CertificateParams, SimulatorError> {
    let mut params = params(common_name, signer, now, LEAF_LIFE)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::ContentCommitment];
    Ok(params)
}

fn params(common_name: &str, signer: &Signer, now: i64, life: i64) -> Result<CertificateParams, SimulatorError> {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name.push(DnType::OrganizationName, "Keyferry TD simulator");
    params.distinguished_name = name;
    params.serial_number = Some(SerialNumber::from_slice(&serial(&signer.public_key())));
    params.not_before = date_time(now - BACKDATE)?;
    params.not_after = date_time(now + life)?;
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// A serial number of 20 bytes from a public key: unique without a counter, positive without a leading zero.
fn serial(public_key: &[u8]) -> Vec<u8> {
    let mut serial: Vec<u8> = Sha256::digest(public_key).iter().copied().take(20).collect();
    if let Some(first) = serial.first_mut() {
        *first = *first & 0x7f | 0x40;
    }
    serial
}

fn date_time(unix_seconds: i64) -> Result<OffsetDateTime, SimulatorError> {
    OffsetDateTime::from_unix_timestamp(unix_seconds).map_err(|_| SimulatorError::Time(unix_seconds))
}
