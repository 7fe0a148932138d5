//! `keyferry collateral`: fetch it where there is a network, carry it in a bundle, put it where a token-broker reads it.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Subcommand};
use jiff::Timestamp;
use keyferry_collateral::{Bundle, Ca, CollateralClient, Document, Entry, Family, INTEL_CERTIFICATES_URL, Settings, Source, Update};
use keyferry_dcap::TrustAnchor;
use serde_json::{Value, json};

use crate::{
    output::{self, CommandResult, Failure, NO},
    policy::offline::{bytes, text},
};

/// One document of one family.
const DOCUMENT_BYTES_MAX: usize = 1024 * 1024;
/// A root certificate is read up to here.
const ROOT_BYTES_MAX: usize = 16 * 1024;

/// The commands about collateral.
#[derive(Debug, Subcommand)]
pub(crate) enum CollateralCommand {
    /// Fetch platform families from Intel's PCS or a PCCS into a bundle, verified item by item.
    Fetch(Fetch),
    /// Put documents of a directory, or single ones, into one bundle.
    Export(Export),
    /// Verify a bundle and write its documents where a token-broker reads them (`evidence.collateral.directory`).
    Import(Import),
    /// Show what a bundle or a document holds and how long it is good, verified or not.
    Show(Show),
}

#[derive(Debug, Args)]
pub(crate) struct Trust {
    /// DER of the root to trust instead of Intel's SGX root: a simulator's.
    #[arg(long, value_name = "FILE.der")]
    root: Option<PathBuf>,
    /// The moment to judge at, RFC 3339; now if it is not given.
    #[arg(long, value_name = "TIME")]
    at: Option<Timestamp>,
}

#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct Fetch {
    #[command(flatten)]
    trust: Trust,
    /// Base of Intel's PCS, `https://api.trustedservices.intel.com`, or of something of its shape.
    #[arg(long, value_name = "URL", required_unless_present = "pccs", conflicts_with = "pccs")]
    pcs: Option<String>,
    /// Where the root's revocation list is, with --pcs. Default: Intel's.
    #[arg(long, value_name = "URL", requires = "pcs")]
    certificates: Option<String>,
    /// Base of a PCCS.
    #[arg(long, value_name = "URL")]
    pccs: Option<String>,
    /// PEM: the roots of the service's TLS certificate. Default: those that browsers trust.
    #[arg(long, value_name = "FILE.pem")]
    ca_file: Option<PathBuf>,
    /// A platform family, 12 hex digits; can be repeated.
    #[arg(long = "fmspc", value_name = "HEX", required = true, value_parser = fmspc)]
    families: Vec<[u8; 6]>,
    /// The CA of its PCK certificates: TDX platforms have `platform`.
    #[arg(long, value_name = "platform|processor", default_value = "platform", value_parser = ca)]
    ca: Ca,
    /// Which TCB evaluation.
    #[arg(long, value_name = "standard|early", default_value = "standard", value_parser = update)]
    update: Update,
    /// The bundle to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct Export {
    #[command(flatten)]
    trust: Trust,
    /// A directory of documents (`*.json`), or one document; can be repeated.
    #[arg(long = "from", value_name = "PATH", required = true)]
    from: Vec<PathBuf>,
    /// The bundle to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct Import {
    #[command(flatten)]
    trust: Trust,
    /// The bundle.
    #[arg(long, value_name = "FILE")]
    bundle: PathBuf,
    /// Where the documents go: one `<fmspc>.json` each.
    #[arg(long, value_name = "DIRECTORY")]
    directory: PathBuf,
}

#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct Show {
    #[command(flatten)]
    trust: Trust,
    /// A bundle or a document.
    file: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

fn fmspc(text: &str) -> Result<[u8; 6], String> {
    Family::parse_fmspc(text).ok_or_else(|| "not 12 hex digits".to_owned())
}

fn ca(text: &str) -> Result<Ca, String> {
    [Ca::Platform, Ca::Processor].into_iter().find(|ca| ca.label() == text).ok_or_else(|| "platform or processor".to_owned())
}

fn update(text: &str) -> Result<Update, String> {
    [Update::Standard, Update::Early].into_iter().find(|update| update.label() == text).ok_or_else(|| "standard or early".to_owned())
}

/// Runs one of them.
pub(crate) fn run(command: &CollateralCommand) -> CommandResult {
    match command {
        CollateralCommand::Fetch(fetch) => fetch.run(),
        CollateralCommand::Export(export) => export.run(),
        CollateralCommand::Import(import) => import.run(),
        CollateralCommand::Show(show) => show.run(),
    }
}

impl Trust {
    fn anchor(&self) -> Result<TrustAnchor, Failure> {
        let Some(path) = &self.root else { return Ok(TrustAnchor::intel()) };
        TrustAnchor::simulator(&bytes(path, ROOT_BYTES_MAX)?).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
    }

    fn now(&self) -> u64 {
        self.at.map_or_else(keyferry_lifecycle::clock::now, |at| u64::try_from(at.as_second()).unwrap_or(0))
    }
}

impl Fetch {
    fn run(&self) -> CommandResult {
        let (anchor, now) = (self.trust.anchor()?, self.trust.now());
        let source = match (&self.pcs, &self.pccs) {
            (Some(url), _) => {
                let certificates_url = self.certificates.clone().unwrap_or_else(|| INTEL_CERTIFICATES_URL.to_owned());
                Source::Pcs { url: url.clone(), certificates_url }
            }
            (None, Some(url)) => Source::Pccs { url: url.clone() },
            (None, None) => return Err(Failure::usage("--pcs or --pccs is missing")),
        };
        let address = source.url().to_owned();
        let settings = Settings { ca_file: self.ca_file.clone(), update: self.update, ..Settings::new(source) };
        let client = CollateralClient::new(&settings).map_err(|error| Failure::usage(error.to_string()))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::failed(format!("no runtime: {error}")))?;
        let mut documents = Vec::new();
        for fmspc in &self.families {
            let family = Family { fmspc: *fmspc, ca: self.ca };
            let document = runtime.block_on(client.fetch_verified(family, &anchor, now));
            documents.push(document.map_err(|error| Failure::failed(format!("{family}: {error}")))?);
        }
        let bundle = Bundle::new(address, Some(self.update), fetched_at(now), &documents);
        written(&self.out, bundle, documents.len())
    }
}

impl Export {
    fn run(&self) -> CommandResult {
        let (anchor, now) = (self.trust.anchor()?, self.trust.now());
        let mut documents = Vec::new();
        for path in self.files()? {
            let refused = |error: &dyn std::fmt::Display| Failure::failed(format!("{}: {error}", path.display()));
            let document = Document::parse(&text(&path, DOCUMENT_BYTES_MAX)?).map_err(|error| refused(&error))?;
            documents.push(document.verify(&anchor, now).map_err(|error| refused(&error))?);
        }
        written(&self.out, Bundle::new("exported", None, fetched_at(now), &documents), documents.len())
    }

    fn files(&self) -> Result<Vec<PathBuf>, Failure> {
        let mut files = Vec::new();
        for path in &self.from {
            if !path.is_dir() {
                files.push(path.clone());
                continue;
            }
            let failed = |error: std::io::Error| Failure::usage(format!("{}: {error}", path.display()));
            for entry in fs::read_dir(path).map_err(failed)? {
                let found = entry.map_err(failed)?.path();
                if found.extension().is_some_and(|extension| extension == "json") {
                    files.push(found);
                }
            }
        }
        files.sort();
        Ok(files)
    }
}

impl Import {
    fn run(&self) -> CommandResult {
        let (anchor, now) = (self.trust.anchor()?, self.trust.now());
        let bundle = bundle(&self.bundle)?;
        let mut documents = Vec::new();
        let mut refused = false;
        for (entry, verified) in bundle.verify(&anchor, now) {
            match verified {
                Ok(document) => documents.push(document),
                Err(error) => {
                    refused = true;
                    output::talk(format!("{} ({}): {error}", output::printable(&entry.fmspc), entry.ca.label()));
                }
            }
        }
        if refused {
            return Err(Failure::failed("the bundle is refused and nothing was written").hint("fetch it again, or check --root and --at"));
        }
        for document in &documents {
            let document = document.document();
            write(&self.directory.join(format!("{}.json", document.family())), document.text())?;
        }
        output::talk(format!("{} families: a running token-broker picks them up", documents.len()));
        Ok(ExitCode::SUCCESS)
    }
}

impl Show {
    fn run(&self) -> CommandResult {
        let (anchor, now) = (self.trust.anchor()?, self.trust.now());
        let content = text(&self.file, Bundle::BYTES_MAX)?;
        let documents = match Document::parse(&content) {
            Ok(document) => vec![document],
            Err(no_document) => {
                let bundle = Bundle::parse(&content).map_err(|no_bundle| {
                    Failure::usage(format!("{}: neither a document ({no_document}) nor a bundle ({no_bundle})", self.file.display()))
                })?;
                let documents = bundle.families.iter().map(Entry::document);
                documents.collect::<Result<_, _>>().map_err(|error| Failure::failed(error.to_string()))?
            }
        };
        let shown: Vec<(Value, bool)> = documents.into_iter().map(|document| described(document, &anchor, now)).collect();
        let good = shown.iter().all(|(_, good)| *good);
        let families: Vec<Value> = shown.into_iter().map(|(value, _)| value).collect();
        if self.json {
            output::data(json!({ "verified": good, "families": families }))?;
        } else {
            for family in &families {
                output::data(format!("{family:#}"))?;
            }
        }
        Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(NO) })
    }
}

/// What a document says of itself, and whether it is to be believed.
fn described(document: Document, anchor: &TrustAnchor, now: u64) -> (Value, bool) {
    let time = |seconds: u64| i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok()).map(|at| at.to_string());
    let items: Vec<Value> = document
        .items()
        .iter()
        .map(|item| {
            json!({
                "item": item.kind.label(),
                "issued_at": time(item.issued_at),
                "next_update": time(item.next_update),
                "age_seconds": now.saturating_sub(item.issued_at),
                "percent_left": item.percent_left(now),
            })
        })
        .collect();
    let mut shown = json!({
        "fmspc": document.family().to_string(),
        "ca": document.family().ca.label(),
        "evaluation_number": document.evaluation_number(),
        "next_update": time(document.next_update()),
        "revoked_pck_certificates": document.revoked_pcks(),
        "revoked_by_root": document.revoked_by_root(),
        "items": items,
    });
    let verified = document.verify(anchor, now);
    shown["verdict"] = match &verified {
        Ok(_) => json!("verified"),
        Err(refused) => json!(format!("refused: {refused}")),
    };
    (shown, verified.is_ok())
}

fn fetched_at(now: u64) -> Option<Timestamp> {
    Timestamp::from_second(i64::try_from(now).ok()?).ok()
}

fn bundle(path: &Path) -> Result<Bundle, Failure> {
    Bundle::parse(&text(path, Bundle::BYTES_MAX)?).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

fn written(path: &Path, bundle: Result<Bundle, keyferry_collateral::BundleError>, families: usize) -> CommandResult {
    let json = bundle.and_then(|bundle| bundle.to_json()).map_err(|error| Failure::failed(error.to_string()))?;
    write(path, &json)?;
    output::talk(format!("{families} families in {}", path.display()));
    Ok(ExitCode::SUCCESS)
}

/// Whole or not at all: beside its place first.
fn write(path: &Path, content: &str) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::failed(format!("{}: {error}", path.display()));
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let mut file = fs::File::create(&beside).map_err(failed)?;
    file.write_all(content.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&beside, path).map_err(failed)
}
