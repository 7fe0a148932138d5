//! Which keys may be under a policy: one small record for each, found by its name without reading every key.
//!
//! A reference is written before the key's record, and once more after it: whoever is about to remove it, because the key
//! was elsewhere, then fails. It decides nothing; the key's record does.

use futures::{StreamExt, TryStreamExt, stream};
use keyferry_identifiers::{KeyId, PolicyId};
use keyferry_sealed_store::StoreError;

use super::{READS_MAX, ROUNDS_MAX, Records};
use crate::Denial;

/// Where references are, and the name of the record that says that none is missing.
const USES: &str = "uses";

impl Records {
    /// Keys that may be under this policy, in no order.
    pub(super) async fn candidates(&self, policy: PolicyId) -> Result<Vec<KeyId>, Denial> {
        let names = self.keys.names_under(&format!("{USES}.{policy}")).await?;
        Ok(names.iter().filter_map(|name| KeyId::parse(name.rsplit('.').next()?).ok()).collect())
    }

    /// Whether any key is under this policy. A key that cannot be read might be.
    pub(super) async fn is_used(&self, policy: PolicyId) -> Result<bool, Denial> {
        let candidates = self.candidates(policy).await?;
        let mut uses = stream::iter(candidates).map(|id| self.is_under(id, policy)).buffer_unordered(READS_MAX);
        while let Some(used) = uses.try_next().await? {
            if used {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Writes the reference, and always writes it: whoever is about to remove it then loses.
    pub(super) async fn refer(&self, policy: PolicyId, key: KeyId) -> Result<(), Denial> {
        let name = reference_name(policy, key);
        for _ in 0..ROUNDS_MAX {
            let written = match self.keys.read(&name).await? {
                None => self.keys.create(&name, b"{}").await,
                Some(there) => self.keys.update(&name, b"{}", there.revision).await,
            };
            match written {
                Err(StoreError::Conflict { .. }) => {}
                other => return Ok(other.map(drop)?),
            }
        }
        Err(Denial::Conflict)
    }

    /// Tidies up: a reference to a key that is elsewhere is ignored anyway.
    pub(super) async fn drop_reference(&self, policy: PolicyId, key: KeyId) {
        let name = reference_name(policy, key);
        // In this order: a key that comes back under the policy writes its record first, then the reference.
        if let Ok(Some(reference)) = self.keys.read(&name).await
            && matches!(self.is_under(key, policy).await, Ok(false))
        {
            let _is_ignored_anyway = self.keys.delete(&name, reference.revision).await;
        }
    }

    /// Writes the references of keys that were stored before there were any. Done once for a store.
    pub(super) async fn complete_references(&self) -> Result<(), Denial> {
        if self.keys.read(USES).await?.is_some() {
            return Ok(());
        }
        let names = self.keys.names_under("").await?;
        let ids: Vec<_> = names.iter().filter_map(|name| KeyId::parse(name).ok()).collect();
        let referred = stream::iter(ids).map(|id| async move {
            match self.stored_key(id).await?.and_then(|(key, _)| key.policy_id) {
                Some(policy) => self.refer(policy, id).await,
                None => Ok(()),
            }
        });
        referred.buffer_unordered(READS_MAX).try_collect::<()>().await?;
        match self.keys.create(USES, b"{}").await {
            Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn is_under(&self, key: KeyId, policy: PolicyId) -> Result<bool, Denial> {
        Ok(self.stored_key(key).await?.is_some_and(|(key, _)| key.policy_id == Some(policy)))
    }
}

fn reference_name(policy: PolicyId, key: KeyId) -> String {
    format!("{USES}.{policy}.{key}")
}
