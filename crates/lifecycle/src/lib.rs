//! The life of a service process, from the command line to its exit code.
//!
//! A service's `main` is one line, `lifecycle::run::<Config, _, _>("key-release", key_release::serve)`. This crate loads
//! the configuration ([`ServiceConfig`]: defaults, file, environment, flags; every mistake reported in one run), switches
//! core dumps off before any secret exists, starts telemetry and the health listener, supervises the tasks a service
//! starts through its [`Scope`], and on SIGTERM or SIGINT drains them. It also holds the product's only clock
//! ([`clock`]): everything else takes the time as an argument.
//!
//! It knows nothing of what a service does, of TLS, the bus or keys. There is no plug-in point: what two services need
//! differently is in their own `serve`.

pub mod clock;

mod addresses;
mod arguments;
mod configuration;
mod error;
mod hardening;
mod health;
mod mistake;
mod run;
mod scope;
mod secret;

pub use configuration::{Foreign, Health, Layers, Runtime, ServiceConfig, Surroundings, load};
pub use error::{During, StartError};
pub use mistake::{ConfigError, Mistake};
pub use run::{EXIT_BAD_CONFIGURATION, EXIT_START_FAILED, EXIT_TASK_FAILED, run};
pub use scope::{ReadinessCheck, Scope, TaskOutput};
pub use secret::Secret;
