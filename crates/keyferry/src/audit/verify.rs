//! `keyferry audit verify`: an export offline, or the stream itself with its mirror.

use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use futures::{StreamExt, pin_mut};
use keyferry_bus::{
    AuditChain, AuditCopy, AuditFinding, AuditPublicKey, AuditReader, AuditReport, AuditVerifier, Bus, KeptCheckpoint, StoredRecord,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Connection,
    export::{FileFault, Reading},
    unreadable,
};
use crate::output::{self, CommandResult, Failure, NO};

#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct Verify {
    /// A file made by `keyferry audit export`.
    #[arg(value_name = "FILE", required_unless_present = "live")]
    file: Option<PathBuf>,
    /// Instead of a file: what is on the bus now, compared with its mirror.
    #[arg(long, conflicts_with = "file")]
    live: bool,
    /// The public key of a service, as written beside its audit key; may be repeated, and hold several keys.
    #[arg(long = "public-key", value_name = "FILE", required = true)]
    public_keys: Vec<PathBuf>,
    /// Checkpoints kept earlier (--keep): all of them must still be there.
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Write the last checkpoint of every chain to this file, to be kept where the bus's owner cannot reach it.
    #[arg(long, value_name = "FILE")]
    keep: Option<PathBuf>,
    /// Records that no checkpoint covers, and chains that were not closed, are failures too.
    #[arg(long)]
    strict: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// The file of --keep and --checkpoint.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    keyferry_audit_checkpoints: u32,
    checkpoints: Vec<KeptCheckpoint>,
}

/// What was verified, and what came of it.
struct Outcome {
    report: AuditReport,
    file_faults: Vec<FileFault>,
    notes: Vec<String>,
    sequences: (u64, u64),
}

impl Verify {
    pub(super) fn run(self) -> CommandResult {
        let mut keys = Vec::new();
        for path in &self.public_keys {
            keys.extend(AuditPublicKey::read_all(path).map_err(|error| Failure::usage(error.to_string()))?);
        }
        let kept = self.checkpoint.as_deref().map(read_kept).transpose()?.unwrap_or_default();
        match &self.file {
            Some(file) => self.conclude(&verify_file(file, keys, kept)?),
            None => self.connection.online(async |bus: &Bus| self.conclude(&verify_live(bus, keys, kept).await?)),
        }
    }

    fn conclude(&self, outcome: &Outcome) -> CommandResult {
        let broken = !outcome.report.findings.is_empty() || !outcome.file_faults.is_empty();
        let open = outcome.report.chains.iter().any(|chain| chain.unsigned() > 0 || !chain.closed);
        let verdict = match (broken, open) {
            (true, _) => "broken",
            (false, true) => "intact_and_open",
            (false, false) => "intact",
        };
        if self.json {
            output::data(outcome.json(verdict))?;
        } else {
            output::data(outcome.text(verdict))?;
        }
        if broken || (self.strict && open) {
            return Ok(ExitCode::from(NO));
        }
        if let Some(path) = &self.keep {
            keep(path, &outcome.report.chains)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn verify_file(file: &Path, keys: Vec<AuditPublicKey>, kept: Vec<KeptCheckpoint>) -> Result<Outcome, Failure> {
    let (mut reading, header) = Reading::open(file)?;
    let mut verifier = AuditVerifier::new(keys, header.first_sequence, kept);
    let mut file_faults = Vec::new();
    while let Some(line) = reading.next(&mut file_faults)? {
        let sequence = line.stream_sequence;
        let mut fault =
            |label, problem: &str| file_faults.push(FileFault { label, text: format!("stream sequence {sequence}: {problem}") });
        match line.body() {
            Some((body, says_the_same)) => {
                verifier.next(sequence, &line.subject, &body);
                if !says_the_same {
                    fault("view_differs", "the view says something else than the record: only the record counts");
                }
            }
            None => fault("file_line", "the record is not base64"),
        }
    }
    let sequences = (header.first_sequence, header.last_sequence);
    let report = verifier.finish(header.last_sequence);
    Ok(Outcome { notes: notes(&report, sequences.0), report, file_faults, sequences })
}

async fn verify_live(bus: &Bus, keys: Vec<AuditPublicKey>, kept: Vec<KeptCheckpoint>) -> Result<Outcome, Failure> {
    let mut reader = AuditReader::open(bus, AuditCopy::Original).await.map_err(|error| unreadable(&error))?;
    // The mirror first: the original is then never behind it.
    let mut mirror = AuditReader::open(bus, AuditCopy::Mirror).await.ok();
    let mirrored = match &mut mirror {
        Some(mirror) => Some(mirror.state().await.map_err(|error| unreadable(&error))?),
        None => None,
    };
    let state = reader.state().await.map_err(|error| unreadable(&error))?;
    let mut verifier = AuditVerifier::new(keys, state.first, kept);
    let records = reader.read(state.first..=state.last);
    pin_mut!(records);
    while let Some(stored) = records.next().await {
        let stored = stored.map_err(|error| unreadable(&error))?;
        verifier.next(stored.stream_sequence, &stored.subject, &stored.body);
    }
    let mut mirror_note = "there is no mirror to compare with".to_owned();
    if let (Some(mirror), Some(mirrored)) = (&mirror, mirrored) {
        mirror_note = format!("compared with the mirror up to stream sequence {}", mirrored.last.min(state.last));
        compare(&mut verifier, (&reader, mirror), state.first.max(mirrored.first), state.last.min(mirrored.last)).await?;
        if mirrored.last > state.last {
            verifier.mirror_differs(state.last + 1, false);
        }
    }
    let report = verifier.finish(state.last);
    let notes = notes(&report, state.first).into_iter().chain([mirror_note]).collect();
    Ok(Outcome { notes, report, file_faults: Vec::new(), sequences: (state.first, state.last) })
}

/// Both copies side by side.
async fn compare(
    verifier: &mut AuditVerifier,
    (original, mirror): (&AuditReader, &AuditReader),
    first: u64,
    last: u64,
) -> Result<(), Failure> {
    let mut copies = [Vec::new(), Vec::new()];
    let mut from = first;
    while from <= last {
        let to = last.min(from + 999);
        for (copy, reader) in copies.iter_mut().zip([original, mirror]) {
            let read: Vec<_> = reader.read(from..=to).collect().await;
            *copy = read.into_iter().collect::<Result<Vec<StoredRecord>, _>>().map_err(|error| unreadable(&error))?;
        }
        let [original, mirror] = &copies;
        for sequence in from..=to {
            let of = |copy: &[StoredRecord]| {
                let index = copy.binary_search_by_key(&sequence, |stored| stored.stream_sequence).ok()?;
                Some((copy[index].subject.clone(), copy[index].body.clone()))
            };
            let (here, there) = (of(original), of(mirror));
            if here != there {
                verifier.mirror_differs(sequence, here.is_some() && there.is_some());
            }
        }
        from = to + 1;
    }
    Ok(())
}

fn notes(report: &AuditReport, first: u64) -> Vec<String> {
    let mut notes = Vec::new();
    if first > 1 {
        notes.push(format!("stream sequences 1 to {} are gone: the stream removes what has reached its age", first - 1));
    }
    if report.kept_and_aged > 0 {
        notes.push(format!("{} kept checkpoint(s) have reached the stream's age since", report.kept_and_aged));
    }
    notes
}

impl Outcome {
    fn json(&self, verdict: &str) -> Value {
        let chain = |chain: &AuditChain| {
            json!({
                "writer_id": chain.writer_id, "service": chain.service, "first": chain.first, "last": chain.last,
                "signed_up_to": chain.signed.as_ref().map(|signed| signed.sequence), "unsigned": chain.unsigned(), "closed": chain.closed,
            })
        };
        let file = self.file_faults.iter().map(|fault| json!({ "fault": fault.label, "text": fault.text }));
        let records = self.report.findings.iter().map(|finding| {
            let AuditFinding { stream_sequence, writer_id, sequence, fault } = finding;
            json!({
                "stream_sequence": stream_sequence, "writer_id": writer_id, "sequence": sequence,
                "fault": fault.label(), "text": fault.to_string(),
            })
        });
        json!({
            "verdict": verdict,
            "records": self.report.records,
            "first_sequence": self.sequences.0,
            "last_sequence": self.sequences.1,
            "findings": file.chain(records).collect::<Vec<Value>>(),
            "chains": self.report.chains.iter().map(chain).collect::<Vec<Value>>(),
            "notes": self.notes,
        })
    }

    fn text(&self, verdict: &str) -> String {
        let (first, last) = self.sequences;
        let mut lines = vec![format!("{verdict}: {} records, stream sequences {first} to {last}", self.report.records)];
        lines.extend(self.file_faults.iter().map(|fault| format!("broken  {}: {}", fault.label, output::printable(&fault.text))));
        lines.extend(self.report.findings.iter().map(finding_line));
        for chain in &self.report.chains {
            let end = match (chain.unsigned(), chain.closed) {
                (0, true) => "signed to its end, closed".to_owned(),
                (0, false) => "signed to its end, not closed".to_owned(),
                (unsigned, _) => format!("{unsigned} record(s) at its end are not signed"),
            };
            let line = format!("chain   {} {} {} to {}: {end}", chain.service, chain.writer_id, chain.first, chain.last);
            lines.push(output::printable(&line));
        }
        lines.extend(self.notes.iter().map(|note| format!("note    {note}")));
        lines.join("\n")
    }
}

fn finding_line(finding: &AuditFinding) -> String {
    let AuditFinding { stream_sequence, writer_id, sequence, fault } = finding;
    let record = if writer_id.is_empty() { String::new() } else { format!(", record {sequence} of chain {writer_id}") };
    output::printable(&format!("broken  stream sequence {stream_sequence}{record}: {}: {fault}", fault.label()))
}

fn read_kept(path: &Path) -> Result<Vec<KeptCheckpoint>, Failure> {
    let wrong =
        |problem: String| Failure::usage(format!("{}: {problem}", path.display())).hint("`keyferry audit verify --keep FILE` makes one");
    let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let kept: Kept = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    if kept.keyferry_audit_checkpoints != 1 {
        return Err(wrong("checkpoints in a form of another version".to_owned()));
    }
    Ok(kept.checkpoints)
}

fn keep(path: &Path, chains: &[AuditChain]) -> Result<(), Failure> {
    let checkpoints = chains.iter().filter_map(|chain| chain.signed.clone()).collect();
    let failed = |error: std::io::Error| {
        Failure::failed(format!("{}: {error}", path.display())).hint("it was not changed; choose a name that is free")
    };
    let text = serde_json::to_string_pretty(&Kept { keyferry_audit_checkpoints: 1, checkpoints }).map_err(|error| failed(error.into()))?;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)
}
