//! Publishing and consuming over a real server: once, through crashes, and never lost.
#![allow(clippy::unwrap_used, clippy::panic, reason = "the helpers below are test code; clippy exempts only functions marked #[test]")]

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::stream::Info;
use keyferry_bus::{Bus, Delivery, Outcome, PublishError, Role, permissions::EVIDENCE_CONSUMER};
use keyferry_contract::{
    Stream,
    attestation::v1::{Evidence, EvidenceCollected, TokenIssued},
    identifiers::TdId,
};
use keyferry_testkit::nats::NatsServer;
use tokio::sync::Notify;

const PATIENCE: Duration = Duration::from_mins(1);

fn evidence(td: &TdId, attestation_id: &str) -> EvidenceCollected {
    let evidence = Evidence { quote: vec![4; 5000], ..Evidence::default() };
    EvidenceCollected {
        attestation_id: attestation_id.to_owned(),
        td_id: td.to_string(),
        evidence: Some(evidence),
        ..EvidenceCollected::default()
    }
}

async fn server_and_td() -> (NatsServer, Bus, TdId) {
    let server = NatsServer::start().await.unwrap_or_else(|failure| panic!("{failure}; {}", failure.hint()));
    let (td_id, credentials) = server.enrol("one").unwrap();
    let td = Bus::connect(&server.config(credentials), "attester").await.unwrap();
    (server, td, TdId::parse(&td_id).unwrap())
}

async fn stream_info(admin: &Bus, stream: Stream) -> Info {
    let mut stream = admin.jetstream().get_stream(stream.name()).await.unwrap();
    stream.info().await.unwrap().clone()
}

/// Waits until a stream holds `wanted` messages.
async fn wait_for_messages(admin: &Bus, stream: Stream, wanted: u64) {
    let waiting = async {
        while stream_info(admin, stream).await.state.messages != wanted {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{} never held {wanted} messages", stream.name()));
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_of_a_td_is_handled_and_answered() {
    let (server, td, td_id) = server_and_td().await;
    let broker = server.connect(Role::TokenBroker).await.unwrap();
    let mut answers = td.subscribe::<TokenIssued>(&td_id).await.unwrap();
    let stored = td.publish(&td_id, &evidence(&td_id, "a")).await.unwrap();
    assert!(!stored.duplicate);

    let done = Arc::new(Notify::new());
    let (bus, finish) = (broker.clone(), Arc::clone(&done));
    let handler = move |delivery: Delivery<EvidenceCollected>| {
        let bus = bus.clone();
        async move {
            let token = TokenIssued {
                attestation_id: delivery.event.attestation_id,
                td_id: delivery.identity.to_string(),
                token: "a.b.c".to_owned(),
                ..TokenIssued::default()
            };
            bus.publish(&delivery.identity, &token).await.unwrap();
            Outcome::Done
        }
    };
    let worker = {
        let broker = broker.clone();
        tokio::spawn(async move { broker.consume(EVIDENCE_CONSUMER, 4, async move { finish.notified().await }, handler).await })
    };
    let answer = tokio::time::timeout(PATIENCE, futures::StreamExt::next(&mut answers)).await.unwrap().unwrap();
    assert_eq!(answer.attestation_id, "a");
    assert_eq!(td.latest::<TokenIssued>(&td_id).await.unwrap().unwrap(), answer);
    let admin = server.connect(Role::Admin).await.unwrap();
    wait_for_messages(&admin, Stream::Evidence, 0).await;
    done.notify_one();
    worker.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_event_twice_is_stored_once() {
    let (server, td, td_id) = server_and_td().await;
    let first = td.publish(&td_id, &evidence(&td_id, "a")).await.unwrap();
    let second = td.publish(&td_id, &evidence(&td_id, "a")).await.unwrap();
    assert!(!first.duplicate && second.duplicate);
    assert_eq!(first.sequence, second.sequence);
    let admin = server.connect(Role::Admin).await.unwrap();
    assert_eq!(stream_info(&admin, Stream::Evidence).await.state.messages, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_for_another_identity_is_not_even_sent() {
    let (_server, td, td_id) = server_and_td().await;
    let mut event = evidence(&td_id, "a");
    event.td_id = "somebody-else".to_owned();
    assert!(matches!(td.publish(&td_id, &event).await, Err(PublishError::Identity)));
}
