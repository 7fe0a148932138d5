//! The verifier: appraises TDX evidence and vouches for it in signed tokens.
//!
//! Evidence comes over the bus ([`events`]) or over HTTPS in Intel Trust Authority's form (`rest`); both meet in
//! [`broker`], which answers a piece of evidence once, records every answer and remembers it. Between stands the
//! [`verifier`]: the built-in one, whose CPU work - verification, appraisal, signature - is [`appraiser`]'s, or a Trust
//! Authority upstream. Any number of replicas work on one queue; they share the key
//! directory ([`keys`]), so that each recognises the others' nonces.
//!
//! It knows nothing of keys being released, of policies of relying parties, and of what a TD does with its token. Nothing
//! it publishes is a proof but the token itself.
//!
//! The order of a start is the order of [`serve`].

mod appraiser;
mod broker;
mod budget;
mod collateral;
mod config;
mod directory;
mod evaluations;
mod events;
mod evidence;
mod fleet;
mod keys;
mod nonce;
mod policies;
mod pool;
mod redemption;
mod reference_values;
mod refusal;
mod rest;
mod verifier;

use std::{convert::Infallible, fs, sync::Arc, time::Duration};

use aws_lc_rs::hmac;
use axum_server::{Handle, tls_rustls::RustlsConfig};
use keyferry_bus::{AuditKey, AuditLog, Bus};
use keyferry_dcap::{TrustAnchor, Verifier as QuoteVerifier};
use keyferry_identifiers::PolicyId;
use keyferry_lifecycle::{During, Scope, StartError, clock};
use keyferry_tls::ALPN_HTTP;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use crate::{
    appraiser::Appraiser,
    broker::Broker,
    budget::RefusalBudget,
    collateral::{CollateralStore, Sources},
    evaluations::{EvaluationFile, Evaluations},
    events::{DURABLE, EvidenceHandler, serve_requests},
    fleet::Fleet,
    keys::Keys,
    nonce::NonceAuthority,
    policies::Policies,
    pool::Pool,
    redemption::Redemptions,
    reference_values::ReferenceValueDirectory,
    verifier::{Dcap, TrustAuthority, Verifier},
};
pub use crate::{
    config::{
        AnchorConfig, CollateralConfig, Config, EvidenceConfig, HttpsConfig, NonceConfig, ReferenceValueConfig, TokenConfig, WorkConfig,
    },
    verifier::{TrustAuthorityConfig, VerifierConfig},
};

/// Redemption records outlive nonce and token by this much: clocks differ, queues hold messages for a while.
const REDEMPTION_GRACE: Duration = Duration::from_mins(10);
/// How often the connection to the bus is looked at for readiness.
const BUS_LOOK: Duration = Duration::from_secs(1);
/// How long open HTTPS connections may finish after the signal to stop.
const HTTPS_DRAIN: Duration = Duration::from_secs(10);
/// A caller that connects and says nothing, or never ends its headers, is let go after this long.
const HTTPS_HEADERS_WITHIN: Duration = Duration::from_secs(10);
const HTTPS_STREAMS_MAX: u32 = 128;
const HTTPS_HEADER_BYTES_MAX: u32 = 16 * 1024;

/// Starts the service within `scope`.
pub async fn serve(config: Config, scope: Scope) -> Result<(), StartError> {
    let keys = Arc::new(open_keys(&config.token).await?);
    let policies = policies(&config.evidence)?;
    let audit_key = AuditKey::load_or_create(&config.audit_key_file()).during("reading the audit key")?;
    let bus = Bus::connect(&config.bus, "token-broker").await.during("connecting to the bus")?;
    tracing::info!(public_key = %audit_key.public_key(), "the audit is signed with this key");

    let audit = AuditLog::new(bus.clone(), audit_key, || broker::timestamp(clock::now()));
    let redemptions = redemptions(&config, &bus, &keys);
    let verifier: Arc<dyn Verifier> = match &config.verifier {
        VerifierConfig::Dcap => Arc::new(dcap(&config, keys, policies, &scope).await?),
        VerifierConfig::TrustAuthority(upstream) => trust_authority(upstream, &config, &policies, &scope)?,
    };
    let broker = Arc::new(Broker::new(verifier, redemptions, audit, Fleet::new(&bus)));
    watch_bus(&scope, &bus);
    let requests = serve_requests(&bus, &broker, config.work.requests).await.during("serving requests on the bus")?;
    let working = finish_audit(&scope, &broker);
    let (stop, at_work) = (cancelled(&scope), working.clone());
    scope.spawn("requests", async move {
        stop.await;
        requests.stop().await;
        drop(at_work);
    });
    consume_evidence(&scope, &bus, &broker, config.work.evidence, working.clone());
    if let Some(https) = &config.https {
        serve_https(https, config.work.requests, &scope, broker, working).await?;
    }
    scope.ready().await
}

fn trust_anchor(config: &EvidenceConfig) -> Result<TrustAnchor, StartError> {
    let Some(path) = config.simulator_root_file.as_ref().filter(|_| config.trust_anchor == AnchorConfig::Simulator) else {
        return Ok(TrustAnchor::intel());
    };
    let doing = format!("reading evidence.simulator_root_file {}", path.display());
    let anchor = TrustAnchor::simulator(&fs::read(path).during(&doing)?).during(&doing)?;
    tracing::warn!(
        trust_anchor = anchor.label(),
        "SIMULATED HARDWARE IS TRUSTED: whoever has this root's key can make evidence for anything; never in production"
    );
    Ok(anchor)
}

async fn open_keys(config: &TokenConfig) -> Result<Keys, StartError> {
    let (config, now) = (config.clone(), clock::now());
    tokio::task::spawn_blocking(move || Keys::open(&config, now)).await.during("opening the keys")?
}

async fn open_collateral(
    config: &EvidenceConfig,
    anchor: TrustAnchor,
    seen: Vec<([u8; 6], u32)>,
) -> Result<Arc<CollateralStore>, StartError> {
    let more = config.collateral.clone().unwrap_or_default();
    let (files, service) = (config.collateral_files.clone(), more.service());
    let sources = Sources { files, bundles: more.bundle_files, directory: more.directory, service };
    let opened = tokio::task::spawn_blocking(move || CollateralStore::open(sources, anchor, seen)).await;
    Ok(Arc::new(opened.during("reading the collateral")?.during("reading the collateral")?))
}

fn policies(config: &EvidenceConfig) -> Result<Policies, StartError> {
    let named = config.policies.iter().filter_map(|(id, path)| Some((PolicyId::parse(id).ok()?, path.as_path())));
    Policies::open(config.policy_file.as_deref(), named).during("reading the appraisal policies")
}

/// The built-in verifier, which follows its collateral.
async fn dcap(config: &Config, keys: Arc<Keys>, policies: Policies, scope: &Scope) -> Result<Dcap, StartError> {
    let anchor = trust_anchor(&config.evidence)?;
    let evaluations = EvaluationFile::open(&config.token.key_directory).during("reading the evaluation numbers of token.key_directory")?;
    let collateral = open_collateral(&config.evidence, anchor.clone(), evaluations.memory().seen()).await?;
    let reload = Duration::from_secs(config.evidence.collateral_reload_seconds);
    scope.spawn("collateral", Arc::clone(&collateral).follow(reload, cancelled(scope)));

    let nonces = NonceAuthority::new(&derived(&keys, "keyferry nonce"), config.nonce.lifetime_seconds);
    let platform_key = hmac::Key::new(hmac::HMAC_SHA256, &derived(&keys, "keyferry platform"));
    scope.spawn("keys", Arc::clone(&keys).follow(cancelled(scope)));
    let references =
        ReferenceValueDirectory::open(config.evidence.reference_values.as_ref()).during("reading evidence.reference_values")?;
    let quotes = QuoteVerifier::new(anchor)
        .with_allowances(policies.base().allowances())
        .with_collateral_grace(policies.base().collateral_grace_seconds())
        .with_memory(evaluations.memory());
    let appraiser = Appraiser::new(quotes, (policies, references), collateral, Arc::clone(&keys), platform_key);
    let (pool, name) = (Pool::new(config.work.appraisals), config.token.issuer.clone());
    Ok(Dcap::new(appraiser, nonces, pool, Evaluations::new(evaluations), (keys, name)))
}

/// The upstream, whose key set is kept fresh.
fn trust_authority(
    upstream: &TrustAuthorityConfig,
    config: &Config,
    policies: &Policies,
    scope: &Scope,
) -> Result<Arc<TrustAuthority>, StartError> {
    let (nonce_seconds, places) = (config.nonce.lifetime_seconds, config.work.appraisals);
    let verifier = Arc::new(TrustAuthority::open(upstream, policies.base().allowances(), nonce_seconds, places)?);
    tracing::info!(upstream = upstream.api_url(), issuer = upstream.issuer(), "evidence is judged by a trust authority");
    Arc::clone(&verifier).keep_fresh(scope);
    Ok(verifier)
}

/// Records outlive nonce and token, whoever issued them.
fn redemptions(config: &Config, bus: &Bus, keys: &Keys) -> Redemptions {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &derived(keys, "keyferry redemption"));
    let lifetime = Duration::from_secs(config.nonce.lifetime_seconds + config.token.lifetime_seconds) + REDEMPTION_GRACE;
    Redemptions::new(bus, key, lifetime)
}

/// One secret of the key directory, three independent keys: each is the HMAC of its purpose.
fn derived(keys: &Keys, purpose: &str) -> Zeroizing<Vec<u8>> {
    let key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA384, keys.nonce()), purpose.as_bytes());
    Zeroizing::new(key.as_ref().to_vec())
}

/// Held by whoever may still record something.
type AtWork = mpsc::Sender<Infallible>;

/// Signs the audit for the last time, once everybody who holds the returned value has let go of it.
fn finish_audit(scope: &Scope, broker: &Arc<Broker>) -> AtWork {
    let (working, mut all_gone) = mpsc::channel::<Infallible>(1);
    let broker = Arc::clone(broker);
    scope.spawn("audit", async move {
        if all_gone.recv().await.is_none() {
            broker.finish().await;
        }
    });
    working
}

/// Readiness follows the connection.
fn watch_bus(scope: &Scope, bus: &Bus) {
    let check = scope.readiness_check("bus");
    let (bus, stop) = (bus.clone(), cancelled(scope));
    scope.spawn("bus", async move {
        tokio::pin!(stop);
        loop {
            if bus.is_connected() {
                check.up();
            } else {
                check.down("not connected");
            }
            tokio::select! {
                () = tokio::time::sleep(BUS_LOOK) => {}
                () = &mut stop => return,
            }
        }
    });
}

fn consume_evidence(scope: &Scope, bus: &Bus, broker: &Arc<Broker>, workers: usize, at_work: AtWork) {
    let handler = EvidenceHandler { broker: Arc::clone(broker), bus: bus.clone(), budget: RefusalBudget::default() };
    let (bus, stop) = (bus.clone(), cancelled(scope));
    scope.spawn("evidence", async move {
        bus.consume(DURABLE, workers, stop, handler).await;
        drop(at_work);
    });
}

async fn serve_https(config: &HttpsConfig, requests: usize, scope: &Scope, broker: Arc<Broker>, at_work: AtWork) -> Result<(), StartError> {
    let callers = Arc::new(rest::Callers::open(config)?);
    let (following, stop) = (Arc::clone(&callers), cancelled(scope));
    scope.spawn("callers", async move { following.follow(stop).await });
    let tls = keyferry_tls::server_config(&config.certificate, ALPN_HTTP).during("reading https.certificate")?;
    let listener = scope.bind("https", config.listen).await?.into_std().during("taking over the https listener")?;
    let router = rest::router(broker, callers, requests);
    let server = axum_server::from_tcp_rustls(listener, RustlsConfig::from_config(tls)).during("serving https")?;
    let mut server = server.first_request_timeout(HTTPS_HEADERS_WITHIN);
    server.http_builder().http1().header_read_timeout(Some(HTTPS_HEADERS_WITHIN));
    server.http_builder().http2().max_concurrent_streams(HTTPS_STREAMS_MAX).max_header_list_size(HTTPS_HEADER_BYTES_MAX);
    let handle = Handle::new();
    let stop = cancelled(scope);
    scope.spawn("https", async move {
        let _at_work = at_work;
        let serving = server.handle(handle.clone()).serve(router.into_make_service());
        tokio::pin!(serving);
        tokio::select! {
            ended = &mut serving => return ended,
            () = stop => handle.graceful_shutdown(Some(HTTPS_DRAIN)),
        }
        serving.await
    });
    Ok(())
}

fn cancelled(scope: &Scope) -> impl Future<Output = ()> + Send + use<> {
    let stop = scope.cancellation();
    async move { stop.cancelled().await }
}
