//! Collateral: what the vendor publishes about a platform family, parsed once and then shared by every verification.

use std::sync::Arc;

use dcap_qvl::{QeIdentity, QuoteCollateralV3, TcbInfo};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::denial::CollateralPart;
use crate::x509::RevocationList;

/// The largest collateral document that is read; real ones have about 30 kB.
const JSON_BYTES_MAX: usize = 1024 * 1024;
/// Signer and root, or at most two more.
const CHAIN_CERTIFICATES_MAX: usize = 4;

/// One generation of collateral for one platform family: parsed, not yet authenticated. That happens in a verification,
/// under the verifier's root and at its time, or in [`Collateral::authenticate`].
#[derive(Clone, Debug)]
pub struct Collateral {
    engine: QuoteCollateralV3,
    tcb_info: TcbInfo,
    qe_identity: QeIdentity,
    tcb_info_window: Window,
    qe_identity_window: Window,
    tcb_info_chain: Vec<Vec<u8>>,
    qe_identity_chain: Vec<Vec<u8>>,
    pck_chain: Option<Vec<Vec<u8>>>,
    fmspc: [u8; 6],
    digests: Arc<PartDigests>,
}

/// SHA-256 of each part, made once.
#[derive(Debug)]
pub(crate) struct PartDigests {
    pub(crate) tcb_info: [u8; 32],
    pub(crate) tcb_info_certificates: [u8; 32],
    pub(crate) pck_crl: [u8; 32],
    pub(crate) qe_identity: [u8; 32],
    pub(crate) qe_identity_certificates: [u8; 32],
    pub(crate) root_crl: [u8; 32],
    /// Of everything together: equal for two pieces of collateral only if all their bytes are.
    pub(crate) identity: [u8; 32],
}

/// First and last second of validity.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) from: u64,
    pub(crate) until: u64,
}

impl Window {
    /// The seconds in both.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { from: self.from.max(other.from), until: self.until.min(other.until) }
    }
}

/// Why a document is no collateral.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CollateralError {
    /// Too large to be read.
    #[error("collateral has {bytes} bytes: at most {max} are read")]
    TooLarge {
        /// Bytes given.
        bytes: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// Not the JSON object it has to be.
    #[error("collateral is not the expected JSON object: {0}")]
    Json(String),
    /// A member that does not read as what it has to be.
    #[error("{part} in the collateral is malformed: {detail}")]
    Part {
        /// Which part.
        part: CollateralPart,
        /// What is wrong with it.
        detail: String,
    },
}

impl CollateralError {
    /// The label of the contract's reason.
    pub const fn label(&self) -> &'static str {
        "collateral_invalid"
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    pck_crl_issuer_chain: String,
    #[serde(with = "hex")]
    root_ca_crl: Vec<u8>,
    #[serde(with = "hex")]
    pck_crl: Vec<u8>,
    tcb_info_issuer_chain: String,
    tcb_info: String,
    #[serde(with = "hex")]
    tcb_info_signature: Vec<u8>,
    qe_identity_issuer_chain: String,
    qe_identity: String,
    #[serde(with = "hex")]
    qe_identity_signature: Vec<u8>,
    #[serde(default)]
    pck_certificate_chain: Option<String>,
}

impl Collateral {
    /// Parses the common JSON form: CRLs and signatures in hex, chains in PEM, TCB info and QE identity as the exact texts
    /// that were signed.
    pub fn from_json(json: &str) -> Result<Self, CollateralError> {
        if json.len() > JSON_BYTES_MAX {
            return Err(CollateralError::TooLarge { bytes: json.len(), max: JSON_BYTES_MAX });
        }
        let document: Document = serde_json::from_str(json).map_err(|error| CollateralError::Json(error.to_string()))?;
        let pck_chain = document.pck_certificate_chain.as_deref();
        let tcb_info: TcbInfo = parse(CollateralPart::TcbInfo, &document.tcb_info)?;
        let qe_identity: QeIdentity = parse(CollateralPart::QeIdentity, &document.qe_identity)?;
        let tcb_info_chain = chain(CollateralPart::TcbInfoSigner, &document.tcb_info_issuer_chain)?;
        Ok(Self {
            digests: Arc::new(PartDigests::of(&document)),
            fmspc: decode_fmspc(&tcb_info.fmspc)?,
            tcb_info_window: window(CollateralPart::TcbInfo, &tcb_info.issue_date, &tcb_info.next_update)?,
            qe_identity_window: window(CollateralPart::QeIdentity, &qe_identity.issue_date, &qe_identity.next_update)?,
            qe_identity_chain: if document.qe_identity_issuer_chain == document.tcb_info_issuer_chain {
                tcb_info_chain.clone()
            } else {
                chain(CollateralPart::QeIdentitySigner, &document.qe_identity_issuer_chain)?
            },
            tcb_info_chain,
            pck_chain: pck_chain.map(|text| chain(CollateralPart::PckChain, text)).transpose()?,
            tcb_info,
            qe_identity,
            engine: document.into_engine(),
        })
    }

    /// The platform family the TCB info speaks of.
    pub const fn fmspc(&self) -> [u8; 6] {
        self.fmspc
    }
    /// The TCB info's evaluation number.
    pub const fn evaluation_number(&self) -> u32 {
        self.tcb_info.tcb_evaluation_data_number
    }
    /// The last second at which TCB info, QE identity and both revocation lists are valid: after it every quote is refused.
    /// Claimed, not authenticated: good for a warning. 0 if a list cannot be read.
    pub fn next_update(&self) -> u64 {
        let list_end = |der| RevocationList::parse(der).map_or(0, |list| list.validity().1.saturating_sub(1));
        let lists = list_end(&self.engine.pck_crl).min(list_end(&self.engine.root_ca_crl));
        self.tcb_info_window.until.min(self.qe_identity_window.until).min(lists)
    }

    pub(crate) const fn for_engine(&self) -> &QuoteCollateralV3 {
        &self.engine
    }
    pub(crate) const fn tcb_info(&self) -> &TcbInfo {
        &self.tcb_info
    }
    pub(crate) const fn qe_identity(&self) -> &QeIdentity {
        &self.qe_identity
    }
    pub(crate) const fn tcb_info_window(&self) -> Window {
        self.tcb_info_window
    }
    pub(crate) const fn qe_identity_window(&self) -> Window {
        self.qe_identity_window
    }
    pub(crate) fn tcb_info_chain(&self) -> &[Vec<u8>] {
        &self.tcb_info_chain
    }
    pub(crate) fn qe_identity_chain(&self) -> &[Vec<u8>] {
        &self.qe_identity_chain
    }
    /// Who issued the PCK CRL, if the collateral says so in a readable way; a quote brings it along.
    pub(crate) fn pck_crl_issuer(&self) -> Option<Vec<u8>> {
        chain(CollateralPart::PckCrl, &self.engine.pck_crl_issuer_chain).ok()?.into_iter().next()
    }
    pub(crate) const fn digests(&self) -> &Arc<PartDigests> {
        &self.digests
    }
    /// The PCK chain some collectors add. The engine would prefer it to the chain in the quote, and then not look at the
    /// latter at all, so it never gets there; see [`Self::for_engine`].
    pub(crate) fn pck_chain(&self) -> Option<&[Vec<u8>]> {
        self.pck_chain.as_deref()
    }
}

impl Document {
    fn into_engine(self) -> QuoteCollateralV3 {
        QuoteCollateralV3 {
            pck_crl_issuer_chain: self.pck_crl_issuer_chain,
            root_ca_crl: self.root_ca_crl,
            pck_crl: self.pck_crl,
            tcb_info_issuer_chain: self.tcb_info_issuer_chain,
            tcb_info: self.tcb_info,
            tcb_info_signature: self.tcb_info_signature,
            qe_identity_issuer_chain: self.qe_identity_issuer_chain,
            qe_identity: self.qe_identity,
            qe_identity_signature: self.qe_identity_signature,
            pck_certificate_chain: None,
        }
    }
}

impl PartDigests {
    fn of(document: &Document) -> Self {
        let mut digests = Self {
            tcb_info: sha256(document.tcb_info.as_bytes()),
            tcb_info_certificates: sha256(document.tcb_info_issuer_chain.as_bytes()),
            pck_crl: sha256(&document.pck_crl),
            qe_identity: sha256(document.qe_identity.as_bytes()),
            qe_identity_certificates: sha256(document.qe_identity_issuer_chain.as_bytes()),
            root_crl: sha256(&document.root_ca_crl),
            identity: [0; 32],
        };
        let rest = [&document.tcb_info_signature, &document.qe_identity_signature].map(|bytes| sha256(bytes));
        let issuers = [Some(&document.pck_crl_issuer_chain), document.pck_certificate_chain.as_ref()]
            .map(|text| text.map_or([0; 32], |text| sha256(text.as_bytes())));
        let all = [
            digests.tcb_info,
            digests.tcb_info_certificates,
            digests.pck_crl,
            digests.qe_identity,
            digests.qe_identity_certificates,
            digests.root_crl,
        ];
        digests.identity = sha256(&[all.as_slice(), &rest, &issuers].concat().concat());
        digests
    }
}

fn part_error(part: CollateralPart, detail: impl Into<String>) -> CollateralError {
    CollateralError::Part { part, detail: detail.into() }
}

fn parse<'a, T: Deserialize<'a>>(part: CollateralPart, json: &'a str) -> Result<T, CollateralError> {
    serde_json::from_str(json).map_err(|error| part_error(part, error.to_string()))
}

fn decode_fmspc(text: &str) -> Result<[u8; 6], CollateralError> {
    let mut fmspc = [0; 6];
    hex::decode_to_slice(text, &mut fmspc).map_err(|_| part_error(CollateralPart::TcbInfo, "fmspc is not 12 hex digits"))?;
    Ok(fmspc)
}

fn window(part: CollateralPart, issue_date: &str, next_update: &str) -> Result<Window, CollateralError> {
    let from = unix_seconds(issue_date).ok_or_else(|| part_error(part, "issueDate is not an RFC 3339 time"))?;
    let until = unix_seconds(next_update).ok_or_else(|| part_error(part, "nextUpdate is not an RFC 3339 time"))?;
    Ok(Window { from, until })
}

pub(crate) fn unix_seconds(rfc3339: &str) -> Option<u64> {
    let timestamp: jiff::Timestamp = rfc3339.parse().ok()?;
    u64::try_from(timestamp.as_second()).ok()
}

/// DER of a PEM chain, signer first.
fn chain(part: CollateralPart, text: &str) -> Result<Vec<Vec<u8>>, CollateralError> {
    let blocks = pem::parse_many(text).map_err(|_| part_error(part, "the issuer chain is not PEM"))?;
    if blocks.len() < 2 || blocks.len() > CHAIN_CERTIFICATES_MAX || blocks.iter().any(|block| block.tag() != "CERTIFICATE") {
        return Err(part_error(part, "the issuer chain is not a signer certificate and its root"));
    }
    Ok(blocks.into_iter().map(pem::Pem::into_contents).collect())
}

/// SHA-256 of each part, as attestation tokens report them.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}
