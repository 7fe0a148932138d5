//! Every command that the README or a page under docs/ shows is run by a test or by `cargo xtask ci`.
#![allow(clippy::unwrap_used)] // tests: a missing value is the failure

use std::{
    fs,
    path::{Path, PathBuf},
};

/// What `cargo xtask ci` runs, and the tests in `tests/stack.rs`.
const RUN_BY_CI: [&str; 5] =
    ["cargo xtask demo", "cargo xtask test", "cargo xtask demo --model onnx --kms dev", "cargo xtask demo --json", "cargo xtask stack"];

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

fn pages() -> Vec<PathBuf> {
    let docs = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    docs.filter(|path| path.extension().is_some_and(|extension| extension == "md")).chain([root().join("README.md")]).collect()
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
fn what_ci_is_said_to_run_it_runs() {
    let ci =
        fs::read_to_string(root().join("xtask/src/ci.rs")).unwrap() + &fs::read_to_string(root().join("xtask/tests/stack.rs")).unwrap();
    for command in RUN_BY_CI {
        let words: Vec<String> = command.split(' ').skip(2).map(|word| format!("{word:?}")).collect();
        assert!(ci.contains(&words.join(", ")), "{command}");
    }
}
