//! From a JWKS to a key set that may be believed: every key has a certificate chain to the pinned root, and is the key of
//! its leaf certificate. Intel's own clients take the root from the same document; here the document proves nothing.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use jsonwebtoken::DecodingKey;
use rustls_pki_types::{CertificateDer, UnixTime};
use serde::Deserialize;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::{
    prelude::{FromDer, KeyUsage as KeyUsageExtension, X509Certificate},
    public_key::PublicKey,
};

use crate::{INTEL_TRUST_ANCHOR, JWKS_BYTES_MAX, TOKEN_AGE_SECONDS_MAX, UNKNOWN_TRUST_ANCHOR, algorithm::Algorithm, revocation::Chain};

/// Keys in one set; Intel's has two.
const KEYS_MAX: usize = 32;
/// Certificates of one key; Intel's clients take ten.
const CERTIFICATES_MAX: usize = 10;
/// Characters of a `kid`; Intel's has 96.
const KID_CHARACTERS_MAX: usize = 256;
/// An RSA modulus has 2048 to 8192 bits.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// What a token means that does not name its trust anchor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AbsentAnchor {
    /// The issuer is Intel's own service: it appraises under Intel's root only.
    Intel,
    /// Nobody knows: no policy accepts it.
    Unknown,
}

impl AbsentAnchor {
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Intel => INTEL_TRUST_ANCHOR,
            Self::Unknown => UNKNOWN_TRUST_ANCHOR,
        }
    }
}

/// An issuer whose word counts, as the operator configured it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedIssuer {
    /// Must equal `iss`, byte for byte.
    pub issuer: String,
    /// The pinned root certificate, DER.
    pub root_der: Vec<u8>,
    /// Algorithms this issuer may use.
    pub algorithms: Vec<Algorithm>,
    /// What a token without `keyferry.trust_anchor` means.
    pub absent_anchor: AbsentAnchor,
    /// The trust anchors that its tokens may name. `None`: any, for a reader that decides nothing by them.
    pub trust_anchors: Option<Vec<String>>,
    /// A token issued longer ago than this is stale, in seconds.
    pub token_age_seconds_max: u64,
}

impl TrustedIssuer {
    /// An issuer with the default maximum age, whose tokens name their trust anchor, whichever it is.
    pub fn new(issuer: impl Into<String>, root_der: Vec<u8>, algorithms: Vec<Algorithm>) -> Self {
        Self {
            issuer: issuer.into(),
            root_der,
            algorithms,
            absent_anchor: AbsentAnchor::Unknown,
            trust_anchors: None,
            token_age_seconds_max: TOKEN_AGE_SECONDS_MAX,
        }
    }
}

/// Why a JWKS gives no key set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// Over [`JWKS_BYTES_MAX`].
    #[error("the key set has {bytes} bytes, {JWKS_BYTES_MAX} are allowed")]
    TooLarge {
        /// Bytes found.
        bytes: usize,
    },
    /// Not a JSON Web Key Set.
    #[error("not a JSON Web Key Set of at most {KEYS_MAX} keys")]
    Malformed,
    /// The configured root is no certificate.
    #[error("the pinned root of issuer {issuer:?} is not an X.509 certificate: check its file")]
    Root {
        /// The configured issuer.
        issuer: String,
    },
    /// No key is for an allowed algorithm.
    #[error("no key of the set is for an algorithm allowed for this issuer")]
    NoKey,
    /// Two keys have the same `kid`.
    #[error("two keys of the set have the same kid: nobody can say which one a token means")]
    DuplicateKid,
    /// A member of a key is absent or malformed.
    #[error("key {index} of the set: {field} is absent or malformed")]
    Key {
        /// Zero-based position.
        index: usize,
        /// Which member.
        field: &'static str,
    },
    /// No certificate in `x5c` is for this key, or several are.
    #[error("key {index} of the set is not the key of exactly one certificate of its chain")]
    NotTheLeafsKey {
        /// Zero-based position.
        index: usize,
    },
    /// The chain does not end in the pinned root, now, for signing tokens.
    #[error("the certificates of key {index} do not lead to the pinned root: {cause}")]
    Untrusted {
        /// Zero-based position.
        index: usize,
        /// The X.509 verifier's word.
        cause: String,
    },
    /// Every key is of a withdrawn certificate.
    #[error("every key of issuer {issuer:?} is of a revoked certificate")]
    Revoked {
        /// The configured issuer.
        issuer: String,
    },
    /// A revocation list is missing, overdue or not its authority's.
    #[error("whether the certificates of issuer {issuer:?} are revoked is not known: {cause}")]
    RevocationUnknown {
        /// The configured issuer.
        issuer: String,
        /// What is wrong with the lists.
        cause: String,
    },
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Jwk>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    #[serde(default)]
    x5c: Vec<String>,
}

/// One believed key.
#[derive(Clone)]
pub(crate) struct VerificationKey {
    pub(crate) algorithm: Algorithm,
    pub(crate) key: DecodingKey,
    /// The last second, in unix time, in which every certificate of its chain is valid: a set is used for a while after
    /// its chains were judged.
    pub(crate) not_after: u64,
    /// What vouches for it, for revocation lists.
    pub(crate) chain: Arc<Chain>,
}

/// The believed keys of one issuer.
#[derive(Clone)]
pub struct KeySet {
    pub(crate) issuer: TrustedIssuer,
    pub(crate) keys: HashMap<String, VerificationKey>,
}

impl KeySet {
    /// Reads a JWKS. Keys for other algorithms than the issuer's are passed over; one bad key among the others refuses
    /// the whole set. `now` in unix seconds, for the validity of the certificates.
    pub fn from_jwks(json: &[u8], issuer: &TrustedIssuer, now: u64) -> Result<Self, KeySetError> {
        if json.len() > JWKS_BYTES_MAX {
            return Err(KeySetError::TooLarge { bytes: json.len() });
        }
        let document: Document = serde_json::from_slice(json).map_err(|_| KeySetError::Malformed)?;
        if document.keys.len() > KEYS_MAX {
            return Err(KeySetError::Malformed);
        }
        let mut keys = HashMap::new();
        for (index, jwk) in document.keys.iter().enumerate() {
            let Some(algorithm) = algorithm(jwk).filter(|algorithm| issuer.algorithms.contains(algorithm)) else { continue };
            let kid = jwk.kid.as_deref().filter(|kid| (1..=KID_CHARACTERS_MAX).contains(&kid.len()));
            let kid = kid.ok_or(KeySetError::Key { index, field: "kid" })?;
            let key = believed(jwk, algorithm, issuer, index, now)?;
            if keys.insert(kid.to_owned(), key).is_some() {
                return Err(KeySetError::DuplicateKid);
            }
        }
        if keys.is_empty() { Err(KeySetError::NoKey) } else { Ok(Self { issuer: issuer.clone(), keys }) }
    }

    /// The configured issuer.
    pub fn issuer(&self) -> &str {
        &self.issuer.issuer
    }

    /// Whether a key has this `kid`.
    pub fn knows(&self, kid: &str) -> bool {
        self.keys.contains_key(kid)
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeySet({:?}, {} keys)", self.issuer.issuer, self.keys.len())
    }
}

/// The key's own word where it has one and its type allows it; else the one that its type stands for.
fn algorithm(jwk: &Jwk) -> Option<Algorithm> {
    let by_type = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("RSA", _) => Algorithm::Ps384,
        ("EC", Some("P-384")) => Algorithm::Es384,
        ("EC", Some("P-256")) => Algorithm::Es256,
        _ => return None,
    };
    match &jwk.alg {
        None => Some(by_type),
        Some(name) => Algorithm::from_name(name).filter(|named| *named == by_type || (named.is_rsa() && by_type.is_rsa())),
    }
}

/// A public key's numbers, big-endian without leading zeros (RSA), or its uncompressed point (EC).
#[derive(PartialEq, Eq)]
enum Numbers {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    Ec { point: Vec<u8> },
}

fn believed(jwk: &Jwk, algorithm: Algorithm, issuer: &TrustedIssuer, index: usize, now: u64) -> Result<VerificationKey, KeySetError> {
    let numbers = numbers(jwk, algorithm, index)?;
    let certificates = certificates(jwk, index)?;
    let is_leaf = |der: &CertificateDer<'_>| certified(der).is_some_and(|certified| certified == numbers);
    let (mut leaves, others): (Vec<_>, Vec<_>) = certificates.into_iter().partition(is_leaf);
    let (Some(leaf), true) = (leaves.pop(), leaves.is_empty()) else { return Err(KeySetError::NotTheLeafsKey { index }) };
    let (not_after, authorities) = verify_chain(&leaf, &others, issuer, index, now)?;
    let key = match numbers {
        Numbers::Rsa { n, e } => DecodingKey::from_rsa_raw_components(&n, &e),
        Numbers::Ec { point } => DecodingKey::from_ec_der(&point),
    };
    Ok(VerificationKey { algorithm, key, not_after, chain: Arc::new(Chain { leaf, authorities }) })
}

fn numbers(jwk: &Jwk, algorithm: Algorithm, index: usize) -> Result<Numbers, KeySetError> {
    let member = |field: &'static str, text: &Option<String>| {
        text.as_deref().and_then(|text| BASE64_URL_SAFE_NO_PAD.decode(text).ok()).ok_or(KeySetError::Key { index, field })
    };
    let coordinate_bytes = match algorithm {
        Algorithm::Ps384 | Algorithm::Rs256 => {
            let (n, e) = (trimmed(&member("n", &jwk.n)?), trimmed(&member("e", &jwk.e)?));
            if !RSA_BYTES.contains(&n.len()) {
                return Err(KeySetError::Key { index, field: "n" });
            }
            return Ok(Numbers::Rsa { n, e });
        }
        Algorithm::Es384 => 48,
        Algorithm::Es256 => 32,
    };
    let (x, y) = (member("x", &jwk.x)?, member("y", &jwk.y)?);
    if x.len() != coordinate_bytes || y.len() != coordinate_bytes {
        return Err(KeySetError::Key { index, field: "x or y" });
    }
    Ok(Numbers::Ec { point: [&[4], x.as_slice(), y.as_slice()].concat() })
}

fn certificates(jwk: &Jwk, index: usize) -> Result<Vec<CertificateDer<'static>>, KeySetError> {
    let malformed = KeySetError::Key { index, field: "x5c" };
    if jwk.x5c.is_empty() || jwk.x5c.len() > CERTIFICATES_MAX {
        return Err(malformed);
    }
    let decoded: Result<Vec<_>, _> = jwk.x5c.iter().map(|text| BASE64_STANDARD.decode(text).map(CertificateDer::from)).collect();
    decoded.map_err(|_| malformed)
}

/// The public key of a certificate.
fn certified(der: &CertificateDer<'_>) -> Option<Numbers> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    match certificate.public_key().parsed().ok()? {
        PublicKey::RSA(key) => Some(Numbers::Rsa { n: trimmed(key.modulus), e: trimmed(key.exponent) }),
        PublicKey::EC(point) => Some(Numbers::Ec { point: point.data().to_vec() }),
        _ => None,
    }
}

/// Path building, signatures, validity and basic constraints are webpki's work, key usage is ours (webpki reads it for
/// revocation lists only), and so is the root. Extended key usage: serverAuth or none, as Intel's clients demand. Returns
/// the last second in which the whole chain is valid, and the authorities between leaf and root.
fn verify_chain(
    leaf: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
    issuer: &TrustedIssuer,
    index: usize,
    now: u64,
) -> Result<(u64, Vec<CertificateDer<'static>>), KeySetError> {
    let root = CertificateDer::from(issuer.root_der.as_slice());
    let anchor = anchor_from_trusted_cert(&root).map_err(|_| KeySetError::Root { issuer: issuer.issuer.clone() })?;
    let untrusted = |cause: webpki::Error| KeySetError::Untrusted { index, cause: format!("{cause:?}") };
    let end_entity = EndEntityCert::try_from(leaf).map_err(untrusted)?;
    let at = UnixTime::since_unix_epoch(Duration::from_secs(now));
    let anchors = [anchor];
    let path = end_entity
        .verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, others, at, KeyUsage::server_auth(), None, None)
        .map_err(untrusted)?;
    let mut not_after = usable(leaf, index, now, KeyUsageExtension::digital_signature)?;
    let authorities: Vec<_> = path.intermediate_certificates().map(|authority| authority.der().into_owned()).collect();
    for authority in &authorities {
        not_after = not_after.min(usable(authority, index, now, KeyUsageExtension::key_cert_sign)?);
    }
    Ok((not_after, authorities))
}

/// Where a certificate restricts what its key is for, this use must be among it. Returns when the certificate ends.
fn usable(der: &CertificateDer<'_>, index: usize, now: u64, allows: impl Fn(&KeyUsageExtension) -> bool) -> Result<u64, KeySetError> {
    let untrusted = |cause: &str| KeySetError::Untrusted { index, cause: cause.to_owned() };
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| untrusted("a certificate is malformed"))?;
    let restriction = certificate.key_usage().map_err(|_| untrusted("a key usage is malformed"))?;
    if restriction.is_some_and(|usage| !allows(usage.value)) {
        return Err(untrusted("a certificate's key usage does not allow this use"));
    }
    // Already judged against `now` by webpki; a time before 1970 cannot have passed that.
    Ok(u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(now))
}

fn trimmed(number: &[u8]) -> Vec<u8> {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number[zeros..].to_vec()
}
