//! A certificate authority for a first run, the demo and tests. A production site brings its own certificates.

use std::{
    fmt,
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use zeroize::Zeroizing;

use crate::{ClientCertificate, ServerCertificate, TlsError};

/// Validity of certificates that nobody asked otherwise for, in days.
pub const VALIDITY_DAYS_DEFAULT: u32 = 365;
/// Certificates begin to be valid this long before they are made: clocks of peers differ.
const BACKDATE: Duration = Duration::from_mins(5);
const DAY: Duration = Duration::from_hours(24);

/// An ECDSA P-256 root that signs server and client certificates directly.
pub struct CertificateAuthority {
    certificate_pem: String,
    certificate_der: Vec<u8>,
    key_pem: Zeroizing<String>,
    issuer: Issuer<'static, KeyPair>,
}

impl CertificateAuthority {
    /// Makes a root called `common_name`, valid for `days` from `now` (unix seconds).
    pub fn generate(common_name: &str, now: u64, days: u32) -> Result<Self, TlsError> {
        let issue = |source| TlsError::Issue { subject: common_name.to_owned(), source };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(issue)?;
        let mut params = params(common_name, &[], now, days).map_err(issue)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(issue)?;
        Ok(Self {
            certificate_pem: certificate.pem(),
            certificate_der: certificate.der().to_vec(),
            key_pem: Zeroizing::new(key.serialize_pem()),
            issuer: Issuer::new(params, key),
        })
    }

    /// Reads back a root that was kept as PEM: `certificate_pem` and the matching `key_pem`.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, TlsError> {
        let issue = |source| TlsError::Issue { subject: "the certificate authority".to_owned(), source };
        let key = KeyPair::from_pem(key_pem).map_err(issue)?;
        let issuer = Issuer::from_ca_cert_pem(certificate_pem, key).map_err(issue)?;
        let der = rustls_pki_types::pem::PemObject::from_pem_slice(certificate_pem.as_bytes());
        let der: rustls_pki_types::CertificateDer<'static> =
            der.map_err(|_| TlsError::NoCertificate { origin: "the certificate authority".to_owned() })?;
        Ok(Self {
            certificate_pem: certificate_pem.to_owned(),
            certificate_der: der.to_vec(),
            key_pem: Zeroizing::new(key_pem.to_owned()),
            issuer,
        })
    }

    /// The root in PEM, for `ca_file` settings.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }
    /// The root in DER.
    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate_der
    }
    /// The root's private key in PEM; for the operator's own 0600 file and nothing else.
    pub fn key_pem(&self) -> &Zeroizing<String> {
        &self.key_pem
    }

    /// Writes the root's certificate (not its key) to `path`.
    pub fn write_certificate(&self, path: &Path) -> Result<(), TlsError> {
        write(path, self.certificate_pem.as_bytes(), 0o644)
    }

    /// A certificate for a listener that is reached as any of `names` (DNS names or IP addresses; the first is also the
    /// common name), valid for `days` from `now` (unix seconds).
    pub fn issue_server(&self, names: &[&str], now: u64, days: u32) -> Result<IssuedCertificate, TlsError> {
        let subject = names.first().copied().unwrap_or("server");
        self.issue(subject, names, ExtendedKeyUsagePurpose::ServerAuth, now, days)
    }

    /// A certificate with which a client called `common_name` shows who it is, valid for `days` from `now` (unix seconds).
    pub fn issue_client(&self, common_name: &str, now: u64, days: u32) -> Result<IssuedCertificate, TlsError> {
        self.issue(common_name, &[], ExtendedKeyUsagePurpose::ClientAuth, now, days)
    }

    fn issue(
        &self,
        subject: &str,
        names: &[&str],
        usage: ExtendedKeyUsagePurpose,
        now: u64,
        days: u32,
    ) -> Result<IssuedCertificate, TlsError> {
        let issue = |source| TlsError::Issue { subject: subject.to_owned(), source };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(issue)?;
        let mut params = params(subject, names, now, days).map_err(issue)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).map_err(issue)?;
        Ok(IssuedCertificate { certificate_pem: certificate.pem(), key_pem: Zeroizing::new(key.serialize_pem()) })
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CertificateAuthority(key redacted)")
    }
}

/// A certificate with its private key, fresh from a [`CertificateAuthority`].
pub struct IssuedCertificate {
    certificate_pem: String,
    key_pem: Zeroizing<String>,
}

impl IssuedCertificate {
    /// The certificate in PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }
    /// The private key in PEM (PKCS#8).
    pub fn key_pem(&self) -> &Zeroizing<String> {
        &self.key_pem
    }

    /// Writes `NAME.pem` (0644) and `NAME.key` (0600) into `directory` and returns both paths.
    pub fn write(&self, directory: &Path, name: &str) -> Result<(PathBuf, PathBuf), TlsError> {
        let (certificate, key) = (directory.join(format!("{name}.pem")), directory.join(format!("{name}.key")));
        write(&certificate, self.certificate_pem.as_bytes(), 0o644)?;
        write(&key, self.key_pem.as_bytes(), 0o600)?;
        Ok((certificate, key))
    }

    /// As [`Self::write`], as the settings of a listener.
    pub fn write_server(&self, directory: &Path, name: &str) -> Result<ServerCertificate, TlsError> {
        let (certificate_file, key_file) = self.write(directory, name)?;
        Ok(ServerCertificate { certificate_file, key_file })
    }

    /// As [`Self::write`], as the settings of a client.
    pub fn write_client(&self, directory: &Path, name: &str) -> Result<ClientCertificate, TlsError> {
        let (certificate_file, key_file) = self.write(directory, name)?;
        Ok(ClientCertificate { certificate_file, key_file })
    }
}

impl fmt::Debug for IssuedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IssuedCertificate(key redacted)")
    }
}

fn params(common_name: &str, names: &[&str], now: u64, days: u32) -> Result<CertificateParams, rcgen::Error> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(now).saturating_sub(BACKDATE);
    params.not_after = epoch + Duration::from_secs(now).saturating_add(DAY * days);
    Ok(params)
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), TlsError> {
    let failed = |source| TlsError::Write { path: path.to_owned(), source };
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)
}
