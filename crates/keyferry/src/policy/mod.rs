//! `keyferry policy`: key transfer policies, as files of this machine.

use std::process::ExitCode;

use clap::Subcommand;

use crate::output::CommandResult;

mod offline;

/// The commands about key transfer policies.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Check a policy document: exit code 0 if nothing is found, 1 if it is weaker than it looks, 2 if it is no policy.
    Lint(offline::Lint),
}

pub(crate) fn run(command: PolicyCommand) -> CommandResult {
    match command {
        PolicyCommand::Lint(lint) => lint.run(),
    }
}

/// The exit code of a verdict.
fn verdict(good: bool) -> ExitCode {
    if good { ExitCode::SUCCESS } else { ExitCode::from(crate::output::NO) }
}
