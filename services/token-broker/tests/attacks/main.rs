//! One attack suite against every verifier: the built-in one, a trust authority that is another token-broker, and one that
//! answers what a test recorded.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests: a broken fixture has to fail them")]

mod draining;
mod suite;
mod untrue_answers;
mod upstream;
#[path = "../world/mod.rs"]
mod world;
