//! Background-check mode: this service has the evidence appraised, and believes the verifier's token no more than any.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod harness;

use axum::http::StatusCode;
use harness::{
    Stack, TD, refusal, refused,
    verifier::{ANCHOR, claims},
};
use keyferry_attestation_token::TdxClaims;
use keyferry_bus::{Bucket, Role};
use keyferry_contract::{
    Reason,
    attestation::v1::{Evidence, VerifierNonce},
    release::v1::{GetNonceRequest, TransferKeyRequest, TransferKeyResponse, transfer_key_request::Credential},
};
use keyferry_key_wrap::WrappedKey;
use keyferry_sealed_store::SealedStore;
use serde_json::{Value, json};
use tonic::{Code, Status};

fn evidence(nonce: Option<VerifierNonce>) -> Evidence {
    Evidence { quote: vec![4; 5000], nonce, user_data: TD.held_data(), event_log: Vec::new() }
}

async fn transfer(stack: &Stack, key_id: &str, evidence: Evidence) -> Result<TransferKeyResponse, Status> {
    let request = TransferKeyRequest { key_id: key_id.to_owned(), credential: Some(Credential::Evidence(evidence)) };
    stack.broker().transfer_key(request).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_is_appraised_and_the_key_released() {
    let stack = Stack::start().await;
    let key_id = stack.simulator_key().await;
    let nonce = stack.broker().get_nonce(GetNonceRequest {}).await.unwrap().into_inner().nonce;
    assert_eq!(nonce.as_ref().unwrap().val, b"val");
    let released = transfer(&stack, &key_id, evidence(nonce)).await.unwrap();
    TD.unwrap_key(&WrappedKey::from_parts(released.wrapped_key, released.wrapped_swk)).unwrap();
    assert_eq!(stack.audit().await.pop().unwrap().mode, "background_check");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_other_evidence_or_no_token_releases_nothing() {
    let stack = Stack::start().await;
    let key_id = stack.simulator_key().await;
    let nonce = stack.broker().get_nonce(GetNonceRequest {}).await.unwrap().into_inner().nonce;

    *stack.verifier.answer.lock().unwrap() = Ok(|_| TdxClaims { held_data: vec![1; 388], ..claims() });
    assert_eq!(refusal(transfer(&stack, &key_id, evidence(nonce.clone())).await), refused(Code::PermissionDenied, "token_foreign"));

    *stack.verifier.answer.lock().unwrap() = Err((StatusCode::BAD_REQUEST, r#"{"error":"debug_enabled: TDATTRIBUTES.DEBUG is set"}"#));
    assert_eq!(refusal(transfer(&stack, &key_id, evidence(nonce.clone())).await).1, "debug_enabled");
    assert_eq!(stack.audit().await.pop().unwrap().reason(), Reason::DebugEnabled);

    let wrong_key = r#"{"error":"unauthenticated: x-api-key is missing or wrong"}"#;
    *stack.verifier.answer.lock().unwrap() = Err((StatusCode::UNAUTHORIZED, wrong_key));
    assert_eq!(refusal(transfer(&stack, &key_id, evidence(nonce.clone())).await), refused(Code::Unavailable, "verifier_unavailable"));

    *stack.verifier.answer.lock().unwrap() = Err((StatusCode::UNAUTHORIZED, ""));
    assert_eq!(refusal(transfer(&stack, &key_id, evidence(nonce)).await), refused(Code::Unavailable, "verifier_unavailable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_changes_while_the_verifier_works_is_the_one_that_decides() {
    let stack = Stack::start().await;
    let policy_id = stack.policy(json!({ "trust_anchor": ANCHOR })).await;
    let key_id = stack.key(&policy_id).await;
    let nonce = stack.broker().get_nonce(GetNonceRequest {}).await.unwrap().into_inner().nonce;
    let gate = stack.verifier.gate.lock().await;
    let tightened = async {
        stack.verifier.appraising.notified().await;
        let bus = stack.nats.connect(Role::KeyRelease).await.unwrap();
        let policies = SealedStore::open(&bus, Bucket::Policies, stack.store_key.clone());
        let stored = policies.read(&policy_id).await.unwrap().unwrap();
        let mut record: Value = serde_json::from_slice(&stored.value).unwrap();
        let attributes = json!({ "trust_anchor": ANCHOR, "mrtd": ["99".repeat(48)] });
        record["document"] = json!({ "attestation_type": "TDX", "tdx": { "attributes": attributes } }).to_string().into();
        record["version"] = json!(2);
        policies.update(&policy_id, &serde_json::to_vec(&record).unwrap(), stored.revision).await.unwrap();
        drop(gate);
    };
    let (result, ()) = tokio::join!(transfer(&stack, &key_id, evidence(nonce)), tightened);
    assert_eq!(refusal(result), refused(Code::PermissionDenied, "policy_mismatch"));
    assert_eq!(stack.audit().await.pop().unwrap().policy_version, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_is_bounded_and_has_a_nonce() {
    let stack = Stack::start().await;
    let key_id = stack.simulator_key().await;
    let nonce = stack.broker().get_nonce(GetNonceRequest {}).await.unwrap().into_inner().nonce;
    assert_eq!(refusal(transfer(&stack, &key_id, evidence(None)).await).1, "nonce_missing");
    let sized = |quote: usize, user_data: usize, event_log: usize| Evidence {
        quote: vec![4; quote],
        nonce: nonce.clone(),
        user_data: vec![1; user_data],
        event_log: vec![1; event_log],
    };
    for (evidence, reason) in [
        (sized(0, 388, 0), "request_malformed"),
        (sized(16 * 1024 + 1, 388, 0), "request_too_large"),
        (sized(5000, 1024 * 1024 + 1, 0), "request_too_large"),
        (sized(5000, 388, 256 * 1024 + 1), "request_too_large"),
    ] {
        assert_eq!(refusal(transfer(&stack, &key_id, evidence).await).1, reason);
    }
}
