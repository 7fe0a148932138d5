//! The repository's own commands: `cargo xtask demo`, `stack`, `test`, `bench`, `tidy`, `ci`.
//!
//! It starts things and reads their results; it holds no decision of the product and no service knows of it.
#![allow(clippy::print_stdout, clippy::print_stderr)] // a command-line tool: stdout is its data, stderr its talk

mod bench;
mod ci;
mod demo;
mod run;
mod stack;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use keyferry_testkit::StartFailure;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Keyferry's own commands")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// From a clone to a served prediction: starts everything, runs the main job, shows its trace
    Demo(demo::Arguments),
    /// The same, but stays up until Ctrl-C and describes itself in stack.json
    Stack(stack::Arguments),
    /// Every test; closes with `N passed, N failed, N skipped`
    Test(test::Arguments),
    /// Throughput as a fraction of the cryptographic bound of the same run
    Bench(bench::Arguments),
    /// The map's arrows and names, and what else the compiler cannot check
    Tidy,
    /// What continuous integration runs
    Ci,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        // Its closing line is the last one, whatever the result: nothing is printed after it.
        Command::Test(arguments) => return test::run(&arguments).unwrap_or_else(|failure| complain(&failure)),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Stack(arguments) => stack::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Tidy => tidy::run(),
        Command::Ci => ci::run(),
    };
    result.map_or_else(|failure| complain(&failure), |()| ExitCode::SUCCESS)
}

fn complain(failure: &StartFailure) -> ExitCode {
    eprintln!("xtask: error: {failure}");
    eprintln!("xtask: hint: {}", failure.hint());
    ExitCode::FAILURE
}
