//! `keyferry evidence`: look into a quote, and verify one offline with the rules the verifier uses.

use std::fmt::Display;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use keyferry_contract::Reason;
use keyferry_dcap::{Allowances, Collateral, DcapDenial, TrustAnchor, VerifiedQuote, Verifier};
use keyferry_tdx_quote::layout::QUOTE_BYTES_MAX;
use keyferry_tdx_quote::{Quote, QuoteError, TdReportBody};
use serde_json::{Map, Value, json};

use crate::output::{self, CommandResult, Failure, NO};

/// Collateral is read up to here: real documents have about 30 kB.
const COLLATERAL_BYTES_MAX: usize = 1024 * 1024;
/// A root certificate is read up to here: Intel's has 659 bytes.
const ROOT_BYTES_MAX: usize = 16 * 1024;

/// The commands about evidence.
#[derive(Debug, Subcommand)]
pub(crate) enum EvidenceCommand {
    /// Show what a quote says, without believing it.
    Inspect(Inspect),
    /// Verify a quote offline: exit code 0 if it is verified, 1 if it is refused.
    Verify(Verify),
}

#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct Inspect {
    /// The quote as the platform returned it.
    #[arg(long, value_name = "FILE")]
    quote: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct Verify {
    /// The quote as the platform returned it.
    #[arg(long, value_name = "FILE")]
    quote: PathBuf,
    /// Collateral as JSON: CRLs and signatures in hex, chains in PEM, signed texts as they were signed.
    #[arg(long, value_name = "FILE")]
    collateral: PathBuf,
    /// The one root certificate to trust, DER.
    #[arg(long, value_name = "FILE.der")]
    root: PathBuf,
    /// The time to verify for, e.g. 2025-07-01T00:00:00Z; without it, now.
    #[arg(long, value_name = "RFC3339", value_parser = parse_time)]
    at: Option<u64>,
    /// What the TD may be or do although it weakens it.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    allow: Vec<Allow>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Allow {
    /// Debug and profiling.
    Debug,
    /// Bound service TDs.
    ServiceTd,
    /// Migration to another machine.
    Migratable,
    /// Injection of #VE by the host.
    NoSeptVeDisable,
}

fn parse_time(text: &str) -> Result<u64, String> {
    let time: Timestamp = text.parse().map_err(|_| "not an RFC 3339 time such as 2025-07-01T00:00:00Z".to_owned())?;
    u64::try_from(time.as_second()).map_err(|_| "before 1970".to_owned())
}

pub(crate) fn run(command: EvidenceCommand) -> CommandResult {
    match command {
        EvidenceCommand::Inspect(inspect) => inspect.run(),
        EvidenceCommand::Verify(verify) => verify.run(),
    }
}

impl Inspect {
    fn run(&self) -> CommandResult {
        let bytes = read(&self.quote, QUOTE_BYTES_MAX)?;
        let quote = Quote::parse(&bytes).map_err(|error| {
            Failure::usage(format!("{}: {error}", self.quote.display()))
                .hint("give the quote's bytes as the platform returned them, not base64 or hex")
        })?;
        print(&describe(&quote, bytes.len()), self.json)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Verify {
    fn run(&self) -> CommandResult {
        let anchor = self.trust_anchor()?;
        let quote = read(&self.quote, QUOTE_BYTES_MAX)?;
        let collateral = read(&self.collateral, COLLATERAL_BYTES_MAX)?;
        let verifier = Verifier::new(anchor).with_allowances(self.allowances());
        let verdict = Verdict::of(&verifier, &quote, &collateral, self.at.unwrap_or_else(keyferry_lifecycle::clock::now));
        print(&verdict.describe(verifier.anchor()), self.json)?;
        Ok(if verdict.outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(NO) })
    }

    fn trust_anchor(&self) -> Result<TrustAnchor, Failure> {
        let der = read(&self.root, ROOT_BYTES_MAX)?;
        TrustAnchor::simulator(&der).map_err(|error| {
            Failure::usage(format!("{}: {error}", self.root.display())).hint("convert PEM with `openssl x509 -outform der`")
        })
    }

    fn allowances(&self) -> Allowances {
        let allows = |what| self.allow.contains(&what);
        Allowances {
            debug: allows(Allow::Debug),
            service_td: allows(Allow::ServiceTd),
            migratable: allows(Allow::Migratable),
            no_sept_ve: allows(Allow::NoSeptVeDisable),
        }
    }
}

/// What came of a verification. Whatever the files hold ends here, as a verdict and never as a failure of the command.
struct Verdict {
    quote: Option<Quote>,
    outcome: Result<VerifiedQuote, Refusal>,
}

struct Refusal {
    reason: &'static str,
    detail: String,
    denial: Option<DcapDenial>,
}

impl Refusal {
    fn new(reason: &'static str, detail: &impl Display) -> Self {
        Self { reason, detail: detail.to_string(), denial: None }
    }
}

impl Verdict {
    fn of(verifier: &Verifier, quote: &[u8], collateral: &[u8], now: u64) -> Self {
        let quote = match Quote::parse(quote) {
            Ok(quote) => quote,
            Err(error) => return Self { quote: None, outcome: Err(Refusal::new(quote_reason(&error).label(), &error)) },
        };
        let outcome = Self::verify(verifier, &quote, collateral, now);
        Self { quote: Some(quote), outcome }
    }

    fn verify(verifier: &Verifier, quote: &Quote, collateral: &[u8], now: u64) -> Result<VerifiedQuote, Refusal> {
        let invalid = Reason::CollateralInvalid.label();
        let text = std::str::from_utf8(collateral).map_err(|error| Refusal::new(invalid, &error))?;
        let collateral = Collateral::from_json(text).map_err(|error| Refusal::new(error.label(), &error))?;
        let refused = |denial: DcapDenial| Refusal { reason: denial.label(), detail: denial.to_string(), denial: Some(denial) };
        verifier.verify(quote, &collateral, now).map_err(refused)
    }

    fn describe(&self, anchor: &TrustAnchor) -> Map<String, Value> {
        let mut members = Map::new();
        let mut put = |name: &str, value: Value| members.insert(name.to_owned(), value);
        match &self.outcome {
            Ok(quote) => {
                put("verdict", json!("verified"));
                put("reason", Value::Null);
                put("detail", Value::Null);
                put("tcb_status", json!(quote.tcb_status().to_string()));
                put("advisory_ids", json!(quote.advisory_ids()));
                put("tcb_date", json!(quote.tcb_date()));
                put("fmspc", json!(hex::encode(quote.fmspc())));
                put("evaluation_number", json!(quote.evaluation_number()));
                put("valid_until", json!(rfc3339(quote.valid_until())));
            }
            Err(refusal) => {
                let revoked = match &refusal.denial {
                    Some(DcapDenial::TcbRevoked { advisory_ids }) => Some(advisory_ids.clone()),
                    _ => None,
                };
                put("verdict", json!("refused"));
                put("reason", json!(refusal.reason));
                put("detail", json!(refusal.detail));
                put("tcb_status", if revoked.is_some() { json!("Revoked") } else { Value::Null });
                put("advisory_ids", json!(revoked.unwrap_or_default()));
            }
        }
        put("trust_anchor", json!(anchor.label()));
        if let Some(quote) = &self.quote {
            members.extend(measurements(quote.body()));
        }
        members
    }
}

fn quote_reason(error: &QuoteError) -> Reason {
    match error {
        QuoteError::TooLarge { .. } => Reason::RequestTooLarge,
        _ => Reason::QuoteMalformed,
    }
}

fn rfc3339(unix_seconds: u64) -> Option<String> {
    let seconds = i64::try_from(unix_seconds).ok()?;
    Timestamp::from_second(seconds).ok().map(|time| time.to_string())
}

/// At most one byte over `bytes_max`, so that a parser can still tell that it is too much.
fn read(file: &Path, bytes_max: usize) -> Result<Vec<u8>, Failure> {
    let failure = |error: std::io::Error| Failure::usage(format!("{}: {error}", file.display())).hint("check the path");
    let mut bytes = Vec::new();
    File::open(file).map_err(failure)?.take(bytes_max as u64 + 1).read_to_end(&mut bytes).map_err(failure)?;
    Ok(bytes)
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

/// The fields of a report body, hex in memory order.
fn measurements(body: &TdReportBody) -> Map<String, Value> {
    let mut fields = Map::new();
    let mut put = |name: &str, bytes: &[u8]| fields.insert(name.to_owned(), json!(hex::encode(bytes)));
    put("tee_tcb_svn", &body.tee_tcb_svn);
    put("mrseam", &body.mr_seam);
    put("mrsignerseam", &body.mr_signer_seam);
    put("seam_attributes", &body.seam_attributes);
    put("td_attributes", &body.td_attributes.to_bytes());
    put("xfam", &body.xfam.to_bytes());
    put("mrtd", &body.mr_td);
    put("mrconfigid", &body.mr_config_id);
    put("mrowner", &body.mr_owner);
    put("mrownerconfig", &body.mr_owner_config);
    for (index, rtmr) in body.rtmrs.iter().enumerate() {
        put(&format!("rtmr{index}"), rtmr);
    }
    put("report_data", &body.report_data);
    for (name, bytes) in [
        ("tee_tcb_svn2", body.tee_tcb_svn2.as_ref().map(<[u8; 16]>::as_slice)),
        ("mrservicetd", body.mr_service_td.as_ref().map(<[u8; 48]>::as_slice)),
        ("td_id", body.td_id.as_ref().map(<[u8; 32]>::as_slice)),
    ] {
        if let Some(bytes) = bytes {
            put(name, bytes);
        }
    }
    fields
}

fn print(members: &Map<String, Value>, json: bool) -> Result<(), Failure> {
    if json {
        return output::data(Value::Object(members.clone()));
    }
    let width = members.keys().map(String::len).max().unwrap_or_default();
    let text = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let lines: Vec<String> = members.iter().map(|(name, value)| format!("{name:width$}  {}", text(value))).collect();
    output::data(lines.join("\n"))
}
