//! From the command line to the exit code.

use std::{
    future::Future,
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use keyferry_telemetry::Telemetry;
use secrecy::zeroize::Zeroize;
use tokio::{
    runtime::Builder,
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use crate::{
    During, Scope, ServiceConfig, StartError,
    arguments::{self, Arguments},
    configuration::{Layers, load},
    hardening, health,
};

/// The configuration was not accepted (sysexits `EX_USAGE`).
pub const EXIT_BAD_CONFIGURATION: u8 = 64;
/// The service could not start (sysexits `EX_UNAVAILABLE`).
pub const EXIT_START_FAILED: u8 = 69;
/// A task failed, or work was cut off at the end of the drain (sysexits `EX_SOFTWARE`).
pub const EXIT_TASK_FAILED: u8 = 70;
/// Work on blocking threads may take this long after everything else has ended.
const RUNTIME_SHUTDOWN: Duration = Duration::from_secs(1);
/// With one worker a flush inside a task waits for itself; see telemetry.
const WORKERS_MIN: usize = 2;

/// Runs a service: all of its `main`. `serve` starts it (the order of a start is the order of that function), spawns its
/// tasks through the [`Scope`], calls [`Scope::ready`] and returns; the process lives until SIGTERM, SIGINT or a failed task.
pub fn run<C, S, F>(service: &'static str, serve: S) -> ExitCode
where
    C: ServiceConfig,
    S: FnOnce(C, Scope) -> F,
    F: Future<Output = Result<(), StartError>>,
{
    let arguments = arguments::parse(service);
    let mut layers = layers(&arguments);
    let loaded = load::<C>(&layers);
    // The process's own block of variables cannot be wiped safely; our copies of it can.
    layers.environment.iter_mut().for_each(|(_, value)| value.zeroize());
    let config = match loaded {
        Ok(config) => config,
        Err(error) => {
            for mistake in error.mistakes() {
                complain(service, "error", &mistake.to_string());
            }
            complain(service, "hint", &format!("{service} --help names the layers; nothing was started"));
            return ExitCode::from(EXIT_BAD_CONFIGURATION);
        }
    };
    if arguments.check_only {
        complain(service, "ok", "the configuration is valid");
        return ExitCode::SUCCESS;
    }
    match start(service, config, serve) {
        Ok(code) => code,
        Err(error) => {
            complain(service, "error", &error.to_string());
            if let Some(hint) = error.hint_text() {
                complain(service, "hint", hint);
            }
            ExitCode::from(EXIT_START_FAILED)
        }
    }
}

fn layers(arguments: &Arguments) -> Layers {
    let environment = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Layers { file: arguments.config.clone(), environment: environment.collect(), settings: arguments.settings.clone() }
}

fn start<C, S, F>(service: &'static str, config: C, serve: S) -> Result<ExitCode, StartError>
where
    C: ServiceConfig,
    S: FnOnce(C, Scope) -> F,
    F: Future<Output = Result<(), StartError>>,
{
    hardening::forbid_dumps().during("switching core dumps off")?;
    let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let workers = std::thread::available_parallelism().map_or(WORKERS_MIN, |found| found.get().max(WORKERS_MIN));
    let runtime = Builder::new_multi_thread().worker_threads(workers).enable_all().build().during("starting the runtime")?;
    let code = runtime.block_on(live(service, config, serve));
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN);
    code
}

async fn live<C, S, F>(service: &'static str, config: C, serve: S) -> Result<ExitCode, StartError>
where
    C: ServiceConfig,
    S: FnOnce(C, Scope) -> F,
    F: Future<Output = Result<(), StartError>>,
{
    let mut signals = Signals::new().during("listening for signals")?;
    let telemetry = keyferry_telemetry::init(service, &config.runtime().telemetry).during("setting up telemetry")?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "starting");
    let result = supervise(config, serve, &mut signals).await;
    if let Err(error) = &result {
        tracing::error!(%error, "start failed");
    }
    finish(telemetry).await;
    result
}

async fn finish(telemetry: Telemetry) {
    tracing::info!("ended");
    telemetry.shutdown().await;
}

async fn supervise<C, S, F>(config: C, serve: S, signals: &mut Signals) -> Result<ExitCode, StartError>
where
    C: ServiceConfig,
    S: FnOnce(C, Scope) -> F,
    F: Future<Output = Result<(), StartError>>,
{
    let runtime = config.runtime().clone();
    let scope = Scope::new(runtime.addresses_file.clone());
    let listen = runtime.health.listen.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, C::HEALTH_PORT)));
    let stop_health = CancellationToken::new();
    let health = tokio::spawn(health::serve(scope.bind("health", listen).await?, scope.state(), stop_health.clone()));

    let started = tokio::select! {
        biased;
        started = serve(config, scope.clone()) => started,
        () = signals.next() => {
            scope.stop();
            Ok(())
        }
        // A task failed while the start was waiting for something else, perhaps for ever.
        () = scope.cancelled() => Ok(()),
    };
    let clean = if started.is_ok() {
        tokio::select! {
            () = signals.next() => {}
            () = scope.cancelled() => {}
        }
        drain(&scope, Duration::from_secs(runtime.drain_seconds), signals).await
    } else {
        scope.begin_drain();
        true
    };
    scope.remove_sockets();
    stop_health.cancel();
    health.abort();
    started?;
    Ok(if clean && scope.failed_task().is_none() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_TASK_FAILED) })
}

/// Waits for the tasks; false when the time ran out, or a second signal came.
async fn drain(scope: &Scope, limit: Duration, signals: &mut Signals) -> bool {
    scope.begin_drain();
    tracing::info!(limit_seconds = limit.as_secs(), "draining");
    let clean = tokio::select! {
        () = scope.drained() => true,
        () = tokio::time::sleep(limit) => false,
        () = signals.next() => false,
    };
    if !clean {
        tracing::error!("work was cut off at the end of the drain");
    }
    clean
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn complain(service: &str, kind: &str, text: &str) {
    // A closed stderr is no reason to change the exit code.
    let _closed = writeln!(std::io::stderr().lock(), "{service}: {kind}: {text}");
}
