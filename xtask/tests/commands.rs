//! Every command that the README or a page under docs/ shows is run by a test or by `cargo xtask ci`.
#![allow(clippy::unwrap_used)] // tests: a missing value is the failure

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What `cargo xtask ci` runs, and the tests in `tests/stack.rs`.
const RUN_BY_CI: [&str; 6] = [
    "cargo xtask demo",
    "cargo xtask test",
    "cargo xtask demo --model onnx --kms dev",
    "cargo xtask demo --kms openbao",
    "cargo xtask demo --json",
    "cargo xtask stack",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Lines that begin with `$ ` inside console blocks.
fn commands(text: &str) -> Vec<String> {
    let mut inside = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if let Some(command) = line.strip_prefix("$ ").filter(|_| inside) {
            found.push(command.trim().to_owned());
        }
    }
    found
}

/// This page is run as a whole, against a running installation.
const RUN_AS_A_WHOLE: (&str, &str) = ("docs/cli.md", "integration-tests/tests/command_line.rs");

fn pages() -> Vec<PathBuf> {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let docs = docs.filter(|path| path.extension().is_some_and(|extension| extension == "md") && !path.ends_with(RUN_AS_A_WHOLE.0));
    docs.chain([root().join("README.md")]).collect()
}

#[test]
fn every_command_shown_is_run() {
    let mut keyferry = 0;
    for page in pages() {
        for command in commands(&fs::read_to_string(&page).unwrap()) {
            if let Some(arguments) = command.strip_prefix("cargo run -q --bin keyferry -- ") {
                keyferry += 1;
                let output = std::process::Command::new(keyferry_testkit::process::binary("keyferry").unwrap())
                    .args(arguments.split(' '))
                    .current_dir(root())
                    .output()
                    .unwrap();
                assert!(output.status.success(), "{}: `{command}`: {}", page.display(), String::from_utf8_lossy(&output.stderr));
            } else {
                assert!(RUN_BY_CI.contains(&command.as_str()), "{}: nobody runs `{command}`", page.display());
            }
        }
    }
    assert!(keyferry > 0, "the README shows the operators' command line");
}

#[test]
fn the_page_about_the_command_line_is_run_by_its_test() {
    let test = fs::read_to_string(root().join(RUN_AS_A_WHOLE.1)).unwrap();
    assert!(test.contains("fn every_command_of_the_page_works()") && test.contains(RUN_AS_A_WHOLE.0));
    assert!(commands(&fs::read_to_string(root().join(RUN_AS_A_WHOLE.0)).unwrap()).len() > 20);
}

#[test]
fn what_ci_is_said_to_run_it_runs() {
    let ci =
        fs::read_to_string(root().join("xtask/src/ci.rs")).unwrap() + &fs::read_to_string(root().join("xtask/tests/stack.rs")).unwrap();
    for command in RUN_BY_CI {
        let words: Vec<String> = command.split(' ').skip(2).map(|word| format!("{word:?}")).collect();
        assert!(ci.contains(&words.join(", ")), "{command}");
    }
}
