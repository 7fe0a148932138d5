//! A real development KMS, between it and the service something that can break.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU8, Ordering},
};

use async_trait::async_trait;
use keyferry_key_wrap::KeyMaterial;
use keyferry_kms::{DevKms, KeyDescription, KeyRef, KeySpec, KeyState, Kms, KmsError, Revocation};

const SOUND: u8 = 0;
const DOWN: u8 = 1;
const OTHER_BYTES: u8 = 2;
const NOT_RELEASABLE: u8 = 3;

#[derive(Debug)]
pub(crate) struct BrokenKms {
    pub(crate) inner: DevKms,
    state: AtomicU8,
    /// What was made, in order.
    pub(crate) made: Mutex<Vec<KeyRef>>,
    /// While held, a fetch does not end; [`Self::fetching`] tells that one waits.
    pub(crate) gate: tokio::sync::Mutex<()>,
    pub(crate) fetching: tokio::sync::Notify,
}

impl BrokenKms {
    pub(crate) fn new(inner: DevKms) -> Self {
        Self {
            inner,
            state: AtomicU8::new(SOUND),
            made: Mutex::default(),
            gate: tokio::sync::Mutex::default(),
            fetching: tokio::sync::Notify::new(),
        }
    }
    pub(crate) fn go_down(&self) {
        self.state.store(DOWN, Ordering::SeqCst);
    }
    pub(crate) fn return_other_bytes(&self) {
        self.state.store(OTHER_BYTES, Ordering::SeqCst);
    }
    pub(crate) fn keep_every_key(&self) {
        self.state.store(NOT_RELEASABLE, Ordering::SeqCst);
    }
    pub(crate) fn recover(&self) {
        self.state.store(SOUND, Ordering::SeqCst);
    }
    /// The state of a key; `None` if there is none.
    pub(crate) async fn state_of(&self, key: &KeyRef) -> Option<KeyState> {
        self.inner.inspect(key).await.ok()?.state
    }
    fn reach(&self) -> Result<&DevKms, KmsError> {
        match self.state.load(Ordering::SeqCst) {
            DOWN => Err(KmsError::Unreachable(std::io::ErrorKind::ConnectionRefused)),
            _ => Ok(&self.inner),
        }
    }
}

#[async_trait]
impl Kms for BrokenKms {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }
    async fn create(&self, spec: &KeySpec) -> Result<KeyRef, KmsError> {
        let key = self.reach()?.create(spec).await?;
        self.made.lock().unwrap().push(key.clone());
        Ok(key)
    }
    async fn register(&self, spec: &KeySpec, material: &KeyMaterial) -> Result<KeyRef, KmsError> {
        self.reach()?.register(spec, material).await
    }
    async fn inspect(&self, key: &KeyRef) -> Result<KeyDescription, KmsError> {
        self.reach()?.inspect(key).await
    }
    async fn fetch(&self, key: &KeyRef, spec: &KeySpec) -> Result<Arc<KeyMaterial>, KmsError> {
        self.fetching.notify_one();
        drop(self.gate.lock().await);
        if self.state.load(Ordering::SeqCst) == NOT_RELEASABLE {
            return Err(KmsError::KeyNotReleasable);
        }
        let fetched = self.reach()?.fetch(key, spec).await?;
        if self.state.load(Ordering::SeqCst) == OTHER_BYTES {
            let other = KeyMaterial::random(usize::from(spec.length_bits() / 8)).map_err(|_| KmsError::Internal)?;
            return Ok(Arc::new(other));
        }
        Ok(fetched)
    }
    async fn revoke(&self, key: &KeyRef, why: Revocation) -> Result<(), KmsError> {
        self.reach()?.revoke(key, why).await
    }
    async fn destroy(&self, key: &KeyRef) -> Result<(), KmsError> {
        self.reach()?.destroy(key).await
    }
    async fn health(&self) -> Result<(), KmsError> {
        self.reach()?.health().await
    }
}
