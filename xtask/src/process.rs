//! What every command shares: where the repository is, talking to the terminal, running a child.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

/// Why a command could not do its work: one clear sentence and what to do about it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) message: String,
    pub(crate) hint: String,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: hint.into() }
    }
}

/// How a command ends: with an exit code, or unable to do its work.
pub(crate) type Outcome = Result<ExitCode, Failure>;

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// The cargo that runs this command.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// A line for the person at the terminal (stderr: stdout is data). A closed terminal is no reason to fail.
pub(crate) fn say(line: &str) {
    let _closed = writeln!(std::io::stderr().lock(), "{line}");
}

/// A line of output that another program may read.
pub(crate) fn print(line: &str) {
    let mut out = std::io::stdout().lock();
    let _closed = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Runs `command` with its output passed through; whether it succeeded.
pub(crate) fn succeeds(command: &mut Command) -> Result<bool, Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command
        .status()
        .map_err(|error| Failure::new(format!("{program} could not be started ({error})"), format!("install {program} or put it on PATH")))?;
    Ok(status.success())
}
