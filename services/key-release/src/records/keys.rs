//! Reading and changing key records. The steps and why they are in this order: the first page of [`super`].

use jiff::Timestamp;
use keyferry_identifiers::{KeyId, PolicyId};
use keyferry_sealed_store::StoreError;

use super::{KeyFilter, KeyRecord, Listed, Page, ROUNDS_MAX, Records, Revised, encoded, listed, read};
use crate::Denial;

impl Records {
    pub(crate) async fn key(&self, id: KeyId) -> Result<KeyRecord, Denial> {
        Ok(self.stored_key(id).await?.ok_or(Denial::KeyNotFound)?.0)
    }

    /// Keys in the order of ids. With a policy in the filter only its keys are looked at.
    pub(crate) async fn keys(&self, filter: &KeyFilter, page: Page<KeyId>) -> Result<Listed<KeyRecord, KeyId>, Denial> {
        let ids = if let Some(policy) = filter.policy_id {
            self.complete_references().await?;
            self.candidates(policy).await?
        } else {
            self.keys.names_under("").await?.iter().filter_map(|name| KeyId::parse(name).ok()).collect()
        };
        let read = |id| async move { Ok(self.stored_key(id).await?.map(|(key, _)| key).filter(|key| filter.takes(key))) };
        listed(ids, page, read).await
    }

    /// Whether there is certainly no record of this key.
    pub(crate) async fn is_without_key(&self, id: KeyId) -> bool {
        matches!(self.stored_key(id).await, Ok(None))
    }

    /// Writes the record of a new key, unless its policy is gone.
    pub(crate) async fn create_key(&self, key: &KeyRecord) -> Result<(), Denial> {
        if let Some(policy) = key.policy_id {
            self.refer(policy, key.key_id).await?;
        }
        let name = key.key_id.to_string();
        let revision = match self.keys.create(&name, &encoded(key)?).await {
            Err(StoreError::Conflict { .. }) => return Err(Denial::AlreadyExists { what: "key" }),
            other => other?,
        };
        let Some(policy) = key.policy_id else { return Ok(()) };
        if let Err(denial) = self.hold(policy, key.key_id).await {
            self.keys.delete(&name, revision).await?;
            self.drop_reference(policy, key.key_id).await;
            return Err(denial);
        }
        Ok(())
    }

    /// Puts a key under another policy. Returns the record as it is then.
    pub(crate) async fn move_key(&self, id: KeyId, policy: PolicyId, now: Timestamp) -> Result<KeyRecord, Denial> {
        self.refer(policy, id).await?;
        let name = id.to_string();
        for _ in 0..ROUNDS_MAX {
            let (before, revision) = self.stored_key(id).await?.ok_or(Denial::KeyNotFound)?;
            let after = KeyRecord { policy_id: Some(policy), updated_at: Some(now), ..before.clone() };
            let revision = match self.keys.update(&name, &encoded(&after)?, revision).await {
                Err(StoreError::Conflict { .. }) => continue,
                other => other?,
            };
            if let Err(denial) = self.hold(policy, id).await {
                self.put_back(&before, revision).await;
                return Err(denial);
            }
            if let Some(old) = before.policy_id.filter(|old| *old != policy) {
                self.drop_reference(old, id).await;
            }
            return Ok(after);
        }
        Err(Denial::Conflict)
    }

    /// The record goes; what there is in the KMS went before.
    pub(crate) async fn delete_key(&self, id: KeyId) -> Result<(), Denial> {
        for _ in 0..ROUNDS_MAX {
            // Another replica may have finished what this one began.
            let Some((key, revision)) = self.stored_key(id).await? else { return Ok(()) };
            match self.keys.delete(&id.to_string(), revision).await {
                Err(StoreError::Conflict { .. }) => continue,
                other => other?,
            }
            if let Some(policy) = key.policy_id {
                self.drop_reference(policy, id).await;
            }
            return Ok(());
        }
        Err(Denial::Conflict)
    }

    pub(super) async fn stored_key(&self, id: KeyId) -> Result<Option<Revised<KeyRecord>>, Denial> {
        let name = id.to_string();
        let found = read::<KeyRecord>(&self.keys, &name).await?;
        if found.as_ref().is_some_and(|(key, _)| key.key_id != id) { Err(Denial::Record { name }) } else { Ok(found) }
    }

    async fn hold(&self, policy: PolicyId, key: KeyId) -> Result<(), Denial> {
        self.refer(policy, key).await?;
        self.hold_policy(policy).await
    }

    /// Back under the policy it was under; under none if that is gone meanwhile too. If this fails, the key is under a
    /// policy that is gone: no TD gets it.
    async fn put_back(&self, before: &KeyRecord, revision: u64) {
        let name = before.key_id.to_string();
        let back = async {
            let revision = self.keys.update(&name, &encoded(before)?, revision).await?;
            if let Some(policy) = before.policy_id
                && matches!(self.hold(policy, before.key_id).await, Err(Denial::PolicyNotFound))
            {
                let without = KeyRecord { policy_id: None, ..before.clone() };
                self.keys.update(&name, &encoded(&without)?, revision).await?;
            }
            Ok::<_, Denial>(())
        };
        if let Err(error) = back.await {
            tracing::warn!(key_id = name, %error, "a key is under a policy that is gone: put it under another one");
        }
    }
}
