//! `keyferry explain`: what a reason means and what to do about it, without asking anybody.
//!
//! What is a fact of the contract's table - status codes, verdict or failure, whether a retry helps - is made from the table;
//! the rest is the reason's page.

mod pages;

use std::process::ExitCode;

use clap::Args;
use keyferry_contract::{Reason, Retry};
use serde_json::{Value, json};

use crate::output::{self, CommandResult, Failure};
use pages::PAGES;

/// What a page has where the facts of the table go.
#[cfg(test)]
const HEADER_END: &str = "\n\n";
/// A label that differs in at most this many letters is worth proposing.
const EDITS_MAX: usize = 4;

#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct Explain {
    /// The reason, as in an error, a metric or the audit: `policy_mismatch`.
    #[arg(value_name = "REASON", required_unless_present = "list")]
    reason: Option<String>,
    /// List every reason in one line each.
    #[arg(long, conflicts_with = "reason")]
    list: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Explain {
    pub(crate) fn run(self) -> CommandResult {
        match self.reason {
            None => list(self.json)?,
            Some(label) => explain(label.trim(), self.json)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn list(json: bool) -> Result<(), Failure> {
    let rows: Vec<[String; 5]> = Reason::ALL
        .iter()
        .map(|reason| {
            let advice = reason.advice();
            [advice.label.to_owned(), grpc(*reason), advice.http.to_string(), reason.decision().label().to_owned(), advice.text.to_owned()]
        })
        .collect();
    let values = Reason::ALL.into_iter().map(facts).collect();
    output::list(["reason", "grpc", "http", "decision", "advice"], &rows, values, json)
}

fn explain(label: &str, json: bool) -> Result<(), Failure> {
    let plain = label.to_lowercase().replace('-', "_");
    let plain = plain.trim_start_matches("reason_");
    let Some(reason) = Reason::from_label(plain) else { return Err(unknown(plain)) };
    let page = page(reason);
    if !json {
        return output::data(page);
    }
    let mut value = facts(reason);
    value["page"] = json!(page);
    output::data(value)
}

fn page(reason: Reason) -> &'static str {
    PAGES.iter().find(|(label, _)| *label == reason.label()).map_or("", |(_, page)| page)
}

fn facts(reason: Reason) -> Value {
    let advice = reason.advice();
    let (retry, after) = match advice.retry {
        Retry::Never => ("never", None),
        Retry::AfterSeconds(seconds) => ("after_seconds", Some(seconds)),
        Retry::WhenOperatorActed => ("when_operator_acted", None),
    };
    json!({
        "reason": advice.label, "grpc": grpc(reason), "http": advice.http, "decision": reason.decision().label(),
        "retry": retry, "retry_after_seconds": after, "advice": advice.text,
    })
}

/// `PERMISSION_DENIED`, as gRPC's own documents write it.
fn grpc(reason: Reason) -> String {
    let name = format!("{:?}", reason.advice().grpc);
    let mut spelled = String::new();
    for character in name.chars() {
        if character.is_uppercase() && !spelled.is_empty() {
            spelled.push('_');
        }
        spelled.extend(character.to_uppercase());
    }
    spelled
}

fn unknown(label: &str) -> Failure {
    let mut near: Vec<(usize, &str)> = Reason::ALL.iter().map(|reason| (distance(label, reason.label()), reason.label())).collect();
    near.sort_unstable();
    let near: Vec<&str> = near.into_iter().filter(|(edits, _)| *edits <= EDITS_MAX).take(3).map(|(_, label)| label).collect();
    let containing = || Reason::ALL.iter().map(|reason| reason.label()).filter(|known| label.len() > 2 && known.contains(label)).take(8);
    let proposed = if near.is_empty() { containing().collect() } else { near };
    let failure = Failure::usage(format!("there is no reason {:?}", output::printable(label)));
    if proposed.is_empty() {
        failure.hint("`keyferry explain --list` shows every reason")
    } else {
        failure.hint(format!("did you mean {}?", proposed.join(", ")))
    }
}

/// Letters to insert, remove or replace until one is the other (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, character) in one.chars().take(64).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for (column, against) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(character != *against);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    /// The first lines of a page: facts of the table only.
    fn header(reason: Reason) -> String {
        let advice = reason.advice();
        let (label, text) = (advice.label, advice.text);
        let verdict = match reason.decision() {
            keyferry_contract::Decision::Denied => "refused on purpose",
            keyferry_contract::Decision::Error => "could not be decided",
        };
        let retry = match advice.retry {
            Retry::Never => "A retry does not help: the same request is refused again.".to_owned(),
            Retry::AfterSeconds(1) => "A retry may help, after a second.".to_owned(),
            Retry::AfterSeconds(seconds) => format!("A retry may help, after {seconds} seconds."),
            Retry::WhenOperatorActed => "A retry helps only after somebody has changed something.".to_owned(),
        };
        let (grpc, http) = (grpc(reason), advice.http);
        format!("# {label}{HEADER_END}gRPC `{grpc}`, HTTP {http}; {verdict}. {retry} In short: {text}.{HEADER_END}")
    }

    fn directory() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reasons")
    }

    /// `KEYFERRY_ACCEPT_REASONS=1` writes the facts of the table into the pages.
    #[test]
    fn every_reason_has_one_page_that_says_what_the_table_says() {
        if std::env::var_os("KEYFERRY_ACCEPT_REASONS").is_some() {
            for reason in Reason::ALL {
                let path = directory().join(format!("{}.md", reason.label()));
                let page = fs::read_to_string(&path).unwrap();
                let prose = page.splitn(3, HEADER_END).nth(2).unwrap();
                fs::write(path, format!("{}{prose}", header(reason))).unwrap();
            }
            return;
        }
        let labels: Vec<&str> = Reason::ALL.iter().map(|reason| reason.label()).collect();
        assert_eq!(PAGES.iter().map(|(label, _)| *label).collect::<Vec<_>>(), labels);
        let files: BTreeSet<String> =
            fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        let wanted: BTreeSet<String> = labels.iter().map(|label| format!("{label}.md")).collect();
        assert_eq!(files, wanted);
        for reason in Reason::ALL {
            let page = page(reason);
            let header = header(reason);
            assert!(page.starts_with(&header), "{header}KEYFERRY_ACCEPT_REASONS=1 writes it into the page");
            for section in ["**Who sees it.**", "**Usual causes**", "**What to do**", "**Where it shows.**"] {
                assert_eq!(page.matches(section).count(), 1, "{}: {section}", reason.label());
            }
            assert!((10..=30).contains(&page.lines().count()), "{}: {} lines", reason.label(), page.lines().count());
        }
    }

    #[test]
    fn pages_name_only_metrics_and_attributes_that_exist() {
        let names = include_str!("../../../telemetry/src/names.rs");
        for (label, page) in PAGES {
            for name in page.split('`').filter(|quoted| quoted.starts_with("keyferry.")) {
                assert!(names.contains(&format!("\"{name}\"")), "{label}: {name}");
            }
        }
    }

    #[test]
    fn distance_counts_letters() {
        assert_eq!([distance("a", "a"), distance("", "abc"), distance("kitten", "sitting"), distance("ab", "ba")], [0, 3, 3, 2]);
    }
}
