//! `cargo xtask demo`.

use keyferry_testkit::StartFailure;

/// Flags of `demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {}

pub(crate) fn run(_arguments: Arguments) -> Result<(), StartFailure> {
    Err(StartFailure::new("the demo is not built yet", "wait for it"))
}
