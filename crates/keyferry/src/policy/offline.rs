//! What needs no server: a policy document is read and judged by the crate that key-release uses.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use clap::Args;
use keyferry_key_transfer_policy::{DOCUMENT_BYTES_MAX, Policy};
use serde_json::json;

use super::verdict;
use crate::output::{self, CommandResult, Failure};

#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct Lint {
    /// The policy document, JSON.
    #[arg(value_name = "FILE")]
    policy: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Lint {
    pub(super) fn run(&self) -> CommandResult {
        let findings: Vec<String> = policy(&self.policy)?.lint().iter().map(ToString::to_string).collect();
        if self.json {
            output::data(json!({ "findings": findings }))?;
        } else if findings.is_empty() {
            output::talk("nothing found");
        } else {
            output::data(findings.join("\n"))?;
        }
        Ok(verdict(findings.is_empty()))
    }
}

/// A checked policy from a file.
fn policy(file: &Path) -> Result<Policy, Failure> {
    Policy::parse(&text(file, DOCUMENT_BYTES_MAX)?)
        .map_err(|error| Failure::usage(format!("{}: {error}", file.display())).hint("docs/policies.md describes the document"))
}

/// A text file of at most `bytes_max`, and one byte over, so that a parser can still tell that it is too much.
pub(super) fn text(file: &Path, bytes_max: usize) -> Result<String, Failure> {
    let failure = |error: std::io::Error| Failure::usage(format!("{}: {error}", file.display())).hint("check the path");
    let mut text = String::new();
    File::open(file).map_err(failure)?.take(bytes_max as u64 + 1).read_to_string(&mut text).map_err(failure)?;
    Ok(text)
}
