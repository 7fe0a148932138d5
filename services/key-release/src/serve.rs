//! The order of a start.

use std::{sync::Arc, time::Duration};

use keyferry_bus::{AuditKey, AuditLog, Bus};
use keyferry_lifecycle::{During, ReadinessCheck, Scope, Secret, StartError, clock};
use keyferry_sealed_store::StoreKey;
use keyferry_telemetry::propagation::inject_http;
use keyferry_tls::{ALPN_HTTP, RootsConfig, server_config};
use keyferry_trust_authority::{Settings, TrustAuthority, TrustAuthorityError, read_api_key};
use rustls::ServerConfig;
use secrecy::SecretString;
use tracing::Span;

use crate::{
    audit,
    config::{AdminConfig, Config, VerifierConfig},
    issuers::Issuers,
    pinned_root::pin_missing,
    release::{Parts, Release},
    self_signed::{self, Renewable},
    surface,
    users::Users,
};

/// How often the connection to the bus is looked at.
const BUS_LOOK: Duration = Duration::from_millis(500);
/// How often the KMS is asked whether it is there; this also keeps a connection warm.
const KMS_HEALTH_INTERVAL: Duration = Duration::from_secs(30);
/// The same while it is not.
const KMS_HEALTH_RETRY: Duration = Duration::from_secs(2);
/// How long a start waits for the store of users; making the key that signs tokens takes up to a second of it.
const USERS_WITHIN: Duration = Duration::from_secs(4);
/// How soon a store of users that is not there yet is looked for again.
const USERS_RETRY: Duration = Duration::from_secs(1);

/// Starts the service. Bus and certificate must be there; KMS and key sets may come later: until then readiness is off
/// and each request that needs them is refused with its reason.
pub async fn serve(config: Config, scope: Scope) -> Result<(), StartError> {
    let (tls, renewable) = listener_tls(&config)?;
    let store_key = StoreKey::load_or_create(&config.store_key_file).during("reading the store key")?;
    let audit_key = AuditKey::load_or_create(&config.audit_key_file()).during("reading the audit key")?;
    pin_missing(&config.issuers, clock::now()).await.during("pinning the root of an issuer")?;
    let issuers = Arc::new(Issuers::open(&config.issuers).during("reading the issuers")?);
    let verifier = config.verifier.as_ref().map(verifier).transpose().during("setting up the verifier")?;
    let administrators = administrators(&config.admin)?;
    let kms = config.kms.connect().await.during("opening the key management system")?;
    let bus = Bus::connect(&config.bus, "key-release").await.during("connecting to the bus")?;

    let store_key = Arc::new(store_key);
    tracing::info!(public_key = %audit_key.public_key(), "the audit is signed with this key");
    let audit = AuditLog::new(bus.clone(), audit_key, audit::now);
    let parts = Parts { bus: bus.clone(), audit, store_key: Arc::clone(&store_key), issuers: Arc::clone(&issuers), kms, verifier };
    let release = Release::new(parts);
    let users = Users::new(&release, &bus, &store_key, &config.users.settings());
    open_users(&scope, &users, administrators).await;
    let router =
        surface::router(&release, &users, config.client_limits, config.trace_context.into()).await.during("building the services")?;
    let listener = scope.bind("grpc", config.listen).await?;

    watch_bus(&scope, bus);
    watch_issuers(&scope, issuers);
    watch_kms(&scope, release.clone());
    if let Some(renewable) = renewable {
        renew_certificate(&scope, renewable, &config);
    }
    let stop = scope.cancellation();
    scope.spawn("grpc", async move {
        let served = surface::serve(listener, tls, router, stop.cancelled_owned()).await;
        release.finish().await;
        served
    });
    scope.ready().await
}

/// The listener's TLS; with the certificate that can be renewed, if it is one of our own.
fn listener_tls(config: &Config) -> Result<(Arc<ServerConfig>, Option<Arc<Renewable>>), StartError> {
    let reading = "reading the listener's certificate";
    if config.self_signed_names.is_empty() {
        return Ok((server_config(&config.tls, ALPN_HTTP).during(reading)?, None));
    }
    self_signed::ensure(&config.tls, &config.self_signed_names, clock::now()).during("making the listener's certificate")?;
    let tls = server_config(&config.tls, ALPN_HTTP).during(reading)?;
    let (tls, renewable) = Renewable::wrap(&tls, &config.tls).during(reading)?;
    Ok((tls, Some(renewable)))
}

/// A self-signed certificate never runs out under a service that runs for long.
fn renew_certificate(scope: &Scope, renewable: Arc<Renewable>, config: &Config) {
    let (files, names) = (config.tls.clone(), config.self_signed_names.clone());
    let stop = scope.cancellation();
    scope.spawn("certificate", async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(self_signed::LOOK_INTERVAL) => {}
            }
            let (files, names, renewable) = (files.clone(), names.clone(), Arc::clone(&renewable));
            let look = move || if self_signed::ensure(&files, &names, clock::now())? { renewable.reload(&files) } else { Ok(()) };
            match tokio::task::spawn_blocking(look).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(%error, "the listener's certificate cannot be renewed; this is tried again"),
                Err(error) => tracing::error!(%error, "the listener's certificate was not looked at"),
            }
        }
    });
}

fn verifier(config: &VerifierConfig) -> Result<TrustAuthority, TrustAuthorityError> {
    let roots = RootsConfig::CaFile(config.ca_file.clone());
    let api_key = match (&config.api_key, &config.api_key_file) {
        (Some(key), _) => SecretString::from(key.expose()),
        (None, Some(file)) => read_api_key(file)?,
        (None, None) => SecretString::default(), // the configuration's check refused this
    };
    let mut settings = Settings::new(&config.api_url, roots, api_key);
    settings.proxy.clone_from(&config.proxy);
    settings.api_key_file = config.api_key_file.clone().filter(|_| config.api_key.is_none());
    // The verifier is configured by name and pinned by root: it may know our trace ids.
    settings.decorate = Some(Arc::new(|headers| inject_http(&Span::current(), headers)));
    TrustAuthority::new(&settings)
}

/// The one of the settings, and the one that Intel's variables name beside it: an operator who passes both means both.
fn administrators(config: &AdminConfig) -> Result<Vec<(String, Secret)>, StartError> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let mut administrators = Vec::new();
    for config in [config.or_from(variable), AdminConfig::default().or_from(variable)] {
        // A lone variable belongs to the settings, which it completes.
        let is_complete = config.username.is_some() && (config.password.is_some() || config.password_file.is_some());
        if !is_complete && !administrators.is_empty() {
            continue;
        }
        let resolved = config.resolved().map_err(|mistake| StartError::message(mistake.to_string()))?;
        administrators.extend(resolved.filter(|(name, _)| administrators.iter().all(|(other, _): &(String, Secret)| other != name)));
    }
    if administrators.is_empty() {
        tracing::info!("no administrator is configured: only users that are in the store already can get in");
    }
    Ok(administrators)
}

/// Before the listener is open, so that the first administrator gets in with the first request; but the store may come
/// later than this service, and then it is tried again.
async fn open_users(scope: &Scope, users: &Users, administrators: Vec<(String, Secret)>) {
    let check = scope.readiness_check("users");
    let opened = tokio::time::timeout(USERS_WITHIN, users.bootstrap(&administrators)).await;
    if matches!(opened, Ok(Ok(()))) {
        return check.up();
    }
    check.down("the users cannot be read yet");
    let (users, stop) = (users.clone(), scope.cancellation());
    scope.spawn("users", async move {
        while let Err(denial) = users.bootstrap(&administrators).await {
            tracing::warn!(error = %denial, "the users cannot be read; this is tried again");
            check.down(denial.reason().label());
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(USERS_RETRY) => {}
            }
        }
        check.up();
        stop.cancelled().await;
    });
}

/// Without the bus there is no record to decide by and no audit to write: whoever balances load should ask another replica.
fn watch_bus(scope: &Scope, bus: Bus) {
    let check = scope.readiness_check("bus");
    let stop = scope.cancellation();
    scope.spawn("bus", async move {
        loop {
            set(&check, (!bus.is_connected()).then_some("not connected"));
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(BUS_LOOK) => {}
            }
        }
    });
}

fn watch_issuers(scope: &Scope, issuers: Arc<Issuers>) {
    let check = scope.readiness_check("jwks");
    let report = move |complete: bool| set(&check, (!complete).then_some("the key set of an issuer is not here yet"));
    let stop = scope.cancellation();
    scope.spawn("jwks", async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = issuers.keep_fresh(clock::now, report) => {}
        }
    });
}

fn watch_kms(scope: &Scope, release: Release) {
    let check = scope.readiness_check("kms");
    let stop = scope.cancellation();
    scope.spawn("kms", async move {
        loop {
            let health = release.kms_health().await;
            set(&check, health.as_ref().err().map(keyferry_kms::KmsError::label));
            let pause = if health.is_ok() { KMS_HEALTH_INTERVAL } else { KMS_HEALTH_RETRY };
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
    });
}

fn set(check: &ReadinessCheck, trouble: Option<&str>) {
    match trouble {
        None => check.up(),
        Some(reason) => check.down(reason),
    }
}
