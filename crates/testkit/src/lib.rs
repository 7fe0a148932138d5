//! Starts real servers - NATS, KMIP, OpenBao - and our own binaries, for a test, a demo or a stack on a laptop.
//!
//! It knows how to fetch, configure, start, wait for and end a process; it knows nothing of decisions, and no service
//! depends on it. Everything it starts is ended by its own handle. Nothing here listens on a fixed port.

mod failure;
pub mod intel_broker;
pub mod nats;
pub mod openbao;
pub mod otlp;
pub mod pcs;
pub mod process;
pub mod pykmip;
pub mod stack;
pub mod tools;

pub use failure::{StartFailure, private_directory, write_private};
pub use pcs::{Pcs, PcsFault, PcsItem};
