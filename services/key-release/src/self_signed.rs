//! A self-signed certificate for the listener, as Intel's key broker makes itself one - but renewed before it expires, and
//! with the same key, so that clients that pin the key go on.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use keyferry_tls::{ServerCertificate, TlsError, provider, read_certificates};
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, PKCS_RSA_SHA384, RsaKeySize};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use x509_parser::parse_x509_certificate;
use zeroize::Zeroizing;

const COMMON_NAME: &str = "KBS TLS Certificate";
const VALIDITY_DAYS: i64 = 365;
/// A certificate with less than this left is renewed.
const RENEW_DAYS: i64 = 30;
const DAY_SECONDS: i64 = 86_400;
/// How often the running service looks.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_hours(12);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum SelfSignedError {
    /// A file.
    #[error("{}: {source}: check that the directory exists and is writable", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The key or certificate could not be made, or is not what this service makes.
    #[error("a self-signed certificate cannot be made: {0}")]
    Made(String),
    /// It cannot be read.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Makes the pair if it is not there, and a new certificate for its key if little time is left (or the clock is before
/// it). Returns whether it made one. `now` in unix seconds.
pub fn ensure(files: &ServerCertificate, names: &[String], now: u64) -> Result<bool, SelfSignedError> {
    let now = i64::try_from(now).unwrap_or(i64::MAX / 2);
    if files.certificate_file.exists() && !is_due(&files.certificate_file, now)? {
        return Ok(false);
    }
    let key = if files.key_file.exists() { read_key(&files.key_file)? } else { make_key(&files.key_file)? };
    let certificate = certificate(&key, names, now)?;
    replace(&files.certificate_file, certificate.as_bytes())?;
    tracing::warn!(
        file = %files.certificate_file.display(), valid_days = VALIDITY_DAYS,
        "made a self-signed certificate for the listener: clients must pin it, nothing vouches for it"
    );
    Ok(true)
}

fn is_due(file: &Path, now: i64) -> Result<bool, SelfSignedError> {
    let certificates = read_certificates(file)?;
    let parsed = certificates.first().and_then(|der| parse_x509_certificate(der).ok());
    let (_, parsed) = parsed.ok_or_else(|| SelfSignedError::Made(format!("{} holds no certificate", file.display())))?;
    // Somebody else's certificate is theirs to renew.
    let is_ours = parsed.subject().iter_common_name().any(|name| name.as_str() == Ok(COMMON_NAME)) && parsed.subject() == parsed.issuer();
    Ok(is_ours && parsed.validity().not_after.timestamp() - now < RENEW_DAYS * DAY_SECONDS)
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
fn made(error: impl ToString) -> SelfSignedError {
    SelfSignedError::Made(error.to_string())
}

fn read_key(file: &Path) -> Result<KeyPair, SelfSignedError> {
    let failed = |source| SelfSignedError::File { path: file.to_owned(), source };
    let pem = Zeroizing::new(fs::read_to_string(file).map_err(failed)?);
    KeyPair::from_pem_and_sign_algo(&pem, &PKCS_RSA_SHA384).map_err(made)
}

fn make_key(file: &Path) -> Result<KeyPair, SelfSignedError> {
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA384, RsaKeySize::_3072).map_err(made)?;
    replace(file, Zeroizing::new(key.serialize_pem()).as_bytes())?;
    Ok(key)
}

fn certificate(key: &KeyPair, names: &[String], now: i64) -> Result<String, SelfSignedError> {
    let mut parameters = CertificateParams::new(names.to_vec()).map_err(made)?;
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, COMMON_NAME);
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::ContentCommitment];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    (parameters.not_before, parameters.not_after) = (day(now)?, day(now + VALIDITY_DAYS * DAY_SECONDS)?);
    parameters.self_signed(key).map(|certificate| certificate.pem()).map_err(made)
}

/// The beginning of the day of a unix time.
fn day(seconds: i64) -> Result<time::OffsetDateTime, SelfSignedError> {
    time::OffsetDateTime::from_unix_timestamp(seconds - seconds.rem_euclid(DAY_SECONDS)).map_err(made)
}

/// Whole or not at all, readable by nobody else.
fn replace(file: &Path, bytes: &[u8]) -> Result<(), SelfSignedError> {
    let fresh = file.with_extension("new");
    let write = || -> io::Result<()> {
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        out.write_all(bytes)?;
        out.sync_all()?;
        fs::rename(&fresh, file)
    };
    write().map_err(|source| SelfSignedError::File { path: file.to_owned(), source })
}

/// Shows whichever certificate is current.
#[derive(Debug)]
pub struct Renewable(ArcSwap<CertifiedKey>);

impl Renewable {
    /// The same listener, whose certificate can be replaced while it runs.
    pub fn wrap(config: &ServerConfig, files: &ServerCertificate) -> Result<(Arc<ServerConfig>, Arc<Self>), SelfSignedError> {
        let this = Arc::new(Self(ArcSwap::from_pointee(load(files)?)));
        let mut config = config.clone();
        config.cert_resolver = Arc::clone(&this) as Arc<dyn ResolvesServerCert>;
        Ok((Arc::new(config), this))
    }

    /// Reads the files again.
    pub fn reload(&self, files: &ServerCertificate) -> Result<(), SelfSignedError> {
        self.0.store(Arc::new(load(files)?));
        Ok(())
    }
}

impl ResolvesServerCert for Renewable {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

fn load(files: &ServerCertificate) -> Result<CertifiedKey, SelfSignedError> {
    let chain = read_certificates(&files.certificate_file)?;
    let key = PrivateKeyDer::from_pem_file(&files.key_file).map_err(made)?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(made)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use x509_parser::{extensions::GeneralName, prelude::FromDer, public_key::PublicKey};

    use super::*;

    const NOW: u64 = 1_793_491_200;

    fn read(files: &ServerCertificate) -> (Vec<u8>, Vec<u8>) {
        let der = read_certificates(&files.certificate_file).unwrap()[0].to_vec();
        let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(&der).unwrap();
        let spki = certificate.public_key().raw.to_vec();
        (der, spki)
    }

    #[test]
    fn the_pair_is_as_intels_is_private_and_renewed_in_time_with_its_key() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        let files = ServerCertificate { certificate_file: file("tls.crt"), key_file: file("tls.key") };
        let names = ["127.0.0.1".to_owned(), "kbs.example".to_owned()];
        assert!(ensure(&files, &names, NOW).unwrap());
        for file in [&files.certificate_file, &files.key_file] {
            assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let (der, spki) = read(&files);
        let (_, certificate) = parse_x509_certificate(&der).unwrap();
        assert_eq!(certificate.subject().to_string(), "CN=KBS TLS Certificate");
        assert_eq!(certificate.subject(), certificate.issuer());
        assert!(matches!(certificate.public_key().parsed().unwrap(), PublicKey::RSA(key) if key.key_size() == 3072));
        assert_eq!(certificate.signature_algorithm.algorithm.to_id_string(), "1.2.840.113549.1.1.12");
        let usage = certificate.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && usage.key_encipherment() && usage.non_repudiation() && !usage.key_cert_sign());
        let extended = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.client_auth && extended.server_auth);
        let alternative = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(*alternative, [GeneralName::IPAddress(&[127, 0, 0, 1]), GeneralName::DNSName("kbs.example")]);
        let validity = certificate.validity();
        assert_eq!(validity.not_after.timestamp() - validity.not_before.timestamp(), VALIDITY_DAYS * DAY_SECONDS);

        let days = |days: u64| NOW + days * 86_400;
        assert!(!ensure(&files, &names, days(334)).unwrap(), "31 days left");
        assert!(ensure(&files, &names, days(336)).unwrap(), "29 days left");
        let (renewed, same_key) = read(&files);
        assert_ne!(renewed, der);
        assert_eq!(same_key, spki);
        assert!(!ensure(&files, &names, days(337)).unwrap());
    }

    #[test]
    fn a_certificate_of_somebody_else_is_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let ca = keyferry_tls::CertificateAuthority::generate("root", NOW, 10).unwrap();
        let files = ca.issue_server(&["127.0.0.1"], NOW, 5).unwrap().write_server(directory.path(), "theirs").unwrap();
        let before = fs::read(&files.certificate_file).unwrap();
        assert!(!ensure(&files, &["127.0.0.1".to_owned()], NOW + 400 * 86_400).unwrap());
        assert_eq!(fs::read(&files.certificate_file).unwrap(), before);
    }
}
