//! Who added and revoked what, when and why: lines of JSON, each with the SHA-256 of the one before it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::FILE_BYTES_MAX;

/// The history's file beside the documents.
pub const HISTORY_FILE: &str = "history.jsonl";

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// A document was taken in.
    Add,
    /// Nothing is of this build any more.
    Revoke,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// When, by the clock of who did it.
    pub at: Timestamp,
    /// What.
    pub action: Action,
    /// The document.
    pub id: String,
    /// SHA-256 of the document's file, in hex; empty where it was revoked without one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub digest: String,
    /// Who.
    pub by: String,
    /// Why.
    pub why: String,
    /// SHA-256 of the line before, in hex; of the first line, of nothing.
    previous: String,
}

/// Why a history is not to be trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// Longer than it may be.
    #[error("the history is longer than {FILE_BYTES_MAX} bytes")]
    TooLarge,
    /// A line that is none.
    #[error("line {line} of the history is no entry: {cause}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        cause: String,
    },
    /// A line that does not continue the one before.
    #[error("line {line} of the history does not follow from the lines before it: something was changed or taken out")]
    Broken {
        /// Counted from 1.
        line: usize,
    },
}

/// All entries, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    entries: Vec<Entry>,
    last: Vec<u8>,
}

impl History {
    /// Reads the lines and checks that each follows from the one before.
    pub fn parse(text: &str) -> Result<Self, HistoryError> {
        if text.len() > FILE_BYTES_MAX {
            return Err(HistoryError::TooLarge);
        }
        let mut history = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            let entry: Entry = serde_json::from_str(line).map_err(|error| HistoryError::Line { line: number, cause: error.to_string() })?;
            if entry.previous != digest(&history.last) {
                return Err(HistoryError::Broken { line: number });
            }
            history.last = line.as_bytes().to_vec();
            history.entries.push(entry);
        }
        Ok(history)
    }

    /// The line to append for what happens now, without its end.
    pub fn next_line(&self, at: Timestamp, action: Action, id: &str, file_digest: &str, by: &str, why: &str) -> String {
        let entry = Entry {
            at,
            action,
            id: id.to_owned(),
            digest: file_digest.to_owned(),
            by: by.to_owned(),
            why: why.to_owned(),
            previous: digest(&self.last),
        };
        // Texts and a time always serialise.
        serde_json::to_string(&entry).unwrap_or_default()
    }

    /// Oldest first.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The revocation of this id; nothing that comes after it undoes it.
    pub fn revocation(&self, id: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.action == Action::Revoke && entry.id == id)
    }

    /// The last addition of this id.
    pub fn addition(&self, id: &str) -> Option<&Entry> {
        self.entries.iter().rev().find(|entry| entry.action == Action::Add && entry.id == id)
    }
}

/// SHA-256 in hex.
pub(crate) fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
