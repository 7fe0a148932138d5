//! An attacker holds the bus credentials of a service, though none of its keys, and says what he likes.
#![allow(clippy::unwrap_used)] // tests: a missing value is the failure

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use keyferry_bus::{Bus, Role};
use keyferry_contract::{
    Event, EventKind, Reason, Stream,
    attestation::v1::{
        AttestationRejected, EvidenceCollected, GetEvidenceRequest, GetTokenRequest, TokenIssued, attester_client::AttesterClient,
    },
    identifiers::TdId,
    model::v1::{ModelExecuted, ModelLoaded, ModelReset},
    release::v1::{AuditDecision, KeyDenied, KeyReleased, PolicyChanged},
};
use keyferry_integration_tests::{PATIENCE, Story, told};
use prost::Message;
use tonic::transport::Channel;

/// A public key in Intel's form, as far as the attester cares: bytes to bind.
const USER_DATA: [u8; 388] = [7; 388];

fn attester(story: &Story) -> AttesterClient<Channel> {
    AttesterClient::new(keyferry_tls::grpc_unix_channel(&story.stack.description.tds[0].attester_socket))
}

async fn token(story: &Story, user_data: &[u8]) -> String {
    let request = GetTokenRequest { user_data: user_data.to_vec(), policy_ids: Vec::new() };
    attester(story).get_token(request).await.unwrap().into_inner().token
}

fn claims(token: &str) -> serde_json::Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

/// Puts a message on the bus as it is, under an id of its own, so that no de-duplication swallows it.
async fn inject(bus: &Bus, subject: String, body: Bytes) {
    bus.client().publish(subject, body).await.unwrap();
    bus.client().flush().await.unwrap();
}

/// Plays a message again and again, before, during and after the real one; never ends by itself. Paced: the question is what
/// an old message does, not what a flood does.
async fn play_again(bus: &Bus, subject: &str, body: &Bytes) {
    let mut pace = tokio::time::interval(std::time::Duration::from_millis(2));
    loop {
        pace.tick().await;
        inject(bus, subject.to_owned(), body.clone()).await;
    }
}

/// Old answers are played again before, during and after the wait for a new one; the TD takes only its own.
#[tokio::test(flavor = "multi_thread")]
async fn answers_played_again_or_out_of_order_are_not_taken() {
    let story = Story::begin(|options| options.load_models = false).await;
    let attacker = told(story.stack.nats.connect(Role::TokenBroker).await);
    let first = token(&story, &USER_DATA).await;
    let old = story.raw(Stream::Results).await.pop().unwrap();
    let subject = old.subject.to_string();

    let second = tokio::select! { second = token(&story, &USER_DATA) => second, () = play_again(&attacker, &subject, &old.payload) => unreachable!() };
    assert_ne!(first, second, "an old token was taken for the new evidence");
    assert_ne!(claims(&first)["jti"], claims(&second)["jti"]);
    story.end().await;
}

/// A genuine rejection, played again through the next wait, ends that wait neither early nor with its own reason.
#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_played_again_ends_no_other_wait() {
    let story = Story::begin(|options| options.load_models = false).await;
    let attacker = told(story.stack.nats.connect(Role::TokenBroker).await);
    let mut client = attester(&story);
    let unknown_policy = GetTokenRequest { user_data: USER_DATA.to_vec(), policy_ids: vec![uuid::Uuid::new_v4().to_string()] };
    client.get_token(unknown_policy).await.unwrap_err();
    let old = story.raw(Stream::Results).await.pop().unwrap();
    let subject = old.subject.to_string();
    assert!(subject.starts_with(AttestationRejected::KIND.prefix), "{subject}");

    let token =
        tokio::select! { token = token(&story, &USER_DATA) => token, () = play_again(&attacker, &subject, &old.payload) => unreachable!() };
    assert!(claims(&token)["jti"].is_string());
    story.end().await;
}

/// Evidence that is delivered in the wrong order, and then all of it again: each piece has its one token.
#[tokio::test(flavor = "multi_thread")]
async fn evidence_out_of_order_and_again_has_one_token_each() {
    let story = Story::begin(|options| options.load_models = false).await;
    let td = &story.stack.description.tds[0];
    let bus = Bus::connect(&story.stack.nats.config(&td.credentials), "attester").await.unwrap();
    let td = TdId::parse(&td.id).unwrap();
    let mut collected = Vec::new();
    for _ in 0..3 {
        let request = GetEvidenceRequest { user_data: USER_DATA.to_vec(), nonce: None };
        let evidence = attester(&story).get_evidence(request).await.unwrap().into_inner().evidence;
        let attestation_id = uuid::Uuid::new_v4().to_string();
        collected.push(EvidenceCollected { attestation_id, td_id: td.to_string(), evidence, ..EvidenceCollected::default() });
    }
    for event in collected.iter().rev() {
        bus.publish(&td, event).await.unwrap();
    }
    let mut wanted: Vec<String> = collected.iter().map(|event| event.attestation_id.clone()).collect();
    wanted.sort_unstable();
    assert_eq!(issued(&story, wanted.len()).await, wanted);

    for event in &collected {
        // An id of its own: the bus cannot tell that it has seen this.
        bus.client().request(EvidenceCollected::subject(&td), event.encode_to_vec().into()).await.unwrap();
    }
    let waiting = async { while !story.raw(Stream::Evidence).await.is_empty() {} };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "the repetitions were never handled");
    assert_eq!(issued(&story, wanted.len()).await, wanted, "a repetition is answered, and nothing is issued again");
    story.end().await;
}

/// The attestations that tokens were issued for, sorted, once there are as many as `wanted`.
async fn issued(story: &Story, wanted: usize) -> Vec<String> {
    let seen = async {
        loop {
            let records = story.audit(AuditDecision::TokenIssued).await;
            if records.len() >= wanted {
                return records;
            }
        }
    };
    let records = tokio::time::timeout(PATIENCE, seen).await.unwrap();
    let mut ids: Vec<String> = records.into_iter().map(|record| record.attestation_id).collect();
    ids.sort_unstable();
    ids
}

/// Two workloads ask at once; each gets the token of its own data, in whatever order the answers come.
#[tokio::test(flavor = "multi_thread")]
async fn swapped_answers_reach_nobody() {
    let story = Story::begin(|options| options.load_models = false).await;
    let (mine, yours) = ([1_u8; 388], [2_u8; 388]);
    let (a, b) = tokio::join!(token(&story, &mine), token(&story, &yours));
    let held = |token: &str| claims(token)["tdx"]["attester_held_data"].as_str().unwrap().to_owned();
    let text = |data: &[u8]| base64::engine::general_purpose::STANDARD.encode(data);
    assert_eq!((held(&a), held(&b)), (text(&mine), text(&yours)));
    story.end().await;
}

/// Forged tokens and forged rejections, for this TD and for attestations that exist and that do not.
#[tokio::test(flavor = "multi_thread")]
async fn forged_answers_neither_end_a_wait_nor_obtain_a_key() {
    let mut story = Story::begin(|options| options.load_models = false).await;
    let attacker = told(story.stack.nats.connect(Role::TokenBroker).await);
    let td = TdId::parse(&story.stack.description.tds[0].id).unwrap();
    let (token_subject, rejection_subject) = (TokenIssued::subject(&td), AttestationRejected::subject(&td));
    told(story.stack.begin_model(0));
    for number in 0..200 {
        let attestation_id = uuid::Uuid::new_v4().to_string();
        let forged = TokenIssued {
            attestation_id: attestation_id.clone(),
            td_id: td.to_string(),
            token: format!("eyJhbGciOiJub25lIn0.e30.{number}"),
            ..TokenIssued::default()
        };
        inject(&attacker, token_subject.clone(), forged.encode_to_vec().into()).await;
        let rejected = AttestationRejected {
            attestation_id,
            td_id: td.to_string(),
            reason: Reason::DebugEnabled.into(),
            ..AttestationRejected::default()
        };
        inject(&attacker, rejection_subject.clone(), rejected.encode_to_vec().into()).await;
        inject(&attacker, token_subject.clone(), vec![0xff; 40].into()).await;
    }
    told(story.stack.until_loaded(0).await);
    assert!(told(story.stack.predict(0).await).is_right());
    assert_eq!(story.audit(AuditDecision::Released).await.len(), 1);
    story.end().await;
}

/// Nobody acts on what is told in EVENTS: whatever is forged, swapped or played again there changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn events_are_news_and_never_orders() {
    let mut story = Story::begin(|options| options.load_models = false).await;
    let attacker = told(story.stack.nats.connect(Role::KeyRelease).await);
    let td = TdId::parse(&story.stack.description.tds[0].id).unwrap();
    let key_id = story.stack.description.key_id.clone();
    let lies: [(String, Vec<u8>); 6] = [
        (
            KeyReleased::subject(&td),
            KeyReleased { td_id: td.to_string(), key_id: key_id.clone(), ..KeyReleased::default() }.encode_to_vec(),
        ),
        (KeyDenied::subject(&td), KeyDenied { td_id: td.to_string(), key_id, ..KeyDenied::default() }.encode_to_vec()),
        (PolicyChanged::subject(&td), PolicyChanged { policy_id: td.to_string(), version: 9, ..PolicyChanged::default() }.encode_to_vec()),
        (ModelLoaded::subject(&td), ModelLoaded { td_id: td.to_string(), ..ModelLoaded::default() }.encode_to_vec()),
        (ModelExecuted::subject(&td), ModelExecuted { td_id: td.to_string(), ..ModelExecuted::default() }.encode_to_vec()),
        (ModelReset::subject(&td), ModelReset { td_id: td.to_string(), ..ModelReset::default() }.encode_to_vec()),
    ];
    let of_events = EventKind::ALL.iter().filter(|kind| kind.stream == Stream::Events).count();
    assert_eq!(lies.len(), of_events, "every kind of event in EVENTS is lied about");
    for (subject, body) in lies.iter().chain(lies.iter().rev()) {
        inject(&attacker, subject.clone(), body.clone().into()).await;
    }
    told(story.stack.load_model(0).await);
    assert!(told(story.stack.predict(0).await).is_right());
    assert_eq!(story.audit(AuditDecision::Released).await.len(), 1, "released once, whatever was said");
    story.end().await;
}
