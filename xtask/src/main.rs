//! The repository's own commands: demo, stack, test, bench, tidy, ci.
//!
//! It knows how the repository is built, checked and shown; nothing of the product depends on it.

mod bench;
mod process;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Keyferry's repository commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 120)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure throughput as a fraction of the cryptographic bound of the same run
    Bench(bench::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Bench(options) => bench::run(&options),
    };
    match result {
        Ok(code) => code,
        Err(failure) => {
            process::say(&format!("cargo xtask: error: {}", failure.message));
            process::say(&format!("cargo xtask: hint: {}", failure.hint));
            ExitCode::FAILURE
        }
    }
}
