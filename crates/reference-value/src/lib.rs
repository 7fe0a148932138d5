//! Reference value documents: who vouches for which measurements, until when, and what was revoked.
//!
//! A document names measurements of one build and how long they are good. It is believed because a configured key signed
//! it ([`envelope`]: DSSE), or because the operator said that unsigned ones are, and only as long as the [`History`] says
//! that somebody added exactly these bytes and nobody revoked them. [`Catalog`] holds all of that together and answers one
//! question: is the document of this id in force at this moment, or why not?
//!
//! A revoked id stays revoked: no later entry of the history brings it back, and a corrected document needs an id of its
//! own. The history is a chain: a line that was changed or taken out breaks it, and with a broken history nothing is in
//! force. A history that was cut off at its end is not found out; whoever can write the directory can do that, so keep it
//! where only the operator writes.
//!
//! This crate knows nothing of files, clocks and quotes.

mod catalog;
mod document;
mod envelope;
mod history;
mod key;
mod lint;

pub use catalog::{Catalog, Denial, Standing};
pub use document::{Document, DocumentError, FIELDS, Measurement};
pub use envelope::{PAYLOAD_TYPE, sign};
pub use history::{Action, Entry, HISTORY_FILE, History, HistoryError};
pub use key::{KeyError, Signer, VerificationKey};
pub use lint::lint;

/// The longest file of a directory of reference values, and the longest history.
pub const FILE_BYTES_MAX: usize = 256 * 1024;
/// The most documents of a directory.
pub const DOCUMENTS_MAX: usize = 1000;
