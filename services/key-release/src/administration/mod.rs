//! Administering keys and policies, whatever surface asks: each function begins with the permission it needs, each change
//! is recorded before it takes effect, and is finished though the caller may be gone. A change that was recorded and then
//! did not happen is recorded too.

mod keys;
mod policies;
mod service;

use std::future::Future;

use keyferry_contract::release::v1::AuditRecord;

pub(crate) use self::{
    keys::{ImportedKey, NewKey, Source},
    policies::ChangedPolicy,
    service::AdministrationService,
};
use crate::{Denial, release::Release, users::Admin};

/// Keys and policies. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Administration {
    release: Release,
}

impl Administration {
    pub(crate) fn new(release: &Release) -> Self {
        Self { release: release.clone() }
    }

    /// Does `work` to its end, though the caller may go away in the middle.
    async fn to_its_end<T, F>(&self, admin: &Admin, work: impl FnOnce(Self, Admin) -> F) -> Result<T, Denial>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Denial>> + Send + 'static,
    {
        let work = Box::pin(work(self.clone(), admin.clone()));
        self.release.to_its_end(work).await
    }

    /// Records a change, then makes it.
    async fn recorded<T>(&self, admin: &Admin, record: AuditRecord, change: impl Future<Output = Result<T, Denial>>) -> Result<T, Denial> {
        let about = AuditRecord { trust_anchor: String::new(), ..record.clone() };
        self.release.audit().administered(admin, record).await?;
        let changed = change.await;
        if let Err(denial) = &changed {
            self.release.audit().undone(admin, about, denial).await;
        }
        changed
    }
}
