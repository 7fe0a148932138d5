//! The decision: token, policy, key, wrap, audit; in this order, and every step takes what the step before made.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use keyferry_attestation_token::{AuthenticToken, Nonce};
use keyferry_bus::{AuditLog, Bus};
use keyferry_contract::Reason;
use keyferry_identifiers::{KeyId, PolicyId, ReleaseId};
use keyferry_key_transfer_policy::{AttestationType, Comparison, Policy, PolicyDenial, evaluate, explain, explain_for};
use keyferry_kms::Kms;
use keyferry_lifecycle::clock;
use keyferry_sealed_store::StoreKey;
use keyferry_telemetry::{
    SpanAttributes,
    names::{self, RELEASE_DECISIONS, RELEASE_DURATION, RELEASE_STEP_DURATION, RELEASE_TOKEN_AGE, SpanName},
    spans,
};
use keyferry_trust_authority::{Evidence, TrustAuthority};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, Span};

use crate::{
    Denial,
    audit::Audit,
    budget::Budget,
    case::{Case, Mode},
    events::Events,
    fetched::{Keys, Recipient, Releasable, Wrapped},
    fleet::Fleet,
    issuers::Issuers,
    records::{KeyRecord, Records, Rule},
    users::{Admin, Permission},
};

/// Transfers decided at the same time. Each waits for KMS, store and audit; more only grow the queue in front of them.
const TRANSFERS_MAX: usize = 256;
/// Nonces handed out per second: each may cost a call of a metered service.
const NONCES_PER_SECOND: u32 = 50;
/// All of one decision. Longer than the KMS's own limit, shorter than a drain.
const DECISION_WITHIN: Duration = Duration::from_secs(18);

/// What a release is made of.
pub struct Parts {
    /// Records and events.
    pub bus: Bus,
    /// Every decision is recorded here before it has any effect.
    pub audit: AuditLog,
    /// Seals the records, and makes the fingerprints.
    pub store_key: Arc<StoreKey>,
    /// Whose tokens count.
    pub issuers: Arc<Issuers>,
    /// Where the keys are.
    pub kms: Arc<dyn Kms>,
    /// For background-check mode.
    pub verifier: Option<TrustAuthority>,
}

/// Decides releases. Cheap to clone.
#[derive(Clone)]
pub struct Release(Arc<Inner>);

struct Inner {
    issuers: Arc<Issuers>,
    records: Records,
    keys: Keys,
    verifier: Option<TrustAuthority>,
    audit: Audit,
    events: Events,
    fleet: Fleet,
    transfers: Semaphore,
    nonces: Budget,
    /// Work that goes on without its caller; a drain waits for it.
    detached: TaskTracker,
}

/// What the caller shows.
pub(crate) enum Credential {
    /// Passport mode: a compact JWS.
    Token(String),
    /// Background-check mode: evidence, and of what type the caller says it is.
    Evidence(AttestationType, Box<Evidence>),
}

/// A decided, recorded release.
pub(crate) struct Released {
    pub(crate) release_id: ReleaseId,
    pub(crate) key: Releasable,
}

/// How a token fares against a policy.
pub(crate) struct Explanation {
    /// Id and version, if it is a stored one.
    pub(crate) policy: Option<(PolicyId, u32)>,
    pub(crate) reason: Option<Reason>,
    pub(crate) comparisons: Vec<Comparison>,
}

/// Which policy is to be explained.
pub(crate) enum Asked {
    /// The one that governs this key.
    Key(KeyId),
    /// A stored one; `None`: its current version.
    Policy(PolicyId, Option<u32>),
    /// One that is not stored.
    Document(String),
}

impl Release {
    /// Puts the parts together; nothing is connected or read yet.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(Inner {
            issuers: parts.issuers,
            records: Records::open(&parts.bus, &parts.store_key),
            keys: Keys::new(parts.kms, &parts.store_key),
            verifier: parts.verifier,
            audit: Audit::new(parts.audit),
            fleet: Fleet::new(&parts.bus),
            events: Events::new(parts.bus),
            transfers: Semaphore::new(TRANSFERS_MAX),
            nonces: Budget::new(NONCES_PER_SECOND),
            detached: TaskTracker::new(),
        }))
    }

    /// Waits until decisions under way are made and recorded, signs the audit for the last time, and waits for their events.
    pub async fn finish(&self) {
        self.0.detached.close();
        self.0.detached.wait().await;
        self.0.audit.finish().await;
        self.0.events.finish().await;
    }

    /// Whether the KMS answers now; also keeps a connection to it warm.
    pub async fn kms_health(&self) -> Result<(), keyferry_kms::KmsError> {
        self.0.keys.health().await
    }

    pub(crate) fn records(&self) -> &Records {
        &self.0.records
    }
    pub(crate) fn keys(&self) -> &Keys {
        &self.0.keys
    }
    pub(crate) fn audit(&self) -> &Audit {
        &self.0.audit
    }
    pub(crate) fn events(&self) -> &Events {
        &self.0.events
    }

    /// Decides one transfer and records the decision. A caller that goes away does not end it: a refusal is recorded even
    /// if nobody waits for it any more.
    pub(crate) async fn transfer(&self, key_id: KeyId, credential: Credential) -> Result<Released, Denial> {
        let inner = Arc::clone(&self.0);
        self.to_its_end(async move { inner.transfer(key_id, credential).await }).await
    }

    /// Does `work` to its end, though its caller may go away in the middle: nothing is left half done or unrecorded.
    pub(crate) async fn to_its_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Denial>> + Send + 'static,
    ) -> Result<T, Denial> {
        let done = self.0.detached.spawn(work.instrument(Span::current()));
        done.await.map_err(|_| Denial::Internal("the work ended without a result"))?
    }

    /// A nonce of the verifier, for background-check mode.
    pub(crate) async fn nonce(&self) -> Result<Nonce, Denial> {
        let verifier = self.0.verifier.as_ref().ok_or(Denial::NoVerifier)?;
        if !self.0.nonces.take() {
            return Err(Denial::RateLimited);
        }
        let span = spans::http_client("GET", "/appraisal/v2/nonce", verifier.host());
        let nonce = tokio::time::timeout(DECISION_WITHIN, verifier.nonce().instrument(span)).await;
        Ok(nonce.map_err(|_| Denial::DeadlineExceeded)??)
    }

    /// What a client needs to attest for a key: the type of evidence its policy asks for, and a nonce.
    pub(crate) async fn challenge(&self, key_id: KeyId) -> Result<(AttestationType, Nonce), Denial> {
        let key = self.0.records.key(key_id).await?;
        let rule = self.0.records.rule(&key).await?;
        Ok((rule.policy.attestation_type(), self.nonce().await?))
    }

    /// For administrators: every comparison of a token with a policy.
    pub(crate) async fn explain(&self, admin: &Admin, asked: Asked, token: &str) -> Result<Explanation, Denial> {
        admin.require(Permission::PoliciesSearch)?;
        let records = &self.0.records;
        let rule = match &asked {
            Asked::Key(id) => Ok(records.rule(&records.key(*id).await?).await?),
            Asked::Policy(id, None) => Ok(records.policy(*id).await?.rule()?),
            Asked::Policy(id, Some(version)) => Ok(records.policy_version(*id, *version).await?.rule()?),
            Asked::Document(document) => Err(Policy::parse(document)?),
        };
        let token = self.0.verify(token).await?;
        let (policy, stored) = match &rule {
            Ok(rule) => (&*rule.policy, Some((rule.policy_id, rule.version))),
            Err(policy) => (policy, None),
        };
        let (key_id, comparisons) = match asked {
            Asked::Key(id) => (id, explain_for(policy, &token, id)),
            Asked::Policy(..) | Asked::Document(_) => (KeyId::random(), explain(policy, &token)),
        };
        let reason = evaluate(policy, token, key_id).err().map(|denial| Denial::from(denial).reason());
        Ok(Explanation { policy: stored, reason, comparisons })
    }
}

impl Inner {
    async fn transfer(&self, key_id: KeyId, credential: Credential) -> Result<Released, Denial> {
        let started = Instant::now();
        let mode = match credential {
            Credential::Token(_) => Mode::Passport,
            Credential::Evidence(..) => Mode::BackgroundCheck,
        };
        let mut case = Case::new(key_id, mode);
        let result = match self.transfers.try_acquire() {
            Ok(_turn) => self.decide_and_record(&mut case, credential).await,
            Err(_) => Err(Denial::Overloaded),
        };
        observe(&case, result.as_ref().err(), started);
        result
    }

    async fn decide_and_record(&self, case: &mut Case, credential: Credential) -> Result<Released, Denial> {
        let decision = tokio::time::timeout(DECISION_WITHIN, self.decide(case, credential)).await;
        match decision.unwrap_or(Err(Denial::DeadlineExceeded)) {
            Ok(wrapped) => {
                // The answer exists only once the record does.
                let key = wrapped.recorded(self.audit.released(case).await?);
                self.events.released(case);
                Ok(Released { release_id: case.release_id, key })
            }
            Err(denial) => {
                if self.audit.denied(case, &denial).await {
                    self.events.denied(case, &denial);
                }
                Err(denial)
            }
        }
    }

    /// `AuthenticToken -> Permitted -> Fetched -> Wrapped`.
    async fn decide(&self, case: &mut Case, credential: Credential) -> Result<Wrapped, Denial> {
        // First the key: whoever asks for one that is not there learns that, and nothing is verified for it.
        let (mut key, mut rule) = self.governing(case).await?;
        let token = match credential {
            Credential::Token(jwt) => self.verify(&jwt).await?,
            Credential::Evidence(kind, evidence) => {
                let wanted = rule.policy.attestation_type();
                if kind != wanted {
                    return Err(Denial::AttestationType { wanted: wanted.label(), got: kind.label() });
                }
                let token = self.attest(*evidence, kind, &rule).await?;
                // The verifier takes seconds: what governs the key now decides, not what did when it was asked.
                (key, rule) = self.governing(case).await?;
                token
            }
        };
        case.identified(&token);
        let permitted = in_step(names::EVALUATE_POLICY, || evaluate(&rule.policy, token, case.key_id));
        case.comparisons = permitted.as_ref().map_or_else(PolicyDenial::comparisons, |permitted| permitted.comparisons()).to_vec();
        let permitted = permitted?;
        let recipient = Recipient::of(&permitted)?;
        self.fleet.refuse_revoked(permitted.token()).await?;
        let fetched = self.keys.fetch(permitted, &recipient, &key).await?;
        in_step(names::WRAP_KEY, || fetched.wrap(&recipient))
    }

    async fn governing(&self, case: &mut Case) -> Result<(KeyRecord, Rule), Denial> {
        let key = self.records.key(case.key_id).await?;
        let rule = self.records.rule(&key).await?;
        case.governed(&rule);
        Ok((key, rule))
    }

    async fn verify(&self, jwt: &str) -> Result<AuthenticToken, Denial> {
        let now = clock::now();
        let token = during_step(names::VERIFY_TOKEN, self.issuers.authenticate(jwt, now)).await?;
        let age = u32::try_from(now.saturating_sub(token.issued_at())).unwrap_or(u32::MAX);
        RELEASE_TOKEN_AGE.record(f64::from(age), &[]);
        Ok(token)
    }

    /// Has evidence appraised. The verifier's answer counts only as a token that verifies and holds this evidence's data.
    async fn attest(&self, mut evidence: Evidence, kind: AttestationType, rule: &Rule) -> Result<AuthenticToken, Denial> {
        let verifier = self.verifier.as_ref().ok_or(Denial::NoVerifier)?;
        if evidence.quote.is_empty() {
            return Err(Denial::EvidenceIncomplete);
        }
        // Without it the same evidence could be shown for ever.
        if evidence.nonce.as_ref().is_none_or(|nonce| nonce.val.is_empty() || nonce.iat.is_empty() || nonce.signature.is_empty()) {
            return Err(Denial::NonceMissing);
        }
        evidence.policy_ids = rule.policy.policy_ids().to_vec();
        let span = spans::http_client("POST", "/appraisal/v2/attest", verifier.host());
        let jwt = match kind {
            AttestationType::Tdx => verifier.attest(&evidence).instrument(span).await?,
            AttestationType::Sgx => verifier.attest_enclave(&evidence).instrument(span).await?,
        };
        let token = self.verify(&jwt).await?;
        if token.holds(&evidence.user_data) { Ok(token) } else { Err(Denial::TokenForeign) }
    }
}

fn in_step<T>(name: SpanName, step: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let result = spans::step(name).in_scope(step);
    RELEASE_STEP_DURATION.record(started.elapsed().as_secs_f64(), &[(names::STEP, name.as_str())]);
    result
}

async fn during_step<T>(name: SpanName, step: impl Future<Output = T>) -> T {
    let started = Instant::now();
    let result = step.instrument(spans::step(name)).await;
    RELEASE_STEP_DURATION.record(started.elapsed().as_secs_f64(), &[(names::STEP, name.as_str())]);
    result
}

fn observe(case: &Case, denial: Option<&Denial>, started: Instant) {
    let decision = denial.map_or("released", |denial| denial.decision().label());
    let reason = denial.map(|denial| denial.reason().label());
    Span::current().decision(decision, reason);
    let labels = [(names::DECISION, decision), (names::REASON, reason.unwrap_or_default()), (names::MODE, case.mode.label())];
    RELEASE_DECISIONS.add(1, &labels);
    RELEASE_DURATION.record(started.elapsed().as_secs_f64(), &labels[..1]);
    match denial {
        None => tracing::info!(key_id = %case.key_id, token_id = case.token_id, release_id = %case.release_id, "key released"),
        Some(denial) => {
            tracing::info!(key_id = %case.key_id, token_id = case.token_id, release_id = %case.release_id, reason, detail = %denial, "key not released");
        }
    }
}
