//! `cargo xtask stack`.

use keyferry_testkit::StartFailure;

/// Flags of `stack`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {}

pub(crate) fn run(_arguments: Arguments) -> Result<(), StartFailure> {
    Err(StartFailure::new("the stack is not built yet", "wait for it"))
}
