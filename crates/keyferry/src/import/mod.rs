//! `keyferry import`: takes over what another key broker holds.
//!
//! An import reads everything and checks it before anything is sent: files that are no records are reported and stop
//! nothing else. What is there already stays as it is, so an import that broke off, or missed a file, is run again.

mod apply;
mod certificates;
mod compare;
mod directory;
mod plan;
mod record;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Subcommand};

use crate::{
    broker::{Connection, online},
    output::{self, CommandResult, Failure, NO},
};
use plan::Plan;
use record::KmsKind;

/// The commands that import.
#[derive(Debug, Subcommand)]
pub(crate) enum ImportCommand {
    /// Take over users, key transfer policies, keys, TLS pair and token signing key of an Intel Key Broker Service.
    IntelKbs(IntelKbs),
}

#[derive(Debug, Args)]
pub(crate) struct IntelKbs {
    /// A copy of the service's files: a directory with `keys`, `keys-transfer-policy` and `users` (its /opt/kbs), or one
    /// that holds opt/kbs and etc/kbs below it.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// The service's certificates, a directory with `tls` and `signing-keys` (its /etc/kbs/certs), if not below DIR.
    #[arg(long, value_name = "DIR")]
    certs_dir: Option<PathBuf>,
    /// Say what would be done, and change nothing. Without a connection, nothing is compared with key-release.
    #[arg(long)]
    dry_run: bool,
    /// The KMS that key-release and the other broker share; without it, each key's record tells.
    #[arg(long, value_enum, value_name = "KIND")]
    kms_kind: Option<KmsKind>,
    /// Copy the TLS pair into this directory, mode 0600, to be named in key-release's settings.
    #[arg(long, value_name = "DIR")]
    tls_dir: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) fn run(command: &ImportCommand) -> CommandResult {
    let ImportCommand::IntelKbs(import) = command;
    import.run()
}

impl IntelKbs {
    fn run(&self) -> CommandResult {
        let places = Places::below(&self.directory, self.certs_dir.as_deref())?;
        let mut plan = Plan::read(&places, self.kms_kind);
        certificates::plan(&mut plan, &places.certificates, self.tls_dir.as_deref());
        if plan.items.is_empty() {
            return Err(Failure::usage(format!("{} holds nothing to import", self.directory.display())).hint("give a copy of /opt/kbs"));
        }
        if self.dry_run && !self.connection.is_given() {
            output::talk("no connection was given: nothing was compared with key-release");
            return self.report(&plan);
        }
        online(&self.connection, async |broker| {
            let compared = compare::with(&mut plan, &broker).await;
            compared?;
            let broke_off = if self.dry_run { None } else { apply::all(&mut plan, &broker, self.tls_dir.as_deref()).await.err() };
            let code = self.report(&plan)?;
            broke_off.map_or(Ok(code), Err)
        })
    }

    fn report(&self, plan: &Plan) -> CommandResult {
        if self.json {
            output::data(plan.to_json(self.dry_run))?;
        } else {
            output::data(plan.to_text())?;
        }
        Ok(if plan.has_refusals() { ExitCode::from(NO) } else { ExitCode::SUCCESS })
    }
}

/// Where the other broker keeps what.
pub(crate) struct Places {
    pub(crate) users: PathBuf,
    pub(crate) policies: PathBuf,
    pub(crate) keys: PathBuf,
    pub(crate) certificates: PathBuf,
}

impl Places {
    fn below(directory: &Path, certificates: Option<&Path>) -> Result<Self, Failure> {
        let whole = directory.join("opt/kbs");
        let state = if whole.is_dir() { whole } else { directory.to_owned() };
        let places = Self {
            users: state.join("users"),
            policies: state.join("keys-transfer-policy"),
            keys: state.join("keys"),
            certificates: certificates.map_or_else(|| certificates_below(directory), Path::to_path_buf),
        };
        if [&places.users, &places.policies, &places.keys].into_iter().any(|place| place.is_dir()) {
            return Ok(places);
        }
        let problem = format!("{} has no directory keys, keys-transfer-policy or users", directory.display());
        Err(Failure::usage(problem).hint("give a copy of /opt/kbs, or of the file system that holds it"))
    }
}

fn certificates_below(directory: &Path) -> PathBuf {
    let whole = directory.join("etc/kbs/certs");
    if whole.is_dir() { whole } else { directory.join("certs") }
}
