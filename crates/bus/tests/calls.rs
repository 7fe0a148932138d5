//! Calls, single events and the audit log over a real server.
#![allow(clippy::unwrap_used, clippy::panic, reason = "the helpers below are test code; clippy exempts only functions marked #[test]")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use keyferry_bus::{Bus, RequestError, Role, RpcService, SubscribeError};
use keyferry_contract::{
    Event, Reason, Rpc,
    attestation::v1::{AttestationRejected, GetNonceRequest, GetNonceResponse, TokenIssued, VerifierNonce},
    identifiers::TdId,
};
use keyferry_testkit::nats::NatsServer;
use prost::Message;
use tokio::sync::{Notify, Semaphore};

const PATIENCE: Duration = Duration::from_secs(30);

struct Site {
    server: NatsServer,
    broker: Bus,
    td: Bus,
    td_id: TdId,
}

impl Site {
    async fn start() -> Self {
        let server = NatsServer::start().await.unwrap_or_else(|failure| panic!("{failure}; {}", failure.hint()));
        let (td_id, credentials) = server.enrol("one").unwrap();
        let td = Bus::connect(&server.config(credentials), "attester").await.unwrap();
        let broker = server.connect(Role::TokenBroker).await.unwrap();
        Self { server, broker, td, td_id: TdId::parse(&td_id).unwrap() }
    }

    fn token(&self, token: &str) -> TokenIssued {
        TokenIssued { td_id: self.td_id.to_string(), token: token.to_owned(), ..TokenIssued::default() }
    }

    /// A nonce from the token-broker; asks again while the subscription is not known everywhere yet.
    async fn ask(&self, within: Duration) -> Result<GetNonceResponse, RequestError> {
        loop {
            match self.td.request(Rpc::TokenBrokerNonce, &GetNonceRequest {}, within).await {
                Err(RequestError::NoResponders { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
                other => return other,
            }
        }
    }
}

fn nonce(val: &[u8]) -> GetNonceResponse {
    GetNonceResponse { nonce: Some(VerifierNonce { val: val.to_vec(), ..VerifierNonce::default() }), expires_at: None }
}

async fn serve<H, F>(bus: &Bus, concurrency: usize, handler: H) -> RpcService
where
    H: Fn(GetNonceRequest) -> F + Send + Sync + 'static,
    F: Future<Output = Result<GetNonceResponse, Reason>> + Send + 'static,
{
    let mut service = bus.rpc_service("0.1.0", "nonces").await.unwrap();
    service.serve(Rpc::TokenBrokerNonce, concurrency, handler).await.unwrap();
    service
}

#[tokio::test(flavor = "multi_thread")]
async fn a_td_asks_and_is_answered_until_the_service_leaves() {
    let site = Site::start().await;
    let unanswered = site.td.request::<_, GetNonceResponse>(Rpc::TokenBrokerNonce, &GetNonceRequest {}, PATIENCE).await;
    assert!(matches!(unanswered, Err(RequestError::NoResponders { .. })), "{unanswered:?}");
    let service = serve(&site.broker, 4, |_| async { Ok(nonce(b"n")) }).await;
    assert_eq!(site.ask(PATIENCE).await.unwrap(), nonce(b"n"));
    service.stop().await;
    let gone =
        async { while site.td.request::<_, GetNonceResponse>(Rpc::TokenBrokerNonce, &GetNonceRequest {}, PATIENCE).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_and_a_panic_arrive_as_reasons_and_the_service_goes_on() {
    let site = Site::start().await;
    let calls = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&calls);
    let _service = serve(&site.broker, 4, move |_| {
        let call = counter.fetch_add(1, Ordering::SeqCst);
        async move {
            match call {
                0 => Err(Reason::RateLimited),
                1 => panic!("a bug"),
                _ => Ok(nonce(b"n")),
            }
        }
    })
    .await;
    assert!(matches!(site.ask(PATIENCE).await, Err(RequestError::Refused { reason: Reason::RateLimited, .. })));
    assert!(matches!(site.ask(PATIENCE).await, Err(RequestError::Refused { reason: Reason::Internal, .. })));
    assert!(site.ask(PATIENCE).await.is_ok());
    // Bytes that are no request are refused before the handler sees them.
    let answer = site.td.client().request(Rpc::TokenBrokerNonce.subject(), "\u{ff}\u{ff}".into()).await.unwrap();
    assert_eq!(answer.headers.unwrap().get("Nats-Service-Error").unwrap().as_str(), "request_malformed");
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_the_bound_is_refused_at_once() {
    let site = Site::start().await;
    let gate = Arc::new(Semaphore::new(0));
    let entered = Arc::new(Notify::new());
    let (opened, came) = (Arc::clone(&gate), Arc::clone(&entered));
    let _service = serve(&site.broker, 1, move |_| {
        let (opened, came) = (Arc::clone(&opened), Arc::clone(&came));
        async move {
            came.notify_one();
            let _permit = opened.acquire().await;
            Ok(nonce(b"n"))
        }
    })
    .await;
    let (first, second) = tokio::join!(site.ask(PATIENCE), async {
        entered.notified().await;
        let second = site.ask(PATIENCE).await;
        gate.add_permits(1);
        second
    });
    assert!(first.is_ok());
    assert!(matches!(second, Err(RequestError::Refused { reason: Reason::Overloaded, .. })), "{second:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_service_is_a_timeout() {
    let site = Site::start().await;
    let _service = serve(&site.broker, 4, |_| std::future::pending()).await;
    let silent = site.ask(Duration::from_millis(200)).await;
    assert!(matches!(silent, Err(RequestError::TimedOut { .. })), "{silent:?}");
}

/// Within one account the server would carry an answer to any subject the service may publish to.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_goes_to_an_inbox_and_nowhere_else() {
    let site = Site::start().await;
    let answered = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&answered);
    let _service = serve(&site.broker, 4, move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        async { Ok(nonce(b"n")) }
    })
    .await;
    site.ask(PATIENCE).await.unwrap();
    // key-release may call; it asks for the answer on a subject where token-broker may publish tokens.
    let caller = site.server.connect(Role::KeyRelease).await.unwrap();
    let target = TokenIssued::subject(&site.td_id);
    caller.client().publish_with_reply(Rpc::TokenBrokerNonce.subject(), target, bytes::Bytes::new()).await.unwrap();
    caller.request::<_, GetNonceResponse>(Rpc::TokenBrokerNonce, &GetNonceRequest {}, PATIENCE).await.unwrap();
    assert_eq!(answered.load(Ordering::SeqCst), 2, "the request with the foreign reply was not even handled");
    assert!(site.td.latest::<TokenIssued>(&site.td_id).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_events_of_the_subjects_own_identity_are_heard() {
    let site = Site::start().await;
    let mut heard = site.td.subscribe::<TokenIssued>(&site.td_id).await.unwrap();
    let subject = TokenIssued::subject(&site.td_id);
    let foreign = TokenIssued { td_id: "somebody-else".into(), ..site.token("forged") };
    for body in [foreign.encode_to_vec(), b"\xff\xff".to_vec(), Vec::new()] {
        site.broker.jetstream().publish(subject.clone(), body.into()).await.unwrap().await.unwrap();
    }
    let stored = site.td.latest::<TokenIssued>(&site.td_id).await;
    assert!(matches!(stored, Err(SubscribeError::Foreign { .. })), "{stored:?}");
    site.broker.publish(&site.td_id, &site.token("genuine")).await.unwrap();
    let first = tokio::time::timeout(PATIENCE, heard.next()).await.unwrap().unwrap();
    assert_eq!(first.token, "genuine");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_answer_is_read_back_after_a_reconnect() {
    let mut site = Site::start().await;
    assert!(site.td.latest::<TokenIssued>(&site.td_id).await.unwrap().is_none());
    let mut connects = site.td.connects();
    let before = *connects.borrow_and_update();
    site.broker.publish(&site.td_id, &site.token("a")).await.unwrap();
    let rejected = AttestationRejected { td_id: site.td_id.to_string(), ..AttestationRejected::default() };
    site.broker.publish(&site.td_id, &rejected).await.unwrap();
    site.server.kill().await;
    site.server.restart().await.unwrap();
    tokio::time::timeout(PATIENCE, connects.wait_for(|count| *count > before)).await.unwrap().unwrap();
    assert_eq!(site.td.latest::<TokenIssued>(&site.td_id).await.unwrap().unwrap().token, "a");
    assert_eq!(site.td.latest::<AttestationRejected>(&site.td_id).await.unwrap().unwrap(), rejected);
}
