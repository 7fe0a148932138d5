//! The model runner: gets a model's key into this TD, decrypts the model in memory, and answers predictions.
//!
//! The job, in the order of [`Runner::load`]: take the spare RSA-3072 key pair; ask this TD's attester (Unix socket) for a
//! token bound to its public half; show the token to the key broker (TLS 1.3, pinned root) and get the key, wrapped for
//! that pair; unwrap; decrypt into locked memory; build the runtime; wipe the plaintext; serve. One trace covers it.
//!
//! It is served over HTTPS by two surfaces: the REST API of Intel's sample workload (`/taa/v1`), where a caller may drive
//! the steps one by one, and the Open Inference Protocol (`/v2`).
//!
//! It knows nothing of quotes, tokens' contents or policies: a token is an opaque text on its way from the attester to the
//! broker, and whether the key may be had is the broker's decision. No plaintext file of a model ever exists.

pub mod config;
pub mod events;
pub mod rest;
pub mod runtime;

mod compute;
mod key_pairs;
mod memory;
mod peers;
mod refusal;
mod runner;
mod sealed;
mod slot;

use std::{sync::Arc, time::Duration};

use axum_server::Handle;
use backon::{ExponentialBuilder, Retryable};
use keyferry_bus::Bus;
use keyferry_identifiers::TdId;
use keyferry_lifecycle::{During, ReadinessCheck, Scope, StartError};
use keyferry_tls::ALPN_HTTP;
use tokio::sync::watch;

pub use config::Config;
pub use key_pairs::SentKey;
pub use refusal::Refusal;
pub use runner::{Background, Runner};
pub use slot::LoadedModel;

/// How often predictions are reported.
const REPORT_EVERY: Duration = Duration::from_mins(1);
/// Running requests get this long to end before the model is wiped.
const REQUESTS_END_WITHIN: Duration = Duration::from_secs(10);

/// Starts the service. The order of the start is the order of this function.
pub async fn serve(config: Config, scope: Scope) -> Result<(), StartError> {
    let tls =
        keyferry_tls::server_config(&config.https.certificate(), ALPN_HTTP).during("reading https.certificate_file and https.key_file")?;
    let bus = Bus::connect(&config.bus, "model-runner").await.during("connecting to the bus")?;
    let td_id = TdId::parse(bus.identity()).during("reading the TD's identity from bus.credentials_file")?;
    let (events, queue) = events::Events::new(td_id.clone());
    let (load_at_start, listen) = (config.model.load_at_start, config.https.listen);
    let (runner, background) = Runner::new(config, events).during("setting up the key broker's channel")?;

    let listener = scope.bind("https", listen).await?.into_std().during("taking over the https listener")?;
    scope.spawn("events", events::publish(bus, td_id, queue));
    scope.spawn("key_pairs", background.run(scope.cancellation()));
    scope.spawn("report", report(Arc::clone(&runner), scope.clone()));
    if load_at_start {
        let check = scope.readiness_check("model");
        scope.spawn("readiness", mirror(runner.serving(), check.clone(), scope.clone()));
        scope.spawn("load", load_until_loaded(Arc::clone(&runner), check, scope.clone()));
    }
    let handle = Handle::new();
    scope.spawn("drain", drain(Arc::clone(&runner), handle.clone(), scope.clone()));
    scope.spawn("https", rest::serve(listener, tls, rest::router(runner), handle));
    scope.ready().await
}

/// Tries until it is loaded, or until only an operator can help.
async fn load_until_loaded(runner: Arc<Runner>, check: ReadinessCheck, scope: Scope) {
    let backoff = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(250))
        .with_max_delay(Duration::from_secs(15))
        .with_jitter()
        .without_max_times();
    let load = || async { runner.load().await };
    let attempts = load.retry(backoff).when(Refusal::is_retryable).notify(|refusal, after| {
        check.down(refusal.reason.label());
        tracing::info!(reason = refusal.reason.label(), after_milliseconds = after.as_millis(), "trying again");
    });
    tokio::select! {
        result = attempts => match result {
            Ok(()) => {}
            Err(refusal) => {
                check.down(refusal.reason.label());
                let (reason, advice) = (refusal.reason.label(), refusal.reason.advice().text);
                tracing::error!(reason, detail = refusal.detail, advice, "the model will not be loaded until somebody acts");
            }
        },
        () = scope.cancelled() => {}
    }
}

/// Ready while a model is served, whoever asked for it to be loaded.
async fn mirror(mut serving: watch::Receiver<bool>, check: ReadinessCheck, scope: Scope) {
    while let Some(Ok(())) = scope.cancellation().run_until_cancelled(serving.changed()).await {
        if *serving.borrow_and_update() {
            check.up();
        } else {
            check.down("no model is loaded");
        }
    }
}

async fn report(runner: Arc<Runner>, scope: Scope) {
    let mut ticks = tokio::time::interval(REPORT_EVERY);
    while scope.cancellation().run_until_cancelled(ticks.tick()).await.is_some() {
        runner.report_predictions();
    }
}

/// Stops accepting, lets requests end, wipes the model and says so.
async fn drain(runner: Arc<Runner>, handle: Handle<std::net::SocketAddr>, scope: Scope) {
    scope.cancelled().await;
    handle.graceful_shutdown(Some(REQUESTS_END_WITHIN));
    runner.reset(events::Cause::Shutdown).await;
}
