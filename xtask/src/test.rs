//! `cargo xtask test`: every test, and one closing line that hides nothing.
//!
//! A test that cannot run on this machine prints a line `skipped: NAME: REASON` and returns; the line is counted and
//! repeated at the end. `#[ignore]` counts as a skip too.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
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
    failed: u64,
    skips: Vec<String>,
}

impl Tally {
    /// Reads one line of a test run: libtest's summary of a binary, an ignored test, or a skip a test announced.
    fn read(&mut self, line: &str) {
        if let Some(summary) = line.strip_prefix("test result: ") {
            self.passed += number_before(summary, " passed");
            self.failed += number_before(summary, " failed");
        } else if let Some(at) = line.find("skipped: ") {
            self.skips.push(line[at + "skipped: ".len()..].trim().to_owned());
        } else if let Some(name) = line.strip_prefix("test ").filter(|line| line.contains(" ... ignored")) {
            self.skips.push(name.replace(" ... ignored", ": ignored").trim().to_owned());
        }
    }
}

fn number_before(text: &str, word: &str) -> u64 {
    text.find(word).and_then(|end| text[..end].rsplit([' ', ';', '.']).next()?.parse().ok()).unwrap_or(0)
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), StartFailure> {
    run::build_programs()?;
    let mut tally = Tally::default();
    let build_failed = !test(&mut tally, arguments)?;
    for skip in &tally.skips {
        println!("skipped: {skip}");
    }
    // A test that announces a skip also counts as passed for libtest.
    let announced = tally.skips.iter().filter(|skip| !skip.ends_with(": ignored")).count() as u64;
    println!("{} passed, {} failed, {} skipped", tally.passed.saturating_sub(announced), tally.failed, tally.skips.len());
    if tally.failed > 0 || build_failed {
        return Err(StartFailure::new("not every test passed", "the failing tests are named above"));
    }
    if tally.passed == 0 {
        return Err(StartFailure::new("no test ran", "a filter or a build problem hid them all: read the output above"));
    }
    Ok(())
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
        for line in BufReader::new(output).split(b'\n') {
            let line = line.map_err(failure)?;
            let line = String::from_utf8_lossy(&line);
            tally.read(&line);
            println!("{line}");
        }
    }
    Ok(child.wait().map_err(failure)?.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_skips_and_ignored_tests_are_counted() {
        let mut tally = Tally::default();
        for line in [
            "test a::b ... ok",
            "test slow ... ignored, needs a day",
            "skipped: images: no container engine on this machine",
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        ] {
            tally.read(line);
        }
        assert_eq!((tally.passed, tally.failed), (15, 2));
        assert_eq!(tally.skips, ["slow: ignored, needs a day", "images: no container engine on this machine"]);
    }
}
