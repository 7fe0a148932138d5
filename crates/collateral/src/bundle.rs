//! Collateral of several families in one file, to be carried to where there is no network.

use keyferry_dcap::TrustAnchor;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{Ca, Document, Family, Refused, Update, VerifiedDocument};

/// The version of the file's form.
const FORM: u32 = 1;
/// A document has about 30 kB.
const BUNDLE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Intel has some fifty families.
const FAMILIES_MAX: usize = 256;

/// A bundle, parsed and **not** verified.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    #[serde(rename = "keyferry_collateral_bundle")]
    form: u32,
    /// Where it came from: an address, or words. For people.
    pub source: String,
    /// Which TCB evaluation was asked for; absent where nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<Update>,
    /// When it was fetched. For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetched_at: Option<jiff::Timestamp>,
    /// One entry for each family.
    pub families: Vec<Entry>,
}

/// One family of a bundle.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// 12 hex digits.
    pub fmspc: String,
    /// Which CA.
    pub ca: Ca,
    collateral: Box<RawValue>,
}

/// Why a file is no bundle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// Too large to be read.
    #[error("the bundle has {bytes} bytes: at most {BUNDLE_BYTES_MAX} are read")]
    TooLarge {
        /// Bytes given.
        bytes: usize,
    },
    /// Not the JSON object it has to be.
    #[error("not a collateral bundle: {0}")]
    Json(String),
    /// Made by another version.
    #[error("the bundle has form {0}: this version reads form {FORM}")]
    Form(u32),
    /// No family, or too many.
    #[error("the bundle has {0} families: 1 to {FAMILIES_MAX} are read")]
    Families(usize),
}

impl Bundle {
    /// The most bytes a bundle may have.
    pub const BYTES_MAX: usize = BUNDLE_BYTES_MAX;

    /// Of verified documents.
    pub fn new<'a>(
        source: impl Into<String>,
        update: Option<Update>,
        fetched_at: Option<jiff::Timestamp>,
        documents: impl IntoIterator<Item = &'a VerifiedDocument>,
    ) -> Result<Self, BundleError> {
        let entry = |document: &VerifiedDocument| {
            let (family, text) = (document.document().family(), document.document().text());
            let collateral = RawValue::from_string(text.trim().to_owned()).map_err(|error| BundleError::Json(error.to_string()))?;
            Ok(Entry { fmspc: family.to_string(), ca: family.ca, collateral })
        };
        let families = documents.into_iter().map(entry).collect::<Result<Vec<_>, _>>()?;
        Self { form: FORM, source: source.into(), update, fetched_at, families }.checked()
    }

    /// Reads a bundle. What its families hold is looked at in [`Entry::verify`], each for itself.
    pub fn parse(text: &str) -> Result<Self, BundleError> {
        if text.len() > BUNDLE_BYTES_MAX {
            return Err(BundleError::TooLarge { bytes: text.len() });
        }
        let bundle: Self = serde_json::from_str(text).map_err(|error| BundleError::Json(error.to_string()))?;
        bundle.checked()
    }

    fn checked(self) -> Result<Self, BundleError> {
        if self.form != FORM {
            return Err(BundleError::Form(self.form));
        }
        if self.families.is_empty() || self.families.len() > FAMILIES_MAX {
            return Err(BundleError::Families(self.families.len()));
        }
        Ok(self)
    }

    /// The file's text.
    pub fn to_json(&self) -> Result<String, BundleError> {
        serde_json::to_string(self).map(|text| text + "\n").map_err(|error| BundleError::Json(error.to_string()))
    }

    /// Every family with its verified document, or why it is refused, under `anchor` at `now` (Unix seconds).
    pub fn verify(&self, anchor: &TrustAnchor, now: u64) -> Vec<(&Entry, Result<VerifiedDocument, Refused>)> {
        let mut fmspcs = Vec::new();
        let verified = |entry: &Entry| {
            let document = entry.document()?;
            let fmspc = document.family().fmspc;
            if fmspcs.contains(&fmspc) {
                return Err(Refused::Twice);
            }
            fmspcs.push(fmspc);
            document.verify(anchor, now)
        };
        let results: Vec<_> = self.families.iter().map(verified).collect();
        self.families.iter().zip(results).collect()
    }
}

impl Entry {
    /// The family's document, if it is about the family that the entry names. Not verified.
    pub fn document(&self) -> Result<Document, Refused> {
        let document = Document::parse(self.collateral.get())?;
        let got = document.family();
        let named = Family::parse_fmspc(&self.fmspc).map(|fmspc| Family { fmspc, ca: self.ca });
        if named != Some(got) {
            let name = |fmspc: &dyn std::fmt::Display, ca: Ca| format!("{fmspc} ({})", ca.label());
            return Err(Refused::OtherFamily { wanted: name(&self.fmspc, self.ca), got: name(&got, got.ca) });
        }
        Ok(document)
    }
}
