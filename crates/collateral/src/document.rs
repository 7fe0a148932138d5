//! One collateral document: the texts as they were signed, what they say about themselves, and whether they verify.

use std::fmt;

use keyferry_dcap::{Authenticated, Collateral, CollateralError, DcapDenial, TrustAnchor};
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use crate::{Ca, Family};

/// One of the four things that age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ItemKind {
    /// TCB levels of the family.
    TcbInfo,
    /// What a genuine quoting enclave looks like.
    QeIdentity,
    /// Revoked platforms.
    PckCrl,
    /// Revoked CAs and signers.
    RootCrl,
}

impl ItemKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::TcbInfo, Self::QeIdentity, Self::PckCrl, Self::RootCrl];

    /// One word, for metrics and JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Self::TcbInfo => "tcb_info",
            Self::QeIdentity => "qe_identity",
            Self::PckCrl => "pck_crl",
            Self::RootCrl => "root_crl",
        }
    }
}

impl fmt::Display for ItemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TcbInfo => "TCB info",
            Self::QeIdentity => "QE identity",
            Self::PckCrl => "PCK CRL",
            Self::RootCrl => "root CRL",
        })
    }
}

/// When an item was issued and when the next is due, in Unix seconds. As it claims: see [`Document::verify`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// Which.
    pub kind: ItemKind,
    /// Issue date.
    pub issued_at: u64,
    /// When it stops counting.
    pub next_update: u64,
}

impl Item {
    /// The part of its life that is left at `now`, in percent: 0 when it is over.
    pub const fn percent_left(&self, now: u64) -> u64 {
        let life = self.next_update.saturating_sub(self.issued_at);
        let left = self.next_update.saturating_sub(now);
        match left.saturating_mul(100).checked_div(life) {
            Some(percent) => percent,
            None => 0,
        }
    }
}

/// The common JSON form: CRLs and signatures in hex, chains in PEM, TCB info and QE identity as the exact texts.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Parts {
    #[serde(default)]
    pub(crate) pck_crl_issuer_chain: String,
    pub(crate) root_ca_crl: String,
    pub(crate) pck_crl: String,
    pub(crate) tcb_info_issuer_chain: String,
    pub(crate) tcb_info: String,
    pub(crate) tcb_info_signature: String,
    pub(crate) qe_identity_issuer_chain: String,
    pub(crate) qe_identity: String,
    pub(crate) qe_identity_signature: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pck_certificate_chain: Option<String>,
}

/// What the signed texts say of themselves.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Claims {
    issue_date: jiff::Timestamp,
    next_update: jiff::Timestamp,
    tcb_evaluation_data_number: u32,
}

/// Why a text is no collateral document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// It does not read as one.
    #[error(transparent)]
    Content(#[from] CollateralError),
    /// A part has no dates, number or issuer where it must have them.
    #[error("the {item} is malformed: {detail}")]
    Item {
        /// Which.
        item: ItemKind,
        /// What is wrong with it.
        detail: &'static str,
    },
}

/// Collateral for one family, parsed and **not** verified.
#[derive(Clone, Debug)]
pub struct Document {
    text: String,
    collateral: Collateral,
    ca: Ca,
    items: [Item; 4],
    qe_evaluation_number: u32,
    revoked: [usize; 2],
}

impl Document {
    /// Reads the common JSON form, which is kept as it is.
    pub fn parse(text: &str) -> Result<Self, DocumentError> {
        // First, because it bounds the size.
        let collateral = Collateral::from_json(text)?;
        let parts: Parts = serde_json::from_str(text).map_err(|error| CollateralError::Json(error.to_string()))?;
        Self::new(text.to_owned(), collateral, &parts)
    }

    pub(crate) fn from_parts(parts: &Parts) -> Result<Self, DocumentError> {
        let text = serde_json::to_string_pretty(parts).map_err(|error| CollateralError::Json(error.to_string()))?;
        let collateral = Collateral::from_json(&text)?;
        Self::new(text, collateral, parts)
    }

    fn new(text: String, collateral: Collateral, parts: &Parts) -> Result<Self, DocumentError> {
        let (tcb_info, _) = signed(ItemKind::TcbInfo, &parts.tcb_info)?;
        let (qe_identity, qe_evaluation_number) = signed(ItemKind::QeIdentity, &parts.qe_identity)?;
        let (pck_crl, root_crl) = (List::parse(ItemKind::PckCrl, &parts.pck_crl)?, List::parse(ItemKind::RootCrl, &parts.root_ca_crl)?);
        let no_ca = DocumentError::Item { item: ItemKind::PckCrl, detail: "its issuer is neither the platform nor the processor CA" };
        Ok(Self {
            text,
            collateral,
            ca: Ca::from_common_name(&pck_crl.issuer).ok_or(no_ca)?,
            items: [tcb_info, qe_identity, pck_crl.item, root_crl.item],
            qe_evaluation_number,
            revoked: [pck_crl.revoked, root_crl.revoked],
        })
    }

    /// The JSON text.
    pub fn text(&self) -> &str {
        &self.text
    }
    /// For verifying quotes.
    pub const fn collateral(&self) -> &Collateral {
        &self.collateral
    }
    /// Whose collateral it is, as it claims.
    pub const fn family(&self) -> Family {
        Family { fmspc: self.collateral.fmspc(), ca: self.ca }
    }
    /// The TCB info's evaluation number.
    pub const fn evaluation_number(&self) -> u32 {
        self.collateral.evaluation_number()
    }
    /// The QE identity's evaluation number. It has to be equal.
    pub const fn qe_evaluation_number(&self) -> u32 {
        self.qe_evaluation_number
    }
    /// Dates of every item.
    pub const fn items(&self) -> &[Item; 4] {
        &self.items
    }
    /// When the oldest of TCB info, QE identity and PCK CRL was issued. The root's CRL lives a year and would hide their age.
    pub fn issued_at(&self) -> u64 {
        let [tcb_info, qe_identity, pck_crl, _] = &self.items;
        tcb_info.issued_at.min(qe_identity.issued_at).min(pck_crl.issued_at)
    }
    /// When the first item stops counting.
    pub fn next_update(&self) -> u64 {
        self.items.iter().map(|item| item.next_update).min().unwrap_or_default()
    }
    /// Certificates on the PCK CRL.
    pub const fn revoked_pcks(&self) -> usize {
        self.revoked[0]
    }
    /// Certificates on the root's CRL.
    pub const fn revoked_by_root(&self) -> usize {
        self.revoked[1]
    }

    /// Verifies every item under `anchor` at `now` (Unix seconds): signatures, chains, revocations, windows, and that TCB
    /// info and QE identity are of one evaluation. Some six signatures: below a millisecond of CPU.
    pub fn verify(self, anchor: &TrustAnchor, now: u64) -> Result<VerifiedDocument, Refused> {
        let authenticated = self.collateral.authenticate(anchor, now)?;
        Ok(VerifiedDocument { document: self, authenticated })
    }
}

/// Collateral of which every item verified, at the time it was verified.
#[derive(Clone, Debug)]
pub struct VerifiedDocument {
    document: Document,
    authenticated: Authenticated,
}

impl VerifiedDocument {
    /// The document.
    pub const fn document(&self) -> &Document {
        &self.document
    }
    /// What was authenticated.
    pub const fn authenticated(&self) -> &Authenticated {
        &self.authenticated
    }

    /// Never an older evaluation than `seen`, the highest number ever seen for the family: signed but old collateral would
    /// hide a TCB recovery.
    pub fn not_below(self, seen: u32) -> Result<Self, Refused> {
        let got = self.document.evaluation_number();
        if got < seen { Err(Refused::Denied(DcapDenial::CollateralRolledBack { seen, got })) } else { Ok(self) }
    }

    /// Never an older evaluation than `other` has, nor one of the same evaluation that was issued before it: its CRLs could
    /// lack a revocation.
    pub fn not_older_than(self, other: &Document) -> Result<Self, Refused> {
        let this = self.not_below(other.evaluation_number())?;
        let same_evaluation = this.document.evaluation_number() == other.evaluation_number();
        let older = this.document.items.iter().zip(other.items()).find(|(new, old)| new.issued_at < old.issued_at);
        match older {
            Some((new, _)) if same_evaluation => Err(Refused::Older { item: new.kind }),
            _ => Ok(this),
        }
    }
}

/// Why a document is not put in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It does not read as one.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// An item does not verify, or is of an older evaluation than was seen.
    #[error(transparent)]
    Denied(#[from] DcapDenial),
    /// For another family than it was filed under.
    #[error("it is for {got}, not for {wanted}")]
    OtherFamily {
        /// FMSPC and CA it was filed under.
        wanted: String,
        /// FMSPC and CA it is for.
        got: String,
    },
    /// The family is there twice.
    #[error("the family is there twice")]
    Twice,
    /// There is no room for another family.
    #[error("more families than are kept")]
    TooMany,
    /// Issued before what is there already.
    #[error("the {item} was issued before the one that is there already")]
    Older {
        /// Which item.
        item: ItemKind,
    },
}

impl Refused {
    /// The label of the contract's reason.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Denied(denial) => denial.label(),
            Self::Older { .. } => "collateral_rolled_back",
            Self::Document(_) | Self::OtherFamily { .. } | Self::Twice | Self::TooMany => "collateral_invalid",
        }
    }
}

fn signed(item: ItemKind, text: &str) -> Result<(Item, u32), DocumentError> {
    let claims: Claims = serde_json::from_str(text).map_err(|_| DocumentError::Item { item, detail: "dates or number are missing" })?;
    let dates =
        Item { kind: item, issued_at: seconds(claims.issue_date.as_second()), next_update: seconds(claims.next_update.as_second()) };
    Ok((dates, claims.tcb_evaluation_data_number))
}

struct List {
    item: Item,
    issuer: String,
    revoked: usize,
}

impl List {
    fn parse(item: ItemKind, hex_text: &str) -> Result<Self, DocumentError> {
        let malformed = |detail| DocumentError::Item { item, detail };
        let der = hex::decode(hex_text).map_err(|_| malformed("not hex"))?;
        let Ok(([], list)) = CertificateRevocationList::from_der(&der) else { return Err(malformed("not a DER revocation list")) };
        let next_update = list.next_update().ok_or(malformed("no next update"))?;
        let issuer = list.issuer().iter_common_name().next().and_then(|name| name.as_str().ok()).unwrap_or_default();
        Ok(Self {
            item: Item { kind: item, issued_at: seconds(list.last_update().timestamp()), next_update: seconds(next_update.timestamp()) },
            issuer: issuer.to_owned(),
            revoked: list.iter_revoked_certificates().count(),
        })
    }
}

/// Before 1970 is as good as 1970.
fn seconds(timestamp: i64) -> u64 {
    u64::try_from(timestamp).unwrap_or_default()
}
