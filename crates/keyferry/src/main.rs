//! The operators' command line: `keyferry bus`, `keyferry evidence`, `keyferry policy`, `keyferry key`,
//! `keyferry user`, `keyferry reference-value`, `keyferry import`, `keyferry audit`, `keyferry explain`.
//!
//! Output rules, the same for every command: stdout is data, stderr is talk. A mistake ends in one line
//! `keyferry: error: ...` and, where there is something to do, one line `keyferry: hint: ...`. Exit codes: 0 yes or done,
//! 1 a negative verdict or a failed operation, 2 the command line or an input file is wrong.
//!
//! This crate decides nothing: it reads files and the clock, calls the crates that decide, and prints what they say.
//! It imports no service.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod api_key;
mod audit;
mod broker;
mod bus;
mod collateral;
mod evidence;
mod explain;
mod import;
mod key;
mod output;
mod policy;
mod reference_value;
mod token;
mod user;

use output::{CommandResult, Failure};

/// The operators' command line of Keyferry.
#[derive(Debug, Parser)]
#[command(name = "keyferry", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a bus, let TDs onto it, make its streams.
    #[command(subcommand)]
    Bus(bus::BusCommand),
    /// Look at the audit, export it, and find out whether it was altered.
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Make API keys for callers of a token-broker.
    #[command(subcommand)]
    ApiKey(api_key::ApiKeyCommand),
    /// Fetch, carry, import and show the collateral that quotes are verified with.
    #[command(subcommand)]
    Collateral(collateral::CollateralCommand),
    /// Look into attestation tokens, verify them, rotate the key that signs them.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Look into TDX quotes and verify them.
    #[command(subcommand)]
    Evidence(evidence::EvidenceCommand),
    /// Say what a reason means, who sees it and what to do about it.
    Explain(explain::Explain),
    /// Check, store, change and explain key transfer policies.
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Keep documents of reference values: add, list, show, revoke, lint.
    #[command(subcommand)]
    ReferenceValue(reference_value::ReferenceValueCommand),
    /// Make, register, list and export keys.
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Say who may administer.
    #[command(subcommand)]
    User(user::UserCommand),
    /// Take over what another key broker holds.
    #[command(subcommand)]
    Import(import::ImportCommand),
}

fn main() -> ExitCode {
    match parse().and_then(run) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

fn run(cli: Option<Cli>) -> CommandResult {
    let Some(cli) = cli else { return Ok(ExitCode::SUCCESS) };
    match cli.command {
        Command::ApiKey(command) => api_key::run(&command),
        Command::Collateral(command) => collateral::run(&command),
        Command::Token(command) => token::run(&command),
        Command::Bus(command) => bus::run(command),
        Command::Audit(command) => audit::run(command),
        Command::Evidence(command) => evidence::run(command),
        Command::Explain(explain) => explain.run(),
        Command::Policy(command) => policy::run(command),
        Command::ReferenceValue(command) => reference_value::run(command),
        Command::Key(command) => key::run(command),
        Command::User(command) => user::run(command),
        Command::Import(command) => import::run(&command),
    }
}

/// `None` where help or the version was asked for and printed.
fn parse() -> Result<Option<Cli>, Failure> {
    match Cli::try_parse() {
        Ok(cli) => Ok(Some(cli)),
        Err(error) if !error.use_stderr() => {
            output::data(error.render())?;
            Ok(None)
        }
        Err(error) => Err(Failure::command_line(&error)),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn no_two_flags_of_a_command_have_one_name() {
        super::Cli::command().debug_assert();
    }
}
