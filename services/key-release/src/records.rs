//! What is stored: key records and key transfer policies, sealed, read from the leader at each decision.

use std::{collections::HashMap, sync::Arc};

use keyferry_bus::{Bucket, Bus};
use keyferry_identifiers::{KeyId, PolicyId};
use keyferry_key_transfer_policy::Policy;
use keyferry_kms::{KeyRef, KeySpec};
use keyferry_sealed_store::{SealedStore, StoreKey};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::Denial;

/// Parsed policies kept; a policy has at most 64 KiB.
const PARSED_MAX: usize = 1024;

/// What the broker knows of a key. The key itself is in the KMS and nowhere else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeyRecord {
    pub(crate) key_id: KeyId,
    pub(crate) algorithm: Algorithm,
    pub(crate) length_bits: u16,
    /// Which kind of KMS the reference belongs to.
    pub(crate) kms_kind: String,
    pub(crate) kms_ref: String,
    /// Keyed hash of the material, taken when the key was made or registered.
    #[serde(with = "hex::serde")]
    pub(crate) fingerprint: [u8; 32],
    /// `None`: an administrator may export it, no TD gets it.
    pub(crate) policy_id: Option<PolicyId>,
    /// Unix seconds.
    pub(crate) created_at: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Algorithm {
    #[serde(rename = "AES")]
    Aes,
}

impl KeyRecord {
    pub(crate) fn reference(&self) -> Result<KeyRef, Denial> {
        Ok(KeyRef::parse(&self.kms_ref)?)
    }
    pub(crate) fn spec(&self) -> Result<KeySpec, Denial> {
        let Algorithm::Aes = self.algorithm;
        Ok(KeySpec::aes(self.length_bits)?)
    }
}

/// One version of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PolicyRecord {
    pub(crate) policy_id: PolicyId,
    pub(crate) version: u32,
    /// As the administrator gave it.
    pub(crate) document: String,
    /// Unix seconds.
    pub(crate) created_at: u64,
}

/// The policy that governs a key, at the moment of reading.
#[derive(Clone)]
pub(crate) struct Rule {
    pub(crate) policy_id: PolicyId,
    pub(crate) version: u32,
    pub(crate) policy: Arc<Policy>,
}

/// Keys and policies.
pub(crate) struct Records {
    keys: SealedStore,
    policies: SealedStore,
    /// By policy: the revision that was parsed. Reading decides; this only saves the parsing.
    parsed: Mutex<HashMap<PolicyId, (u64, Rule)>>,
}

impl Records {
    pub(crate) fn open(bus: &Bus, key: &Arc<StoreKey>) -> Self {
        let store = |bucket| SealedStore::open(bus, bucket, Arc::clone(key));
        Self { keys: store(Bucket::Keys), policies: store(Bucket::Policies), parsed: Mutex::default() }
    }

    pub(crate) async fn key(&self, id: KeyId) -> Result<KeyRecord, Denial> {
        let name = id.to_string();
        let record = self.keys.read(&name).await?.ok_or(Denial::KeyNotFound)?;
        let key: KeyRecord = decoded(&name, &record.value)?;
        if key.key_id == id { Ok(key) } else { Err(Denial::Record { name }) }
    }

    pub(crate) async fn create_key(&self, key: &KeyRecord) -> Result<(), Denial> {
        let value = serde_json::to_vec(key).map_err(|_| Denial::Internal("a key record does not serialise"))?;
        self.keys.create(&key.key_id.to_string(), &value).await?;
        Ok(())
    }

    pub(crate) async fn policy(&self, id: PolicyId) -> Result<PolicyRecord, Denial> {
        Ok(self.read_policy(id).await?.0)
    }

    async fn read_policy(&self, id: PolicyId) -> Result<(PolicyRecord, u64), Denial> {
        let name = id.to_string();
        let record = self.policies.read(&name).await?.ok_or(Denial::PolicyNotFound)?;
        let policy: PolicyRecord = decoded(&name, &record.value)?;
        if policy.policy_id == id { Ok((policy, record.revision)) } else { Err(Denial::Record { name }) }
    }

    pub(crate) async fn create_policy(&self, policy: &PolicyRecord) -> Result<(), Denial> {
        let value = serde_json::to_vec(policy).map_err(|_| Denial::Internal("a policy record does not serialise"))?;
        self.policies.create(&policy.policy_id.to_string(), &value).await?;
        Ok(())
    }

    /// The policy that governs `key` now.
    pub(crate) async fn rule(&self, key: &KeyRecord) -> Result<Rule, Denial> {
        let (record, revision) = self.read_policy(key.policy_id.ok_or(Denial::PolicyNotFound)?).await?;
        if let Some((parsed, rule)) = self.parsed.lock().get(&record.policy_id)
            && *parsed == revision
        {
            return Ok(rule.clone());
        }
        let policy = Policy::parse(&record.document).map_err(|_| Denial::Record { name: record.policy_id.to_string() })?;
        let rule = Rule { policy_id: record.policy_id, version: record.version, policy: Arc::new(policy) };
        let mut parsed = self.parsed.lock();
        if parsed.len() >= PARSED_MAX {
            parsed.clear();
        }
        parsed.insert(record.policy_id, (revision, rule.clone()));
        Ok(rule)
    }
}

fn decoded<T: DeserializeOwned>(name: &str, value: &[u8]) -> Result<T, Denial> {
    serde_json::from_slice(value).map_err(|_| Denial::Record { name: name.to_owned() })
}
