//! Releases keys from a KMS to attested TDs, wrapped so that only they can open them.
use std::process::ExitCode;

fn main() -> ExitCode {
    keyferry_lifecycle::run::<key_release::Config, _, _>("key-release", key_release::serve)
}
