//! `cargo xtask test`: every test, and one closing line that hides nothing.
//!
//! A test that cannot run on this machine prints a line `skipped: NAME: REASON` and returns; the line is counted and
//! repeated at the end. `#[ignore]` counts as a skip too. A test program that does not build or dies without a summary
//! counts as failed: a number that is missing must not look like a number that is good.

use std::{
    io::{BufRead, BufReader, Write},
    process::{ExitCode, Stdio},
};

use keyferry_testkit::StartFailure;

use crate::run;

/// Flags of `test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Leave out tests that need a container engine, each counted as skipped by name
    #[arg(long)]
    without_docker: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failures: Vec<String>,
    ignored: Vec<String>,
    announced: Vec<String>,
    /// Failures that summaries counted, to find those that no line named.
    counted_failures: u64,
}

impl Tally {
    /// Reads one line of a test run: a failed or ignored test, libtest's summary, or a skip that a test announced.
    fn read(&mut self, line: &str) {
        if let Some(summary) = line.strip_prefix("test result: ") {
            self.passed += number_before(summary, " passed");
            self.counted_failures += number_before(summary, " failed");
        } else if let Some(skip) = line.strip_prefix("skipped: ") {
            self.announced.push(skip.trim().to_owned());
        } else if let Some((name, outcome)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
            match outcome.split_once(',').map_or((outcome, ""), |(outcome, reason)| (outcome, reason.trim())) {
                ("FAILED", _) => self.failures.push(name.to_owned()),
                ("ignored", "") => self.ignored.push(format!("{name}: ignored without a reason")),
                ("ignored", reason) => self.ignored.push(format!("{name}: {reason}")),
                _ => {}
            }
        }
    }

    /// Closes the run: what cargo itself reports must not be lost when no test did.
    fn close(&mut self, cargo_was_content: bool) {
        let unnamed = self.counted_failures.saturating_sub(self.failures.len() as u64);
        self.failures.extend((0..unnamed).map(|_| "a test whose name was not seen".to_owned()));
        if !cargo_was_content && self.failures.is_empty() {
            self.failures.push("cargo test itself: something does not build, or a test program died".to_owned());
        }
        if self.passed == 0 && self.failures.is_empty() {
            self.failures.push("no test ran".to_owned());
        }
    }

    fn skips(&self) -> impl Iterator<Item = &String> {
        self.ignored.iter().chain(&self.announced)
    }

    fn summary(&self) -> String {
        // A test that announces a skip returns, and so passed for libtest.
        let passed = self.passed.saturating_sub(self.announced.len() as u64);
        format!("{passed} passed, {} failed, {} skipped", self.failures.len(), self.skips().count())
    }
}

fn number_before(text: &str, word: &str) -> u64 {
    text.find(word).and_then(|end| text[..end].rsplit([' ', ';', '.']).next()?.parse().ok()).unwrap_or(0)
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, StartFailure> {
    let mut tally = Tally::default();
    // Tests start our programs as processes; `cargo test` alone builds only those of packages that have tests.
    let content = match run::build_programs() {
        Ok(()) => test(&mut tally, arguments)?,
        Err(failure) => {
            eprintln!("test: {failure}");
            false
        }
    };
    tally.close(content);
    for skip in tally.skips() {
        println!("skipped: {skip}");
    }
    for failure in &tally.failures {
        println!("failed: {failure}");
    }
    println!("{}", tally.summary());
    Ok(if tally.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the workspace's tests, doc tests included; whether cargo itself was content.
fn test(tally: &mut Tally, arguments: &Arguments) -> Result<bool, StartFailure> {
    let failure = |error: std::io::Error| StartFailure::new(format!("cargo test could not be run: {error}"), "check the Rust toolchain");
    let mut command = run::cargo(&["test", "--workspace", "--no-fail-fast", "--", "--show-output"]);
    if arguments.without_docker {
        command.env("KEYFERRY_TEST_WITHOUT_DOCKER", "1");
    }
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(failure)?;
    if let Some(output) = child.stdout.take() {
        // Bytes, not lines of text: what a test prints need not be UTF-8.
        for line in BufReader::new(output).split(b'\n') {
            let line = line.map_err(failure)?;
            let line = String::from_utf8_lossy(&line);
            tally.read(&line);
            let mut out = std::io::stdout().lock();
            let _closed = writeln!(out, "{line}");
        }
    }
    Ok(child.wait().map_err(failure)?.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(lines: &[&str], cargo_was_content: bool) -> Tally {
        let mut tally = Tally::default();
        for line in lines {
            tally.read(line);
        }
        tally.close(cargo_was_content);
        tally
    }

    #[test]
    fn every_test_is_passed_failed_or_skipped_by_name() {
        let tally = tally(
            &[
                "test a::b ... ok",
                "test slow ... ignored, needs a day",
                "test lazy ... ignored",
                "test broken ... FAILED",
                "test also_broken - should panic ... FAILED",
                "skipped: images: no container engine on this machine",
                "a line that mentions skipped: things",
                "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
                "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            ],
            false,
        );
        assert_eq!(tally.summary(), "14 passed, 2 failed, 3 skipped");
        assert_eq!(tally.failures, ["broken", "also_broken - should panic"]);
        let skips: Vec<_> = tally.skips().collect();
        assert_eq!(skips, ["slow: needs a day", "lazy: ignored without a reason", "images: no container engine on this machine"]);
    }

    #[test]
    fn a_build_that_fails_and_a_program_that_dies_count_as_failures() {
        assert_eq!(tally(&[], false).summary(), "0 passed, 1 failed, 0 skipped");
        let died = tally(&["test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s"], false);
        assert_eq!(died.summary(), "5 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn a_run_without_tests_is_no_success() {
        assert_eq!(tally(&[], true).summary(), "0 passed, 1 failed, 0 skipped");
        let unnamed = tally(&["test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s"], true);
        assert_eq!(unnamed.failures.len(), 1);
    }
}
