//! The `attester` service; see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    keyferry_lifecycle::run("attester", attester::serve)
}
