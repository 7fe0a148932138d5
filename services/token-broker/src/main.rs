//! All of `main`.

use std::process::ExitCode;

fn main() -> ExitCode {
    keyferry_lifecycle::run("token-broker", token_broker::serve)
}
