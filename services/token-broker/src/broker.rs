//! One attestation, from evidence to an answer that is recorded and remembered.
//!
//! The order is: recognise the nonce, look whether it was redeemed, check its age, have the [`Verifier`] judge, write the
//! audit record, redeem the nonce with the answer, and only then hand the answer out. A crash before the redemption leaves
//! an audit record of a token nobody got; a crash after it is repaired by the redelivery, which finds the same token. No
//! record, no token: an audit stream that does not answer is an outage.

use std::{sync::Arc, time::Instant};

use keyferry_attestation_token::Algorithm;
use keyferry_bus::AuditLog;
use keyferry_contract::{
    Reason,
    attestation::v1::TokenIssued,
    release::v1::{AuditDecision, AuditRecord},
};
use keyferry_lifecycle::clock;
use keyferry_telemetry::{SpanAttributes, names, spans};
use prost_types::Timestamp;
use tracing::{Instrument, Span};

use crate::{
    evidence::Evidence,
    fleet::Fleet,
    nonce::Nonce,
    redemption::Redemptions,
    refusal::Refusal,
    verifier::{Attested, Verifier},
};

/// What every surface shares.
#[derive(Debug)]
pub(crate) struct Broker {
    verifier: Arc<dyn Verifier>,
    redemptions: Redemptions,
    audit: AuditLog,
    fleet: Fleet,
}

impl Broker {
    /// Ready to serve.
    pub(crate) fn new(verifier: Arc<dyn Verifier>, redemptions: Redemptions, audit: AuditLog, fleet: Fleet) -> Self {
        Self { verifier, redemptions, audit, fleet }
    }

    /// Signs what was recorded for the last time; nothing can be recorded afterwards.
    pub(crate) async fn finish(&self) {
        self.audit.finish().await;
    }

    /// A fresh nonce, and when it ends (Unix seconds).
    pub(crate) async fn nonce(&self) -> Result<(Nonce, u64), Refusal> {
        self.verifier.nonce().await
    }

    /// The verifier's JSON Web Key Set.
    pub(crate) async fn jwks(&self) -> Result<String, Refusal> {
        self.verifier.jwks().await
    }

    /// A revocation list of the verifier's signing chain, by name.
    pub(crate) fn revocation_list(&self, name: &str) -> Option<Vec<u8>> {
        self.verifier.revocation_list(name)
    }

    /// The `iss` of tokens that are signed here.
    pub(crate) fn issuer(&self) -> Option<String> {
        self.verifier.issuer().map(str::to_owned)
    }

    /// The algorithms that a token can be asked for.
    pub(crate) fn algorithms(&self) -> Vec<Algorithm> {
        self.verifier.algorithms()
    }

    /// Answers evidence. A denial is in the audit stream when this returns; an outage decided nothing.
    pub(crate) async fn attest(&self, evidence: Evidence) -> Result<TokenIssued, Refusal> {
        let subject = Subject::of(&evidence);
        let started = Instant::now();
        let outcome = self.decide(evidence, &subject).await;
        names::ATTESTATION_STEP_DURATION.record(started.elapsed().as_secs_f64(), &[(names::STEP, "appraise")]);
        match outcome {
            Ok(answer) => Ok(answer),
            Err(refusal) => Err(self.refuse(refusal, &subject).await),
        }
    }

    /// Counts evidence that was not looked at.
    pub(crate) fn count_undecided(&self, refusal: &Refusal) {
        self.count("error", "", refusal.reason.label());
        Span::current().decision("error", Some(refusal.reason.label()));
        tracing::debug!(keyferry.reason = refusal.reason.label(), detail = refusal.detail, "evidence was not looked at");
    }

    /// Records a refusal that was made before there was anything to appraise. Returns what to tell the caller.
    pub(crate) async fn refuse(&self, refusal: Refusal, subject: &Subject) -> Refusal {
        self.count(if refusal.is_outage() { "error" } else { "rejected" }, "", refusal.reason.label());
        let span = Span::current();
        span.decision(refusal.reason.decision().label(), Some(refusal.reason.label()));
        if refusal.is_outage() {
            tracing::warn!(keyferry.reason = refusal.reason.label(), detail = refusal.detail, "evidence could not be judged");
            return refusal;
        }
        tracing::info!(keyferry.reason = refusal.reason.label(), detail = refusal.detail, "evidence was rejected");
        let record = AuditRecord {
            reason: refusal.reason.into(),
            detail: refusal.detail.clone(),
            claims: refusal.claims.clone(),
            ..subject.record(AuditDecision::AttestationRejected)
        };
        if let Err(unavailable) = self.record(record).await {
            return unavailable;
        }
        self.fleet.rejected(subject, refusal.reason).await;
        refusal
    }

    async fn decide(&self, evidence: Evidence, subject: &Subject) -> Result<TokenIssued, Refusal> {
        // Without a nonce there is nothing to redeem: the same evidence gets another token each time.
        let redemption = evidence.nonce.as_ref().map(|nonce| (nonce.key(), evidence.digest()));
        if let (Some(nonce), Some((nonce_key, digest))) = (&evidence.nonce, &redemption) {
            let nonce = self.verifier.recognise(nonce).inspect_err(|_| count_nonce("signature_invalid"))?;
            if let Some(answer) = self.redemptions.find(nonce_key, digest).await.inspect_err(count_replay)? {
                count_nonce("repeated");
                return Ok(answer);
            }
            self.verifier.check_age(&nonce, clock::now()).inspect_err(|_| count_nonce("expired"))?;
        }
        let attested = self.verifier.attest(evidence).await?;
        self.record(issued_record(subject, &attested, self.verifier.name())).await?;
        let mut answer = TokenIssued {
            attestation_id: subject.attestation_id.clone(),
            td_id: subject.td_id.clone(),
            token: attested.jwt.clone(),
            token_id: attested.token_id.clone(),
            expires_at: Some(timestamp(attested.expires_at)),
        };
        if let Some((nonce_key, digest)) = &redemption {
            answer = self.redemptions.redeem(nonce_key, digest, answer).await.inspect_err(count_replay)?;
            count_nonce("redeemed");
        }
        self.count("accepted", attested.tcb_status, "");
        let span = Span::current();
        span.attribute(names::TCB_STATUS, attested.tcb_status);
        span.attribute(names::TRUST_ANCHOR, attested.trust_anchor.as_str());
        span.attribute(names::TOKEN_ID, answer.token_id.as_str());
        tracing::info!(tcb_status = attested.tcb_status, token_id = answer.token_id, "a token was issued");
        self.fleet.attested(subject, &attested, &answer).await;
        Ok(answer)
    }

    fn count(&self, result: &str, tcb_status: &str, reason: &str) {
        let verifier = (names::VERIFIER, self.verifier.name());
        let labels = [(names::APPRAISAL_RESULT, result), (names::TCB_STATUS, tcb_status), (names::REASON, reason), verifier];
        names::APPRAISALS.add(1, &labels);
    }

    async fn record(&self, record: AuditRecord) -> Result<(), Refusal> {
        let recorded = self.audit.record(record).instrument(spans::step(names::RECORD_AUDIT)).await;
        recorded.map(|_| ()).map_err(|error| {
            names::AUDIT_FAILURES.add(1, &[(names::STREAM, "AUDIT")]);
            Refusal::new(Reason::AuditUnavailable, error.to_string())
        })
    }
}

/// Whom a decision is about, in the words of records and events.
#[derive(Clone, Debug, Default)]
pub(crate) struct Subject {
    /// Empty over HTTPS.
    pub(crate) td_id: String,
    /// Empty over HTTPS.
    pub(crate) attestation_id: String,
}

impl Subject {
    fn of(evidence: &Evidence) -> Self {
        Self {
            td_id: evidence.td_id.as_ref().map(ToString::to_string).unwrap_or_default(),
            attestation_id: evidence.attestation_id.as_ref().map(ToString::to_string).unwrap_or_default(),
        }
    }

    fn record(&self, decision: AuditDecision) -> AuditRecord {
        let mode = if self.td_id.is_empty() { "background_check" } else { "passport" };
        AuditRecord {
            at: Some(timestamp(clock::now())),
            decision: decision.into(),
            td_id: self.td_id.clone(),
            attestation_id: self.attestation_id.clone(),
            mode: mode.to_owned(),
            ..AuditRecord::default()
        }
    }
}

fn issued_record(subject: &Subject, attested: &Attested, verifier: &str) -> AuditRecord {
    let exceptions = if attested.exceptions.is_empty() { "none".to_owned() } else { attested.exceptions.join(",") };
    AuditRecord {
        token_id: attested.token_id.clone(),
        trust_anchor: attested.trust_anchor.clone(),
        tcb_status: attested.tcb_status.to_owned(),
        platform_hash: attested.platform_hash.clone(),
        detail: format!("mr_td={} exceptions={exceptions} verifier={verifier}", attested.mr_td),
        ..subject.record(AuditDecision::TokenIssued)
    }
}

/// Whole seconds as protobuf has them.
pub(crate) fn timestamp(seconds: u64) -> Timestamp {
    Timestamp { seconds: i64::try_from(seconds).unwrap_or(i64::MAX), nanos: 0 }
}

fn count_nonce(result: &str) {
    names::NONCE_VERIFICATIONS.add(1, &[(names::RESULT, result)]);
}

fn count_replay(refusal: &Refusal) {
    if refusal.reason == Reason::NonceReplayed {
        count_nonce("replayed");
    }
}
