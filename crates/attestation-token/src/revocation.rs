//! Withdrawn certificates: revocation lists of the authorities of a token-signing chain, and what they make of a key set.
//!
//! Fetching lists is somebody else's work, as it is with key sets. A list proves itself: it counts only if the authority
//! that issued the certificate also signed the list, and only until the time of its next update.

use std::{collections::BTreeSet, fmt, time::Duration};

use rustls_pki_types::{CertificateDer, UnixTime};
use serde::{Deserialize, Serialize};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList, RevocationCheckDepth, RevocationOptionsBuilder,
    UnknownStatusPolicy, anchor_from_trusted_cert,
};
use x509_parser::{
    extensions::{DistributionPointName, GeneralName, ParsedExtension},
    prelude::{FromDer, X509Certificate},
    revocation_list::CertificateRevocationList,
};

use crate::{
    CLOCK_SKEW_SECONDS,
    jwks::{KeySet, KeySetError, TrustedIssuer, VerificationKey},
};

/// The longest revocation list that is looked at; one of a token-signing authority has a few hundred bytes.
pub const CRL_BYTES_MAX: usize = 1024 * 1024;

/// Whether certificates of a token-signing chain are looked up in revocation lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RevocationCheck {
    /// Never.
    Off,
    /// Where a certificate names a list, that list has to be there and current.
    #[default]
    IfNamed,
    /// Every certificate has to name a list.
    Required,
}

/// How strictly withdrawn certificates are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Revocation {
    /// Whether lists are needed.
    pub check: RevocationCheck,
    /// How long after the time of its next update a list still counts, in seconds: its authority may be late. Default 0.
    pub grace_seconds: u64,
}

impl Default for Revocation {
    fn default() -> Self {
        Self { check: RevocationCheck::IfNamed, grace_seconds: 0 }
    }
}

impl Revocation {
    /// No list is looked at.
    pub const OFF: Self = Self { check: RevocationCheck::Off, grace_seconds: 0 };
}

/// Why bytes are no revocation list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RevocationListError {
    /// Over [`CRL_BYTES_MAX`].
    #[error("the revocation list has {bytes} bytes, {CRL_BYTES_MAX} are allowed")]
    TooLarge {
        /// Bytes found.
        bytes: usize,
    },
    /// Not DER of a version 2 list, or of a kind that is not understood.
    #[error("not a revocation list in DER that is understood: {cause}")]
    Malformed {
        /// The parser's word.
        cause: String,
    },
    /// It never ends.
    #[error("the revocation list names no time of its next update")]
    NoNextUpdate,
}

/// A revocation list that parses. Whose it is shows when it is used.
pub struct RevocationList {
    list: CertRevocationList<'static>,
    this_update: u64,
    next_update: u64,
}

impl RevocationList {
    /// Reads DER; PEM is refused, as Intel's clients do.
    pub fn from_der(der: &[u8]) -> Result<Self, RevocationListError> {
        if der.len() > CRL_BYTES_MAX {
            return Err(RevocationListError::TooLarge { bytes: der.len() });
        }
        let malformed = |cause: String| RevocationListError::Malformed { cause };
        let list = OwnedCertRevocationList::from_der(der).map_err(|error| malformed(format!("{error:?}")))?;
        let (_, parsed) = CertificateRevocationList::from_der(der).map_err(|_| malformed("its times cannot be read".to_owned()))?;
        let seconds = |timestamp: i64| u64::try_from(timestamp).unwrap_or(0);
        let next_update = parsed.next_update().ok_or(RevocationListError::NoNextUpdate)?;
        Ok(Self {
            list: list.into(),
            this_update: seconds(parsed.last_update().timestamp()),
            next_update: seconds(next_update.timestamp()),
        })
    }

    /// When it was made, in unix seconds. A newer one supersedes an older one of the same authority.
    pub fn this_update(&self) -> u64 {
        self.this_update
    }
    /// When the next one is due, in unix seconds.
    pub fn next_update(&self) -> u64 {
        self.next_update
    }

    fn ends_at(&self, rules: Revocation) -> u64 {
        self.next_update.saturating_add(rules.grace_seconds)
    }

    fn is_current(&self, rules: Revocation, now: u64) -> bool {
        self.this_update <= now.saturating_add(CLOCK_SKEW_SECONDS) && now <= self.ends_at(rules)
    }
}

impl fmt::Debug for RevocationList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RevocationList(of {}, next at {})", self.this_update, self.next_update)
    }
}

/// The certificates that vouch for one key, without the pinned root; kept to be judged again with revocation lists.
pub(crate) struct Chain {
    /// The key's own certificate.
    pub(crate) leaf: CertificateDer<'static>,
    /// The authorities between it and the root.
    pub(crate) authorities: Vec<CertificateDer<'static>>,
}

impl Chain {
    fn certificates(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        std::iter::once(&self.leaf).chain(&self.authorities)
    }
}

impl KeySet {
    /// Where the certificates of its chains say that their revocation lists are. All of them lead to the pinned root.
    pub fn distribution_points(&self) -> BTreeSet<String> {
        self.keys.values().flat_map(|key| key.chain.certificates()).filter_map(|der| distribution_point(der)).collect()
    }

    /// The set without the keys of withdrawn certificates; none left is an error, and so is a status that `rules` demand
    /// and nobody can tell. What remains ends with the lists it rests on. `now` in unix seconds.
    pub fn without_revoked(&self, lists: &[&RevocationList], rules: Revocation, now: u64) -> Result<Self, KeySetError> {
        if rules.check == RevocationCheck::Off {
            return Ok(self.clone());
        }
        let mut left = self.clone();
        for (kid, key) in &self.keys {
            match (ends_at(key, &self.issuer, lists, rules, now)?, left.keys.get_mut(kid)) {
                (Some(end), Some(key)) => key.not_after = key.not_after.min(end),
                _ => drop(left.keys.remove(kid)),
            }
        }
        if left.keys.is_empty() { Err(KeySetError::Revoked { issuer: self.issuer.issuer.clone() }) } else { Ok(left) }
    }
}

/// Until when the key may be believed; `None` if a certificate of its chain is withdrawn.
fn ends_at(
    key: &VerificationKey,
    issuer: &TrustedIssuer,
    lists: &[&RevocationList],
    rules: Revocation,
    now: u64,
) -> Result<Option<u64>, KeySetError> {
    let unknown = |cause: String| KeySetError::RevocationUnknown { issuer: issuer.issuer.clone(), cause };
    let (mut used, mut end, mut all_named) = (Vec::new(), u64::MAX, true);
    for der in key.chain.certificates() {
        if distribution_point(der).is_none() && rules.check == RevocationCheck::IfNamed {
            all_named = false;
            continue;
        }
        let list = lists.iter().filter(|list| is_issuer_of(der, list)).max_by_key(|list| list.this_update);
        let list = list.ok_or_else(|| unknown("no list of one of its authorities is there".to_owned()))?;
        if !list.is_current(rules, now) {
            return Err(unknown(format!("a list of one of its authorities was due at {} (unix seconds)", list.next_update)));
        }
        end = end.min(list.ends_at(rules));
        used.push(&list.list);
    }
    let Ok(options) = RevocationOptionsBuilder::new(&used) else { return Ok(Some(end)) };
    let options = options
        .with_depth(RevocationCheckDepth::Chain)
        .with_status_policy(if all_named { UnknownStatusPolicy::Deny } else { UnknownStatusPolicy::Allow })
        // Judged above, with the grace.
        .with_expiration_policy(ExpirationPolicy::Ignore)
        .build();
    let root = CertificateDer::from(issuer.root_der.as_slice());
    let anchors = [anchor_from_trusted_cert(&root).map_err(|_| KeySetError::Root { issuer: issuer.issuer.clone() })?];
    let leaf = EndEntityCert::try_from(&key.chain.leaf).map_err(|error| unknown(format!("{error:?}")))?;
    let at = UnixTime::since_unix_epoch(Duration::from_secs(now));
    let (algorithms, usage) = (webpki::ALL_VERIFICATION_ALGS, KeyUsage::server_auth());
    match leaf.verify_for_usage(algorithms, &anchors, &key.chain.authorities, at, usage, Some(options), None) {
        Ok(_path) => Ok(Some(end)),
        Err(webpki::Error::CertRevoked) => Ok(None),
        Err(error) => Err(unknown(format!("{error:?}"))),
    }
}

fn is_issuer_of(der: &CertificateDer<'_>, list: &RevocationList) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(_, certificate)| {
        // webpki keeps a name without the sequence around it.
        let name = certificate.issuer().as_raw();
        name.ends_with(list.list.issuer()) && name.len() - list.list.issuer().len() <= NAME_HEADER_BYTES_MAX
    })
}

/// Tag and length of a sequence of less than 64 KiB.
const NAME_HEADER_BYTES_MAX: usize = 4;

/// The first URL among the certificate's distribution points.
fn distribution_point(der: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let mut points = certificate.extensions().iter().filter_map(|extension| match extension.parsed_extension() {
        ParsedExtension::CRLDistributionPoints(points) => Some(points),
        _ => None,
    });
    points.by_ref().flat_map(|points| &points.points).find_map(|point| match &point.distribution_point {
        Some(DistributionPointName::FullName(names)) => names.iter().find_map(|name| match name {
            GeneralName::URI(url) => Some((*url).to_owned()),
            _ => None,
        }),
        _ => None,
    })
}
