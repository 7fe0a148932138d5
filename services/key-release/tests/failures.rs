//! What fails closed: KMS, audit, store, key set, and input that cannot be understood.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod harness;

use std::time::Duration;

use futures::{StreamExt, future::join_all, stream::FuturesUnordered};
use harness::{Stack, issuer_config, refusal, refused, verifier::Verifier, with_credential};
use key_release::{Denial, issuers::Issuers};
use keyferry_bus::{Bucket, Role};
use keyferry_contract::{
    Reason,
    release::v1::{AuditDecision, GetKeyRequest, TransferKeyRequest, transfer_key_request::Credential},
};
use keyferry_lifecycle::clock;
use keyferry_tls::CertificateAuthority;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_kms_that_is_down_refuses_with_a_reason_and_recovers() {
    let stack = Stack::start().await;
    let key_id = stack.simulator_key().await;
    let token = stack.verifier.token(|_| {});
    stack.kms.go_down();
    assert_eq!(refusal(stack.transfer(&key_id, &token).await), refused(Code::Unavailable, "kms_unreachable"));
    let record = stack.audit().await.pop().unwrap();
    assert_eq!((record.decision(), record.reason()), (AuditDecision::Denied, Reason::KmsUnreachable));
    stack.kms.recover();
    assert!(stack.transfer(&key_id, &token).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kms_that_returns_another_keys_bytes_releases_nothing() {
    let stack = Stack::start().await;
    let key_id = stack.simulator_key().await;
    let token = stack.verifier.token(|_| {});
    stack.kms.return_other_bytes();
    assert_eq!(refusal(stack.transfer(&key_id, &token).await), refused(Code::FailedPrecondition, "key_mismatch"));
    assert_eq!(stack.audit().await.pop().unwrap().reason(), Reason::KeyMismatch);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_audit_no_release() {
    let stack = Stack::start().await;
    let key_id = stack.simulator_key().await;
    let token = stack.verifier.token(|_| {});
    assert!(stack.transfer(&key_id, &token).await.is_ok());
    let operator = stack.nats.connect(Role::Admin).await.unwrap();
    operator.jetstream().delete_stream("AUDIT").await.unwrap();
    assert_eq!(refusal(stack.transfer(&key_id, &token).await), refused(Code::Unavailable, "audit_unavailable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_do_not_queue_up_behind_an_audit_stream_that_is_gone() {
    let stack = Stack::start().await;
    let key_id = stack.simulator_key().await;
    let token = stack.verifier.token(|_| {});
    stack.nats.connect(Role::Admin).await.unwrap().jetstream().delete_stream("AUDIT").await.unwrap();
    // Recorded one after another, these would take half a minute.
    let all = join_all((0..6).map(|_| stack.transfer(&key_id, &token)));
    for result in tokio::time::timeout(Duration::from_secs(15), all).await.unwrap() {
        assert_eq!(refusal(result), refused(Code::Unavailable, "audit_unavailable"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_that_is_gone_releases_nothing() {
    let mut stack = Stack::start().await;
    let key_id = stack.simulator_key().await;
    let token = stack.verifier.token(|_| {});
    stack.nats.kill().await;
    assert_eq!(refusal(stack.transfer(&key_id, &token).await), refused(Code::Unavailable, "store_unavailable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_somebody_on_the_bus_wrote_is_no_policy() {
    let stack = Stack::start().await;
    let strict = stack.policy(serde_json::json!({ "mrtd": ["99".repeat(48)] })).await;
    let lax = stack.policy(serde_json::json!({ "trust_anchor": harness::verifier::ANCHOR })).await;
    let key_id = stack.key(&strict).await;
    let token = stack.verifier.token(|_| {});
    let policies = stack.nats.connect(Role::Admin).await.unwrap().bucket(Bucket::Policies);
    let (strict_entry, lax_entry) = (policies.read(&strict).await.unwrap().unwrap(), policies.read(&lax).await.unwrap().unwrap());
    for forged in [lax_entry.value, br#"{"policy_id":"x"}"#.to_vec().into(), strict_entry.value.slice(1..)] {
        let revision = policies.read(&strict).await.unwrap().unwrap().revision;
        policies.update(&strict, forged, revision).await.unwrap();
        assert_eq!(refusal(stack.transfer(&key_id, &token).await), refused(Code::Unavailable, "store_unavailable"));
    }
    let record = stack.audit().await.pop().unwrap();
    assert!(record.detail.contains("tampered"), "{}", record.detail);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_issuers_key_set_nothing_is_believed() {
    let stack = Stack::start_without_keys().await;
    let key_id = stack.simulator_key().await;
    let token = stack.verifier.token(|_| {});
    assert_eq!(refusal(stack.transfer(&key_id, &token).await), refused(Code::Unavailable, "jwks_unavailable"));
    stack.verifier.publish();
    // The failed attempt counts against the rate: a token cannot be used to make this service fetch again and again.
    assert_eq!(refusal(stack.transfer(&key_id, &token).await), refused(Code::Unavailable, "jwks_unavailable"));
    let stranger = Verifier::start(&stack.authority);
    assert_eq!(refusal(stack.transfer(&key_id, &stranger.token(|_| {})).await), refused(Code::Unavailable, "jwks_unavailable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_understood_is_refused_before_anything_is_decided() {
    let stack = Stack::start().await;
    let key_id = stack.simulator_key().await;
    let token = stack.verifier.token(|_| {});
    let recorded = stack.audit().await.len();
    for id in ["", "1", "..", &key_id[1..], &format!("{{{key_id}}}"), "keyferry.>"] {
        assert_eq!(refusal(stack.transfer(id, &token).await), refused(Code::InvalidArgument, "request_malformed"), "{id}");
    }
    let nothing = stack.broker().transfer_key(TransferKeyRequest { key_id: key_id.clone(), credential: None }).await;
    assert_eq!(refusal(nothing), refused(Code::InvalidArgument, "request_malformed"));
    let oversized = stack.transfer(&key_id, &"a".repeat(2 * 1024 * 1024 + 1)).await;
    assert_eq!(refusal(oversized).1, "request_too_large");
    assert_eq!(stack.audit().await.len(), recorded, "no decision, no record");

    // Over the bound of a message the transport refuses, before the service sees it.
    let huge = Credential::Token("a".repeat(3 * 1024 * 1024));
    let huge = stack.broker().transfer_key(TransferKeyRequest { key_id: key_id.clone(), credential: Some(huge) }).await;
    assert_eq!(refusal(huge), refused(Code::InvalidArgument, "request_too_large"));
    assert!(stack.transfer(&key_id, &token).await.is_ok(), "the service goes on");

    let unknown = "5f1c7a52-3c0e-4f0b-9f43-5d1d2a6f7b10";
    assert_eq!(refusal(stack.transfer(unknown, &token).await), refused(Code::NotFound, "key_not_found"));
    assert_eq!(stack.audit().await.pop().unwrap().reason(), Reason::KeyNotFound);
    let exportable = stack.key("").await;
    assert_eq!(refusal(stack.transfer(&exportable, &token).await), refused(Code::FailedPrecondition, "policy_not_found"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_bad_tokens_does_not_fill_the_audit() {
    let stack = Stack::start().await;
    let key_id = stack.simulator_key().await;
    let before = stack.audit().await.len();
    let started = std::time::Instant::now();
    for _ in 0..200 {
        assert_eq!(refusal(stack.transfer(&key_id, "a.b.c").await), refused(Code::InvalidArgument, "token_malformed"));
    }
    // Nor does it hide somebody who tries passwords.
    let wrong = with_credential(GetKeyRequest { key_id: key_id.clone() }, "Basic YWRtaW46Z3Vlc3M=");
    assert_eq!(refusal(stack.administration().get_key(wrong).await), refused(Code::Unauthenticated, "unauthenticated"));
    assert_eq!(stack.audit().await.pop().unwrap().reason(), Reason::Unauthenticated);
    let allowed = 20 * (usize::try_from(started.elapsed().as_secs()).unwrap() + 2);
    assert!(stack.audit().await.len() - before <= allowed.min(199) + 1, "at most 20 a second");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_issuer_does_not_hold_every_request_that_names_an_unknown_key() {
    const REQUESTS: usize = 100;
    let directory = tempfile::tempdir().unwrap();
    let authority = CertificateAuthority::generate("test root", clock::now(), 30).unwrap();
    let verifier = Verifier::start(&authority);
    verifier.fall_silent();
    let issuers = Issuers::open(&[issuer_config(directory.path(), &authority, &verifier)]).unwrap();
    let token = verifier.token(|_| {});
    let waiting = FuturesUnordered::new();
    for _ in 0..REQUESTS {
        waiting.push(issuers.authenticate(&token, clock::now()));
    }
    // 32 may wait for the fetch, for five seconds; everybody else is told at once.
    let refused = waiting.take(REQUESTS - 32).collect::<Vec<_>>();
    for result in tokio::time::timeout(Duration::from_secs(3), refused).await.unwrap() {
        assert!(matches!(result, Err(Denial::JwksUnavailable)));
    }
}
