//! The attester on a real bus, before a verifier and a bus that may do anything.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use keyferry_attestation_token::{KeySet, Shape, authenticate};
use keyferry_contract::attestation::v1::{AttestationRejected, GetEvidenceRequest, GetTokenRequest, TokenIssued, VerifierNonce};
use keyferry_contract::{Event, Reason};
use keyferry_tdx_quote::{Quote, report_data};
use keyferry_testkit::nats::now;
use prost::Message;
use tonic::{Code, Status};
use tonic_types::StatusExt;
use world::{Verifier, World, nonce};

const SOON: Duration = Duration::from_secs(3);
const LONG: Duration = Duration::from_secs(30);
const KEY: &[u8] = &[0x5a; 388];

fn reason(status: &Status) -> String {
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.domain, "keyferry");
    info.reason
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_our_own_evidence_is_handed_over() {
    let mut world = World::start().await;
    let keys = KeySet::from_jwks(world.verifier.jwks().as_bytes(), &world.verifier.trusted(), now()).unwrap();
    for shape in [Shape::V2Nested, Shape::V1Flat] {
        let asked = world.ask(KEY, LONG);
        let event = world.next_evidence().await;
        assert_eq!(event.td_id, world.td_id.as_str());
        let evidence = event.evidence.clone().unwrap();
        let quote = Quote::parse(&evidence.quote).unwrap();
        assert_eq!(quote.body().report_data, report_data(&nonce().val, &nonce().iat, KEY));
        assert_eq!(quote.without_tail(), evidence.quote, "the zero tail stays in the TD");
        assert_eq!((evidence.nonce.unwrap(), evidence.user_data.as_slice()), (nonce(), KEY));

        world.publish_token(&world.verifier.token(&event, shape, |_| {})).await;
        let token = asked.await.unwrap().unwrap();
        assert_eq!(authenticate(&token, std::slice::from_ref(&keys), now()).unwrap().held_data(), Some(KEY));
    }
    assert!(world.attester.log().contains("SIMULATED PLATFORM"));
    assert_eq!(std::fs::metadata(world.socket()).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(world.attester.stop().await, Some(0));
    assert!(!world.socket().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_and_foreign_tokens_are_ignored_and_the_wait_goes_on() {
    let mut world = World::start().await;
    let asked = world.ask(KEY, LONG);
    let event = world.next_evidence().await;
    let (verifier, nested) = (std::sync::Arc::clone(&world.verifier), Shape::V2Nested);
    let impostor = Verifier::new();
    let forgeries = [
        ("of an impostor", impostor.token(&event, nested, |_| {})),
        ("for other data", verifier.token(&event, nested, |claims| claims.held_data = vec![1; 388])),
        ("for other report data", verifier.token(&event, nested, |claims| claims.measurements.report_data = [1; 64])),
        ("for another TD", verifier.token(&event, nested, |claims| claims.td_id = keyferry_identifiers::TdId::parse("another").ok())),
        (
            "for another attestation",
            verifier.token(&event, nested, |claims| claims.attestation_id = Some(keyferry_identifiers::AttestationId::random())),
        ),
        ("for another nonce", verifier.token(&event, Shape::V1Flat, |claims| claims.nonce.as_mut().unwrap().signature = vec![8; 384])),
        ("that is none", TokenIssued { token: "a.b.c".to_owned(), ..verifier.token(&event, nested, |_| {}) }),
        ("that is cut off", {
            let whole = verifier.token(&event, nested, |_| {});
            TokenIssued { token: whole.token[..whole.token.len() / 2].to_owned(), ..whole }
        }),
        ("that is oversized", TokenIssued { token: "a".repeat(80 * 1024), ..verifier.token(&event, nested, |_| {}) }),
        ("that is empty", TokenIssued { token: String::new(), ..verifier.token(&event, nested, |_| {}) }),
    ];
    for (_, forged) in &forgeries {
        world.publish_token(forged).await;
    }
    let other_attestation = TokenIssued { attestation_id: "6f3c".to_owned(), ..verifier.token(&event, nested, |_| {}) };
    world.publish_token(&other_attestation).await;
    let genuine = verifier.token(&event, nested, |_| {});
    world.publish_token(&genuine).await;
    assert_eq!(asked.await.unwrap().unwrap(), genuine.token);

    let metrics = world.metrics().await;
    let count = |reason: &str| {
        metrics.lines().any(|line| {
            line.starts_with("keyferry_attestation_results_ignored_total") && line.contains(&format!("keyferry_reason=\"{reason}\""))
        })
    };
    assert!(count("token_foreign") && count("token_malformed"), "{metrics}");
    assert!(count("token_key_unknown") || count("token_signature_invalid"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_token_alone_ends_in_the_deadline() {
    let mut world = World::start().await;
    let asked = world.ask(KEY, SOON);
    let event = world.next_evidence().await;
    world.publish_token(&world.verifier.token(&event, Shape::V2Nested, |claims| claims.held_data = vec![1; 388])).await;
    let status = asked.await.unwrap().unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::DeadlineExceeded, "deadline_exceeded"));
}

/// A bus that answers for the verifier gives a genuine nonce with more behind it: evidence over it could be passed off as
/// evidence for user data, a public key, that begins with those bytes.
#[tokio::test(flavor = "multi_thread")]
async fn a_nonce_that_reaches_into_the_user_data_is_never_quoted_over() {
    let mut world = World::start().await;
    let genuine = nonce();
    for stretched in [
        VerifierNonce { iat: [&genuine.iat[..], b"\x01\x00\x01\x00 modulus"].concat(), ..genuine.clone() },
        VerifierNonce { val: [&genuine.val[..], &genuine.iat[..]].concat(), iat: b"modulus".to_vec(), ..genuine.clone() },
    ] {
        *world.nonce.lock().unwrap() = stretched.clone();
        let status = world.ask(KEY, LONG).await.unwrap().unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "verifier_unavailable"));
        let request = GetEvidenceRequest { user_data: KEY.to_vec(), nonce: Some(stretched) };
        assert_eq!(reason(&world.client.get_evidence(request).await.unwrap_err()), "request_malformed");
    }
    assert!(world.evidence.try_recv().is_err(), "nothing reached the bus");
}

/// Every judgement of a forgery costs a signature check, and more of them come than can be judged.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_forgeries_does_not_move_the_deadline() {
    let limits = serde_json::json!({ "attestation_seconds": 2 });
    let mut world = World::start_limited(std::sync::Arc::new(Verifier::new()), |jwks| jwks, limits).await;
    let mut client = world.client.clone();
    let asked = tokio::spawn(async move { client.get_token(GetTokenRequest { user_data: KEY.to_vec(), policy_ids: Vec::new() }).await });
    let event = world.next_evidence().await;
    // As large as a token may be: cheap to send, dear to judge.
    let forged = world.verifier.token(&event, Shape::V2Nested, |claims| claims.held_data = vec![1; 32 * 1024]);
    let (client, subject) = (world.broker.client().clone(), TokenIssued::subject(&world.td_id));
    let body = forged.encode_to_vec();
    let flood = tokio::spawn(async move { while client.publish(subject.clone(), body.clone().into()).await.is_ok() {} });
    let answer = tokio::time::timeout(Duration::from_secs(10), asked).await;
    flood.abort();
    let status = answer.expect("the deadline of 2 s holds").unwrap().unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::DeadlineExceeded, "deadline_exceeded"));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_under_another_root_vouch_for_nothing() {
    let impostor = Verifier::new();
    let (jwks, root) = (impostor.jwks(), Verifier::new());
    let mut world = World::start_with(std::sync::Arc::new(root), move |_| jwks.clone()).await;
    let asked = world.ask(KEY, SOON);
    let event = world.next_evidence().await;
    world.publish_token(&impostor.token(&event, Shape::V2Nested, |_| {})).await;
    let status = asked.await.unwrap().unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "jwks_unavailable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejection_ends_the_wait_with_its_reason() {
    let mut world = World::start().await;
    for (given, label, code) in [
        (Reason::DebugEnabled, "debug_enabled", Reason::DebugEnabled.advice().grpc),
        (Reason::NonceExpired, "nonce_expired", Reason::NonceExpired.advice().grpc),
    ] {
        let asked = world.ask(KEY, LONG);
        let event = world.next_evidence().await;
        let rejected = AttestationRejected {
            attestation_id: event.attestation_id,
            td_id: event.td_id,
            reason: given.into(),
            advice: "canary text of the bus".to_owned(),
        };
        let of_another = AttestationRejected { attestation_id: "another".to_owned(), ..rejected.clone() };
        world.publish_rejection(&of_another).await;
        world.publish_rejection(&rejected).await;
        let status = asked.await.unwrap().unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (code, label));
        assert!(!status.message().contains("canary"), "{}", status.message());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends_in_the_deadline_and_the_next_caller_is_served() {
    let mut world = World::start().await;
    let silent = world.ask(KEY, Duration::from_millis(800));
    world.next_evidence().await;
    let status = silent.await.unwrap().unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::DeadlineExceeded, "deadline_exceeded"));
    let asked = world.ask(KEY, LONG);
    let event = world.next_evidence().await;
    world.publish_token(&world.verifier.token(&event, Shape::V2Nested, |_| {})).await;
    assert!(asked.await.unwrap().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_its_bound_or_malformed_is_refused_before_any_work() {
    let mut world = World::start().await;
    let id = "5f1c7a52-3c0e-4f0b-9f43-5d1d2a6f7b10";
    let too_many = vec![id.to_owned(); 11];
    for (request, label) in [
        (GetTokenRequest { user_data: vec![0; 1024 * 1024 + 1], policy_ids: Vec::new() }, "request_too_large"),
        (GetTokenRequest { user_data: Vec::new(), policy_ids: too_many }, "request_too_large"),
        (GetTokenRequest { user_data: Vec::new(), policy_ids: vec!["../x".to_owned()] }, "request_malformed"),
    ] {
        let status = world.client.get_token(request).await.unwrap_err();
        assert_eq!(reason(&status), label);
        assert_eq!(status.code(), Reason::from_label(label).unwrap().advice().grpc);
    }
    let huge = GetTokenRequest { user_data: vec![0; 3 * 1024 * 1024], policy_ids: Vec::new() };
    assert_eq!(reason(&world.client.get_token(huge).await.unwrap_err()), "request_too_large");
    let empty = GetEvidenceRequest { user_data: Vec::new(), nonce: Some(VerifierNonce::default()) };
    assert_eq!(reason(&world.client.get_evidence(empty).await.unwrap_err()), "request_malformed");
    assert!(world.evidence.try_recv().is_err(), "nothing reached the bus");
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_is_over_the_callers_nonce_or_a_fresh_one() {
    let mut world = World::start().await;
    let own = VerifierNonce { val: vec![b'w'; 88], signature: vec![1], ..nonce() };
    for (given, used) in [(Some(own.clone()), own), (None, nonce())] {
        let request = GetEvidenceRequest { user_data: KEY.to_vec(), nonce: given };
        let evidence = world.client.get_evidence(request).await.unwrap().into_inner().evidence.unwrap();
        assert_eq!(Quote::parse(&evidence.quote).unwrap().body().report_data, report_data(&used.val, &used.iat, KEY));
        assert_eq!((evidence.nonce, evidence.user_data.as_slice()), (Some(used), KEY));
    }
    assert!(world.evidence.try_recv().is_err(), "evidence for a relying party does not go over the bus");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_that_restarts_in_the_middle_loses_nothing() {
    let mut world = World::start().await;
    let asked = world.ask(KEY, LONG);
    let event = world.next_evidence().await;
    world.nats.kill().await;
    world.nats.restart().await.unwrap();
    let genuine = world.verifier.token(&event, Shape::V2Nested, |_| {});
    world.broker.publish_within(&world.td_id, &genuine, LONG).await.unwrap();
    assert_eq!(asked.await.unwrap().unwrap(), genuine.token);
}

/// The attester sleeps through everything: the bus dies and returns, and the answer is sent while nobody listens.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_sent_while_disconnected_is_read_back() {
    let mut world = World::start().await;
    let asked = world.ask(KEY, LONG);
    let event = world.next_evidence().await;
    world.signal_attester(rustix::process::Signal::STOP);
    world.nats.kill().await;
    world.nats.restart().await.unwrap();
    let genuine = world.verifier.token(&event, Shape::V2Nested, |_| {});
    world.broker.publish_within(&world.td_id, &genuine, LONG).await.unwrap();
    world.signal_attester(rustix::process::Signal::CONT);
    assert_eq!(asked.await.unwrap().unwrap(), genuine.token);
}
