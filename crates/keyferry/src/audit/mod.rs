//! `keyferry audit`: look at the audit, take it away as a file, and find out whether somebody altered it.

mod export;
mod tail;
mod verify;
mod view;

use std::{fs, path::PathBuf};

use clap::{Args, Subcommand};
use keyferry_bus::{AuditReadError, Bus, BusConfig, Role};
use serde::Deserialize;

use crate::output::{CommandResult, Failure};

/// The commands about the audit.
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Show the last records, and with --follow those that come.
    Tail(tail::Tail),
    /// Write the whole audit to a file that can be verified anywhere.
    Export(export::Export),
    /// Find out whether records were altered, dropped, moved or added: exit code 0 if not, 1 if so.
    Verify(verify::Verify),
}

pub(crate) fn run(command: AuditCommand) -> CommandResult {
    match command {
        AuditCommand::Tail(tail) => tail.run(),
        AuditCommand::Export(export) => export.run(),
        AuditCommand::Verify(verify) => verify.run(),
    }
}

/// Which bus, and as whom: the auditor, who reads and alters nothing.
#[derive(Debug, Args)]
pub(super) struct Connection {
    /// The stack.json of a running installation: everything below is taken from it.
    #[arg(long, value_name = "FILE", env = "KEYFERRY_STACK", hide_env_values = true)]
    stack: Option<PathBuf>,
    /// Where the bus listens.
    #[arg(long, value_name = "nats://HOST:PORT")]
    url: Option<String>,
    /// The root that signed the server's certificate, PEM.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// The auditor's credentials.
    #[arg(long, value_name = "FILE")]
    credentials_file: Option<PathBuf>,
    /// How long to wait for the server, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    wait: u64,
}

/// What is needed of `stack.json`.
#[derive(Deserialize)]
struct Stack {
    nats_url: String,
    ca_file: PathBuf,
    bus: StackBus,
}
#[derive(Deserialize)]
struct StackBus {
    auditor_credentials: PathBuf,
}

impl Connection {
    fn config(&self) -> Result<BusConfig, Failure> {
        let stack = self.stack.as_ref().map(read_stack).transpose()?;
        let missing =
            |flag| Failure::usage(format!("{flag} is missing")).hint("give --stack FILE, or --url, --ca-file and --credentials-file");
        let of_stack = |member: fn(&Stack) -> PathBuf| stack.as_ref().map(member);
        let url = self.url.clone().or_else(|| stack.as_ref().map(|stack| stack.nats_url.clone()));
        let ca_file = self.ca_file.clone().or_else(|| of_stack(|stack| stack.ca_file.clone()));
        let credentials_file = self.credentials_file.clone().or_else(|| of_stack(|stack| stack.bus.auditor_credentials.clone()));
        let config = BusConfig::new(
            url.ok_or_else(|| missing("--url"))?,
            ca_file.ok_or_else(|| missing("--ca-file"))?,
            credentials_file.ok_or_else(|| missing("--credentials-file"))?,
        );
        Ok(BusConfig { connect_seconds: self.wait, ..config })
    }

    /// Runs one command that needs the bus.
    fn online(&self, command: impl AsyncFnOnce(&Bus) -> CommandResult) -> CommandResult {
        let config = self.config()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::failed(format!("no runtime: {error}")))?;
        runtime.block_on(async {
            let connected = Bus::connect(&config, Role::Auditor.name()).await;
            let bus = connected.map_err(|error| Failure::failed(error.to_string()))?;
            let done = command(&bus).await;
            bus.drain().await;
            done
        })
    }
}

fn read_stack(path: &PathBuf) -> Result<Stack, Failure> {
    let wrong = |problem: String| {
        Failure::usage(format!("{}: {problem}", path.display())).hint("`cargo xtask stack` writes it once everything runs")
    };
    let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))
}

fn unreadable(error: &AuditReadError) -> Failure {
    Failure::failed(error.to_string())
}
