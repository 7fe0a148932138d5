//! The key directory: made once, then read at every start.
//!
//! | file | holds | mode |
//! |---|---|---|
//! | `signing.key` | the token signing key, PKCS#8 PEM | 0600 |
//! | `signing.pem` | its chain: leaf, `... Signing CA`, `... Root CA` | 0644 |
//! | `root.pem` | the root alone: relying parties pin this file | 0644 |
//! | `nonce.key` | 48 random bytes for nonces and redemption records, hex | 0600 |
//! | `lock` | nothing: replicas write one at a time ([`crate::directory`]) | 0600 |
//!
//! The private keys of root and CA sign two certificates and are dropped: nobody can issue a second signing key under a
//! root that relying parties pinned, not even we. A new key is a new directory and a new `root.pem`.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use keyferry_attestation_token::{Algorithm, SigningKey, SigningKeyError};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA512, RsaKeySize,
};
use zeroize::Zeroizing;

use crate::directory;

const SIGNING_KEY: &str = "signing.key";
const SIGNING_CHAIN: &str = "signing.pem";
const ROOT: &str = "root.pem";
const NONCE_KEY: &str = "nonce.key";
const NONCE_KEY_BYTES: usize = 48;
/// The chain outlives any plausible deployment of one key directory.
const VALIDITY_DAYS: u64 = 3650;
/// Certificates begin to be valid this long before they are made: clocks of relying parties differ.
const BACKDATE: Duration = Duration::from_mins(5);
const DAY: Duration = Duration::from_hours(24);

/// What the directory holds.
pub(crate) struct Keys {
    /// Signs tokens, chain included.
    pub(crate) signing: SigningKey,
    /// Authenticates nonces and redemption records.
    pub(crate) nonce: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({:?})", self.signing)
    }
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeysError {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that others may read.
    #[error("{}: mode {mode:o} lets others read a private key: chmod 600", path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A file that does not hold what it should.
    #[error("{}: {problem}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The signing key is not usable.
    #[error("the token signing key: {0}")]
    Signing(#[from] SigningKeyError),
    /// A certificate could not be made.
    #[error("a certificate of the token signing key could not be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The random number generator failed.
    #[error("the random number generator failed")]
    Random,
}

/// Opens the directory, making it and everything in it at the first start. Blocks: with PS384 the first start generates
/// three RSA keys.
pub(crate) fn open(directory: &Path, algorithm: Algorithm, now: u64) -> Result<Keys, KeysError> {
    if !directory.join(SIGNING_KEY).exists() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|source| file_error(directory, source))?;
        // Replicas that start together for the first time make one set of keys, not two mixed ones.
        let _alone = directory::lock(directory).map_err(|source| file_error(directory, source))?;
        if !directory.join(SIGNING_KEY).exists() {
            make(directory, algorithm, now)?;
        }
    }
    let pem = read_private(&directory.join(SIGNING_KEY))?;
    let content = |file: &str, problem: &str| KeysError::Content { path: directory.join(file), problem: problem.to_owned() };
    let key = pem::parse(pem.as_bytes()).map_err(|_| content(SIGNING_KEY, "is no PEM"))?;
    let key = Zeroizing::new(key.into_contents());
    let chain = read(&directory.join(SIGNING_CHAIN))?;
    let chain = pem::parse_many(chain).map_err(|_| content(SIGNING_CHAIN, "is no PEM"))?;
    let chain = chain.into_iter().map(pem::Pem::into_contents).collect();
    let signing = SigningKey::from_pkcs8(algorithm, &key, chain)?;
    let nonce = hex::decode(read_private(&directory.join(NONCE_KEY))?.trim()).map(Zeroizing::new);
    match nonce {
        Ok(nonce) if nonce.len() == NONCE_KEY_BYTES => Ok(Keys { signing, nonce }),
        _ => Err(content(NONCE_KEY, "is not 96 hex digits")),
    }
}

/// Everything is written before the signing key appears, so a start that was cut off is repeated from the beginning.
fn make(directory: &Path, algorithm: Algorithm, now: u64) -> Result<(), KeysError> {
    let signing = SigningKey::generate(algorithm)?;
    let chain = certify(&signing, now)?;
    let (root, whole) = (chain[2].pem(), chain.each_ref().map(Certificate::pem).concat());
    write(&directory.join(ROOT), root.as_bytes(), 0o644)?;
    write(&directory.join(SIGNING_CHAIN), whole.as_bytes(), 0o644)?;
    let mut nonce = Zeroizing::new([0; NONCE_KEY_BYTES]);
    SystemRandom::new().fill(&mut *nonce).map_err(|_| KeysError::Random)?;
    write(&directory.join(NONCE_KEY), Zeroizing::new(hex::encode(*nonce)).as_bytes(), 0o600)?;
    let pkcs8 = signing.to_pkcs8()?;
    let pem = Zeroizing::new(pem::encode(&pem::Pem::new("PRIVATE KEY", pkcs8.to_vec())));
    write(&directory.join(SIGNING_KEY), pem.as_bytes(), 0o600)
}

/// Leaf, signing CA, root. The common names are what Intel's clients sort the three by.
fn certify(signing: &SigningKey, now: u64) -> Result<[Certificate; 3], KeysError> {
    let algorithm = signing.algorithm();
    let root_key = authority_key(algorithm)?;
    let root_params = authority_params("Keyferry Token Broker Root CA", 1, now)?;
    let root = root_params.self_signed(&root_key)?;
    let root_issuer = Issuer::new(root_params, root_key);
    let ca_key = authority_key(algorithm)?;
    let ca_params = authority_params("Keyferry Token Broker Signing CA", 0, now)?;
    let ca = ca_params.signed_by(&ca_key, &root_issuer)?;
    let ca_issuer = Issuer::new(ca_params, ca_key);
    let mut leaf_params = params("Keyferry Attestation Token Signing", now)?;
    leaf_params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf_params.use_authority_key_identifier_extension = true;
    let public = rcgen::SubjectPublicKeyInfo::from_der(signing.public_key_der())?;
    let leaf = leaf_params.signed_by(&public, &ca_issuer)?;
    Ok([leaf, ca, root])
}

/// RSA all the way up for PS384: Intel's Python client checks every link as RSA PKCS#1.
fn authority_key(algorithm: Algorithm) -> Result<KeyPair, rcgen::Error> {
    match algorithm {
        Algorithm::Ps384 | Algorithm::Rs256 => KeyPair::generate_rsa_for(&PKCS_RSA_SHA512, RsaKeySize::_3072),
        Algorithm::Es384 | Algorithm::Es256 => KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384),
    }
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
    params.not_after = issued + DAY * u32::try_from(VALIDITY_DAYS).unwrap_or(u32::MAX);
    Ok(params)
}

fn file_error(path: &Path, source: std::io::Error) -> KeysError {
    KeysError::File { path: path.to_owned(), source }
}

fn read(path: &Path) -> Result<String, KeysError> {
    fs::read_to_string(path).map_err(|source| file_error(path, source))
}

fn read_private(path: &Path) -> Result<Zeroizing<String>, KeysError> {
    let mode = fs::metadata(path).map_err(|source| file_error(path, source))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeysError::Mode { path: path.to_owned(), mode });
    }
    read(path).map(Zeroizing::new)
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), KeysError> {
    directory::write(path, bytes, mode).map_err(|source| file_error(path, source))
}

#[cfg(test)]
mod tests {
    use keyferry_attestation_token::{KeySet, TrustedIssuer, jwks};

    use super::*;

    const NOW: u64 = 1_800_000_000;

    #[test]
    fn the_directory_is_made_once_and_its_root_vouches_for_the_key() {
        for algorithm in Algorithm::ALL {
            let directory = tempfile::tempdir().unwrap();
            let directory = directory.path().join("keys");
            let first = open(&directory, algorithm, NOW).unwrap();
            let again = open(&directory, algorithm, NOW + 1000).unwrap();
            assert_eq!(first.signing.kid(), again.signing.kid());
            assert_eq!(first.nonce, again.nonce);
            let root = pem::parse(fs::read(directory.join(ROOT)).unwrap()).unwrap();
            let issuer = TrustedIssuer::new("https://broker.test", root.into_contents(), vec![algorithm]);
            let keys = KeySet::from_jwks(jwks([&again.signing]).as_bytes(), &issuer, NOW).unwrap();
            assert!(keys.knows(first.signing.kid()));
            for name in [SIGNING_KEY, NONCE_KEY] {
                let mode = fs::metadata(directory.join(name)).unwrap().permissions().mode() & 0o777;
                assert_eq!(mode, 0o600, "{name}");
            }
        }
    }

    #[test]
    fn replicas_that_start_together_for_the_first_time_share_one_set_of_keys() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("keys");
        let started = std::sync::Barrier::new(4);
        let replica = || {
            started.wait();
            let keys = open(&directory, Algorithm::Es256, NOW).unwrap();
            (keys.signing.kid().to_owned(), keys.nonce)
        };
        let all = std::thread::scope(|scope| [(); 4].map(|()| scope.spawn(replica)).map(|thread| thread.join().unwrap()));
        assert!(all.iter().all(|keys| *keys == all[0]), "another replica's nonces and tokens are as good as one's own");
    }

    #[test]
    fn a_key_that_others_may_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        open(directory.path(), Algorithm::Es256, NOW).unwrap();
        fs::set_permissions(directory.path().join(NONCE_KEY), fs::Permissions::from_mode(0o640)).unwrap();
        let error = open(directory.path(), Algorithm::Es256, NOW).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    #[test]
    fn another_algorithm_than_the_directorys_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        open(directory.path(), Algorithm::Es256, NOW).unwrap();
        assert!(open(directory.path(), Algorithm::Es384, NOW).is_err());
    }
}
