//! `keyferry audit export`, and the file it makes: JSON lines, the first about the stream, the last about the lines before.
//!
//! A record's bytes are what counts; the view beside them is for people, and verification compares the two.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use aws_lc_rs::digest::{Context, SHA256};
use base64::{Engine, engine::general_purpose::STANDARD};
use clap::Args;
use futures::{StreamExt, pin_mut};
use keyferry_bus::{AuditCopy, AuditReader, AuditState, Bus, StoredRecord};
use keyferry_contract::release::v1::AuditRecord;
use keyferry_lifecycle::clock;
use prost::Message;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Connection, unreadable, view};
use crate::output::{self, CommandResult, Failure};

/// The version of the file's form.
const FORM: u32 = 1;
/// A record has 96 kB at most; its line has the bytes as base64 and once more in words.
const LINE_BYTES_MAX: u64 = 1024 * 1024;

#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct Export {
    #[command(flatten)]
    connection: Connection,
    /// The file to make. It must not exist.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    keyferry_audit_export: u32,
    stream: String,
    pub(super) first_sequence: u64,
    pub(super) last_sequence: u64,
    records: u64,
    bytes: u64,
    age_seconds_max: u64,
    exported_at: String,
}

/// Every line between.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line {
    pub(super) stream_sequence: u64,
    pub(super) subject: String,
    stored_at: String,
    record: String,
    view: Option<Value>,
}

/// The last line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Trailer {
    end_of_export: End,
}
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct End {
    records: u64,
    /// Of every byte before this line.
    sha256: String,
}

impl Export {
    pub(super) fn run(self) -> CommandResult {
        if self.out.exists() {
            return Err(Failure::usage(format!("{} exists already", self.out.display())).hint("it was not changed; choose another name"));
        }
        self.connection.online(async |bus: &Bus| {
            let mut reader = AuditReader::open(bus, AuditCopy::Original).await.map_err(|error| unreadable(&error))?;
            let state = reader.state().await.map_err(|error| unreadable(&error))?;
            let mut scratch = self.out.clone().into_os_string();
            scratch.push(format!(".{}.new", std::process::id()));
            let scratch = PathBuf::from(scratch);
            let written = write(&reader, &state, &scratch).await;
            let renamed =
                written.and_then(|records| fs::rename(&scratch, &self.out).map_err(|error| unwritten(&self.out, &error)).map(|()| records));
            let records = renamed.inspect_err(|_| {
                // What was not made whole is not left behind.
                let _ = fs::remove_file(&scratch);
            })?;
            output::talk(format!("{records} records, stream sequences {} to {}", state.first, state.last));
            output::data(self.out.display())?;
            Ok(ExitCode::SUCCESS)
        })
    }
}

async fn write(reader: &AuditReader, state: &AuditState, path: &Path) -> Result<u64, Failure> {
    let file = File::create_new(path).map_err(|error| unwritten(path, &error))?;
    let mut out = Digested { file: BufWriter::new(file), digest: Context::new(&SHA256), path };
    out.line(&Header {
        keyferry_audit_export: FORM,
        stream: AuditCopy::Original.stream().to_owned(),
        first_sequence: state.first,
        last_sequence: state.last,
        records: state.records,
        bytes: state.bytes,
        age_seconds_max: state.age_seconds_max,
        exported_at: clock::timestamp().to_string(),
    })?;
    let records = reader.read(state.first..=state.last);
    pin_mut!(records);
    let mut count = 0;
    while let Some(stored) = records.next().await {
        out.line(&Line::of(&stored.map_err(|error| unreadable(&error))?))?;
        count += 1;
    }
    let sha256 = hex::encode(out.digest.clone().finish());
    out.line(&Trailer { end_of_export: End { records: count, sha256 } })?;
    let file = out.file.into_inner().map_err(|error| unwritten(path, error.error()))?;
    file.sync_all().map_err(|error| unwritten(path, &error))?;
    Ok(count)
}

impl Line {
    fn of(stored: &StoredRecord) -> Self {
        Self {
            stream_sequence: stored.stream_sequence,
            subject: stored.subject.clone(),
            stored_at: view::rfc3339(&stored.stored_at),
            record: STANDARD.encode(&stored.body),
            view: AuditRecord::decode(stored.body.clone()).ok().as_ref().map(view::object),
        }
    }

    /// The record's bytes, and whether the view says the same.
    pub(super) fn body(&self) -> Option<(Vec<u8>, bool)> {
        let body = STANDARD.decode(&self.record).ok()?;
        let view = AuditRecord::decode(body.as_slice()).ok().as_ref().map(view::object);
        Some((body, view == self.view))
    }
}

struct Digested<'a> {
    file: BufWriter<File>,
    digest: Context,
    path: &'a Path,
}

impl Digested<'_> {
    fn line(&mut self, line: &impl Serialize) -> Result<(), Failure> {
        let mut text = serde_json::to_vec(line).map_err(|error| Failure::failed(error.to_string()))?;
        text.push(b'\n');
        self.digest.update(&text);
        self.file.write_all(&text).map_err(|error| unwritten(self.path, &error))
    }
}

/// What is wrong with the file itself.
#[derive(Debug)]
pub(super) struct FileFault {
    pub(super) label: &'static str,
    pub(super) text: String,
}

/// Reads an export line by line.
pub(super) struct Reading {
    file: BufReader<File>,
    path: PathBuf,
    digest: Context,
    records: u64,
    number: u64,
    ended: bool,
}

impl Reading {
    /// A file that does not begin as an export does is the wrong file.
    pub(super) fn open(path: &Path) -> Result<(Self, Header), Failure> {
        let file = File::open(path).map_err(|error| Failure::usage(format!("{}: {error}", path.display())).hint("check the path"))?;
        let mut reading =
            Self { file: BufReader::new(file), path: path.to_owned(), digest: Context::new(&SHA256), records: 0, number: 0, ended: false };
        let first = reading.read_line()?;
        reading.digest.update(&first);
        let header: Option<Header> = serde_json::from_slice(&first).ok();
        let header = header.filter(|header| header.keyferry_audit_export == FORM);
        let header = header.ok_or_else(|| {
            Failure::usage(format!("{}: the first line is not that of an audit export of this version", path.display()))
                .hint("`keyferry audit export --out FILE` makes one")
        })?;
        Ok((reading, header))
    }

    /// The next record; `None` at the end, which may not be the end it should have.
    pub(super) fn next(&mut self, faults: &mut Vec<FileFault>) -> Result<Option<Line>, Failure> {
        loop {
            let text = self.read_line()?;
            if text.is_empty() {
                if !self.ended {
                    faults.push(FileFault { label: "file_truncated", text: "the file has no last line: it was cut off".to_owned() });
                }
                return Ok(None);
            }
            let number = self.number;
            let mut fault = |label, text: &str| faults.push(FileFault { label, text: format!("line {number}: {text}") });
            if self.ended {
                fault("file_goes_on", "there is something after the last line");
                return Ok(None);
            }
            if let Ok(trailer) = serde_json::from_slice::<Trailer>(&text) {
                self.ended = true;
                let found = End { records: self.records, sha256: hex::encode(self.digest.clone().finish()) };
                if trailer.end_of_export.records != found.records {
                    let text = format!("{} records were exported, {} are here", trailer.end_of_export.records, found.records);
                    fault("file_count", &text);
                } else if trailer.end_of_export != found {
                    fault("file_digest", "the file is not as it was exported: some line was altered or put in another order");
                }
                continue;
            }
            self.digest.update(&text);
            self.records += 1;
            match serde_json::from_slice(&text) {
                Ok(line) => return Ok(Some(line)),
                Err(error) => fault("file_line", &format!("not a line of an export ({error})")),
            }
        }
    }

    fn read_line(&mut self) -> Result<Vec<u8>, Failure> {
        self.number += 1;
        let mut line = Vec::new();
        let read = (&mut self.file).take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        read.map_err(|error| Failure::failed(format!("{}: {error}", self.path.display())))?;
        if line.len() as u64 == LINE_BYTES_MAX {
            return Err(Failure::usage(format!("{}: line {} is longer than any of an export", self.path.display(), self.number)));
        }
        Ok(line)
    }
}

fn unwritten(path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("{}: {error}", path.display()))
}
