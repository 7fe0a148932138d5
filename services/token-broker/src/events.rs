//! The bus surface: evidence in, tokens and rejections out; nonces and the key set on request.

use std::sync::Arc;

use keyferry_attestation_token::Shape;
use keyferry_bus::{Bus, DeadLetter, Delivery, Handler, Outcome, PublishError, RpcService, ServeError};
use keyferry_contract::{
    EVENT_LOG_BYTES_MAX, Event, QUOTE_BYTES_MAX, Reason, Rpc, USER_DATA_BYTES_MAX,
    attestation::v1::{
        AttestationRejected, EvidenceCollected, GetJwksRequest, GetJwksResponse, GetNonceRequest, GetNonceResponse, TokenIssued,
        VerifierNonce,
    },
};
use keyferry_identifiers::{AttestationId, PolicyId, TdId};
use keyferry_lifecycle::clock;
use keyferry_tdx_quote::Quote;
use keyferry_telemetry::{SpanAttributes, names};
use tracing::Span;

use crate::{
    broker::{Broker, Subject, timestamp},
    budget::RefusalBudget,
    evidence::Evidence,
    nonce::Nonce,
    refusal::Refusal,
};

/// The durable consumer of the evidence stream.
pub(crate) const DURABLE: &str = "token-broker";
/// Appraisal policies one piece of evidence may name.
pub(crate) const POLICY_IDS_MAX: usize = 10;
/// From this delivery on the TD is told about an outage; before, a short one is repaired by the redelivery unnoticed.
const OUTAGE_TOLD_FROM_DELIVERY: u32 = 3;

/// Answers evidence from the bus.
pub(crate) struct EvidenceHandler {
    /// Decides.
    pub(crate) broker: Arc<Broker>,
    /// Publishes.
    pub(crate) bus: Bus,
    /// Refusals of each TD.
    pub(crate) budget: RefusalBudget,
}

impl Handler<EvidenceCollected> for EvidenceHandler {
    async fn handle(&self, delivery: Delivery<EvidenceCollected>) -> Outcome {
        let Delivery { event, identity, delivery, .. } = delivery;
        let Ok(attestation_id) = AttestationId::parse(&event.attestation_id) else {
            return Outcome::Poison { reason: Reason::RequestMalformed, detail: "attestation_id is no UUID".to_owned() };
        };
        let span = Span::current();
        span.attribute(names::TD_ID, identity.as_str());
        span.attribute(names::ATTESTATION_ID, attestation_id.to_string().as_str());
        // What comes again was begun before, and may only lack the publishing of its answer.
        if delivery == 1
            && let Err(refusal) = self.budget.check(&identity, clock::now())
        {
            return self.turned_away(&identity, attestation_id, &refusal).await;
        }
        let answer = match evidence(event, &identity, attestation_id) {
            Ok(evidence) => self.broker.attest(evidence).await,
            Err(refusal) => Err(self.broker.refuse(refusal, &subject(&identity, attestation_id)).await),
        };
        match answer {
            Ok(token) => self.published(&identity, &token).await,
            Err(refusal) if refusal.is_outage() => {
                if delivery >= OUTAGE_TOLD_FROM_DELIVERY {
                    let _untold = self.reject(&identity, attestation_id, refusal.reason).await;
                }
                Outcome::Retry { after: None }
            }
            Err(refusal) => {
                self.budget.spend(&identity, clock::now());
                match self.reject(&identity, attestation_id, refusal.reason).await {
                    Ok(()) => Outcome::Done,
                    Err(_not_stored) => Outcome::Retry { after: None },
                }
            }
        }
    }

    /// A message nobody could read, or under another TD's subject: an audit record under the identity of its subject.
    async fn buried(&self, letter: &DeadLetter) -> bool {
        names::DEAD_LETTERS.add(1, &[(names::STREAM, EvidenceCollected::KIND.stream.name()), (names::REASON, letter.reason.label())]);
        // Given up after outages: nothing was decided, so there is no decision to record.
        if Refusal::new(letter.reason, "").is_outage() {
            return true;
        }
        let td_id = letter.subject.rsplit('.').next().unwrap_or_default();
        if let Ok(identity) = TdId::parse(td_id) {
            if self.budget.check(&identity, clock::now()).is_err() {
                return true;
            }
            self.budget.spend(&identity, clock::now());
        }
        let refusal = Refusal::new(letter.reason, letter.detail.clone());
        let recorded = self.broker.refuse(refusal, &Subject { td_id: td_id.to_owned(), attestation_id: String::new() }).await;
        !recorded.is_outage()
    }
}

impl EvidenceHandler {
    async fn published(&self, identity: &TdId, token: &TokenIssued) -> Outcome {
        match self.bus.publish(identity, token).await {
            Ok(_stored) => Outcome::Done,
            Err(error) => {
                tracing::warn!(%error, "a token could not be published; the redelivery publishes the same one");
                Outcome::Retry { after: None }
            }
        }
    }

    /// Nothing was decided, so nothing is recorded; the TD learns why, if it can be told.
    async fn turned_away(&self, identity: &TdId, attestation_id: AttestationId, refusal: &Refusal) -> Outcome {
        self.broker.count_undecided(refusal);
        let _untold = self.reject(identity, attestation_id, refusal.reason).await;
        Outcome::Done
    }

    async fn reject(&self, identity: &TdId, attestation_id: AttestationId, reason: Reason) -> Result<(), PublishError> {
        let rejected = AttestationRejected {
            attestation_id: attestation_id.to_string(),
            td_id: identity.to_string(),
            reason: reason.into(),
            advice: reason.advice().text.to_owned(),
        };
        let published = self.bus.publish(identity, &rejected).await;
        published.map(|_stored| ()).inspect_err(|error| tracing::warn!(%error, "a rejection could not be published"))
    }
}

fn subject(identity: &TdId, attestation_id: AttestationId) -> Subject {
    Subject { td_id: identity.to_string(), attestation_id: attestation_id.to_string() }
}

fn evidence(event: EvidenceCollected, identity: &TdId, attestation_id: AttestationId) -> Result<Evidence, Refusal> {
    let evidence = event.evidence.ok_or_else(|| Refusal::new(Reason::RequestMalformed, "evidence is missing"))?;
    let nonce = evidence.nonce.ok_or_else(|| Refusal::new(Reason::NonceMissing, "evidence.nonce is missing"))?;
    Ok(Evidence {
        quote: parse_quote(&evidence.quote)?,
        nonce: Some(Nonce { val: nonce.val, iat: nonce.iat, signature: nonce.signature }),
        user_data: bounded("user data", evidence.user_data, USER_DATA_BYTES_MAX)?,
        azure_runtime: None,
        event_log: bounded("event log", evidence.event_log, EVENT_LOG_BYTES_MAX)?,
        policy_ids: parse_policy_ids(&event.policy_ids)?,
        policy_must_match: true,
        algorithm: None,
        td_id: Some(identity.clone()),
        attestation_id: Some(attestation_id),
        shape: Shape::V2Nested,
    })
}

/// Parses a quote of any surface.
pub(crate) fn parse_quote(bytes: &[u8]) -> Result<Quote, Refusal> {
    const _: () = assert!(QUOTE_BYTES_MAX == keyferry_tdx_quote::layout::QUOTE_BYTES_MAX);
    if bytes.is_empty() {
        return Err(Refusal::new(Reason::RequestMalformed, "evidence.quote is missing"));
    }
    Ok(Quote::parse(bytes)?)
}

/// Data of any surface, within its bound in bytes.
pub(crate) fn bounded(what: &str, data: Vec<u8>, max: usize) -> Result<Vec<u8>, Refusal> {
    if data.len() > max {
        return Err(Refusal::new(Reason::RequestTooLarge, format!("{what} has {} bytes: {max} are allowed", data.len())));
    }
    Ok(data)
}

/// Policy ids of any surface.
pub(crate) fn parse_policy_ids(ids: &[String]) -> Result<Vec<PolicyId>, Refusal> {
    if ids.len() > POLICY_IDS_MAX {
        return Err(Refusal::new(Reason::RequestMalformed, format!("{} policy ids: {POLICY_IDS_MAX} are allowed", ids.len())));
    }
    let parsed = ids.iter().map(|id| PolicyId::parse(id)).collect::<Result<_, _>>();
    parsed.map_err(|error| Refusal::new(Reason::RequestMalformed, format!("policy_ids: {error}")))
}

/// Serves nonces and the key set on the bus until the service is stopped.
pub(crate) async fn serve_requests(bus: &Bus, broker: &Arc<Broker>, concurrency: usize) -> Result<RpcService, ServeError> {
    let mut service = bus.rpc_service(env!("CARGO_PKG_VERSION"), "Nonces and signing keys of the verifier").await?;
    let nonces = Arc::clone(broker);
    service
        .serve(Rpc::TokenBrokerNonce, concurrency, move |_: GetNonceRequest| {
            let broker = Arc::clone(&nonces);
            async move { broker.nonce().await.map(nonce_response).map_err(|refusal| refusal.reason) }
        })
        .await?;
    let keys = Arc::clone(broker);
    service
        .serve(Rpc::TokenBrokerJwks, concurrency, move |_: GetJwksRequest| {
            let broker = Arc::clone(&keys);
            async move {
                let jwks = broker.jwks().await.map_err(|refusal| refusal.reason)?;
                Ok(GetJwksResponse { jwks: jwks.into_bytes() })
            }
        })
        .await?;
    Ok(service)
}

fn nonce_response((nonce, ends): (Nonce, u64)) -> GetNonceResponse {
    let nonce = VerifierNonce { val: nonce.val, iat: nonce.iat, signature: nonce.signature };
    GetNonceResponse { nonce: Some(nonce), expires_at: Some(timestamp(ends)) }
}
