//! The root of an issuer whose configuration names none: taken at the first start from the issuer's own key set, over
//! verified TLS, and kept. From then on it is pinned like any other, and a key set under another root is refused.
//!
//! That first fetch is the one moment in which whoever holds a certificate for the issuer's address decides whom this
//! service believes. Put the issuer's root there beforehand to avoid it.

use std::{collections::BTreeSet, fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt, path::PathBuf, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use keyferry_attestation_token::{KeySet, KeySetError, TrustedIssuer};
use keyferry_tls::RootsConfig;
use keyferry_trust_authority::{JwksSource, TrustAuthorityError};
use serde::Deserialize;
use x509_parser::parse_x509_certificate;

use crate::config::IssuerConfig;

/// First pause of a repetition.
const FETCH_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Why no root was pinned.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// The key set cannot be had.
    #[error("the key set of {issuer:?}, whose root is to be pinned, cannot be fetched: {source}")]
    Fetch {
        /// Whose.
        issuer: String,
        /// Why.
        source: TrustAuthorityError,
    },
    /// No root, or more than one.
    #[error("the key set of {issuer:?} names {found} roots: exactly one can be pinned; put the right one into root_file")]
    Roots {
        /// Whose.
        issuer: String,
        /// How many.
        found: usize,
    },
    /// Its keys do not chain to the root in it.
    #[error("the key set of {issuer:?} is not to be believed: {source}")]
    KeySet {
        /// Whose.
        issuer: String,
        /// Why.
        source: KeySetError,
    },
    /// It cannot be kept.
    #[error("{}: {source}: check that the directory exists and is writable", path.display())]
    File {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Pins the roots of those issuers that want it and have none. `now` in unix seconds.
pub async fn pin_missing(issuers: &[IssuerConfig], now: u64) -> Result<(), PinError> {
    for issuer in issuers.iter().filter(|issuer| issuer.pin_on_first_use && !issuer.root_file.exists()) {
        let named = || issuer.issuer.clone();
        let roots = RootsConfig::CaFile(issuer.jwks_ca_file.clone());
        let source = JwksSource::through(&issuer.jwks_url, &roots, FETCH_RETRY_DELAY, issuer.proxy.as_ref());
        let source = source.map_err(|source| PinError::Fetch { issuer: named(), source })?;
        let jwks = source.fetch().await.map_err(|source| PinError::Fetch { issuer: named(), source })?;
        let root = only_root(&jwks).map_err(|found| PinError::Roots { issuer: named(), found })?;
        let trusted = TrustedIssuer::new(named(), root.clone(), issuer.algorithms.clone());
        KeySet::from_jwks(&jwks, &trusted, now).map_err(|source| PinError::KeySet { issuer: named(), source })?;
        keep(issuer, &root)?;
    }
    Ok(())
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Chain>,
}

#[derive(Deserialize)]
struct Chain {
    #[serde(default)]
    x5c: Vec<String>,
}

/// The self-signed certificate that all chains have; otherwise how many there are.
fn only_root(jwks: &[u8]) -> Result<Vec<u8>, usize> {
    let document: Document = serde_json::from_slice(jwks).map_err(|_| 0_usize)?;
    let certificates = document.keys.iter().flat_map(|key| &key.x5c).filter_map(|text| BASE64_STANDARD.decode(text).ok());
    let is_root = |der: &Vec<u8>| {
        parse_x509_certificate(der).is_ok_and(|(_, certificate)| certificate.is_ca() && certificate.subject() == certificate.issuer())
    };
    let mut roots: BTreeSet<Vec<u8>> = certificates.filter(is_root).collect();
    match (roots.pop_first(), roots.len()) {
        (Some(root), 0) => Ok(root),
        (None, _) => Err(0),
        (Some(_), more) => Err(more + 1),
    }
}

fn keep(issuer: &IssuerConfig, root: &[u8]) -> Result<(), PinError> {
    let failed = |source| PinError::File { path: issuer.root_file.clone(), source };
    let text = pem::encode(&pem::Pem::new("CERTIFICATE", root));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&issuer.root_file).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    tracing::warn!(
        issuer = issuer.issuer, file = %issuer.root_file.display(),
        "PINNED THE ROOT OF THE ISSUER THAT ITS KEY SET NAMED: compare it with the one the issuer publishes"
    );
    Ok(())
}
