//! Reading and changing policies. The steps and why they are in this order: the first page of [`super`].

use futures::{StreamExt, TryStreamExt, stream};
use keyferry_identifiers::PolicyId;
use keyferry_key_transfer_policy::DOCUMENT_BYTES_MAX;
use keyferry_sealed_store::StoreError;

use super::{Listed, Page, PolicyRecord, READS_MAX, ROUNDS_MAX, Records, Revised, encoded, listed, policy::Standing, read};
use crate::Denial;

impl Records {
    /// The version that counts.
    pub(crate) async fn policy(&self, id: PolicyId) -> Result<PolicyRecord, Denial> {
        Ok(self.current(id).await?.ok_or(Denial::PolicyNotFound)?.0)
    }

    /// That version, current or old, of a policy that is there.
    pub(crate) async fn policy_version(&self, id: PolicyId, version: u32) -> Result<PolicyRecord, Denial> {
        let current = self.policy(id).await?;
        if current.version == version { Ok(current) } else { self.archived(id, version).await?.ok_or(Denial::PolicyNotFound) }
    }

    /// Every version, newest first.
    pub(crate) async fn policy_versions(&self, id: PolicyId) -> Result<Vec<PolicyRecord>, Denial> {
        let current = self.policy(id).await?;
        let older =
            stream::iter((1..current.version).rev())
                .map(|version| async move {
                    self.archived(id, version).await?.ok_or_else(|| Denial::Record { name: archive_name(id, version) })
                })
                .buffered(READS_MAX);
        stream::iter([Ok(current)]).chain(older).try_collect().await
    }

    /// Versions that count, in the order of ids.
    pub(crate) async fn policies(&self, page: Page<PolicyId>) -> Result<Listed<PolicyRecord, PolicyId>, Denial> {
        let names = self.policies.names_under("").await?;
        let ids = names.iter().filter_map(|name| PolicyId::parse(name).ok()).collect();
        listed(ids, page, |id| async move { Ok(self.current(id).await?.map(|(policy, _)| policy)) }).await
    }

    /// The version that counts, and the revision that [`Self::replace_policy`] wants.
    pub(crate) async fn current(&self, id: PolicyId) -> Result<Option<Revised<PolicyRecord>>, Denial> {
        Ok(self.stored(id).await?.filter(|(record, _)| record.standing != Standing::Deleted))
    }

    /// The version that a policy of this id would begin with: the numbers of one that was deleted go on. `None` if there is
    /// one.
    pub(crate) async fn first_version(&self, id: PolicyId) -> Result<Option<u32>, Denial> {
        match self.stored(id).await? {
            None => Ok(Some(1)),
            Some((left, _)) if left.standing == Standing::Deleted => following(left.version).map(Some),
            Some(_) => Ok(None),
        }
    }

    /// Writes a policy that is not there, with the version of [`Self::first_version`].
    pub(crate) async fn create_policy(&self, policy: &PolicyRecord) -> Result<(), Denial> {
        let (name, value) = (policy.policy_id.to_string(), encoded(policy)?);
        let exists = || Denial::AlreadyExists { what: "policy" };
        let written = match self.stored(policy.policy_id).await? {
            None if policy.version == 1 => self.policies.create(&name, &value).await,
            Some((left, revision)) if left.standing == Standing::Deleted && following(left.version)? == policy.version => {
                self.policies.update(&name, &value, revision).await
            }
            _ => return Err(exists()),
        };
        match written {
            Err(StoreError::Conflict { .. }) => Err(exists()),
            other => other.map(drop).map_err(too_large),
        }
    }

    /// Puts `next` in the place of the version that was read. [`Denial::Conflict`] if that is no longer the current one.
    pub(crate) async fn replace_policy(&self, (before, revision): &Revised<PolicyRecord>, next: &PolicyRecord) -> Result<(), Denial> {
        self.archive(before).await?;
        self.write(next, *revision).await.map(drop)
    }

    /// Deletes a policy that no key is under; `record_it` is asked to record that before it takes effect.
    pub(crate) async fn delete_policy<F: Future<Output = Result<(), Denial>>>(
        &self,
        id: PolicyId,
        record_it: impl Fn(u32) -> F,
    ) -> Result<(), Denial> {
        self.complete_references().await?;
        for _ in 0..ROUNDS_MAX {
            let (policy, revision) = self.current(id).await?.ok_or(Denial::PolicyNotFound)?;
            let leaving = PolicyRecord { standing: Standing::Leaving, ..policy };
            let marked = if policy.standing == Standing::Leaving { Ok(revision) } else { self.write(&leaving, revision).await };
            let revision = match marked {
                Err(Denial::Conflict) => continue,
                other => other?,
            };
            if self.is_used(id).await? {
                let there = PolicyRecord { standing: Standing::There, ..leaving };
                let _means_nothing = self.write(&there, revision).await;
                return Err(Denial::PolicyInUse);
            }
            record_it(leaving.version).await?;
            self.archive(&leaving).await?;
            let deleted = PolicyRecord { standing: Standing::Deleted, document: String::new(), ..leaving };
            match self.write(&deleted, revision).await {
                Err(Denial::Conflict) => {}
                other => return other.map(drop),
            }
        }
        Err(Denial::Conflict)
    }

    /// That the policy stays, after a key came under it: a deletion under way is stopped.
    pub(super) async fn hold_policy(&self, id: PolicyId) -> Result<(), Denial> {
        for _ in 0..ROUNDS_MAX {
            let (policy, revision) = self.current(id).await?.ok_or(Denial::PolicyNotFound)?;
            if policy.standing == Standing::There {
                return Ok(());
            }
            match self.write(&PolicyRecord { standing: Standing::There, ..policy }, revision).await {
                Err(Denial::Conflict) => {}
                other => return other.map(drop),
            }
        }
        Err(Denial::Conflict)
    }

    async fn stored(&self, id: PolicyId) -> Result<Option<Revised<PolicyRecord>>, Denial> {
        let name = id.to_string();
        let found = read::<PolicyRecord>(&self.policies, &name).await?;
        if found.as_ref().is_some_and(|(policy, _)| policy.policy_id != id) { Err(Denial::Record { name }) } else { Ok(found) }
    }

    async fn archived(&self, id: PolicyId, version: u32) -> Result<Option<PolicyRecord>, Denial> {
        let name = archive_name(id, version);
        let found = read::<PolicyRecord>(&self.policies, &name).await?.map(|(policy, _)| policy);
        let is_another = found.as_ref().is_some_and(|policy| policy.policy_id != id || policy.version != version);
        if is_another { Err(Denial::Record { name }) } else { Ok(found) }
    }

    /// Copies the current version to its place in the history. That is there already if somebody got this far before: a
    /// version has one content, whoever copies it.
    async fn archive(&self, policy: &PolicyRecord) -> Result<(), Denial> {
        let copy = PolicyRecord { standing: Standing::There, ..policy.clone() };
        match self.policies.create(&archive_name(policy.policy_id, policy.version), &encoded(&copy)?).await {
            Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn write(&self, policy: &PolicyRecord, revision: u64) -> Result<u64, Denial> {
        match self.policies.update(&policy.policy_id.to_string(), &encoded(policy)?, revision).await {
            Err(StoreError::Conflict { .. }) => Err(Denial::Conflict),
            other => other.map_err(too_large),
        }
    }
}

/// The version after this one.
pub(crate) fn following(version: u32) -> Result<u32, Denial> {
    version.checked_add(1).ok_or(Denial::Internal("a policy has no version numbers left"))
}

fn archive_name(id: PolicyId, version: u32) -> String {
    format!("{id}.v{version}")
}

/// Characters that JSON escapes count twice in a record.
fn too_large(error: StoreError) -> Denial {
    match error {
        StoreError::TooLarge { bytes, .. } => Denial::TooLarge { field: "document", bytes, max: DOCUMENT_BYTES_MAX },
        error => error.into(),
    }
}
