//! `cargo xtask ci`: what continuous integration runs, in the order in which a mistake is cheapest to find.

use std::process::{Command, Stdio};

use keyferry_testkit::StartFailure;

use crate::{run, tidy};

pub(crate) fn run() -> Result<(), StartFailure> {
    step("format", || run::succeed(&mut run::cargo(&["fmt", "--all", "--check"]), "run `cargo fmt --all`"))?;
    step("tidy", tidy::run)?;
    step("lints", || {
        let arguments = ["clippy", "--quiet", "--workspace", "--all-targets", "--locked", "--", "--deny", "warnings"];
        run::succeed(&mut run::cargo(&arguments), "mend what clippy names; every allow needs a reason")
    })?;
    step("dependencies", dependencies)?;
    step("demo", || xtask(&["demo"]))?;
    step("demo with a model of one's own", || xtask(&["demo", "--model", "onnx", "--kms", "dev"]))?;
    step("demo with the key in OpenBao", || xtask(&["demo", "--kms", "openbao"]))?;
    step("demo for programs", || xtask(&["demo", "--json"]))?;
    step("test", || xtask(&["test"]))
}

fn step(name: &str, work: impl FnOnce() -> Result<(), StartFailure>) -> Result<(), StartFailure> {
    eprintln!("== {name}");
    work()
}

/// A command of this program, run exactly as the README writes it.
fn xtask(arguments: &[&str]) -> Result<(), StartFailure> {
    let mut all = vec!["xtask"];
    all.extend(arguments);
    run::succeed(&mut run::cargo(&all), "the reason is above")
}

/// Licences, bans and sources need no database. Advisories do, and are checked where one is at hand.
fn dependencies() -> Result<(), StartFailure> {
    let present = Command::new("cargo-deny")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !present {
        eprintln!("skipped: cargo deny: the program cargo-deny is not installed");
        return Ok(());
    }
    run::succeed(
        &mut run::cargo(&["deny", "--offline", "check", "licenses", "bans", "sources"]),
        "name the licence or the duplicate in deny.toml, with its reason, or drop the dependency",
    )
}
