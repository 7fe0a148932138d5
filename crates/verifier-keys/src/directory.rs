//! The key directory: made once, read at every start and whenever it changes, extended by a rotation.
//!
//! | file | holds | mode |
//! |---|---|---|
//! | `keyring.json` | which key signs from when, and where the revocation lists are fetched | 0644 |
//! | `signing-N.key`, `signing-N.pem` | a token signing key (PKCS#8) and its chain: leaf, `... Signing CA`, `... Root CA` | 0600, 0644 |
//! | `root.pem` | the root alone: relying parties pin this file | 0644 |
//! | `ca.pem`, `ca.key` | the signing CA, and its key, which certifies the next signing keys and renews its list | 0644, 0600 |
//! | `root-ca.der`, `signing-ca.der` | the two revocation lists | 0644 |
//! | `nonce.key` | 48 random bytes for nonces and redemption records | 0600 |
//! | `lock` | nothing: replicas write one at a time | 0600 |
//!
//! A directory of an earlier version has `signing.key` and `signing.pem` and no CA key. It is served as it is; a second
//! key cannot be certified there.

use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use keyferry_attestation_token::{Algorithm, SigningKey};
use keyferry_sealed_store::StoreKey;
use rcgen::Certificate;
use zeroize::Zeroizing;

use crate::{
    CRL_NAMES,
    certificates::{Authorities, Authority, is_due},
    error::KeysError,
    files::{self, content, failed, put, read, read_if_there, read_private},
    ring::Ring,
    secrets,
};

const RING: &str = "keyring.json";
const ROOT: &str = "root.pem";
const CA: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
const NONCE_KEY: &str = "nonce.key";
const NONCE_KEY_BYTES: usize = 48;
/// Of a directory that an earlier version made.
const EARLIER_KEY: &str = "signing.key";
const EARLIER_CHAIN: &str = "signing.pem";
const PUBLIC: u32 = 0o644;

/// A key directory, and the key its secrets are sealed with.
#[derive(Debug)]
pub struct KeyDirectory {
    path: PathBuf,
    seal: Option<StoreKey>,
}

/// A signing key and its time.
#[derive(Debug)]
pub struct ScheduledKey {
    /// Parsed, with its chain.
    pub key: SigningKey,
    /// It signs from then on, in unix seconds, until the next one does.
    pub signs_from: u64,
    /// It is published until then; `None` while no other key is to follow.
    pub retires_at: Option<u64>,
}

/// The signing keys and what is served beside them.
#[derive(Debug)]
pub struct Contents {
    /// In the order in which they sign; at least one.
    pub keys: Vec<ScheduledKey>,
    /// Revocation lists that are there, by their names.
    pub crls: Vec<(&'static str, Vec<u8>)>,
    /// Changes whenever the rest does.
    pub fingerprint: Vec<u8>,
}

/// A key that was added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Its `kid` under the algorithm that was asked for.
    pub kid: String,
    /// It is published from now on, and signs from then on (unix seconds).
    pub signs_from: u64,
}

impl KeyDirectory {
    /// Names a directory; nothing is read yet.
    pub fn new(path: impl Into<PathBuf>, seal: Option<StoreKey>) -> Self {
        Self { path: path.into(), seal }
    }

    /// Makes the directory and everything in it if it is not there. Blocks: for RSA three keys are generated. Replicas that
    /// start together for the first time make one set of keys, not two mixed ones.
    pub fn make(&self, algorithm: Algorithm, crl_base_url: Option<&str>, now: u64) -> Result<(), KeysError> {
        if self.is_made() {
            return Ok(());
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.path).map_err(|source| failed(&self.path, source))?;
        let _alone = self.lock()?;
        if self.is_made() {
            return Ok(());
        }
        let authorities = Authorities::make(algorithm, crl_base_url, now)?;
        put(&self.at(ROOT), authorities.root.pem().as_bytes(), PUBLIC)?;
        let ca = [authorities.ca.pem(), authorities.root.pem()].concat();
        put(&self.at(CA), ca.as_bytes(), PUBLIC)?;
        put(&self.at(CRL_NAMES[0]), &authorities.root_crl, PUBLIC)?;
        put(&self.at(CRL_NAMES[1]), &authorities.signing.revocation_list(now)?, PUBLIC)?;
        secrets::write(&self.at(CA_KEY), "PRIVATE KEY", &authorities.signing.to_pkcs8(), self.seal.as_ref())?;
        self.make_nonce_key()?;
        let ring = Ring::new(crl_base_url.map(str::to_owned), now);
        self.add_key(&authorities.signing, &ca, &ring, 1, algorithm, now)?;
        // Last: what was cut off before is repeated from the beginning.
        put(&self.at(RING), &ring.to_json(), PUBLIC)
    }

    /// The nonce key, made if it is not there: 48 bytes.
    pub fn nonce_key(&self) -> Result<Zeroizing<Vec<u8>>, KeysError> {
        let path = self.at(NONCE_KEY);
        if !path.exists() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.path).map_err(|source| failed(&self.path, source))?;
            let _alone = self.lock()?;
            if !path.exists() {
                self.make_nonce_key()?;
            }
        }
        let text = read_private(&path)?;
        let text = if text.starts_with(b"-----BEGIN") { secrets::parse(&path, &text, self.seal.as_ref())? } else { text };
        match hex::decode(text.trim_ascii()).map(Zeroizing::new) {
            Ok(key) if key.len() == NONCE_KEY_BYTES => Ok(key),
            _ => Err(content(&path, "is not 96 hex digits")),
        }
    }

    /// What it holds, for tokens of this algorithm.
    pub fn read(&self, algorithm: Algorithm) -> Result<Contents, KeysError> {
        let fingerprint = self.fingerprint()?;
        let crls = CRL_NAMES.iter().filter_map(|name| Some((*name, read_if_there(&self.at(name)).ok()??))).collect();
        let Some(ring) = self.ring()? else {
            let key = read_signing_key(&self.at(EARLIER_KEY), &self.at(EARLIER_CHAIN), algorithm, self.seal.as_ref())?;
            return Ok(Contents { keys: vec![ScheduledKey { key, signs_from: 0, retires_at: None }], crls, fingerprint });
        };
        let key = |(index, entry): (usize, &crate::ring::Entry)| {
            let (key, chain) = (self.at(&key_file(entry.number)), self.at(&chain_file(entry.number)));
            let key = read_signing_key(&key, &chain, algorithm, self.seal.as_ref())?;
            Ok(ScheduledKey { key, signs_from: entry.signs_from, retires_at: ring.retires_at(index) })
        };
        let keys = ring.keys.iter().enumerate().map(key).collect::<Result<_, KeysError>>()?;
        Ok(Contents { keys, crls, fingerprint })
    }

    /// Changes whenever the directory does. Cheap: no key is parsed.
    pub fn fingerprint(&self) -> Result<Vec<u8>, KeysError> {
        let mut parts = Vec::new();
        for name in [RING, CRL_NAMES[0], CRL_NAMES[1]] {
            let bytes = read_if_there(&self.at(name))?.unwrap_or_default();
            parts.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
            parts.extend_from_slice(&bytes);
        }
        Ok(parts)
    }

    /// Publishes a next key, which signs `ahead` seconds from now. Keys whose last token has ended are removed. Blocks while
    /// the key is generated.
    pub fn rotate(&self, ahead: u64, now: u64) -> Result<Rotation, KeysError> {
        let _alone = self.lock_made()?;
        self.rotate_alone(ahead, now)
    }

    /// Rotates if the key that signs last will have signed for `interval` seconds when the next one is due. `None`: not yet,
    /// or a next key waits already, which is so most of the time where `ahead` is longer than `interval`.
    pub fn rotate_if_due(&self, interval: u64, ahead: u64, now: u64) -> Result<Option<Rotation>, KeysError> {
        let due = || {
            let from = self.ring()?.and_then(|ring| ring.last().map(|last| last.signs_from));
            Ok::<_, KeysError>(from.is_some_and(|from| from <= now && from.saturating_add(interval) <= now.saturating_add(ahead)))
        };
        if !due()? {
            return Ok(None);
        }
        let _alone = self.lock_made()?;
        // Another replica may have been here.
        if due()? { self.rotate_alone(ahead, now).map(Some) } else { Ok(None) }
    }

    fn rotate_alone(&self, ahead: u64, now: u64) -> Result<Rotation, KeysError> {
        let mut ring = self.ring()?.ok_or_else(|| KeysError::NoAuthority { path: self.path.clone() })?;
        let (last, number) = match ring.last() {
            Some(last) if last.signs_from > now => return Err(KeysError::Waiting { signs_from: last.signs_from }),
            Some(last) => (last.signs_from, last.number + 1),
            None => (0, 1),
        };
        let (authority, chain) = self.authority()?;
        let algorithm = self.kind(number - 1)?;
        let signs_from = now.saturating_add(ahead).max(last + 1);
        let kid = self.add_key(&authority, &chain, &ring, number, algorithm, now)?;
        ring.append(number, signs_from);
        let retired = ring.prune(now);
        put(&self.at(RING), &ring.to_json(), PUBLIC)?;
        for entry in retired {
            for file in [key_file(entry.number), chain_file(entry.number)] {
                // Left behind it would only be a file that nobody reads.
                let _ = fs::remove_file(self.at(&file));
            }
        }
        Ok(Rotation { kid, signs_from })
    }

    /// Renews the signing CA's revocation list when half of its life is over. Whether it did.
    pub fn renew_crl(&self, now: u64) -> Result<bool, KeysError> {
        let path = self.at(CRL_NAMES[1]);
        let due = || Ok::<_, KeysError>(is_due(&read_if_there(&path)?.unwrap_or_default(), now));
        if self.ring()?.is_none() || !due()? {
            return Ok(false);
        }
        let _alone = self.lock()?;
        if !due()? {
            return Ok(false);
        }
        put(&path, &self.authority()?.0.revocation_list(now)?, PUBLIC)?;
        Ok(true)
    }

    fn is_made(&self) -> bool {
        self.at(RING).exists() || self.at(EARLIER_KEY).exists()
    }

    fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn lock(&self) -> Result<fs::File, KeysError> {
        files::lock(&self.path).map_err(|source| failed(&self.path, source))
    }

    fn lock_made(&self) -> Result<fs::File, KeysError> {
        if self.is_made() { self.lock() } else { Err(KeysError::NotMade { path: self.path.clone() }) }
    }

    /// `None` in a directory of an earlier version.
    fn ring(&self) -> Result<Option<Ring>, KeysError> {
        let path = self.at(RING);
        match read_if_there(&path)? {
            None if self.at(EARLIER_KEY).exists() => Ok(None),
            None => Err(KeysError::NotMade { path: self.path.clone() }),
            Some(json) => Ring::parse(&json).map(Some).ok_or_else(|| content(&path, "is no key ring of this version")),
        }
    }

    /// The signing CA, and its chain in PEM.
    fn authority(&self) -> Result<(Authority, String), KeysError> {
        let path = self.at(CA);
        let chain = String::from_utf8(read(&path)?).map_err(|_| content(&path, "is no PEM"))?;
        let certificate = pem::parse(&chain).map_err(|_| content(&path, "is no PEM"))?;
        let key = secrets::read(&self.at(CA_KEY), self.seal.as_ref())?;
        Ok((Authority::load(certificate.contents(), &key)?, chain))
    }

    /// With which algorithm the next key of this directory is made: the kind of its keys does not change.
    fn kind(&self, number: u32) -> Result<Algorithm, KeysError> {
        let path = self.at(&key_file(number));
        let pkcs8 = secrets::read(&path, self.seal.as_ref())?;
        let kinds = [Algorithm::Ps384, Algorithm::Es384, Algorithm::Es256].into_iter();
        let mut fitting = kinds.filter(|algorithm| SigningKey::from_pkcs8(*algorithm, &pkcs8, Vec::new()).is_ok());
        fitting.next().ok_or_else(|| content(&path, "is no signing key"))
    }

    fn add_key(
        &self,
        authority: &Authority,
        authorities: &str,
        ring: &Ring,
        number: u32,
        algorithm: Algorithm,
        now: u64,
    ) -> Result<String, KeysError> {
        let key = SigningKey::generate(algorithm)?;
        let leaf: Certificate = authority.certify(&key, ring.crl_base_url.as_deref(), now)?;
        put(&self.at(&chain_file(number)), [leaf.pem().as_str(), authorities].concat().as_bytes(), PUBLIC)?;
        secrets::write(&self.at(&key_file(number)), "PRIVATE KEY", &key.to_pkcs8()?, self.seal.as_ref())?;
        Ok(key.kid().to_owned())
    }

    fn make_nonce_key(&self) -> Result<(), KeysError> {
        let mut nonce = Zeroizing::new([0; NONCE_KEY_BYTES]);
        SystemRandom::new().fill(&mut *nonce).map_err(|_| KeysError::Random)?;
        let (path, text) = (self.at(NONCE_KEY), Zeroizing::new(hex::encode(*nonce)));
        match &self.seal {
            None => put(&path, text.as_bytes(), 0o600),
            Some(_) => secrets::write(&path, "NONCE KEY", text.as_bytes(), self.seal.as_ref()),
        }
    }
}

fn key_file(number: u32) -> String {
    format!("signing-{number}.key")
}

fn chain_file(number: u32) -> String {
    format!("signing-{number}.pem")
}

/// A signing key from a PKCS#8 PEM file of mode 0600, sealed or not, and the PEM file of its chain, leaf first.
pub fn read_signing_key(key: &Path, chain: &Path, algorithm: Algorithm, seal: Option<&StoreKey>) -> Result<SigningKey, KeysError> {
    let pkcs8 = secrets::read(key, seal)?;
    let certificates = pem::parse_many(read(chain)?).map_err(|_| content(chain, "is no PEM"))?;
    if certificates.is_empty() {
        return Err(content(chain, "holds no certificate"));
    }
    let certificates = certificates.into_iter().map(pem::Pem::into_contents).collect();
    Ok(SigningKey::from_pkcs8(algorithm, &pkcs8, certificates)?)
}
