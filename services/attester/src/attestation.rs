//! One attestation: nonce, quote, event, and the wait for a token that proves to be ours.

use std::sync::Arc;
use std::time::Duration;

use keyferry_bus::Bus;
use keyferry_contract::attestation::v1::{
    AttestationRejected, Evidence, EvidenceCollected, GetNonceRequest, GetNonceResponse, TokenIssued, VerifierNonce,
};
use keyferry_contract::{Decision, QUOTE_BYTES_MAX, Reason, Rpc, USER_DATA_BYTES_MAX};
use keyferry_identifiers::{AttestationId, PolicyId, TdId};
use keyferry_lifecycle::clock;
use keyferry_tdx_quote::report_data;
use keyferry_telemetry::{SpanAttributes, names, spans};
use prost_types::Timestamp;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::{Instrument, Span};

use crate::Refusal;
use crate::config::Limits;
use crate::nonce;
use crate::proof::{Expected, OwnToken};
use crate::quoting::Quoting;
use crate::results::{Answer, Results, Waiting};
use crate::verifier::Verifier;

/// As the contract bounds them.
const POLICY_IDS_MAX: usize = 10;
/// A verifier answers a nonce in milliseconds.
const NONCE_WITHIN: Duration = Duration::from_secs(5);
/// Asking for keys that cannot be had is repeated in this rhythm.
const OUTAGE_PAUSE: Duration = Duration::from_millis(500);

/// Makes evidence and obtains tokens for it.
pub(crate) struct Attestations {
    bus: Bus,
    td_id: TdId,
    quoting: Quoting,
    results: Results,
    verifier: Verifier,
    permits: Arc<Semaphore>,
}

/// A token for the caller, with the attestation it came from.
pub(crate) struct Attested {
    pub(crate) attestation_id: AttestationId,
    pub(crate) token: OwnToken,
}

impl Attestations {
    pub(crate) fn new(bus: Bus, td_id: TdId, quoting: Quoting, results: Results, verifier: Verifier, limits: &Limits) -> Self {
        let permits = Arc::new(Semaphore::new(limits.concurrent_attestations));
        Self { bus, td_id, quoting, results, verifier, permits }
    }

    /// A token that binds `user_data` to this TD, by `deadline`.
    pub(crate) async fn token(&self, user_data: Vec<u8>, policy_ids: Vec<String>, deadline: Instant) -> Result<Attested, Refusal> {
        let span = spans::step(names::ATTEST);
        let started = Instant::now();
        let result = self.attest(user_data, policy_ids, deadline, &span).instrument(span.clone()).await;
        let outcome = record(&span, result.as_ref().err());
        names::ATTESTATION_DURATION.record(started.elapsed().as_secs_f64(), &[(names::APPRAISAL_RESULT, outcome)]);
        result
    }

    async fn attest(&self, user_data: Vec<u8>, policy_ids: Vec<String>, deadline: Instant, span: &Span) -> Result<Attested, Refusal> {
        check_user_data(&user_data)?;
        check_policy_ids(&policy_ids)?;
        let _permit = self.permits.try_acquire().map_err(|_| Refusal::new(Reason::Overloaded, "too many attestations are under way"))?;
        let attestation_id = AttestationId::random();
        span.attribute(names::ATTESTATION_ID, attestation_id.to_string().as_str());
        span.attribute(names::TD_ID, self.td_id.as_str());
        let nonce = self.nonce(deadline).await?;
        let evidence = self.evidence(user_data, nonce, deadline).await?;
        let expected = self.expected(attestation_id, &evidence)?;
        let mut waiting = self.results.wait_for(attestation_id, deadline);
        let event = EvidenceCollected {
            attestation_id: attestation_id.to_string(),
            td_id: self.td_id.to_string(),
            evidence: Some(evidence),
            policy_ids,
            collected_at: Some(Timestamp { seconds: i64::try_from(clock::now()).unwrap_or(i64::MAX), nanos: 0 }),
        };
        self.bus.publish_within(&self.td_id, &event, left(deadline)).await?;
        let waited = Instant::now();
        // The deadline holds even while answers pour in or keys are being fetched.
        let token = tokio::time::timeout_at(deadline, self.own_token(&mut waiting, &expected, deadline)).await;
        names::ATTESTATION_STEP_DURATION.record(waited.elapsed().as_secs_f64(), &[(names::STEP, "wait_for_token")]);
        let token = token.unwrap_or_else(|_| Err(Refusal::deadline()))?;
        span.attribute(names::TOKEN_ID, token.token.token_id());
        span.attribute(names::TRUST_ANCHOR, token.token.trust_anchor());
        Ok(Attested { attestation_id, token })
    }

    /// Evidence over the caller's nonce, or over a fresh one of the verifier.
    pub(crate) async fn evidence_for(
        &self,
        user_data: Vec<u8>,
        nonce: Option<VerifierNonce>,
        deadline: Instant,
    ) -> Result<Evidence, Refusal> {
        check_user_data(&user_data)?;
        let _permit = self.permits.try_acquire().map_err(|_| Refusal::new(Reason::Overloaded, "too many attestations are under way"))?;
        let nonce = match nonce {
            Some(nonce) => nonce::check(nonce, Reason::RequestMalformed)?,
            None => self.nonce(deadline).await?,
        };
        self.evidence(user_data, nonce, deadline).await
    }

    async fn nonce(&self, deadline: Instant) -> Result<VerifierNonce, Refusal> {
        let started = Instant::now();
        let within = left(deadline).min(NONCE_WITHIN);
        let answer: GetNonceResponse = self.bus.request(Rpc::TokenBrokerNonce, &GetNonceRequest {}, within).await?;
        names::ATTESTATION_STEP_DURATION.record(started.elapsed().as_secs_f64(), &[(names::STEP, "nonce")]);
        let nonce = answer.nonce.ok_or_else(|| Refusal::new(Reason::VerifierUnavailable, "the verifier answered without a nonce"))?;
        nonce::check(nonce, Reason::VerifierUnavailable)
    }

    async fn evidence(&self, user_data: Vec<u8>, nonce: VerifierNonce, deadline: Instant) -> Result<Evidence, Refusal> {
        let data = report_data(&nonce.val, &nonce.iat, &user_data);
        let quote = tokio::time::timeout_at(deadline, self.quoting.quote(data)).await;
        let quote = quote.map_err(|_| Refusal::new(Reason::DeadlineExceeded, "the platform made no quote before the deadline"))??;
        if quote.len() > QUOTE_BYTES_MAX {
            return Err(Refusal::new(Reason::PlatformUnavailable, "the platform's quote is longer than any that is supported"));
        }
        Ok(Evidence { quote, nonce: Some(nonce), user_data, event_log: Vec::new() })
    }

    fn expected(&self, attestation_id: AttestationId, evidence: &Evidence) -> Result<Expected, Refusal> {
        let nonce = evidence.nonce.clone().ok_or_else(|| Refusal::new(Reason::NonceMissing, "the evidence has no nonce"))?;
        let report_data = report_data(&nonce.val, &nonce.iat, &evidence.user_data);
        Ok(Expected { attestation_id, td_id: self.td_id.clone(), nonce, user_data: evidence.user_data.clone(), report_data })
    }

    /// Waits until an answer proves to be ours. A rejection ends the wait: it releases nothing. What proves to be somebody
    /// else's is counted and ignored.
    async fn own_token(&self, waiting: &mut Waiting, expected: &Expected, deadline: Instant) -> Result<OwnToken, Refusal> {
        while let Some(answer) = waiting.next().await {
            let issued = match answer {
                Answer::Issued(issued) => issued,
                Answer::Rejected(rejected) => return Err(rejection(&rejected)),
            };
            if let Some(token) = self.judge(&issued, expected, deadline).await? {
                return Ok(token);
            }
        }
        Err(Refusal::deadline())
    }

    async fn judge(&self, issued: &TokenIssued, expected: &Expected, deadline: Instant) -> Result<Option<OwnToken>, Refusal> {
        loop {
            match self.verifier.judge(&issued.token, expected).await {
                Ok(Ok(token)) => return Ok(Some(token)),
                Ok(Err(foreign)) => {
                    let reason = foreign.reason().label();
                    names::RESULTS_IGNORED.add(1, &[(names::REASON, reason)]);
                    tracing::warn!(keyferry.reason = reason, "ignored a token that is not the verifier's for our evidence: {foreign}");
                    return Ok(None);
                }
                // Without keys nobody can judge it; the verifier may be restarting.
                Err(outage) if left(deadline) < OUTAGE_PAUSE => return Err(outage),
                Err(_) => tokio::time::sleep(OUTAGE_PAUSE).await,
            }
        }
    }
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// The span and the metric tell refusal from outage.
fn record(span: &Span, refusal: Option<&Refusal>) -> &'static str {
    let Some(refusal) = refusal else { return "accepted" };
    let decision = refusal.reason.decision();
    span.decision(decision.label(), Some(refusal.reason.label()));
    match decision {
        Decision::Denied => "rejected",
        Decision::Error => {
            span.failed(refusal.reason.label());
            "error"
        }
    }
}

/// The advice is the table's: whatever the bus carried as a text stays there.
fn rejection(rejected: &AttestationRejected) -> Refusal {
    let reason = Reason::try_from(rejected.reason).ok().filter(|reason| *reason != Reason::Unspecified).unwrap_or(Reason::Internal);
    Refusal::new(reason, format!("the verifier rejected the evidence: {}", reason.advice().text))
}

fn check_user_data(user_data: &[u8]) -> Result<(), Refusal> {
    if user_data.len() > USER_DATA_BYTES_MAX {
        let detail = format!("user_data has {} bytes: at most {USER_DATA_BYTES_MAX} are allowed", user_data.len());
        return Err(Refusal::new(Reason::RequestTooLarge, detail));
    }
    Ok(())
}

fn check_policy_ids(policy_ids: &[String]) -> Result<(), Refusal> {
    if policy_ids.len() > POLICY_IDS_MAX {
        let detail = format!("policy_ids has {} entries: at most {POLICY_IDS_MAX} are allowed", policy_ids.len());
        return Err(Refusal::new(Reason::RequestTooLarge, detail));
    }
    for id in policy_ids {
        PolicyId::parse(id).map_err(|error| Refusal::new(Reason::RequestMalformed, format!("policy_ids: {error}")))?;
    }
    Ok(())
}
