//! Publishing and consuming over a real server: once, through crashes, and never lost.
#![allow(clippy::unwrap_used, clippy::panic, reason = "the helpers below are test code; clippy exempts only functions marked #[test]")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_nats::jetstream::{AckKind, consumer::PullConsumer, stream::Info};
use keyferry_bus::{
    Bucket, BucketError, Bus, DeadLetter, Delivery, Handler, Outcome, Provisioning, PublishError, Role, dead_letter,
    permissions::EVIDENCE_CONSUMER, provision::ACK_WAIT,
};
use keyferry_contract::{
    Event, Reason, Stream,
    attestation::v1::{Evidence, EvidenceCollected, TokenIssued, VerifierNonce},
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

/// A server with everybody connected who matters to the queue.
struct Site {
    _server: NatsServer,
    td: Bus,
    td_id: TdId,
    broker: Bus,
    admin: Bus,
}

impl Site {
    async fn start() -> Self {
        let (server, td, td_id) = server_and_td().await;
        let broker = server.connect(Role::TokenBroker).await.unwrap();
        let admin = server.connect(Role::Admin).await.unwrap();
        Self { _server: server, td, td_id, broker, admin }
    }
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
    let Site { _server, td, td_id, broker, admin } = Site::start().await;
    let mut answers = td.subscribe::<TokenIssued>(&td_id).await.unwrap();
    let stored = td.publish(&td_id, &evidence(&td_id, "a")).await.unwrap();
    assert!(!stored.duplicate);
    let bus = broker.clone();
    let worker = work(&broker, move |delivery: Delivery<EvidenceCollected>| {
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
    });
    let answer = tokio::time::timeout(PATIENCE, futures::StreamExt::next(&mut answers)).await.unwrap().unwrap();
    assert_eq!(answer.attestation_id, "a");
    assert_eq!(td.latest::<TokenIssued>(&td_id).await.unwrap().unwrap(), answer);
    worker.finish_when_empty(&admin).await;
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

/// Counts what it did per attestation, and remembers what was buried.
#[derive(Default)]
struct Recorder {
    done: Mutex<BTreeMap<String, u32>>,
    buried: Mutex<Vec<DeadLetter>>,
    refusals_left: AtomicU32,
}

impl Recorder {
    fn effects(&self) -> BTreeMap<String, u32> {
        self.done.lock().unwrap().clone()
    }
}

/// What a service does: the effect and its mark in one create-if-absent, here by attestation id.
struct Idempotent(Arc<Recorder>, Bus);

impl Handler<EvidenceCollected> for Idempotent {
    async fn handle(&self, delivery: Delivery<EvidenceCollected>) -> Outcome {
        let id = delivery.event.attestation_id;
        match self.1.bucket(Bucket::Seen).create(&id, bytes::Bytes::from_static(b"done")).await {
            Ok(_) => {
                *self.0.done.lock().unwrap().entry(id).or_default() += 1;
                Outcome::Done
            }
            Err(BucketError::Conflict { .. }) => Outcome::Done,
            Err(_) => Outcome::Retry { after: Some(Duration::from_millis(200)) },
        }
    }
}

/// A running consumer.
struct Worker {
    finish: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

impl Worker {
    /// Lets it work until the queue is empty, then waits until it has finished.
    async fn finish_when_empty(self, admin: &Bus) {
        wait_for_messages(admin, Stream::Evidence, 0).await;
        self.finish.notify_one();
        self.task.await.unwrap();
    }
}

fn work<H: Handler<EvidenceCollected>>(bus: &Bus, handler: H) -> Worker {
    work_with(bus, 4, handler)
}

fn work_with<H: Handler<EvidenceCollected>>(bus: &Bus, workers: usize, handler: H) -> Worker {
    let finish = Arc::new(Notify::new());
    let (bus, told) = (bus.clone(), Arc::clone(&finish));
    let task = tokio::spawn(async move { bus.consume(EVIDENCE_CONSUMER, workers, async move { told.notified().await }, handler).await });
    Worker { finish, task }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_the_server_in_the_middle_loses_nothing_and_repeats_nothing() {
    // All of them may wait at once: as many as one TD may have in the queue, and no more.
    const MESSAGES: usize = 60;
    let (mut server, td, td_id) = server_and_td().await;
    let broker = server.connect(Role::TokenBroker).await.unwrap();
    let recorder = Arc::new(Recorder::default());
    let worker = work(&broker, Idempotent(Arc::clone(&recorder), broker.clone()));
    let publisher = tokio::spawn(async move {
        let publishing = (0..MESSAGES).map(|number| {
            let (td, td_id) = (td.clone(), td_id.clone());
            async move {
                let event = evidence(&td_id, &format!("attestation-{number}"));
                td.publish_within(&td_id, &event, Duration::from_mins(1)).await.map(|stored| stored.duplicate)
            }
        });
        let results: Vec<_> = futures::StreamExt::collect(futures::StreamExt::buffered(futures::stream::iter(publishing), 8)).await;
        results
    });
    for share in [4, 2] {
        let some = async {
            while recorder.effects().len() < MESSAGES / share {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, some).await.unwrap();
        server.kill().await;
        server.restart().await.unwrap();
    }
    for result in publisher.await.unwrap() {
        result.unwrap();
    }
    let admin = server.connect(Role::Admin).await.unwrap();
    worker.finish_when_empty(&admin).await;
    let effects = recorder.effects();
    assert_eq!(effects.len(), MESSAGES);
    assert!(effects.values().all(|count| *count == 1), "{effects:?}");
}

/// Refuses its first messages, and remembers who was buried.
struct Refusing(Arc<Recorder>);

impl Handler<EvidenceCollected> for Refusing {
    async fn handle(&self, delivery: Delivery<EvidenceCollected>) -> Outcome {
        let left = self.0.refusals_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        match (delivery.event.attestation_id.as_str(), left) {
            (_, Ok(_)) => Outcome::Retry { after: Some(Duration::from_millis(1)) },
            ("poison", _) => Outcome::Poison { reason: Reason::QuoteMalformed, detail: "header".to_owned() },
            ("panic", _) if delivery.delivery == 1 => panic!("a bug"),
            (id, _) => {
                *self.0.done.lock().unwrap().entry(id.to_owned()).or_default() += 1;
                Outcome::Done
            }
        }
    }
    async fn buried(&self, letter: &DeadLetter) -> bool {
        self.0.buried.lock().unwrap().push(letter.clone());
        true
    }
}

/// Sends bytes as evidence of a TD, whatever they are.
async fn send_raw(td: &Bus, td_id: &TdId, body: Vec<u8>) {
    td.jetstream().publish(EvidenceCollected::subject(td_id), body.into()).await.unwrap().await.unwrap();
}

async fn dead_letters(admin: &Bus) -> Vec<async_nats::jetstream::message::StreamMessage> {
    let stream = admin.jetstream().get_stream(Stream::Dlq.name()).await.unwrap();
    let count = stream.cached_info().state.messages;
    let mut letters = Vec::new();
    for sequence in 1..=count {
        letters.push(stream.get_raw_message(sequence).await.unwrap());
    }
    letters
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_goes_to_the_dead_letters_and_leaves_the_queue() {
    let Site { _server, td, td_id, broker, admin } = Site::start().await;
    let recorder = Arc::new(Recorder::default());
    let mut foreign = evidence(&td_id, "foreign");
    foreign.td_id = "somebody-else".to_owned();
    td.publish(&td_id, &evidence(&td_id, "poison")).await.unwrap();
    send_raw(&td, &td_id, b"\xff\xff no protobuf".to_vec()).await;
    send_raw(&td, &td_id, prost::Message::encode_to_vec(&foreign)).await;
    send_raw(&td, &td_id, Vec::new()).await;
    td.publish(&td_id, &evidence(&td_id, "good")).await.unwrap();

    let worker = work(&broker, Refusing(Arc::clone(&recorder)));
    worker.finish_when_empty(&admin).await;

    assert_eq!(recorder.effects(), BTreeMap::from([("good".to_owned(), 1)]));
    let letters = dead_letters(&admin).await;
    let mut reasons: Vec<String> =
        letters.iter().map(|letter| letter.headers.get(dead_letter::header::REASON).unwrap().to_string()).collect();
    reasons.sort();
    assert_eq!(reasons, ["quote_malformed", "request_malformed", "subject_mismatch", "subject_mismatch"]);
    assert_eq!(recorder.buried.lock().unwrap().len(), 4);
    for letter in &letters {
        assert_eq!(letter.headers.get(dead_letter::header::SUBJECT).unwrap().as_str(), EvidenceCollected::subject(&td_id));
        assert_eq!(letter.subject.as_str(), "keyferry.v1.dlq.evidence.token-broker");
    }
    // The server announced each termination, with our reason, and the announcement is kept.
    wait_for_messages(&admin, Stream::Advisory, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_comes_back_after_its_delay_and_a_panic_ends_nothing() {
    let Site { _server, td, td_id, broker, admin } = Site::start().await;
    let recorder = Arc::new(Recorder { refusals_left: AtomicU32::new(3), ..Recorder::default() });
    let worker = work(&broker, Refusing(Arc::clone(&recorder)));
    td.publish(&td_id, &evidence(&td_id, "later")).await.unwrap();
    wait_for_messages(&admin, Stream::Evidence, 0).await;
    td.publish(&td_id, &evidence(&td_id, "panic")).await.unwrap();
    worker.finish_when_empty(&admin).await;
    assert_eq!(recorder.effects(), BTreeMap::from([("later".to_owned(), 1), ("panic".to_owned(), 1)]));
    assert!(dead_letters(&admin).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_always_retried_ends_in_the_dead_letters() {
    let Site { _server, td, td_id, broker, admin } = Site::start().await;
    let recorder = Arc::new(Recorder { refusals_left: AtomicU32::new(u32::MAX), ..Recorder::default() });
    let worker = work(&broker, Refusing(Arc::clone(&recorder)));
    td.publish(&td_id, &evidence(&td_id, "never")).await.unwrap();
    worker.finish_when_empty(&admin).await;
    let letters = dead_letters(&admin).await;
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].headers.get(dead_letter::header::DELIVERIES).unwrap().as_str(), "5");
}

/// Cannot write its audit record: the message must not leave the queue.
struct WithoutAudit(Arc<Recorder>);

impl Handler<EvidenceCollected> for WithoutAudit {
    async fn handle(&self, _: Delivery<EvidenceCollected>) -> Outcome {
        Outcome::Poison { reason: Reason::QuoteMalformed, detail: String::new() }
    }
    async fn buried(&self, letter: &DeadLetter) -> bool {
        let mut buried = self.0.buried.lock().unwrap();
        buried.push(letter.clone());
        buried.len() > 1
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_whose_burial_was_not_recorded_stays_and_is_buried_once() {
    let Site { _server, td, td_id, broker, admin } = Site::start().await;
    let recorder = Arc::new(Recorder::default());
    let worker = work(&broker, WithoutAudit(Arc::clone(&recorder)));
    td.publish(&td_id, &evidence(&td_id, "poison")).await.unwrap();
    worker.finish_when_empty(&admin).await;
    assert_eq!(recorder.buried.lock().unwrap().len(), 2);
    assert_eq!(dead_letters(&admin).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_consumer_is_opened_again_when_it_is_back() {
    let Site { _server, td, td_id, broker, admin } = Site::start().await;
    let recorder = Arc::new(Recorder::default());
    let worker = work(&broker, Refusing(Arc::clone(&recorder)));
    td.publish(&td_id, &evidence(&td_id, "before")).await.unwrap();
    wait_for_messages(&admin, Stream::Evidence, 0).await;
    let stream = admin.jetstream().get_stream(Stream::Evidence.name()).await.unwrap();
    stream.delete_consumer(EVIDENCE_CONSUMER).await.unwrap();
    admin.provision(&Provisioning::default()).await.unwrap();
    td.publish(&td_id, &evidence(&td_id, "after")).await.unwrap();
    worker.finish_when_empty(&admin).await;
    assert_eq!(recorder.effects().into_keys().collect::<Vec<_>>(), ["after", "before"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_without_a_server_says_that_it_may_be_stored_or_not() {
    let (mut server, td, td_id) = server_and_td().await;
    server.kill().await;
    let event = evidence(&td_id, "a");
    let failed = td.publish_within(&td_id, &event, Duration::from_millis(600)).await;
    assert!(matches!(failed, Err(PublishError::Unacknowledged { .. })), "{failed:?}");
    server.restart().await.unwrap();
    td.publish(&td_id, &event).await.unwrap();
    let admin = server.connect(Role::Admin).await.unwrap();
    assert_eq!(stream_info(&admin, Stream::Evidence).await.state.messages, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_refuses_and_says_so() {
    let (server, td, td_id) = server_and_td().await;
    let admin = server.connect(Role::Admin).await.unwrap();
    let mut config = stream_info(&admin, Stream::Evidence).await.config;
    config.max_messages = 1;
    admin.jetstream().update_stream(config).await.unwrap();
    td.publish(&td_id, &evidence(&td_id, "a")).await.unwrap();
    let refused = td.publish(&td_id, &evidence(&td_id, "b")).await;
    assert!(matches!(refused, Err(PublishError::Full { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_legal_evidence_fits_and_a_larger_message_is_refused_at_once() {
    let (_server, td, td_id) = server_and_td().await;
    let largest = Evidence {
        quote: vec![1; keyferry_contract::QUOTE_BYTES_MAX],
        user_data: vec![2; keyferry_contract::USER_DATA_BYTES_MAX],
        event_log: vec![3; keyferry_contract::EVENT_LOG_BYTES_MAX],
        nonce: Some(VerifierNonce { val: vec![4; 256], iat: vec![5; 64], signature: vec![6; 1024] }),
    };
    let mut event = EvidenceCollected { evidence: Some(largest), ..evidence(&td_id, "largest") };
    td.publish(&td_id, &event).await.unwrap();
    event.policy_ids = vec!["x".repeat(400_000)];
    assert!(td.publish(&td_id, &event).await.is_err());
}

/// Five workers took it and were never heard of again: the sixth does not open it.
#[tokio::test(flavor = "multi_thread")]
async fn what_no_worker_survives_is_buried_unopened() {
    let Site { _server, td, td_id, broker, admin } = Site::start().await;
    td.publish(&td_id, &evidence(&td_id, "killer")).await.unwrap();
    let consumer: PullConsumer = broker.jetstream().get_consumer_from_stream(EVIDENCE_CONSUMER, Stream::Evidence.name()).await.unwrap();
    for _ in 0..5 {
        let mut messages = consumer.batch().max_messages(1).expires(PATIENCE).messages().await.unwrap();
        let message = futures::StreamExt::next(&mut messages).await.unwrap().unwrap();
        message.ack_with(AckKind::Nak(None)).await.unwrap();
    }
    let recorder = Arc::new(Recorder::default());
    let worker = work(&broker, Refusing(Arc::clone(&recorder)));
    worker.finish_when_empty(&admin).await;
    assert!(recorder.effects().is_empty());
    assert_eq!(dead_letters(&admin).await.len(), 1);
}

/// A replica that stops gives back what it fetched: the next one has it long before the ack wait is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stops_finishes_what_it_began_and_gives_back_the_rest() {
    const MESSAGES: usize = 6;
    let Site { _server, td, td_id, broker, admin } = Site::start().await;
    let (began, may_finish) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begins, waits) = (Arc::clone(&began), Arc::clone(&may_finish));
    let leaving = work_with(&broker, 1, move |_: Delivery<EvidenceCollected>| {
        let (begins, waits) = (Arc::clone(&begins), Arc::clone(&waits));
        async move {
            begins.notify_one();
            waits.notified().await;
            Outcome::Done
        }
    });
    for number in 0..MESSAGES {
        td.publish(&td_id, &evidence(&td_id, &number.to_string())).await.unwrap();
    }
    began.notified().await;
    leaving.finish.notify_one();
    let recorder = Arc::new(Recorder::default());
    let started = std::time::Instant::now();
    let next = work(&broker, Refusing(Arc::clone(&recorder)));
    wait_for_messages(&admin, Stream::Evidence, 1).await;
    assert!(started.elapsed() < ACK_WAIT / 2, "{:?}", started.elapsed());
    may_finish.notify_one();
    leaving.task.await.unwrap();
    next.finish_when_empty(&admin).await;
    assert_eq!(recorder.effects().len(), MESSAGES - 1);
}
