//! Where users are: one sealed record each, and one for each name, so that a login reads two records however many there
//! are, and no two users have one name, whichever replica made them.
//!
//! `id.<uuid>` is the user, `name.<sha-256 of the name>` says whose a name is. The name decides: a user whose name points
//! elsewhere is not there. A name is taken by compare-and-set, after the user's record is written; so a name that points
//! to no user, or to one that is called otherwise, is what a crash left behind, and is free. Whoever takes a name
//! always writes its record, even if it says the right thing already: one who was about to take it as free then loses.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use keyferry_bus::{Bucket, Bus};
use keyferry_identifiers::UserId;
use keyferry_sealed_store::{SealedStore, StoreError, StoreKey};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Permission, password::PasswordHash};
use crate::Denial;

/// How often a step is taken again after somebody else was faster.
const ROUNDS_MAX: usize = 16;
/// Records of a list read at the same time.
const READS_MAX: usize = 16;
/// There while any user may have a bcrypt hash.
const IMPORTS: &str = "imports";
const BY_ID: &str = "id.";

/// A user as stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct UserRecord {
    pub(super) user_id: UserId,
    pub(super) username: String,
    pub(super) password: PasswordHash,
    pub(super) permissions: std::collections::BTreeSet<Permission>,
    pub(super) created_at: Timestamp,
    pub(super) updated_at: Option<Timestamp>,
    /// The name this user is about to take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) becoming: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Holder {
    user_id: UserId,
}

/// A record and the revision that [`Directory::replace`] wants.
pub(super) type Revised<T> = (T, u64);

#[derive(Clone)]
pub(super) struct Directory(SealedStore);

impl Directory {
    pub(super) fn open(bus: &Bus, key: &Arc<StoreKey>) -> Self {
        Self(SealedStore::open(bus, Bucket::Users, Arc::clone(key)))
    }

    /// The store, for what else is kept beside the users.
    pub(super) fn store(&self) -> &SealedStore {
        &self.0
    }

    pub(super) async fn by_name(&self, username: &str) -> Result<Option<Revised<UserRecord>>, Denial> {
        let Some((holder, _)) = self.read::<Holder>(&name_key(username)).await? else { return Ok(None) };
        let user = self.record(holder.user_id).await?;
        Ok(user.filter(|(user, _)| user.username == username))
    }

    pub(super) async fn by_id(&self, id: UserId) -> Result<Option<Revised<UserRecord>>, Denial> {
        let Some(user) = self.record(id).await? else { return Ok(None) };
        let holder = self.read::<Holder>(&name_key(&user.0.username)).await?;
        Ok(holder.filter(|(holder, _)| holder.user_id == id).map(|_| user))
    }

    /// Every user, in the order of their ids.
    pub(super) async fn all(&self) -> Result<Vec<UserRecord>, Denial> {
        let mut ids: Vec<UserId> = self.0.names().await?.iter().filter_map(|name| UserId::parse(name.strip_prefix(BY_ID)?).ok()).collect();
        ids.sort_unstable();
        let users = stream::iter(ids.into_iter().map(|id| self.by_id(id))).buffered(READS_MAX);
        users.try_filter_map(|user| async { Ok(user.map(|(user, _)| user)) }).try_collect().await
    }

    /// Writes a new user; at most one of several with the same name.
    pub(super) async fn add(&self, user: &UserRecord) -> Result<(), Denial> {
        let name = id_key(user.user_id);
        let value = encoded(user)?;
        let revision = match self.0.create(&name, &value).await {
            Err(StoreError::Conflict { .. }) => {
                // Under this id there is somebody, or what a crash left of somebody without a name.
                if self.by_id(user.user_id).await?.is_some() {
                    return Err(Denial::AlreadyExists { what: "user" });
                }
                let (_, left) = self.record(user.user_id).await?.ok_or(Denial::Conflict)?;
                self.0.update(&name, &value, left).await?
            }
            other => other?,
        };
        let taken = self.take_name(&user.username, user.user_id).await;
        if taken.is_err() {
            // Without a name nobody sees it; that it goes too is only tidy.
            let _left_behind = self.0.delete(&name, revision).await;
        }
        taken
    }

    /// Writes a changed user over the revision it was made from; the name is not among what changed.
    pub(super) async fn replace(&self, user: &UserRecord, revision: u64) -> Result<u64, Denial> {
        Ok(self.0.update(&id_key(user.user_id), &encoded(user)?, revision).await?)
    }

    /// As [`Self::replace`], for a user who was called `old`.
    pub(super) async fn rename(&self, user: &UserRecord, old: &str, revision: u64) -> Result<(), Denial> {
        let before = self.record(user.user_id).await?.filter(|(_, found)| *found == revision).ok_or(Denial::Conflict)?.0;
        let announced = UserRecord { becoming: Some(user.username.clone()), ..before.clone() };
        let announced = self.replace(&announced, revision).await?;
        if let Err(denial) = self.take_name(&user.username, user.user_id).await {
            let _may_stay = self.replace(&UserRecord { becoming: None, ..before }, announced).await;
            return Err(denial);
        }
        self.replace(&UserRecord { becoming: None, ..user.clone() }, announced).await?;
        self.leave_name(old, user.user_id).await;
        Ok(())
    }

    /// From the moment this returns, and even if it fails half-way, the user is gone or is still there; never half.
    pub(super) async fn remove(&self, user: &UserRecord, revision: u64) -> Result<(), Denial> {
        self.0.delete(&id_key(user.user_id), revision).await?;
        self.leave_name(&user.username, user.user_id).await;
        Ok(())
    }

    /// Whether any user may have a bcrypt hash.
    pub(super) async fn has_imports(&self) -> Result<bool, Denial> {
        Ok(self.0.read(IMPORTS).await?.is_some())
    }

    /// Nobody has a bcrypt hash any more: attempts need not cost one.
    pub(super) async fn forget_imports(&self) -> Result<(), Denial> {
        let Some(marker) = self.0.read(IMPORTS).await? else { return Ok(()) };
        if !self.all().await?.iter().any(|user| user.password.is_imported()) {
            self.0.delete(IMPORTS, marker.revision).await?;
        }
        Ok(())
    }

    /// To be called before and after a user with a bcrypt hash is written: in between, somebody may find that there is none.
    pub(super) async fn expect_imports(&self) -> Result<(), Denial> {
        match self.0.create(IMPORTS, b"{}").await {
            Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn take_name(&self, username: &str, user_id: UserId) -> Result<(), Denial> {
        let (name, value) = (name_key(username), encoded(&Holder { user_id })?);
        for _ in 0..ROUNDS_MAX {
            let written = match self.read::<Holder>(&name).await? {
                None => self.0.create(&name, &value).await,
                Some((holder, revision)) => {
                    if holder.user_id != user_id && !self.is_free_of(holder.user_id, username).await? {
                        continue;
                    }
                    self.0.update(&name, &value, revision).await
                }
            };
            match written {
                Ok(_) => return Ok(()),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Denial::Conflict)
    }

    /// Whether the name is free though a record gives it to `holder`; `false` to look again.
    async fn is_free_of(&self, holder: UserId, username: &str) -> Result<bool, Denial> {
        let Some((user, revision)) = self.record(holder).await? else { return Ok(true) };
        if user.username == username {
            return Err(Denial::AlreadyExists { what: "username" });
        }
        if user.becoming.as_deref() != Some(username) {
            return Ok(true);
        }
        // Somebody is about to take it, or died over it: whoever writes this user's record first has it.
        match self.replace(&UserRecord { becoming: None, ..user }, revision).await {
            Ok(_) => Ok(true),
            Err(Denial::Store(StoreError::Conflict { .. })) => Ok(false),
            Err(denial) => Err(denial),
        }
    }

    /// Tidies up: a name that points to nobody is free anyway.
    async fn leave_name(&self, username: &str, user_id: UserId) {
        let name = name_key(username);
        if let Ok(Some((holder, revision))) = self.read::<Holder>(&name).await
            && holder.user_id == user_id
        {
            let _is_free_anyway = self.0.delete(&name, revision).await;
        }
    }

    async fn record(&self, id: UserId) -> Result<Option<Revised<UserRecord>>, Denial> {
        let name = id_key(id);
        let user = self.read::<UserRecord>(&name).await?;
        if user.as_ref().is_some_and(|(user, _)| user.user_id != id) { Err(Denial::Record { name }) } else { Ok(user) }
    }

    async fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<Revised<T>>, Denial> {
        let Some(record) = self.0.read(name).await? else { return Ok(None) };
        let value = serde_json::from_slice(&record.value).map_err(|_| Denial::Record { name: name.to_owned() })?;
        Ok(Some((value, record.revision)))
    }
}

fn encoded(record: &impl Serialize) -> Result<Vec<u8>, Denial> {
    serde_json::to_vec(record).map_err(|_| Denial::Internal("a user record does not serialise"))
}

fn id_key(id: UserId) -> String {
    format!("{BY_ID}{id}")
}

/// A name may hold what no record's name may; its digest does not.
fn name_key(username: &str) -> String {
    format!("name.{}", hex::encode(digest(&SHA256, username.as_bytes())))
}
