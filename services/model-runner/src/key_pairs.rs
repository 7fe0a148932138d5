//! The TD's key pairs: one spare is always ready, because making one takes 0.25 s and at times a second.
//!
//! A pair is used for one attestation and dropped after unwrapping. The step-by-step API hands out a token in one request
//! and gets the wrapped key in a later one, so a few pairs wait for theirs.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use keyferry_contract::Reason;
use keyferry_key_wrap::{KeyMaterial, KmsWrappedKey, TdKeyPair, UnwrapError, WrappedKey};
use keyferry_telemetry::{names, spans};
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::Refusal;

/// A pair that is not there by then will not come.
const TAKE_WITHIN: Duration = Duration::from_secs(15);
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How many tokens may wait for their key at a time; the oldest gives way.
const WAITING_MAX: usize = 4;
/// A token lives for minutes; a pair that waited longer waits for nothing.
const WAITING_LONGEST: Duration = Duration::from_mins(10);

/// A key as it was sent: opens with one key pair only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SentKey {
    /// Wrapped by the key broker.
    Broker(WrappedKey),
    /// Wrapped by the broker's KMS; the broker never saw the key.
    Kms(KmsWrappedKey),
}

impl SentKey {
    /// From the members of an answer: either the first two or the last one are given.
    pub(crate) fn from_members(wrapped_key: Vec<u8>, wrapped_swk: Vec<u8>, kms_wrapped_key: Vec<u8>) -> Result<Self, Refusal> {
        match (kms_wrapped_key.is_empty(), wrapped_key.is_empty() && wrapped_swk.is_empty()) {
            (true, _) => Ok(Self::Broker(WrappedKey::from_parts(wrapped_key, wrapped_swk))),
            (false, true) => Ok(Self::Kms(KmsWrappedKey::new(kms_wrapped_key))),
            (false, false) => {
                let detail = "the key came in both forms: wrapped_key and wrapped_swk, or kms_wrapped_key, is wanted";
                Err(Refusal::new(Reason::WrappedKeyInvalid, detail))
            }
        }
    }

    /// CPU work.
    pub(crate) fn open(&self, pair: &TdKeyPair) -> Result<KeyMaterial, UnwrapError> {
        match self {
            Self::Broker(wrapped) => pair.unwrap_key(wrapped),
            Self::Kms(wrapped) => pair.unwrap_from_kms(wrapped),
        }
    }
}

/// Where pairs are taken from.
pub(crate) struct SpareKeyPairs {
    spare: AsyncMutex<mpsc::Receiver<TdKeyPair>>,
}

/// Makes the next pair whenever the spare one was taken.
pub(crate) struct KeyPairMaker {
    place: mpsc::Sender<TdKeyPair>,
}

pub(crate) fn spare_key_pairs() -> (SpareKeyPairs, KeyPairMaker) {
    let (place, spare) = mpsc::channel(1);
    (SpareKeyPairs { spare: AsyncMutex::new(spare) }, KeyPairMaker { place })
}

impl SpareKeyPairs {
    /// The spare pair, waiting for it if need be: the span's length is that wait.
    pub(crate) async fn take(&self) -> Result<TdKeyPair, Refusal> {
        let wait = async { self.spare.lock().await.recv().await };
        let taken = tokio::time::timeout(TAKE_WITHIN, wait).instrument(spans::step(names::GENERATE_KEY_PAIR)).await;
        taken.ok().flatten().ok_or_else(|| Refusal::new(Reason::Internal, "no key pair could be made"))
    }
}

impl KeyPairMaker {
    /// Until cancelled: waits for room, makes a pair on a blocking thread, puts it there.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        while let Some(Ok(place)) = cancel.run_until_cancelled(self.place.reserve()).await {
            if let Ok(Ok(pair)) = tokio::task::spawn_blocking(TdKeyPair::generate).await {
                place.send(pair);
            } else {
                tracing::error!("a key pair could not be made; trying again");
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }
}

/// Pairs whose token was handed out and whose wrapped key has not come back yet.
#[derive(Default)]
pub(crate) struct WaitingKeyPairs(Mutex<VecDeque<(Arc<TdKeyPair>, Instant)>>);

impl WaitingKeyPairs {
    pub(crate) fn keep(&self, pair: Arc<TdKeyPair>) {
        let mut waiting = self.0.lock();
        if waiting.len() == WAITING_MAX {
            waiting.pop_front();
        }
        waiting.push_back((pair, Instant::now()));
    }

    /// Opens `sent` with the pair it was made for; CPU work. The pair is returned so that it can be let go of.
    pub(crate) fn unwrap_key(&self, sent: &SentKey) -> Result<(KeyMaterial, Arc<TdKeyPair>), UnwrapError> {
        let pairs: Vec<Arc<TdKeyPair>> = {
            let mut waiting = self.0.lock();
            waiting.retain(|(_, since)| since.elapsed() < WAITING_LONGEST);
            waiting.iter().rev().map(|(pair, _)| Arc::clone(pair)).collect()
        };
        for pair in pairs {
            match sent.open(&pair) {
                Err(UnwrapError::NotForThisKey | UnwrapError::KmsNotForThisKey) => {}
                Err(error) => return Err(error),
                Ok(key) => return Ok((key, pair)),
            }
        }
        Err(UnwrapError::NotForThisKey)
    }

    /// Its key was opened and its model is loaded: it is never used again.
    pub(crate) fn release(&self, pair: &Arc<TdKeyPair>) {
        self.0.lock().retain(|(waiting, _)| !Arc::ptr_eq(waiting, pair));
    }
}
