//! Shared by the tests of this crate.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod jwt;
pub(crate) mod scripted;
pub(crate) mod ttlv;
pub(crate) mod vault;

use keyferry_testkit::pykmip::{Profile, Pykmip};

/// A server of one's own, or a panic that says what to do.
pub(crate) async fn start(profile: Profile) -> Pykmip {
    match Pykmip::start(profile).await {
        Ok(server) => server,
        Err(failure) => panic!("{failure}; {}", failure.hint()),
    }
}
