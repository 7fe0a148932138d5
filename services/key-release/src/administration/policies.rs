//! Policies: every change is a new version, and no version is ever lost.

use jiff::Timestamp;
use keyferry_contract::release::v1::{AuditDecision, AuditRecord};
use keyferry_identifiers::PolicyId;
use keyferry_key_transfer_policy::{DOCUMENT_BYTES_MAX, Policy};
use keyferry_lifecycle::clock;

use super::Administration;
use crate::{
    Denial,
    broker::bounded,
    records::{Listed, Page, PolicyRecord, following},
    users::{Admin, Permission},
};

/// How often a change that names no version is made again after somebody else was faster.
const ROUNDS_MAX: usize = 16;

/// A new version, and what lint has to say.
#[derive(Debug)]
pub(crate) struct ChangedPolicy {
    pub(crate) policy: PolicyRecord,
    pub(crate) warnings: Vec<String>,
}

/// A document that was read.
struct Document {
    text: String,
    trust_anchors: String,
    warnings: Vec<String>,
}

impl Document {
    fn read(text: String) -> Result<Self, Denial> {
        let text = bounded("document", text, DOCUMENT_BYTES_MAX)?;
        let policy = Policy::parse(&text)?;
        let warnings = policy.lint().iter().map(ToString::to_string).collect();
        Ok(Self { trust_anchors: policy.trust_anchors().join(" | "), warnings, text })
    }
}

impl Administration {
    /// Stores a policy under a new id.
    pub(crate) async fn create_policy(&self, admin: &Admin, document: String) -> Result<ChangedPolicy, Denial> {
        admin.require(Permission::PoliciesCreate)?;
        let document = Document::read(document)?;
        let policy = PolicyRecord::new(PolicyId::random(), 1, document.text.clone(), admin.name(), clock::timestamp());
        self.to_its_end(admin, async move |this, admin| this.add_policy(&admin, policy, document, "").await).await
    }

    /// Takes over a policy under its id. The same document once more is nothing new.
    pub(crate) async fn import_policy(
        &self,
        admin: &Admin,
        id: PolicyId,
        document: String,
        created_at: Option<Timestamp>,
    ) -> Result<ChangedPolicy, Denial> {
        admin.require(Permission::PoliciesCreate)?;
        let document = Document::read(document)?;
        let created_at = created_at.unwrap_or_else(clock::timestamp);
        let work = async move |this: Self, admin: Admin| {
            let exists = || Denial::AlreadyExists { what: "policy" };
            let Some(version) = this.release.records().first_version(id).await? else {
                let policy = this.release.records().policy(id).await?;
                let is_same = policy.document == document.text;
                return if is_same { Ok(ChangedPolicy { policy, warnings: document.warnings }) } else { Err(exists()) };
            };
            let policy = PolicyRecord::new(id, version, document.text.clone(), admin.name(), created_at);
            this.add_policy(&admin, policy, document, "imported").await
        };
        self.to_its_end(admin, work).await
    }

    async fn add_policy(&self, admin: &Admin, policy: PolicyRecord, document: Document, detail: &str) -> Result<ChangedPolicy, Denial> {
        let record = AuditRecord { trust_anchor: document.trust_anchors, detail: detail.to_owned(), ..about(&policy) };
        self.recorded(admin, record, self.release.records().create_policy(&policy)).await?;
        self.release.events().policy_changed(&policy, admin);
        Ok(ChangedPolicy { policy, warnings: document.warnings })
    }

    /// The version that counts, or the one that is named.
    pub(crate) async fn policy(&self, admin: &Admin, id: PolicyId, version: Option<u32>) -> Result<PolicyRecord, Denial> {
        admin.require(Permission::PoliciesSearch)?;
        match version {
            None => self.release.records().policy(id).await,
            Some(version) => self.release.records().policy_version(id, version).await,
        }
    }

    /// Versions that count, in the order of ids.
    pub(crate) async fn policies(&self, admin: &Admin, page: Page<PolicyId>) -> Result<Listed<PolicyRecord, PolicyId>, Denial> {
        admin.require(Permission::PoliciesSearch)?;
        self.release.records().policies(page).await
    }

    /// Every version there was, newest first.
    pub(crate) async fn policy_versions(&self, admin: &Admin, id: PolicyId) -> Result<Vec<PolicyRecord>, Denial> {
        admin.require(Permission::PoliciesSearch)?;
        self.release.records().policy_versions(id).await
    }

    /// Makes a new version. With `replaces`, only if that is the current one: [`Denial::Conflict`] otherwise.
    pub(crate) async fn update_policy(
        &self,
        admin: &Admin,
        id: PolicyId,
        document: String,
        replaces: Option<u32>,
    ) -> Result<ChangedPolicy, Denial> {
        admin.require(Permission::PoliciesUpdate)?;
        let document = Document::read(document)?;
        self.to_its_end(admin, async move |this, admin| this.change_policy(&admin, id, document, replaces, None).await).await
    }

    /// Makes a new version whose document is that of an older one.
    pub(crate) async fn rollback_policy(&self, admin: &Admin, id: PolicyId, version: u32) -> Result<ChangedPolicy, Denial> {
        admin.require(Permission::PoliciesUpdate)?;
        let work = async move |this: Self, admin: Admin| {
            let old = this.release.records().policy_version(id, version).await?;
            let document = Document::read(old.document)?;
            this.change_policy(&admin, id, document, None, Some(version)).await
        };
        self.to_its_end(admin, work).await
    }

    async fn change_policy(
        &self,
        admin: &Admin,
        id: PolicyId,
        document: Document,
        replaces: Option<u32>,
        rolled_back_to: Option<u32>,
    ) -> Result<ChangedPolicy, Denial> {
        let records = self.release.records();
        for _ in 0..ROUNDS_MAX {
            let before = records.current(id).await?.ok_or(Denial::PolicyNotFound)?;
            if replaces.is_some_and(|replaces| replaces != before.0.version) {
                return Err(Denial::Conflict);
            }
            let next = PolicyRecord::new(id, following(before.0.version)?, document.text.clone(), admin.name(), clock::timestamp());
            let next = next.rolled_back_to(rolled_back_to);
            let detail = rolled_back_to.map(|version| format!("rolled back to version {version}")).unwrap_or_default();
            let record = AuditRecord { trust_anchor: document.trust_anchors.clone(), detail, ..about(&next) };
            match self.recorded(admin, record, records.replace_policy(&before, &next)).await {
                // Somebody else was faster; whether they made a version or only a mark shows at the next look.
                Err(Denial::Conflict) => {}
                Err(denial) => return Err(denial),
                Ok(()) => {
                    self.release.events().policy_changed(&next, admin);
                    return Ok(ChangedPolicy { policy: next, warnings: document.warnings });
                }
            }
        }
        Err(Denial::Conflict)
    }

    /// Deletes a policy that no key is under.
    pub(crate) async fn delete_policy(&self, admin: &Admin, id: PolicyId) -> Result<(), Denial> {
        admin.require(Permission::PoliciesDelete)?;
        let work = async move |this: Self, admin: Admin| {
            let about = |version| AuditRecord {
                decision: AuditDecision::PolicyDeleted.into(),
                policy_id: id.to_string(),
                policy_version: version,
                ..AuditRecord::default()
            };
            let audit = this.release.audit();
            let last = std::sync::atomic::AtomicU32::new(0);
            let record_it = async |version| {
                audit.administered(&admin, about(version)).await?;
                last.store(version, std::sync::atomic::Ordering::Relaxed);
                Ok(())
            };
            let deleted = this.release.records().delete_policy(id, record_it).await;
            if let (Err(denial), version @ 1..) = (&deleted, last.into_inner()) {
                audit.undone(&admin, about(version), denial).await;
            }
            deleted
        };
        self.to_its_end(admin, work).await
    }
}

fn about(policy: &PolicyRecord) -> AuditRecord {
    AuditRecord {
        decision: AuditDecision::PolicyChanged.into(),
        policy_id: policy.policy_id.to_string(),
        policy_version: policy.version,
        ..AuditRecord::default()
    }
}
