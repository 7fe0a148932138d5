//! The job: attest, get the key, decrypt, serve, wipe. The REST surfaces call this and nothing below it.

use std::{sync::Arc, time::Duration};

use keyferry_contract::{Reason, release::v1::transfer_key_request::Credential};
use keyferry_identifiers::KeyId;
use keyferry_key_wrap::{KeyMaterial, TdKeyPair};
use keyferry_telemetry::{SpanAttributes, names, spans};
use keyferry_tls::{RootsConfig, TlsError};
use tokio::sync::{Mutex, watch};
use tracing::{Instrument, Span};
use url::{Origin, Url};

use crate::{
    Refusal,
    compute::Compute,
    config::{Config, Mode},
    events::{Cause, Events},
    key_pairs::{KeyPairMaker, SentKey, SpareKeyPairs, WaitingKeyPairs, spare_key_pairs},
    peers::{Attester, KeyBroker, Released},
    runtime::{Runtimes, Tensor},
    sealed::SealedFile,
    slot::{Begun, LoadedModel, Share, Slot},
};

/// One TD's model runner.
pub struct Runner {
    config: Config,
    attester: Attester,
    broker: KeyBroker,
    spare: SpareKeyPairs,
    waiting: Arc<WaitingKeyPairs>,
    runtimes: Arc<Runtimes>,
    compute: Compute,
    slot: Arc<Slot>,
    events: Events,
    /// One load at a time: a second one would only attest again.
    loading: Mutex<()>,
    serving: watch::Sender<bool>,
}

/// Makes the runner's key pairs; runs beside it.
pub struct Background(KeyPairMaker);

impl Background {
    /// Until cancelled.
    pub async fn run(self, cancel: tokio_util::sync::CancellationToken) {
        self.0.run(cancel).await;
    }
}

impl Runner {
    /// Nothing is asked of anybody yet. Must be called inside a Tokio runtime.
    pub fn new(config: Config, events: Events) -> Result<(Arc<Self>, Background), TlsError> {
        let tls = keyferry_tls::client_config(&RootsConfig::CaFile(config.key_broker.ca_file.clone()), false)?;
        let within = Duration::from_secs(config.key_broker.timeout_seconds);
        let broker = KeyBroker::new(config.key_broker.url.as_str(), &tls, within)?;
        let attester = Attester::new(&config.attester.socket, Duration::from_secs(config.attester.timeout_seconds));
        let (spare, maker) = spare_key_pairs();
        let runner = Self {
            attester,
            broker,
            spare,
            waiting: Arc::default(),
            runtimes: Arc::new(Runtimes::new(config.model.linear_quirk)),
            compute: Compute::new(config.compute),
            slot: Arc::default(),
            events,
            loading: Mutex::new(()),
            serving: watch::Sender::new(false),
            config,
        };
        Ok((Arc::new(runner), Background(maker)))
    }

    /// The whole job, in a trace of its own.
    pub async fn load(&self) -> Result<(), Refusal> {
        let _one_at_a_time = self.loading.lock().await;
        let span = spans::root(names::LOAD_MODEL);
        let result = self.load_once().instrument(span.clone()).await;
        self.record(&span, result.as_ref());
        result
    }

    async fn load_once(&self) -> Result<(), Refusal> {
        let begun = self.slot.begin();
        let sealed = self.read_sealed().await?;
        Span::current().attribute(names::MODEL_NAME, sealed.name.as_str());
        let key_id = sealed.key_id.ok_or_else(|| {
            let detail = "model.key_id is needed: this format does not say which key it is sealed with";
            Refusal::new(Reason::ModelMalformed, detail)
        })?;
        Span::current().attribute(names::KEY_ID, key_id.to_string().as_str());
        let pair = self.spare.take().await?;
        let credential = self.credential(pair.held_data()).await?;
        let released = self.broker.transfer(key_id, credential).await?;
        let sent = released.key;
        let key = blocking(spans::step(names::UNWRAP_KEY), move || sent.open(&pair)).await??;
        self.serve(begun, sealed, key, Some(key_id), released.release_id).await
    }

    /// Step 1 of the sample's flow: a token for a fresh key pair, which then waits for its key.
    pub async fn token(&self) -> Result<String, Refusal> {
        let _one_at_a_time = self.loading.try_lock().map_err(|_| busy())?;
        let pair = self.spare.take().await?;
        let token = self.attester.token(pair.held_data()).await?;
        self.waiting.keep(Arc::new(pair));
        Ok(token)
    }

    /// Step 2: the key, wrapped. Without a token, evidence is shown instead.
    pub async fn key(&self, key_id: KeyId, token: Option<String>) -> Result<SentKey, Refusal> {
        let Some(token) = token else { return self.key_for_evidence(key_id).await };
        let Released { key, .. } = self.broker.transfer(key_id, Credential::Token(token)).await?;
        Ok(key)
    }

    async fn key_for_evidence(&self, key_id: KeyId) -> Result<SentKey, Refusal> {
        let _one_at_a_time = self.loading.try_lock().map_err(|_| busy())?;
        let pair: TdKeyPair = self.spare.take().await?;
        let credential = self.evidence(pair.held_data()).await?;
        let Released { key, .. } = self.broker.transfer(key_id, credential).await?;
        self.waiting.keep(Arc::new(pair));
        Ok(key)
    }

    /// Step 3: opens the key and the model. The old model stays in service until the new one is ready.
    pub async fn decrypt(&self, sent: SentKey) -> Result<(), Refusal> {
        let _one_at_a_time = self.loading.try_lock().map_err(|_| busy())?;
        let span = spans::step(names::LOAD_MODEL);
        let result = self.decrypt_once(sent).instrument(span.clone()).await;
        self.record(&span, result.as_ref());
        result
    }

    async fn decrypt_once(&self, sent: SentKey) -> Result<(), Refusal> {
        let begun = self.slot.begin();
        let sealed = self.read_sealed().await?;
        let waiting = Arc::clone(&self.waiting);
        let (key, pair) = blocking(spans::step(names::UNWRAP_KEY), move || waiting.unwrap_key(&sent)).await??;
        let key_id = sealed.key_id;
        self.serve(begun, sealed, key, key_id, String::new()).await?;
        self.waiting.release(&pair);
        Ok(())
    }

    /// Predictions of `model`, on a bounded number of threads.
    pub async fn infer(&self, model: Arc<LoadedModel>, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, Refusal> {
        self.compute(model, move |model| model.infer(&inputs)).await
    }

    /// Work around predictions of `model`, such as reading a large body, on the same threads and in the same bounds.
    pub(crate) async fn compute<T: Send + 'static>(
        &self,
        model: Arc<LoadedModel>,
        work: impl FnOnce(&LoadedModel) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        self.compute.run(model, work).await
    }

    /// A share of the model that is served now.
    pub fn model(&self) -> Option<Arc<LoadedModel>> {
        self.slot.current()
    }

    /// Whether a model is served, and every change of it.
    pub fn serving(&self) -> watch::Receiver<bool> {
        self.serving.subscribe()
    }

    /// Serves nothing from now on, and returns once the model is wiped. Running predictions end first. A load that began
    /// before is wiped at its end and not served; after [`Cause::Shutdown`] none is ever served. Its event is sent though
    /// the caller may be gone by then.
    pub async fn reset(&self, cause: Cause) {
        if let Some(share) = self.slot.take(cause == Cause::Shutdown) {
            self.serving.send_replace(self.slot.current().is_some());
            let _panicked = to_its_end(end(self.events.clone(), share, cause)).await;
        }
    }

    /// Tells how many predictions were made since the last time.
    pub fn report_predictions(&self) {
        if let Some(model) = self.slot.current() {
            self.events.executed(&model);
        }
    }

    /// The key that a transfer URL of the sample names, if it is one of the configured broker.
    pub fn key_of_url(&self, text: &str) -> Option<KeyId> {
        let url = Url::parse(text).ok()?;
        let ours: Origin = self.config.key_broker.url.origin();
        let clean = url.origin() == ours && url.username().is_empty() && url.password().is_none() && url.query().is_none();
        let id = url.path().strip_prefix("/kbs/v1/keys/")?.strip_suffix("/transfer")?;
        KeyId::parse(id).ok().filter(|_| clean)
    }

    async fn credential(&self, held_data: Vec<u8>) -> Result<Credential, Refusal> {
        match self.config.key_broker.mode {
            Mode::Passport => Ok(Credential::Token(self.attester.token(held_data).await?)),
            Mode::BackgroundCheck => self.evidence(held_data).await,
        }
    }

    async fn evidence(&self, held_data: Vec<u8>) -> Result<Credential, Refusal> {
        let nonce = self.broker.nonce().await?;
        Ok(Credential::Evidence(self.attester.evidence(held_data, nonce).await?))
    }

    async fn read_sealed(&self) -> Result<SealedFile, Refusal> {
        let config = self.config.model.clone();
        blocking(Span::current(), move || SealedFile::read(&config)).await?
    }

    async fn serve(
        &self,
        begun: Begun,
        sealed: SealedFile,
        key: KeyMaterial,
        key_id: Option<KeyId>,
        release_id: String,
    ) -> Result<(), Refusal> {
        let span = spans::step(names::DECRYPT_MODEL);
        span.attribute(names::SIZE_BYTES, sealed.len());
        span.attribute(names::MODEL_MEDIA_TYPE, &sealed.media_type);
        let (name, digest) = (sealed.name.clone(), sealed.digest);
        let (runtimes, require_lock) = (Arc::clone(&self.runtimes), self.config.memory.require_lock);
        let runtime = blocking(span, move || sealed.open(&key, require_lock, &runtimes)).await??;
        let share = Share::new(name, digest, key_id, release_id, runtime);
        let serving = share.downgrade();
        let Ok(old) = self.slot.replace(share, begun) else {
            tracing::info!(%digest, "the model is not served: a reset came while it was being loaded");
            return Ok(());
        };
        self.serving.send_replace(true);
        let (events, slot) = (self.events.clone(), Arc::clone(&self.slot));
        to_its_end(async move {
            if let Some(old) = old {
                end(events.clone(), old, Cause::Requested).await;
            }
            // A reset may have been faster; then its event was the last word.
            if let Some(model) = serving.upgrade().filter(|model| slot.serves(model)) {
                tracing::info!(model = %model.name, %digest, "the model is loaded");
                events.loaded(&model);
            }
        })
        .await
    }

    fn record(&self, span: &Span, result: Result<&(), &Refusal>) {
        let media_type = self.slot.current().map_or("none", |model| model.runtime.media_type());
        let (outcome, reason) = match result {
            Ok(()) => ("ok", "none"),
            Err(refusal) => (refusal.reason.decision().label(), refusal.reason.label()),
        };
        if let Err(refusal) = result {
            span.decision(outcome, Some(reason));
            tracing::warn!(parent: span, reason, detail = refusal.detail, "no model is loaded");
        }
        names::MODEL_LOADS.add(1, &[(names::RESULT, outcome), (names::REASON, reason), (names::MODEL_MEDIA_TYPE, media_type)]);
    }
}

async fn end(events: Events, share: Share, cause: Cause) {
    events.executed(share.model());
    let name = share.model().name.to_string();
    if share.wiped().await {
        tracing::info!(model = name, "the model is wiped");
    } else {
        tracing::error!(model = name, "the model is not wiped yet: a prediction still runs");
    }
    events.reset(name, cause);
}

/// Work that tells what happened goes on though its caller went away.
async fn to_its_end(work: impl Future<Output = ()> + Send + 'static) -> Result<(), Refusal> {
    let done = tokio::spawn(work.instrument(Span::current())).await;
    done.map_err(|_| Refusal::new(Reason::Internal, "the work ended without a result"))
}

fn busy() -> Refusal {
    Refusal::new(Reason::Overloaded, "another attestation or load is under way: retry when it is done")
}

/// CPU work and file reads leave the runtime's threads, inside `span`.
pub(crate) async fn blocking<T: Send + 'static>(span: Span, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(move || span.in_scope(work)).await;
    done.map_err(|_| Refusal::new(Reason::Internal, "the work ended without a result"))
}
