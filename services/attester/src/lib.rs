//! The TD's voice: collects evidence from the platform and obtains attestation tokens for the workload in the same TD.
//!
//! One attestation is a nonce from the verifier, a quote over it and the caller's data, an event on the bus, and a wait
//! for the answer. The bus is hostile: an answer counts only if it proves itself - signed under the pinned root of the
//! verifier, for this very nonce, data and quote. Anything else is ignored and counted, and the wait goes on.
//!
//! It listens on one Unix socket of mode 0600 and asks the kernel who called; there is no other way in. Where quotes come
//! from is a [`Platform`]: the kernel's configfs-tsm, or a simulator, which it says loudly at start. It knows nothing of
//! keys, policies and models, and holds no secret but its bus credentials.
//!
//! Read on: `config`, the decision (`attestation`, `nonce`, `proof`), where answers come from (`results`, `verifier`), the surface
//! (`api`, `peers`), `platform`, `refusal`.

mod api;
mod attestation;
mod config;
mod nonce;
mod peers;
mod platform;
mod proof;
mod quoting;
mod refusal;
mod results;
mod verifier;

use std::sync::Arc;

use keyferry_bus::Bus;
use keyferry_identifiers::TdId;
use keyferry_lifecycle::{During, Scope, StartError};

pub use config::{Config, PlatformConfig, SocketConfig, VerifierConfig};
pub use platform::{ConfigfsTsm, Platform, PlatformError, Simulator};
pub use refusal::Refusal;

use attestation::Attestations;
use quoting::Quoting;
use results::Results;
use verifier::Verifier;

/// Starts the service. The order of a start is the order of this function.
pub async fn serve(config: Config, scope: Scope) -> Result<(), StartError> {
    let platform = platform::open(&config.platform)?;
    let trusted = config.verifier.trusted_issuer()?;
    let bus = Bus::connect(&config.bus, "attester").await.during("connecting to the bus")?;
    let td_id = TdId::parse(bus.identity()).during("reading the TD's identity from its bus credentials")?;
    let results = Results::open(&bus, td_id.clone(), &scope).await.during("listening for answers on the bus")?;
    let verifier = Verifier::new(trusted, bus.clone());
    let quoting = Quoting::new(platform);
    let attestations = Arc::new(Attestations::new(bus.clone(), td_id.clone(), quoting, results, verifier, &config.limits));
    let listener = scope.bind_unix("attester", &config.socket.path)?;
    let callers = peers::Callers::new(&config.socket.allowed_uids);
    scope.spawn("api", api::serve(listener, callers, attestations, config.limits.duration(), scope.cancellation()));
    scope.spawn("bus_readiness", watch_bus(bus, scope.clone()));
    tracing::info!(keyferry.td.id = td_id.as_str(), "this TD's identity on the bus");
    scope.ready().await
}

/// Ready while the bus is there. Drains the connection at the end.
async fn watch_bus(bus: Bus, scope: Scope) {
    const INTERVAL: std::time::Duration = std::time::Duration::from_millis(500);
    let check = scope.readiness_check("bus");
    loop {
        if bus.is_connected() {
            check.up();
        } else {
            check.down("not connected");
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = scope.cancelled() => break,
        }
    }
}
