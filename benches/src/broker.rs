//! How many keys a running key broker releases: over gRPC and over REST, with few and with many stored records, and when
//! 500 TDs want one key at once.
//!
//! Real NATS, real TLS 1.3, real audit records; the KMS is apart: the development store, in the broker's own memory. Load
//! and servers share the machine, so throughput is counted per second of processor time that the broker's process used:
//! what one core of its own would do. The bound is the same cryptography as of `release/decision`, measured on one thread
//! before and after.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use keyferry_contract::release::v1::{TransferKeyRequest, key_broker_client::KeyBrokerClient, transfer_key_request::Credential};
use keyferry_testkit::stack::{KmsKind, KmsServer};
use tokio::{runtime::Runtime, sync::Barrier, task::JoinSet};
use tonic::{Code, transport::Channel};

use crate::{
    contest::{self, rate},
    installation::Installation,
    load::{self, Client, Load},
    release,
    row::Row,
};

/// Clients that ask one after the other; more only queue on two cores.
const CLIENTS: usize = 4;
/// Different tokens, of TDs that share some key pairs.
const TOKENS: usize = 64;
const PAIRS: usize = 4;
/// Keys that are asked for, however many are stored.
const KEYS: usize = 10;
const MANY_KEYS: usize = 100_000;
const TDS: usize = 500;
/// What a caller that met `overloaded` is told to wait.
const OVERLOADED_PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy)]
enum Surface {
    Grpc,
    Rest,
}

pub(crate) fn grpc(name: &'static str, each: Duration) -> Result<Row> {
    figure(name, each, Surface::Grpc, 1, 1, "target 0.70, p99 < 10 ms")
}
pub(crate) fn rest(name: &'static str, each: Duration) -> Result<Row> {
    figure(name, each, Surface::Rest, 1, 1, "POST /kbs/v1/keys/{id}/transfer over HTTP/2")
}
pub(crate) fn store_10(name: &'static str, each: Duration) -> Result<Row> {
    figure(name, each, Surface::Grpc, KEYS, KEYS, "10 keys stored, each asked for in turn")
}
pub(crate) fn store_100000(name: &'static str, each: Duration) -> Result<Row> {
    figure(
        name,
        each,
        Surface::Grpc,
        KEYS,
        MANY_KEYS,
        "100,000 keys and policies stored, 10 asked for in turn; target: p99 <= 1.10 of release/store_10",
    )
}

fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

/// The bound, measured for half of `each`.
fn bound(each: Duration) -> Result<f64> {
    let [bound] = contest::run(each / 2, [release::bound()?])?;
    Ok(bound.per_second)
}

fn figure(name: &'static str, each: Duration, surface: Surface, keys: usize, stored: usize, about: &str) -> Result<Row> {
    let before = bound(each)?;
    let load = runtime()?.block_on(measured(each, surface, keys, stored))?;
    let bound = f64::midpoint(before, bound(each)?);
    let notes = format!(
        "per second of the broker's processor time; {CLIENTS} clients on the same machine got {:.0} per second; the bus, audit and TLS included, the KMS apart; {about}",
        load.rate.per_second
    );
    let per_core = contest::Rate { per_second: load.calls / load.cpu_seconds, ..load.rate };
    Ok(Row::new(name, &per_core, Some((release::BOUND, bound)), None, &notes))
}

async fn measured(each: Duration, surface: Surface, keys: usize, stored: usize) -> Result<Load> {
    let installation = Installation::start(KmsKind::Dev).await?;
    let keys: Arc<[String]> = installation.keys(keys).await?.into();
    if stored > keys.len() {
        installation.fill(stored).await?;
    }
    let tokens: Arc<[String]> = installation.tokens(TOKENS, PAIRS).await?.into();
    let clients = (0..CLIENTS).map(|number| match surface {
        Surface::Grpc => grpc_client(&installation, number, &keys, &tokens),
        Surface::Rest => rest_client(&installation, number, &keys, &tokens),
    });
    let load = load::run(each, clients.collect::<Result<_>>()?, installation.broker()?).await;
    installation.end().await?;
    load
}

/// Keys and tokens in turn, each client from a place of its own.
fn in_turn(number: usize, keys: &Arc<[String]>, tokens: &Arc<[String]>) -> impl FnMut() -> Result<(String, String)> + Send + use<> {
    let (keys, tokens, mut next) = (Arc::clone(keys), Arc::clone(tokens), number * TOKENS / CLIENTS);
    move || {
        next += 1;
        let key = keys.get(next % keys.len()).context("there are no keys")?;
        let token = tokens.get(next % tokens.len()).context("there are no tokens")?;
        Ok((key.clone(), token.clone()))
    }
}

fn channel(installation: &Installation) -> Result<KeyBrokerClient<Channel>> {
    let tls = keyferry_tls::client_config(&installation.roots(), false)?;
    Ok(KeyBrokerClient::new(keyferry_tls::grpc_channel(&installation.stack.description.grpc_url, &tls)?))
}

fn transfer(key_id: String, token: String) -> TransferKeyRequest {
    TransferKeyRequest { key_id, credential: Some(Credential::Token(token)) }
}

fn grpc_client(installation: &Installation, number: usize, keys: &Arc<[String]>, tokens: &Arc<[String]>) -> Result<Client> {
    let (client, mut next) = (channel(installation)?, in_turn(number, keys, tokens));
    Ok(Box::new(move || {
        let (mut client, next) = (client.clone(), next());
        Box::pin(async move {
            let (key, token) = next?;
            let released = client.transfer_key(transfer(key, token)).await?.into_inner();
            ensure!(!released.wrapped_key.is_empty() && !released.wrapped_swk.is_empty(), "an answer without a key");
            Ok(())
        })
    }))
}

fn rest_client(installation: &Installation, number: usize, keys: &Arc<[String]>, tokens: &Arc<[String]>) -> Result<Client> {
    let tls = keyferry_tls::http_client_config(&installation.roots())?;
    let client = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build()?;
    let (url, mut next) = (installation.stack.description.kbs_url.clone(), in_turn(number, keys, tokens));
    Ok(Box::new(move || {
        let (client, next, url) = (client.clone(), next(), url.clone());
        Box::pin(async move {
            let (key, token) = next?;
            let request = client.post(format!("{url}/keys/{key}/transfer")).header("accept", "application/json");
            let answer = request.json(&serde_json::json!({ "attestation_token": token })).send().await?;
            let status = answer.status();
            let body: serde_json::Value = answer.json().await.with_context(|| status.to_string())?;
            ensure!(status == 200 && body["wrapped_key"].is_string() && body["wrapped_swk"].is_string(), "{status}: {body}");
            Ok(())
        })
    }))
}

/// A burst: every TD of a fleet restarts and asks for the same model's key, which is in a real KMIP server.
pub(crate) fn one_key_500_tds(name: &'static str, each: Duration) -> Result<Row> {
    let before = bound(each)?;
    let burst = runtime()?.block_on(burst())?;
    let bound = f64::midpoint(before, bound(each)?);
    #[allow(clippy::cast_precision_loss, reason = "500")]
    let per_second = TDS as f64 / burst.lasted.as_secs_f64();
    let notes = format!(
        "{TDS} TDs on {TDS} new connections had their keys after {:.2} s; the KMIP server was asked {} times; {} calls met `overloaded` and asked again",
        burst.lasted.as_secs_f64(),
        burst.gets,
        burst.overloaded
    );
    let rate = contest::Rate { per_second, ..rate(burst.times) };
    Ok(Row::new(name, &rate, Some((release::BOUND, bound)), None, &notes))
}

struct Burst {
    lasted: Duration,
    times: Vec<Duration>,
    gets: usize,
    overloaded: usize,
}

async fn burst() -> Result<Burst> {
    let installation = Installation::start(KmsKind::Pykmip).await?;
    let tokens = installation.tokens(TDS, PAIRS).await?;
    let (barrier, overloaded) = (Arc::new(Barrier::new(TDS + 1)), Arc::new(AtomicUsize::new(0)));
    let before = kms_gets(&installation)?;
    let mut tds = JoinSet::new();
    for token in tokens {
        let (client, key) = (channel(&installation)?, installation.stack.description.key_id.clone());
        let (barrier, overloaded) = (Arc::clone(&barrier), Arc::clone(&overloaded));
        tds.spawn(async move {
            barrier.wait().await;
            asked_until_released(client, transfer(key, token), &overloaded).await
        });
    }
    barrier.wait().await;
    let begun = Instant::now();
    let mut times = Vec::new();
    while let Some(released) = tds.join_next().await {
        times.push(released??);
    }
    let lasted = begun.elapsed();
    let gets = kms_gets(&installation)? - before;
    installation.end().await?;
    Ok(Burst { lasted, times, gets, overloaded: overloaded.load(Ordering::Relaxed) })
}

async fn asked_until_released(
    mut client: KeyBrokerClient<Channel>,
    request: TransferKeyRequest,
    overloaded: &AtomicUsize,
) -> Result<Duration> {
    let begun = Instant::now();
    loop {
        match client.transfer_key(request.clone()).await {
            Ok(_) => return Ok(begun.elapsed()),
            Err(status) if status.code() == Code::ResourceExhausted => {
                overloaded.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(OVERLOADED_PAUSE).await;
            }
            Err(status) => bail!("{:?}: {}", status.code(), status.message()),
        }
    }
}

/// How often the KMIP server has been asked for a key, by its own log.
fn kms_gets(installation: &Installation) -> Result<usize> {
    let Some(KmsServer::Pykmip(server)) = &installation.stack.kms else { bail!("the stack has no KMIP server") };
    let log = server.log();
    Ok(log.lines().filter(|line| line.ends_with("Processing operation: Get")).count())
}
