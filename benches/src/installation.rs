//! A whole installation to put load on: real NATS with TLS, a verifier and a key broker as processes of their own, and
//! tokens of simulated TDs.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow};
use keyferry_bus::{Bucket, Bus, Role};
use keyferry_key_wrap::TdKeyPair;
use keyferry_sealed_store::{SealedStore, StoreKey};
use keyferry_td_simulator::{SimulatedTd, TdOptions};
use keyferry_tdx_quote::report_data;
use keyferry_testkit::{
    StartFailure,
    stack::{Administrator, KmsKind, Stack, StackOptions, Steps},
};
use keyferry_tls::RootsConfig;
use keyferry_trust_authority::{Evidence, Settings, TrustAuthority, read_api_key};
use tempfile::TempDir;
use tokio::task::JoinSet;
use uuid::Uuid;

/// Appraisals and stored records under way at the same time.
const APPRAISALS: usize = 8;
const RECORDS: usize = 256;

/// A running installation.
pub(crate) struct Installation {
    pub(crate) stack: Box<Stack>,
    _directory: TempDir,
}

/// A failure with its hint.
pub(crate) fn told<T>(result: Result<T, StartFailure>) -> Result<T> {
    result.map_err(|failure| anyhow!("{failure} ({})", failure.hint()))
}

impl Installation {
    pub(crate) async fn start(kms: KmsKind) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut options = StackOptions::new(directory.path().join("stack"));
        (options.kms, options.tds, options.load_models) = (kms, 0, false);
        let stack = told(Stack::start(options, &mut Steps::new(|_| {})).await)?;
        Ok(Self { stack: Box::new(stack), _directory: directory })
    }

    pub(crate) async fn end(self) -> Result<()> {
        told(self.stack.stop().await)
    }

    pub(crate) fn roots(&self) -> RootsConfig {
        RootsConfig::CaFile(self.stack.description.ca_file.clone())
    }

    /// The process id of the key broker.
    pub(crate) fn broker(&self) -> Result<u32> {
        Ok(self.stack.description.services.get("key-release").context("the stack has no key-release")?.pid)
    }

    /// `count` tokens, each for its own evidence; the TDs share `pairs` key pairs, because making one takes longer than all
    /// that is measured.
    pub(crate) async fn tokens(&self, count: usize, pairs: usize) -> Result<Vec<String>> {
        let description = &self.stack.description;
        let mut settings = Settings::new(&description.ita_url, self.roots(), read_api_key(&description.ita_api_key_file)?);
        settings.retry_delay = Duration::from_millis(50);
        let verifier = Arc::new(TrustAuthority::new(&settings)?);
        let td = Arc::new(SimulatedTd::new(self.stack.simulation.platform.clone(), TdOptions::default()));
        let held =
            tokio::task::spawn_blocking(move || (0..pairs).map(|_| Ok(TdKeyPair::generate()?.held_data())).collect::<Result<Vec<_>>>());
        let held = held.await??;
        let (mut running, mut tokens) = (JoinSet::new(), Vec::new());
        for held in held.iter().cycle().take(count) {
            if running.len() >= APPRAISALS {
                tokens.extend(running.join_next().await.transpose()?.transpose()?);
            }
            running.spawn(attest(Arc::clone(&verifier), Arc::clone(&td), held.clone()));
        }
        while let Some(token) = running.join_next().await {
            tokens.push(token??);
        }
        Ok(tokens)
    }

    /// `count` keys under one policy, the first of them the stack's own.
    pub(crate) async fn keys(&self, count: usize) -> Result<Vec<String>> {
        let description = &self.stack.description;
        let password = std::fs::read_to_string(&description.admin_password_file)?;
        let mut administrator =
            told(Administrator::new(&description.grpc_url, &self.roots(), &description.admin_username, password.trim()))?;
        let anchor = self.stack.simulation.trust_anchor();
        let document = serde_json::json!({ "attestation_type": "TDX", "tdx": { "attributes": { "trust_anchor": anchor, "mrtd": [hex::encode(TdOptions::default().mr_td)] } } });
        let policy = told(administrator.create_policy(&document.to_string()).await)?;
        let mut keys = vec![description.key_id.clone()];
        while keys.len() < count {
            keys.push(told(administrator.create_key(&policy).await)?);
        }
        Ok(keys)
    }

    /// Fills the buckets of keys and policies with sealed records of the usual size until each holds about `count`.
    pub(crate) async fn fill(&self, count: usize) -> Result<()> {
        let bus = told(self.stack.nats.connect(Role::KeyRelease).await)?;
        let key = Arc::new(StoreKey::load(&self.stack.directory().join("store-key"))?);
        for bucket in [Bucket::Keys, Bucket::Policies] {
            fill(&bus, bucket, &key, count).await.with_context(|| bucket.name())?;
        }
        bus.drain().await;
        Ok(())
    }
}

async fn fill(bus: &Bus, bucket: Bucket, key: &Arc<StoreKey>, count: usize) -> Result<()> {
    let store = SealedStore::open(bus, bucket, Arc::clone(key));
    let names = store.names().await?;
    let mut record = None;
    for name in &names {
        // Some names are of other things than records.
        record = record.or(store.read(name).await?);
    }
    let value: Arc<[u8]> = Arc::from(record.context("there is no record to copy")?.value.as_slice());
    let mut running = JoinSet::new();
    for _ in names.len()..count {
        if running.len() >= RECORDS {
            running.join_next().await.transpose()?.transpose()?;
        }
        let (store, value) = (store.clone(), Arc::clone(&value));
        running.spawn(async move { store.create(&Uuid::new_v4().to_string(), &value).await });
    }
    while let Some(stored) = running.join_next().await {
        stored??;
    }
    Ok(())
}

async fn attest(verifier: Arc<TrustAuthority>, td: Arc<SimulatedTd>, user_data: Vec<u8>) -> Result<String> {
    let nonce = verifier.nonce().await?;
    let quote = td.quote(&report_data(&nonce.val, &nonce.iat, &user_data))?;
    let evidence = Evidence { user_data, nonce: Some(nonce), ..Evidence::of(quote) };
    Ok(verifier.attest(&evidence).await?)
}
