//! Whoever altered, dropped, swapped, repeated or forged an audit record is found here, from the stored bytes alone.
//!
//! Three things hold a record: its place in the stream, the digest in the record after it, and the signature of the next
//! checkpoint of its chain. Each finding names the record at which the break shows, and what that says.

use std::collections::{BTreeMap, HashMap};

use keyferry_contract::release::v1::{AuditCheckpoint, AuditDecision, AuditRecord};
use prost::Message;
use sha2::{Digest, Sha256};

use super::chain::{NO_DIGEST, signed_bytes, subject};
use crate::AuditPublicKey;

/// What is wrong at one record. The text says what follows from it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuditFault {
    /// Records are missing from the stream, which lets nobody delete one.
    #[error("stream sequences {from} to {to} are missing: records were dropped")]
    StreamGap {
        /// The first that is missing.
        from: u64,
        /// The last.
        to: u64,
    },
    /// A stream never goes back.
    #[error("it comes after stream sequence {after}: repeated, or put in another order")]
    StreamOrder {
        /// The one before it.
        after: u64,
    },
    /// Not a record.
    #[error("the bytes are no audit record")]
    Undecodable,
    /// A service publishes under its own name, and the bus sees to it.
    #[error("it was published on {found}, and says that it is of {service}: altered, or another service wrote it")]
    SubjectForeign {
        /// Where it is.
        found: String,
        /// Whose it says it is.
        service: String,
    },
    /// A first record follows nothing.
    #[error("it is the first of its chain and holds the digest of a record before it: altered")]
    FirstNotFirst,
    /// Some of the chain is missing.
    #[error("records {from} to {to} of the chain are missing: dropped, or put in another order")]
    Missing {
        /// The first that is missing.
        from: u64,
        /// The last.
        to: u64,
    },
    /// The chain had a record of this sequence, or was further on.
    #[error("the chain was at sequence {at} already: repeated, forked, or put in another order")]
    Repeated {
        /// How far it was.
        at: u64,
    },
    /// The digest is not that of the record before.
    #[error("it does not hold the digest of the record before it (stream sequence {previous}): one of the two was altered or replaced")]
    LinkBroken {
        /// Where the record before it is.
        previous: u64,
    },
    /// Its chain was closed.
    #[error("its chain was closed at stream sequence {closed}: added by somebody else")]
    AfterClosing {
        /// Where the closing checkpoint is.
        closed: u64,
    },
    /// Decision and content do not go together, or there is more in it than was signed.
    #[error("it is no whole checkpoint: altered")]
    CheckpointMalformed,
    /// Not a key we were given.
    #[error("it is signed with the key {found}, which is none of those given: forged, or a key is missing on the command line")]
    KeyUnknown {
        /// The key, hex.
        found: String,
    },
    /// Not signed by its key.
    #[error("its signature is wrong: it, or a record of its chain after {since}, was altered or replaced")]
    SignatureInvalid {
        /// The last checkpoint that holds, or the beginning.
        since: String,
    },
    /// One key for two services.
    #[error("it is signed with a key of {service}: forged, or two services share a key")]
    KeyOfAnother {
        /// Whose key it is.
        service: String,
    },
    /// A checkpoint that was kept is not what is there now.
    #[error("another record was here when the checkpoint was kept: the chain was rewritten")]
    KeptReplaced,
    /// A checkpoint that was kept is gone.
    #[error("this checkpoint was kept and is gone: the chain, or the end of the stream, was cut off")]
    KeptGone,
    /// The mirror has something else, or nothing.
    #[error("the mirror holds {found} here: {follows}")]
    MirrorDiffers {
        /// What the mirror has.
        found: &'static str,
        /// What follows.
        follows: &'static str,
    },
}

impl AuditFault {
    /// A stable name, for scripts.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::StreamGap { .. } => "stream_gap",
            Self::StreamOrder { .. } => "stream_order",
            Self::Undecodable => "undecodable",
            Self::SubjectForeign { .. } => "subject_foreign",
            Self::FirstNotFirst => "first_not_first",
            Self::Missing { .. } => "missing",
            Self::Repeated { .. } => "repeated",
            Self::LinkBroken { .. } => "link_broken",
            Self::AfterClosing { .. } => "after_closing",
            Self::CheckpointMalformed => "checkpoint_malformed",
            Self::KeyUnknown { .. } => "key_unknown",
            Self::SignatureInvalid { .. } => "signature_invalid",
            Self::KeyOfAnother { .. } => "key_of_another",
            Self::KeptReplaced => "kept_replaced",
            Self::KeptGone => "kept_gone",
            Self::MirrorDiffers { .. } => "mirror_differs",
        }
    }
}

/// A fault and the record it shows at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditFinding {
    /// In the stream.
    pub stream_sequence: u64,
    /// The chain; empty where the record does not say.
    pub writer_id: String,
    /// In the chain; 0 where the record does not say.
    pub sequence: u64,
    /// What is wrong.
    pub fault: AuditFault,
}

/// A checkpoint that somebody keeps elsewhere, to find out later whether it is still there.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptCheckpoint {
    /// The chain.
    pub writer_id: String,
    /// In the chain.
    pub sequence: u64,
    /// In the stream.
    pub stream_sequence: u64,
    /// SHA-256 of the record, hex.
    pub digest: String,
}

/// What one chain came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditChain {
    /// The chain.
    pub writer_id: String,
    /// Whose it is.
    pub service: String,
    /// The first sequence seen. Over 1 where older records have reached the stream's age.
    pub first: u64,
    /// The last sequence seen.
    pub last: u64,
    /// Where that is in the stream.
    pub last_stream_sequence: u64,
    /// The last good checkpoint. Records after it are signed by nobody: whoever owns the bus can alter or drop them.
    pub signed: Option<KeptCheckpoint>,
    /// Whether the writer said that it was done.
    pub closed: bool,
    digest: [u8; 32],
}

impl AuditChain {
    /// Records that no checkpoint covers.
    pub fn unsigned(&self) -> u64 {
        self.last - self.signed.as_ref().map_or(self.first - 1, |signed| signed.sequence)
    }
}

/// What all records came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditReport {
    /// Records looked at.
    pub records: u64,
    /// Every chain, in the order of its identity.
    pub chains: Vec<AuditChain>,
    /// What is wrong, in the order of the stream.
    pub findings: Vec<AuditFinding>,
    /// Checkpoints that were kept and have reached the stream's age since.
    pub kept_and_aged: usize,
}

/// Takes the records of the stream AUDIT in their order.
#[derive(Debug)]
pub struct AuditVerifier {
    keys: Vec<AuditPublicKey>,
    key_owners: HashMap<AuditPublicKey, String>,
    /// The stream's first sequence: what was before it has reached its age.
    first: u64,
    at: u64,
    records: u64,
    chains: BTreeMap<String, AuditChain>,
    kept: Vec<KeptCheckpoint>,
    findings: Vec<AuditFinding>,
}

impl AuditVerifier {
    /// For a stream that begins at `first`, signed with one of `keys`, in which `kept` checkpoints should still be.
    pub fn new(keys: Vec<AuditPublicKey>, first: u64, kept: Vec<KeptCheckpoint>) -> Self {
        let (key_owners, chains, findings) = (HashMap::new(), BTreeMap::new(), Vec::new());
        Self { keys, key_owners, first, at: first.saturating_sub(1), records: 0, chains, kept, findings }
    }

    /// Looks at the next record.
    pub fn next(&mut self, stream_sequence: u64, found_on: &str, body: &[u8]) {
        self.records += 1;
        let decoded = AuditRecord::decode(body);
        let mut here = Here { stream_sequence, writer_id: String::new(), sequence: 0, digest: Sha256::digest(body).into() };
        if let Ok(record) = &decoded {
            (here.writer_id, here.sequence) = (record.writer_id.clone(), record.sequence);
        }
        if stream_sequence <= self.at {
            // Where it stands nothing can be learnt from what it says.
            return self.find(&here, AuditFault::StreamOrder { after: self.at });
        }
        if stream_sequence > self.at + 1 {
            self.find(&here, AuditFault::StreamGap { from: self.at + 1, to: stream_sequence - 1 });
        }
        self.at = stream_sequence;
        let Ok(record) = decoded else { return self.find(&here, AuditFault::Undecodable) };
        if subject(&record.service, &record.writer_id) != found_on {
            let fault = AuditFault::SubjectForeign { found: found_on.to_owned(), service: record.service.clone() };
            self.find(&here, fault);
        }
        self.compare_kept(&here);
        if self.link(&here, &record) && is_checkpoint(&record) {
            self.checkpoint(&here, &record, body);
        }
    }

    /// What became of it all, up to the stream's last sequence.
    pub fn finish(mut self, last: u64) -> AuditReport {
        if self.at < last {
            let here = Here { stream_sequence: last, writer_id: String::new(), sequence: 0, digest: NO_DIGEST };
            self.find(&here, AuditFault::StreamGap { from: self.at + 1, to: last });
        }
        let (gone, aged): (Vec<_>, Vec<_>) = self.kept.drain(..).partition(|kept| kept.stream_sequence >= self.first);
        for kept in gone {
            let KeptCheckpoint { writer_id, sequence, stream_sequence, .. } = kept;
            self.findings.push(AuditFinding { stream_sequence, writer_id, sequence, fault: AuditFault::KeptGone });
        }
        let chains = self.chains.into_values().collect();
        AuditReport { records: self.records, chains, findings: self.findings, kept_and_aged: aged.len() }
    }

    /// The record at this place is another in the mirror.
    pub fn mirror_differs(&mut self, stream_sequence: u64, in_mirror: bool) {
        let fault = if in_mirror {
            AuditFault::MirrorDiffers { found: "other bytes", follows: "one of the two was altered" }
        } else {
            AuditFault::MirrorDiffers { found: "no record", follows: "it was added to one, or dropped from the other" }
        };
        self.findings.push(AuditFinding { stream_sequence, writer_id: String::new(), sequence: 0, fault });
    }

    fn find(&mut self, here: &Here, fault: AuditFault) {
        let Here { stream_sequence, writer_id, sequence, .. } = here.clone();
        self.findings.push(AuditFinding { stream_sequence, writer_id, sequence, fault });
    }

    fn compare_kept(&mut self, here: &Here) {
        let matches = |kept: &KeptCheckpoint| kept.writer_id == here.writer_id && kept.sequence == here.sequence;
        if let Some(index) = self.kept.iter().position(matches) {
            let kept = self.kept.swap_remove(index);
            if kept.digest != hex::encode(here.digest) || kept.stream_sequence != here.stream_sequence {
                self.find(here, AuditFault::KeptReplaced);
            }
        }
    }

    /// Whether the record goes on with its chain, or begins one, as far as can be known.
    fn link(&mut self, here: &Here, record: &AuditRecord) -> bool {
        let Some(chain) = self.chains.get_mut(&here.writer_id) else {
            let is_first = here.sequence == 1;
            if is_first && record.previous_digest != NO_DIGEST {
                self.find(here, AuditFault::FirstNotFirst);
            } else if !is_first && self.first <= 1 {
                self.find(here, AuditFault::Missing { from: 1, to: here.sequence.saturating_sub(1) });
            }
            self.chains.insert(here.writer_id.clone(), here.begin(record));
            return true;
        };
        let (at, previous, digest, closed) = (chain.last, chain.last_stream_sequence, chain.digest, chain.closed);
        if here.sequence > at {
            // Go on from what is here: one break is one finding.
            (chain.last, chain.last_stream_sequence, chain.digest) = (here.sequence, here.stream_sequence, here.digest);
        }
        let fault = if closed {
            AuditFault::AfterClosing { closed: previous }
        } else if here.sequence <= at {
            AuditFault::Repeated { at }
        } else if here.sequence > at + 1 {
            AuditFault::Missing { from: at + 1, to: here.sequence - 1 }
        } else if record.previous_digest != digest {
            AuditFault::LinkBroken { previous }
        } else {
            return true;
        };
        let repeated = matches!(fault, AuditFault::Repeated { .. });
        self.find(here, fault);
        !repeated
    }

    fn checkpoint(&mut self, here: &Here, record: &AuditRecord, body: &[u8]) {
        let Some((key, signature, closing)) = record.checkpoint.as_ref().and_then(parts) else {
            return self.find(here, AuditFault::CheckpointMalformed);
        };
        if record.decision() != AuditDecision::Checkpoint || record.encode_to_vec() != body {
            return self.find(here, AuditFault::CheckpointMalformed);
        }
        if !self.keys.contains(&key) {
            return self.find(here, AuditFault::KeyUnknown { found: key.to_string() });
        }
        if !key.verifies(&signed_bytes(record), signature) {
            let chain = self.chains.get(&here.writer_id).and_then(|chain| chain.signed.as_ref());
            let since = chain.map_or_else(|| "its beginning".to_owned(), |signed| format!("stream sequence {}", signed.stream_sequence));
            return self.find(here, AuditFault::SignatureInvalid { since });
        }
        let owner = self.key_owners.entry(key).or_insert_with(|| record.service.clone());
        if *owner != record.service {
            let service = owner.clone();
            return self.find(here, AuditFault::KeyOfAnother { service });
        }
        if let Some(chain) = self.chains.get_mut(&here.writer_id) {
            chain.signed = Some(KeptCheckpoint {
                writer_id: here.writer_id.clone(),
                sequence: here.sequence,
                stream_sequence: here.stream_sequence,
                digest: hex::encode(here.digest),
            });
            chain.closed = closing;
        }
    }
}

/// One record's place and digest.
#[derive(Clone)]
struct Here {
    stream_sequence: u64,
    writer_id: String,
    sequence: u64,
    digest: [u8; 32],
}

impl Here {
    fn begin(&self, record: &AuditRecord) -> AuditChain {
        AuditChain {
            writer_id: self.writer_id.clone(),
            service: record.service.clone(),
            first: self.sequence.max(1),
            last: self.sequence.max(1),
            last_stream_sequence: self.stream_sequence,
            signed: None,
            closed: false,
            digest: self.digest,
        }
    }
}

fn is_checkpoint(record: &AuditRecord) -> bool {
    record.checkpoint.is_some() || record.decision() == AuditDecision::Checkpoint
}

fn parts(checkpoint: &AuditCheckpoint) -> Option<(AuditPublicKey, &[u8], bool)> {
    let key = checkpoint.public_key.as_slice().try_into().ok()?;
    Some((AuditPublicKey::new(key), &checkpoint.signature, checkpoint.closing))
}
