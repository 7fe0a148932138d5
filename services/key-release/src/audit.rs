//! Audit records of this service. What anybody can cause is bounded per second: a flood of bad tokens must not fill the
//! stream and so stop every release.

use std::{net::IpAddr, time::Duration};

use keyferry_bus::AuditLog;
use keyferry_contract::release::v1::{AuditDecision, AuditRecord, ClaimResult};
use keyferry_key_transfer_policy::Comparison;
use keyferry_lifecycle::clock;
use keyferry_telemetry::names::{self, AUDIT_FAILURES};
use prost_types::Timestamp;
use tracing::Instrument;

use crate::{Denial, budget::Budget, case::Case, users::Admin};

/// Refusals of callers nobody vouches for, recorded per second; more are counted as a metric and not recorded.
const ANONYMOUS_PER_SECOND: u32 = 20;
/// Failed attempts of would-be administrators, recorded per second.
const INTRUDERS_PER_SECOND: u32 = 5;
/// A record waits for those before it, each of which may take five seconds on a stream that is gone: without a bound the
/// last of many would wait for all of them, and its request with it.
const STORED_WITHIN: Duration = Duration::from_secs(8);
/// Characters of `wanted` and `got` kept; a measurement has 96.
const CLAIM_CHARACTERS_MAX: usize = 1024;

/// The audit log, and the bounds on what anybody can cause.
pub(crate) struct Audit {
    log: AuditLog,
    anonymous: Budget,
    /// Its own: a flood of bad tokens must not hide somebody who tries passwords.
    intruders: Budget,
    /// Its own again: whoever is locked out failed often before.
    lockouts: Budget,
}

/// Proof that the record of an allowed decision is stored.
pub(crate) struct Acknowledged(());

impl Audit {
    pub(crate) fn new(log: AuditLog) -> Self {
        Self {
            log,
            anonymous: Budget::new(ANONYMOUS_PER_SECOND),
            intruders: Budget::new(INTRUDERS_PER_SECOND),
            lockouts: Budget::new(INTRUDERS_PER_SECOND),
        }
    }

    /// Signs what was recorded for the last time; nothing can be recorded afterwards.
    pub(crate) async fn finish(&self) {
        self.log.finish().await;
    }

    /// A key is about to leave for a TD.
    pub(crate) async fn released(&self, case: &Case) -> Result<Acknowledged, Denial> {
        self.store(AuditRecord { decision: AuditDecision::Released.into(), ..draft(case) }).await
    }

    /// A release was refused. Stored as well as possible: the refusal stands either way. Whether it was stored.
    pub(crate) async fn denied(&self, case: &Case, denial: &Denial) -> bool {
        // With an authenticated token somebody is known; without, anybody can cause this.
        if case.token_id.is_empty() && !self.anonymous.take() {
            tracing::debug!(reason = denial.reason().label(), "more anonymous refusals than are recorded");
            return false;
        }
        let record = AuditRecord {
            decision: AuditDecision::Denied.into(),
            reason: denial.reason().into(),
            detail: denial.to_string(),
            ..draft(case)
        };
        self.store(record).await.is_ok()
    }

    /// An administrator is about to do something.
    pub(crate) async fn administered(&self, admin: &Admin, record: AuditRecord) -> Result<Acknowledged, Denial> {
        self.allowed(AuditRecord { actor: admin.name().to_owned(), client_address: address(admin.client()), ..record }).await
    }

    /// Something allowed is about to be done.
    pub(crate) async fn allowed(&self, record: AuditRecord) -> Result<Acknowledged, Denial> {
        self.store(AuditRecord { at: Some(now()), ..record }).await
    }

    /// What was recorded as about to be done was not done.
    pub(crate) async fn undone(&self, admin: &Admin, about: AuditRecord, denial: &Denial) {
        let record = AuditRecord {
            decision: AuditDecision::Denied.into(),
            reason: denial.reason().into(),
            detail: format!("not done: {denial}"),
            ..about
        };
        let _counted = self.administered(admin, record).await;
    }

    /// Somebody without a valid credential called an administrator's method, or may not try any more.
    pub(crate) async fn intruded(&self, denial: &Denial, client: Option<IpAddr>) {
        let budget = if matches!(denial, Denial::LockedOut) { &self.lockouts } else { &self.intruders };
        if !budget.take() {
            return;
        }
        let record = AuditRecord {
            at: Some(now()),
            decision: AuditDecision::Denied.into(),
            reason: denial.reason().into(),
            detail: denial.to_string(),
            client_address: address(client),
            ..AuditRecord::default()
        };
        let _counted = self.store(record).await;
    }

    async fn store(&self, record: AuditRecord) -> Result<Acknowledged, Denial> {
        let span = keyferry_telemetry::spans::step(names::RECORD_AUDIT);
        let stored = tokio::time::timeout(STORED_WITHIN, self.log.record(record).instrument(span)).await;
        let denial = match stored {
            Ok(Ok(_)) => return Ok(Acknowledged(())),
            Ok(Err(error)) => Denial::Audit(error),
            Err(_elapsed) => Denial::AuditTooSlow,
        };
        AUDIT_FAILURES.add(1, &[(names::STREAM, "AUDIT")]);
        tracing::error!(error = %denial, "an audit record was not stored");
        Err(denial)
    }
}

fn address(client: Option<IpAddr>) -> String {
    client.map(|client| client.to_string()).unwrap_or_default()
}

fn draft(case: &Case) -> AuditRecord {
    AuditRecord {
        record_id: case.release_id.to_string(),
        at: Some(now()),
        td_id: case.td_id.as_ref().map(ToString::to_string).unwrap_or_default(),
        token_id: case.token_id.clone(),
        attestation_id: case.attestation_id.clone(),
        key_id: case.key_id.to_string(),
        policy_id: case.policy_id.clone(),
        policy_version: case.policy_version,
        trust_anchor: case.trust_anchor.clone(),
        tcb_status: case.tcb_status.clone(),
        claims: case.comparisons.iter().map(claim_result).collect(),
        mode: case.mode.label().to_owned(),
        ..AuditRecord::default()
    }
}

/// For the audit and for administrators.
pub(crate) fn claim_result(comparison: &Comparison) -> ClaimResult {
    let cut = |text: &str| text.chars().take(CLAIM_CHARACTERS_MAX).collect();
    ClaimResult {
        claim: comparison.claim.to_owned(),
        wanted: cut(&comparison.wanted),
        got: cut(&comparison.got),
        matched: comparison.matched,
    }
}

/// The clock's time as the contract writes it.
pub(crate) fn now() -> Timestamp {
    let now = clock::timestamp();
    Timestamp { seconds: now.as_second(), nanos: now.subsec_nanosecond() }
}
