//! All documents of a directory, and how each stands.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::{
    DOCUMENTS_MAX, Document, FILE_BYTES_MAX, History, HistoryError, VerificationKey,
    envelope::{Envelope, Opened},
    history::digest,
};

/// Why a document is not in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// There is none of this id.
    #[error("there is no such document")]
    Unknown,
    /// It was revoked.
    #[error("revoked at {at} by {by}: {why}")]
    Revoked {
        /// When.
        at: Timestamp,
        /// Who did it.
        by: String,
        /// Why.
        why: String,
    },
    /// It is not one.
    #[error("{0}")]
    Malformed(String),
    /// Nobody signed it, and unsigned ones are not trusted.
    #[error("it is unsigned, and unsigned documents are not trusted here")]
    Unsigned,
    /// None of the configured keys signed it, as it stands.
    #[error("none of the configured keys signed it as it stands; it names: {keys}", keys = named(.0))]
    OtherKey(Vec<String>),
    /// Its file is there, but nobody added it.
    #[error("its file is there, but the history does not say that anybody added it")]
    NotAdded,
    /// Its file is another one than was added.
    #[error("it was altered: its file has SHA-256 {got}, added was {wanted}")]
    Altered {
        /// In the history.
        wanted: String,
        /// Of the file.
        got: String,
    },
    /// Too early.
    #[error("it is good from {0} on")]
    NotYetValid(Timestamp),
    /// Too late.
    #[error("it expired at {0}")]
    Expired(Timestamp),
    /// The history cannot be trusted, so nothing can.
    #[error(transparent)]
    History(#[from] HistoryError),
}

fn named(keys: &[String]) -> String {
    if keys.is_empty() { "no key".to_owned() } else { keys.join(", ") }
}

/// How a file stands, apart from time and revocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Believed, and by which key; `None`: unsigned.
    Trusted {
        /// What it says.
        document: Document,
        /// Id of the key that signed it.
        signed_by: Option<String>,
    },
    /// Not believed.
    Refused {
        /// What it says, where it can be read.
        document: Option<Document>,
        /// Why.
        denial: Denial,
    },
}

/// The documents of a directory by id.
#[derive(Clone, Debug)]
pub struct Catalog {
    entries: BTreeMap<String, Standing>,
    history: Result<History, HistoryError>,
}

impl Default for Catalog {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), history: Ok(History::default()) }
    }
}

impl Catalog {
    /// `files`: stems of names, and contents. The history counts as a whole: broken, it takes every document with it.
    pub fn new(files: impl IntoIterator<Item = (String, Vec<u8>)>, history: &str, keys: &[VerificationKey], trust_unsigned: bool) -> Self {
        let history = History::parse(history);
        let judge = |(id, bytes): (String, Vec<u8>)| {
            let standing = judge(&id, &bytes, keys, trust_unsigned, &history);
            (id, standing)
        };
        Self { entries: files.into_iter().take(DOCUMENTS_MAX).map(judge).collect(), history: history.clone() }
    }

    /// The document of this id, if it is in force at `now` (Unix seconds).
    pub fn in_force(&self, id: &str, now: u64) -> Result<&Document, Denial> {
        let history = self.history.as_ref().map_err(Clone::clone)?;
        if let Some(entry) = history.revocation(id) {
            return Err(Denial::Revoked { at: entry.at, by: entry.by.clone(), why: entry.why.clone() });
        }
        let document = match self.entries.get(id) {
            None => return Err(Denial::Unknown),
            Some(Standing::Refused { denial, .. }) => return Err(denial.clone()),
            Some(Standing::Trusted { document, .. }) => document,
        };
        let now = i64::try_from(now).ok().and_then(|now| Timestamp::from_second(now).ok()).unwrap_or(Timestamp::MAX);
        match (document.not_before(), document.not_after()) {
            (Some(begin), _) if now < begin => Err(Denial::NotYetValid(begin)),
            (_, Some(end)) if now > end => Err(Denial::Expired(end)),
            _ => Ok(document),
        }
    }

    /// Every id that has a file or an entry of the history, in order.
    pub fn ids(&self) -> Vec<&str> {
        let added = self.history.iter().flat_map(History::entries).map(|entry| entry.id.as_str());
        let mut ids: Vec<&str> = self.entries.keys().map(String::as_str).chain(added).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// How the file of this id stands, apart from time and revocation.
    pub fn standing(&self, id: &str) -> Option<&Standing> {
        self.entries.get(id)
    }

    /// The history, if it can be trusted.
    pub const fn history(&self) -> Result<&History, &HistoryError> {
        self.history.as_ref()
    }
}

fn judge(id: &str, bytes: &[u8], keys: &[VerificationKey], trust_unsigned: bool, history: &Result<History, HistoryError>) -> Standing {
    let (document, signed) = match read(bytes, keys) {
        Ok(read) => read,
        Err(cause) => return Standing::Refused { document: None, denial: Denial::Malformed(cause) },
    };
    let refused = |denial| Standing::Refused { document: Some(document.clone()), denial };
    if document.id() != id {
        return refused(Denial::Malformed(format!("its id is {}, its file is {id}.json", document.id())));
    }
    let signed_by = match signed {
        Signed::By(key) => Some(key),
        Signed::ByOthers(named) => return refused(Denial::OtherKey(named)),
        Signed::Not if trust_unsigned => None,
        Signed::Not => return refused(Denial::Unsigned),
    };
    let added = match history.as_ref().map(|history| history.addition(id)) {
        Ok(Some(entry)) => &entry.digest,
        Ok(None) => return refused(Denial::NotAdded),
        Err(error) => return refused(Denial::History(error.clone())),
    };
    let got = digest(bytes);
    if *added != got {
        return refused(Denial::Altered { wanted: added.clone(), got });
    }
    Standing::Trusted { document, signed_by }
}

enum Signed {
    By(String),
    ByOthers(Vec<String>),
    Not,
}

fn read(bytes: &[u8], keys: &[VerificationKey]) -> Result<(Document, Signed), String> {
    if bytes.len() > FILE_BYTES_MAX {
        return Err(format!("it has {} bytes: {FILE_BYTES_MAX} are allowed", bytes.len()));
    }
    let parse = |payload: &[u8]| Document::parse(payload).map_err(|error| error.to_string());
    let Some(envelope) = Envelope::read(bytes) else { return Ok((parse(bytes)?, Signed::Not)) };
    match envelope.open(keys) {
        Opened::Signed { payload, key } => Ok((parse(&payload)?, Signed::By(key))),
        Opened::OtherKey { payload, keys } => Ok((parse(&payload)?, Signed::ByOthers(keys))),
        Opened::Malformed(cause) => Err(cause.to_owned()),
    }
}

impl Document {
    /// Reads a document out of a file, signed or not, without asking who signed it.
    pub fn of_file(bytes: &[u8]) -> Result<Self, Denial> {
        read(bytes, &[]).map(|(document, _)| document).map_err(Denial::Malformed)
    }
}

impl History {
    /// SHA-256 of a document's file, as [`crate::Entry::digest`] has it.
    pub fn file_digest(bytes: &[u8]) -> String {
        digest(bytes)
    }
}
