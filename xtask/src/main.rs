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
        Command::Demo(arguments) => demo::run(arguments),
        Command::Stack(arguments) => stack::run(arguments),
        Command::Test(arguments) => test::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Tidy => tidy::run(),
        Command::Ci => ci::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: error: {failure}");
            eprintln!("xtask: hint: {}", failure.hint());
            ExitCode::FAILURE
        }
    }
}
