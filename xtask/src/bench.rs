//! `cargo xtask bench`: builds the benches, and the programs they put load on, optimised, and runs them.

use std::path::PathBuf;

use keyferry_testkit::StartFailure;

use crate::run;

/// Flags of `bench`; they are passed on.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only this figure, e.g. `quote_verification/warm`, or a prefix of several
    #[arg(long)]
    only: Option<String>,
    /// Also write the figures to this file, as a JSON array
    #[arg(long)]
    json: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), StartFailure> {
    run::succeed(
        &mut run::cargo(&["build", "--quiet", "--release", "--bin", "keyferry", "--bin", "key-release", "--bin", "token-broker"]),
        "read the compiler's message above",
    )?;
    let mut command = run::cargo(&["run", "--quiet", "--release", "--bin", "keyferry-benches", "--"]);
    if let Some(name) = &arguments.only {
        command.args(["--only", name]);
    }
    if let Some(file) = &arguments.json {
        command.arg("--json").arg(std::path::absolute(file).unwrap_or_else(|_| file.clone()));
    }
    // A captured backtrace per error would be measured as cryptography.
    run::succeed(command.env_remove("RUST_BACKTRACE"), "read the message above")
}
