//! `keyferry evidence`: look into a quote, and verify one offline with the rules the verifier uses.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use keyferry_tdx_quote::layout::QUOTE_BYTES_MAX;
use keyferry_tdx_quote::{Quote, TdReportBody};
use serde_json::{Map, Value, json};

use crate::output::{self, CommandResult, Failure};

/// The commands about evidence.
#[derive(Debug, Subcommand)]
pub(crate) enum EvidenceCommand {
    /// Show what a quote says, without believing it.
    Inspect {
        /// The quote as the platform returned it.
        #[arg(long, value_name = "FILE")]
        quote: PathBuf,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(command: EvidenceCommand) -> CommandResult {
    match command {
        EvidenceCommand::Inspect { quote, json } => inspect(&quote, json),
    }
}

fn inspect(file: &Path, json: bool) -> CommandResult {
    let bytes = read(file)?;
    let quote = Quote::parse(&bytes).map_err(|error| {
        Failure::usage(format!("{}: {error}", file.display()))
            .hint("give the quote's bytes as the platform returned them, not base64 or hex")
    })?;
    let description = describe(&quote, bytes.len());
    if json {
        output::data(Value::Object(description))?;
    } else {
        output::data(lines(&description))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let failure = |reason: String| Failure::usage(format!("{}: {reason}", file.display()));
    let size = std::fs::metadata(file).map_err(|error| failure(error.to_string()))?.len();
    if size > QUOTE_BYTES_MAX as u64 {
        return Err(failure(format!("{size} bytes: a quote has at most {QUOTE_BYTES_MAX}")));
    }
    std::fs::read(file).map_err(|error| failure(error.to_string()))
}

fn describe(quote: &Quote, bytes: usize) -> Map<String, Value> {
    let mut description = Map::new();
    let mut put = |name: &str, value: Value| description.insert(name.to_owned(), value);
    put("version", json!(quote.header().version));
    put("body_type", json!(quote.body_type().number()));
    put("bytes", json!(bytes));
    put("zero_tail_bytes", json!(bytes - quote.without_tail().len()));
    put("digest", json!(hex::encode(quote.digest())));
    put("qe_user_data", json!(hex::encode(quote.header().user_data)));
    description.extend(measurements(quote.body()));
    description
}

/// The fields of a report body, hex in memory order, under the names attestation tokens use.
fn measurements(body: &TdReportBody) -> Map<String, Value> {
    let mut fields = Map::new();
    let mut put = |name: &str, bytes: &[u8]| fields.insert(name.to_owned(), json!(hex::encode(bytes)));
    put("tee_tcb_svn", &body.tee_tcb_svn);
    put("mr_seam", &body.mr_seam);
    put("mr_signer_seam", &body.mr_signer_seam);
    put("seam_attributes", &body.seam_attributes);
    put("td_attributes", &body.td_attributes.to_bytes());
    put("xfam", &body.xfam.to_bytes());
    put("mr_td", &body.mr_td);
    put("mr_config_id", &body.mr_config_id);
    put("mr_owner", &body.mr_owner);
    put("mr_owner_config", &body.mr_owner_config);
    for (index, rtmr) in body.rtmrs.iter().enumerate() {
        put(&format!("rtmr{index}"), rtmr);
    }
    put("report_data", &body.report_data);
    for (name, bytes) in [
        ("tee_tcb_svn2", body.tee_tcb_svn2.as_ref().map(<[u8; 16]>::as_slice)),
        ("mr_service_td", body.mr_service_td.as_ref().map(<[u8; 48]>::as_slice)),
        ("td_id", body.td_id.as_ref().map(<[u8; 32]>::as_slice)),
    ] {
        if let Some(bytes) = bytes {
            put(name, bytes);
        }
    }
    fields
}

fn lines(description: &Map<String, Value>) -> String {
    let width = description.keys().map(String::len).max().unwrap_or_default();
    let line =
        |(name, value): (&String, &Value)| format!("{name:width$}  {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    description.iter().map(line).collect::<Vec<_>>().join("\n")
}
