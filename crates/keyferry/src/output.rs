//! How a command talks: data to stdout, everything else to stderr, and the exit code.

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

/// The exit code of a command that ran, or why it could not.
pub(crate) type CommandResult = Result<ExitCode, Failure>;

/// The exit code of a negative verdict.
pub(crate) const NO: u8 = 1;
const FAILED: u8 = 1;
const USAGE: u8 = 2;

/// Why a command did not do what was asked, and what to do about it.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// The command line or an input file is wrong: exit code 2.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { code: USAGE, message: message.into(), hint: None }
    }

    /// The operation failed: exit code 1.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self { code: FAILED, message: message.into(), hint: None }
    }

    /// Adds what to do next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// In our two-line form what clap says in its own.
    pub(crate) fn command_line(error: &clap::Error) -> Self {
        const HELP: &str = "see `keyferry --help`, or --help after the command";
        if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            return Self::usage("a command is missing").hint(HELP);
        }
        let text = error.to_string();
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let message = lines.next().unwrap_or("no such command").trim_start_matches("error: ").to_owned();
        let mut detail: Vec<&str> = lines.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more")).collect();
        let tip = detail.iter().position(|line| line.starts_with("tip: ")).map(|at| detail.remove(at));
        // What was missing, or the values there are.
        let goes_on = message.ends_with(':') || detail.first().is_some_and(|line| line.starts_with("[possible values: "));
        let message = if goes_on { format!("{message} {}", detail.join(" ")) } else { message };
        Self::usage(message).hint(tip.map_or(HELP, |tip| tip.trim_start_matches("tip: ")))
    }

    /// Says it on stderr and gives the exit code.
    pub(crate) fn report(self) -> ExitCode {
        let mut stderr = std::io::stderr().lock();
        // A closed stderr leaves nobody to tell.
        let _ = writeln!(stderr, "keyferry: error: {}", self.message);
        if let Some(hint) = self.hint {
            let _ = writeln!(stderr, "keyferry: hint: {hint}");
        }
        ExitCode::from(self.code)
    }
}

/// Writes one piece of data and a line feed to stdout.
pub(crate) fn data(data: impl Display) -> Result<(), Failure> {
    let text = data.to_string();
    writeln!(std::io::stdout().lock(), "{}", text.trim_end()).map_err(|error| Failure::failed(format!("stdout: {error}")))
}

/// Says something to the person at the terminal: on stderr.
pub(crate) fn talk(text: impl Display) {
    // A closed stderr leaves nobody to tell.
    let _ = writeln!(std::io::stderr().lock(), "keyferry: {text}");
}

/// Text of somebody else, for a terminal: control characters become the replacement character.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { char::REPLACEMENT_CHARACTER } else { character }).collect()
}

/// Columns under their titles, as wide as their widest cell.
pub(crate) fn table<const N: usize>(titles: [&str; N], rows: &[[String; N]]) -> String {
    let rows: Vec<[String; N]> =
        std::iter::once(titles.map(str::to_owned)).chain(rows.iter().cloned()).map(|row| row.map(|cell| printable(&cell))).collect();
    let mut widths = [0_usize; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &[String; N]| {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A list as a table, or with `--json` as an array.
pub(crate) fn list<const N: usize>(
    titles: [&str; N],
    rows: &[[String; N]],
    values: Vec<serde_json::Value>,
    json: bool,
) -> Result<(), Failure> {
    if json { data(serde_json::Value::Array(values)) } else { data(table(titles, rows)) }
}

/// One thing as lines `name value`, or with `--json` as an object. Absent members have no line.
pub(crate) fn object(value: &serde_json::Value, json: bool) -> Result<(), Failure> {
    let serde_json::Value::Object(members) = value else { return data(value) };
    if json {
        return data(value);
    }
    let width = members.keys().map(String::len).max().unwrap_or_default();
    let lines = members.iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| {
        let shown = match value {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Array(values) => {
                values.iter().map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned)).collect::<Vec<_>>().join(", ")
            }
            other => other.to_string(),
        };
        format!("{name:width$}  {}", printable(&shown))
    });
    data(lines.collect::<Vec<_>>().join("\n"))
}

/// A time of the contract, RFC 3339; `None` where there is none.
pub(crate) fn time(timestamp: Option<prost_types::Timestamp>) -> Option<String> {
    let timestamp = timestamp?;
    jiff::Timestamp::new(timestamp.seconds, timestamp.nanos).ok().map(|time| time.to_string())
}

/// Says that something was deleted.
pub(crate) fn deleted(what: &str, id: &str, json: bool) -> CommandResult {
    if json {
        data(serde_json::json!({ "deleted": id }))?;
    } else {
        talk(format!("{what} {id} is deleted"));
    }
    Ok(ExitCode::SUCCESS)
}
