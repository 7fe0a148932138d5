//! What needs no server: a policy document is read and judged by the crate that key-release uses.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use clap::Args;
use keyferry_key_transfer_policy::{CASES_BYTES_MAX, Case, Comparison, DOCUMENT_BYTES_MAX, Effect, Expected, Outcome, Policy, diff};
use serde_json::{Value, json};

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

#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct Test {
    /// The cases, JSON.
    #[arg(value_name = "FILE")]
    cases: PathBuf,
    /// The policy document, JSON.
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct Diff {
    /// The document as it was.
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// The document as it shall be.
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Test {
    pub(super) fn run(&self) -> CommandResult {
        let policy = policy(&self.policy)?;
        let cases = Case::parse_all(&text(&self.cases, CASES_BYTES_MAX)?).map_err(|error| wrong(&self.cases, &error))?;
        let outcomes: Vec<Outcome> = cases.iter().map(|case| case.run(&policy)).collect();
        let failed = outcomes.iter().filter(|outcome| !outcome.passed).count();
        if self.json {
            output::data(json!({ "passed": failed == 0, "cases": outcomes.iter().map(outcome).collect::<Vec<_>>() }))?;
        } else {
            let rows: Vec<[String; 3]> = outcomes.iter().map(outcome_row).collect();
            output::data(output::table(["", "CASE", "CAME OUT AS"], &rows))?;
            output::talk(format!("{} of {} cases passed", outcomes.len() - failed, outcomes.len()));
        }
        Ok(verdict(failed == 0))
    }
}

fn failed_claims(comparisons: &[Comparison]) -> Vec<&'static str> {
    comparisons.iter().filter(|comparison| !comparison.matched).map(|comparison| comparison.claim).collect()
}

fn outcome(outcome: &Outcome) -> Value {
    let expected = match &outcome.expected {
        Expected::Permitted => json!("permitted"),
        Expected::Denied(claims) if claims.is_empty() => json!("denied"),
        Expected::Denied(claims) => json!({ "denied": claims }),
    };
    let claims: Vec<Value> = outcome.comparisons.iter().map(comparison).collect();
    json!({ "name": outcome.name, "passed": outcome.passed, "expect": expected, "denied": failed_claims(&outcome.comparisons), "claims": claims })
}

fn outcome_row(outcome: &Outcome) -> [String; 3] {
    let failed = failed_claims(&outcome.comparisons);
    let came_out = if failed.is_empty() { "permitted".to_owned() } else { format!("denied: {}", failed.join(", ")) };
    [if outcome.passed { "ok" } else { "NO" }.to_owned(), outcome.name.clone(), came_out]
}

/// As `policy explain` prints it.
pub(super) fn comparison(comparison: &Comparison) -> Value {
    json!({ "claim": comparison.claim, "wanted": comparison.wanted, "got": comparison.got, "matched": comparison.matched })
}

impl Diff {
    pub(super) fn run(&self) -> CommandResult {
        let changes = diff(&policy(&self.old)?, &policy(&self.new)?);
        let permits_more = changes.iter().any(|change| change.effect != Effect::Tightens);
        if self.json {
            let list: Vec<Value> = changes
                .iter()
                .map(|change| json!({ "claim": change.claim, "old": change.old, "new": change.new, "effect": change.effect.label() }))
                .collect();
            output::data(json!({ "permits_more": permits_more, "changes": list }))?;
        } else if changes.is_empty() {
            output::talk("both permit the same");
        } else {
            let shown = |wanted: &Option<String>| wanted.clone().unwrap_or_else(|| "-".to_owned());
            let rows: Vec<[String; 4]> = changes
                .iter()
                .map(|change| [change.effect.label().to_owned(), change.claim.to_owned(), shown(&change.old), shown(&change.new)])
                .collect();
            output::data(output::table(["", "CLAIM", "OLD", "NEW"], &rows))?;
        }
        Ok(verdict(!permits_more))
    }
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
pub(super) fn policy(file: &Path) -> Result<Policy, Failure> {
    Policy::parse(&text(file, DOCUMENT_BYTES_MAX)?).map_err(|error| wrong(file, &error))
}

fn wrong(file: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::usage(format!("{}: {error}", file.display())).hint("docs/policies.md describes the file")
}

/// A text file of at most `bytes_max`, and one byte over, so that a parser can still tell that it is too much.
pub(crate) fn text(file: &Path, bytes_max: usize) -> Result<String, Failure> {
    let failure = |error: std::io::Error| Failure::usage(format!("{}: {error}", file.display())).hint("check the path");
    let mut text = String::new();
    File::open(file).map_err(failure)?.take(bytes_max as u64 + 1).read_to_string(&mut text).map_err(failure)?;
    Ok(text)
}

/// A file of at most `bytes_max`, and one byte over.
pub(crate) fn bytes(file: &Path, bytes_max: usize) -> Result<Vec<u8>, Failure> {
    let failure = |error: std::io::Error| Failure::usage(format!("{}: {error}", file.display())).hint("check the path");
    let mut bytes = Vec::new();
    File::open(file).map_err(failure)?.take(bytes_max as u64 + 1).read_to_end(&mut bytes).map_err(failure)?;
    Ok(bytes)
}
