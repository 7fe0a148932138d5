//! How many keys a minute of KMS gives: the back ends as the broker uses them, against real servers over TLS, with 1, 4 and
//! 16 callers that each want a key of their own.
//!
//! There is no cryptographic bound to compare with: what is measured is the server, and the connection to it.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use keyferry_kms::{KeySpec, KmipKms, Kms, VaultAuth, VaultConfig, VaultEngine, VaultKms, VaultTimeouts};
use keyferry_testkit::{
    openbao::OpenBao,
    pykmip::{Profile, Pykmip},
};
use uuid::Uuid;

use crate::{
    installation::told,
    load::{self, Client},
    row::Row,
};

const AES_BITS: u16 = 256;
/// The most connections the KMIP back end keeps.
const KMIP_CONNECTIONS_MAX: usize = 16;

pub(crate) fn kmip_1(name: &'static str, each: Duration) -> Result<Row> {
    kmip(name, each, 1)
}
pub(crate) fn kmip_4(name: &'static str, each: Duration) -> Result<Row> {
    kmip(name, each, 4)
}
pub(crate) fn kmip_16(name: &'static str, each: Duration) -> Result<Row> {
    kmip(name, each, 16)
}
pub(crate) fn vault_1(name: &'static str, each: Duration) -> Result<Row> {
    vault(name, each, 1)
}
pub(crate) fn vault_4(name: &'static str, each: Duration) -> Result<Row> {
    vault(name, each, 4)
}
pub(crate) fn vault_16(name: &'static str, each: Duration) -> Result<Row> {
    vault(name, each, 16)
}

fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(work)
}

fn kmip(name: &'static str, each: Duration, callers: usize) -> Result<Row> {
    block_on(async {
        let server = told(Pykmip::start(Profile::Ecdsa).await)?;
        let mut config = server.config(server.owner());
        config.connections = callers.min(KMIP_CONNECTIONS_MAX);
        let kms: Arc<dyn Kms> = Arc::new(KmipKms::new(&config)?);
        let process = server.pid().context("the KMIP server is gone")?;
        measured(name, each, callers, kms, process, "PyKMIP, KMIP 1.4: state, usage mask and key in one exchange").await
    })
}

fn vault(name: &'static str, each: Duration, callers: usize) -> Result<Row> {
    block_on(async {
        let server = told(OpenBao::start().await)?;
        told(server.mount_kv("keyferry", 2).await)?;
        let config = VaultConfig {
            url: server.url(),
            ca_file: Some(server.ca_file()),
            allow_plain_http: false,
            namespace: None,
            engine: VaultEngine::Kv2,
            mount: None,
            wrap_for_td: false,
            auth: VaultAuth::TokenFile(server.directory().join("root-token")),
            administration: None,
            timeouts: VaultTimeouts::default(),
        };
        let kms: Arc<dyn Kms> = Arc::new(VaultKms::new(&config)?);
        let process = server.pid().context("the Vault server is gone")?;
        measured(name, each, callers, kms, process, "OpenBao, KV version 2").await
    })
}

async fn measured(name: &'static str, each: Duration, callers: usize, kms: Arc<dyn Kms>, server: u32, about: &str) -> Result<Row> {
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..callers {
        // Two callers of one key would share one fetch.
        let spec = KeySpec::aes(AES_BITS)?.named(&Uuid::new_v4().to_string())?;
        let key = kms.create(&spec).await?;
        let kms = Arc::clone(&kms);
        clients.push(Box::new(move || {
            let (kms, key, spec) = (Arc::clone(&kms), key.clone(), spec.clone());
            Box::pin(async move {
                kms.fetch(&key, &spec).await?;
                Ok(())
            })
        }));
    }
    let load = load::run(each, clients, server).await?;
    let notes = format!("{about}; {callers} callers; the server used {:.2} cores", load.cpu_seconds * load.rate.per_second / load.calls);
    Ok(Row::new(name, &load.rate, None, None, &notes))
}
