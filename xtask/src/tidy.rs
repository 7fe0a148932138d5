//! `cargo xtask tidy`: the map's arrows and names, and what else the compiler cannot check.
//!
//! The map is the one of README.md. A folder is a promise: who reads its name can say what is inside, and an arrow that
//! runs against the map fails here, before anybody gets used to it.

mod map;
mod sources;

use cargo_metadata::MetadataCommand;
use keyferry_testkit::StartFailure;

use crate::run;

pub(crate) fn run() -> Result<(), StartFailure> {
    let metadata = MetadataCommand::new()
        .manifest_path(run::root().join("Cargo.toml"))
        .exec()
        .map_err(|error| StartFailure::new(format!("cargo metadata failed: {error}"), "check Cargo.toml"))?;
    let mut findings = map::places(&metadata);
    findings.extend(map::arrows(&metadata));
    findings.extend(map::decisions(&metadata));
    findings.extend(sources::findings(&run::root()));
    if findings.is_empty() {
        eprintln!("tidy: {} crates and their arrows are as the map says", metadata.workspace_packages().len());
        return Ok(());
    }
    for finding in &findings {
        eprintln!("tidy: {finding}");
    }
    Err(StartFailure::new(format!("{} findings", findings.len()), "mend them, or change the map and say why in the same commit"))
}
