//! `keyferry api-key`: keys for callers of a token-broker's HTTPS surface.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};
use keyferry_verifier_keys::ApiKeys;

use crate::output::{self, CommandResult, Failure};

/// The commands about API keys.
#[derive(Debug, Subcommand)]
pub(crate) enum ApiKeyCommand {
    /// Make a key for a caller: it is printed once, and only its digest is kept.
    Create(Create),
}

#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct Create {
    /// Who gets it.
    #[arg(long, value_name = "NAME")]
    name: String,
    /// The `https.api_keys_file` of the token-broker; made if it is not there.
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
}

/// Runs one of them.
pub(crate) fn run(command: &ApiKeyCommand) -> CommandResult {
    let ApiKeyCommand::Create(create) = command;
    let key = ApiKeys::create(&create.file, &create.name).map_err(|error| Failure::usage(format!("{}: {error}", create.file.display())))?;
    output::data(key.as_str())?;
    output::talk(format!("the key of {}: it is nowhere else", create.name));
    Ok(ExitCode::SUCCESS)
}
