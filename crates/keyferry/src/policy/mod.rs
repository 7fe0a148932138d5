//! `keyferry policy`: key transfer policies, as files of this machine and as `key-release` keeps them.

use std::process::ExitCode;

use clap::Subcommand;

use crate::output::CommandResult;

pub(crate) mod offline;
mod online;
mod token;

/// The commands about key transfer policies.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Check a policy document: exit code 0 if nothing is found, 1 if it is weaker than it looks, 2 if it is no policy.
    Lint(offline::Lint),
    /// Run a policy's unit tests from a file: exit code 0 if all pass, 1 if one does not.
    Test(offline::Test),
    /// What another version of a document changes: exit code 0 if nothing permits more than before, 1 if something does.
    Diff(offline::Diff),
    /// How a token fares against a document, on this machine: exit code 0 if it would be permitted, 1 if not.
    Try(token::Try),
    /// Store a policy; its id goes to stdout, what it is weak in to stderr.
    Create(online::Create),
    /// Show a stored policy's document.
    #[command(disable_version_flag = true)] // it has a version of its own
    Show(online::Show),
    /// List the stored policies.
    List(online::List),
    /// Make a new version of a stored policy; its number goes to stdout.
    Update(online::Update),
    /// List every version there was, newest first.
    History(online::One),
    /// Make a new version whose document is that of an older one; its number goes to stdout.
    #[command(disable_version_flag = true)] // it has a version of its own
    Rollback(online::Rollback),
    /// Delete a policy that no key refers to.
    Delete(online::One),
    /// How a token fares against a policy, claim by claim: exit code 0 if the key would be released, 1 if not.
    #[command(disable_version_flag = true)] // it has a version of its own
    Explain(online::Explain),
}

pub(crate) fn run(command: PolicyCommand) -> CommandResult {
    match command {
        PolicyCommand::Lint(lint) => lint.run(),
        PolicyCommand::Test(test) => test.run(),
        PolicyCommand::Diff(diff) => diff.run(),
        PolicyCommand::Try(attempt) => attempt.run(),
        PolicyCommand::Create(create) => create.run(),
        PolicyCommand::Show(show) => show.run(),
        PolicyCommand::List(list) => list.run(),
        PolicyCommand::Update(update) => update.run(),
        PolicyCommand::History(one) => one.history(),
        PolicyCommand::Rollback(rollback) => rollback.run(),
        PolicyCommand::Delete(one) => one.delete(),
        PolicyCommand::Explain(explain) => explain.run(),
    }
}

/// The exit code of a verdict.
fn verdict(good: bool) -> ExitCode {
    if good { ExitCode::SUCCESS } else { ExitCode::from(crate::output::NO) }
}
