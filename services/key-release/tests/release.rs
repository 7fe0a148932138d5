//! The main job of this service, and what it refuses because of the token or the policy.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod harness;

use aws_lc_rs::hmac;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use harness::{
    Stack, TD, admin, refusal, refused,
    verifier::{ANCHOR, TD_ID, Verifier, encoded},
};
use keyferry_attestation_token::Shape;
use keyferry_bus::{Bucket, Role};
use keyferry_contract::{
    Reason,
    fleet::v1::{TdRecord, TdState},
    release::v1::{
        AuditDecision::{self, Exported, KeyCreated, PolicyChanged, Released, UserCreated},
        AuditRecord, ExplainPolicyRequest, ExportKeyRequest, KeyReleased,
    },
};
use keyferry_identifiers::TdId;
use keyferry_key_wrap::{ExportKeyPair, WrappedKey};
use keyferry_lifecycle::clock;
use prost::Message;
use serde_json::json;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_released_to_the_attested_td_and_recorded() {
    let stack = Stack::start().await;
    let policy = stack.policy(json!({ "trust_anchor": ANCHOR, "mrtd": ["AA".repeat(48)], "rtmr1": "d1".repeat(48) })).await;
    let key_id = stack.key(&policy).await;

    let pair = ExportKeyPair::generate(2048).unwrap();
    let request = ExportKeyRequest { key_id: key_id.clone(), public_key_pem: pair.public_pem() };
    let exported = stack.administration().export_key(admin(request)).await.unwrap().into_inner().wrapped_key;
    let exported = pair.open(&exported).unwrap();

    let token = stack.verifier.token(|_| {});
    let released = stack.transfer(&key_id, &token).await.unwrap();
    let again = stack.transfer(&key_id, &token).await.unwrap();
    assert_ne!(released.wrapped_key, again.wrapped_key, "each answer is wrapped afresh");
    let wrapped = WrappedKey::from_parts(released.wrapped_key, released.wrapped_swk);
    let key = TD.unwrap_key(&wrapped).unwrap();
    assert_eq!(key.expose(), exported.expose(), "the TD and the administrator have the same key");

    let records = stack.audit().await;
    let decisions: Vec<_> = records.iter().map(AuditRecord::decision).collect();
    assert_eq!(decisions, [UserCreated, PolicyChanged, KeyCreated, Exported, Released, Released]);
    let record = &records[4];
    assert_eq!(record.record_id, released.release_id);
    assert_eq!((record.td_id.as_str(), record.trust_anchor.as_str()), (TD_ID, ANCHOR));
    assert_eq!((record.key_id.as_str(), record.policy_id.as_str(), record.policy_version), (key_id.as_str(), policy.as_str(), 1));
    assert_eq!((record.mode.as_str(), record.service.as_str(), record.reason()), ("passport", "key-release", Reason::Unspecified));
    assert!(!record.token_id.is_empty() && record.claims.iter().all(|claim| claim.matched));
    assert!(record.claims.iter().any(|claim| claim.claim == "tdx_rtmr1"));
    for body in [stack.messages("AUDIT").await, stack.messages("KV_keys").await, stack.messages("KV_policies").await].concat() {
        assert!(!body.windows(32).any(|window| window == key.expose()), "the key is nowhere on the bus");
    }

    stack.release.finish().await;
    let events = stack.messages("EVENTS").await;
    let events: Vec<_> = events.iter().filter_map(|body| KeyReleased::decode(body.as_slice()).ok()).collect();
    assert!(events.iter().any(|event| event.release_id == released.release_id && event.td_id == TD_ID));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_not_believed_gets_nothing() {
    let stack = Stack::start().await;
    let key_id = stack.simulator_key().await;
    let verifier = &stack.verifier;
    let token = verifier.token(|_| {});
    let (header, rest) = token.split_once('.').unwrap();
    let (payload, signature) = rest.split_once('.').unwrap();
    let kid = verifier.issuer.key().kid();

    let unsigned = format!("{}.{payload}.", encoded(&json!({ "alg": "none", "kid": kid })));
    let message = format!("{}.{payload}", encoded(&json!({ "alg": "HS256", "kid": kid })));
    let secret = hmac::Key::new(hmac::HMAC_SHA256, verifier.issuer.key().public_key_der());
    let hmac = format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(hmac::sign(&secret, message.as_bytes())));
    let not_listed = format!("{}.{payload}.{signature}", encoded(&json!({ "alg": "PS384", "kid": kid })));
    let expired = verifier.issuer.issue(&harness::verifier::claims(), Shape::V2Nested, clock::now() - 400).unwrap().jwt;
    let future = verifier.issuer.issue(&harness::verifier::claims(), Shape::V2Nested, clock::now() + 400).unwrap().jwt;
    let stranger = Verifier::start(&stack.authority);
    let other_signature = format!("{header}.{payload}.{}", stranger.token(|_| {}).rsplit_once('.').unwrap().1);
    let elsewhere = verifier.forged(|payload| payload["iss"] = json!("https://elsewhere.test"));
    let nameless = verifier.forged(|payload| drop(payload.as_object_mut().unwrap().remove("jti")));

    for (token, reason) in [
        (unsigned, "token_algorithm_not_allowed"),
        (hmac, "token_algorithm_not_allowed"),
        (not_listed, "token_algorithm_not_allowed"),
        (expired, "token_expired"),
        (future, "token_not_yet_valid"),
        (stranger.token(|_| {}), "token_key_unknown"),
        (other_signature, "token_signature_invalid"),
        (elsewhere, "token_issuer_unknown"),
        (nameless, "token_claim_missing"),
    ] {
        assert_eq!(refusal(stack.transfer(&key_id, &token).await), refused(Code::Unauthenticated, reason));
        let record = stack.audit().await.pop().unwrap();
        assert_eq!((record.decision(), record.reason().label()), (AuditDecision::Denied, reason));
        assert!(record.token_id.is_empty(), "nobody vouches for it");
    }
    assert_eq!(refusal(stack.transfer(&key_id, "not a token").await), refused(Code::InvalidArgument, "token_malformed"));
    assert!(stack.transfer(&key_id, &token).await.is_ok(), "the service goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_token_for_another_key_gets_wanted_and_got_in_the_audit_only() {
    let stack = Stack::start().await;
    let (mine, other) = ("aa".repeat(48), "99".repeat(48));
    let policy = stack.policy(json!({ "trust_anchor": ANCHOR, "mrtd": [other] })).await;
    let key_id = stack.key(&policy).await;
    let token = stack.verifier.token(|_| {});

    let result = stack.transfer(&key_id, &token).await;
    let status = result.as_ref().unwrap_err();
    assert!(!status.message().contains("9999") && !status.message().contains("mrtd"), "{}", status.message());
    assert_eq!(refusal(result), refused(Code::PermissionDenied, "policy_mismatch"));

    let record = stack.audit().await.pop().unwrap();
    assert_eq!((record.decision(), record.reason()), (AuditDecision::Denied, Reason::PolicyMismatch));
    let claim = record.claims.iter().find(|claim| !claim.matched).unwrap();
    assert_eq!((claim.claim.as_str(), claim.wanted.as_str(), claim.got.as_str()), ("tdx_mrtd", other.as_str(), mine.as_str()));
    assert_eq!((record.td_id.as_str(), record.policy_id.as_str()), (TD_ID, policy.as_str()));

    let request = ExplainPolicyRequest { key_id, token, ..ExplainPolicyRequest::default() };
    let explained = stack.broker().explain_policy(admin(request)).await.unwrap().into_inner();
    assert_eq!((explained.permitted, explained.reason()), (false, Reason::PolicyMismatch));
    assert_eq!(explained.claims, record.claims);
    assert_eq!((explained.policy_id, explained.policy_version), (policy, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_attribute_of_the_policy_refuses_alone() {
    let stack = Stack::start().await;
    let token = stack.verifier.token(|_| {});
    let other = "99".repeat(48);
    for (member, value) in [
        ("mrtd", json!([other])),
        ("mrseam", json!([other])),
        ("mrsignerseam", json!([other])),
        ("rtmr0", json!(other)),
        ("rtmr1", json!(other)),
        ("rtmr2", json!(other)),
        ("rtmr3", json!(other)),
        ("seamsvn", json!(1)),
    ] {
        let policy = stack.policy(json!({ "trust_anchor": ANCHOR, member: value })).await;
        let key_id = stack.key(&policy).await;
        assert_eq!(refusal(stack.transfer(&key_id, &token).await), refused(Code::PermissionDenied, "policy_mismatch"), "{member}");
    }
    let policy = stack.policy(json!({ "trust_anchor": ANCHOR, "enforce_tcb_upto_date": true })).await;
    let key_id = stack.key(&policy).await;
    let outdated = stack.verifier.token(|claims| claims.tcb_status = "OutOfDate".to_owned());
    assert_eq!(refusal(stack.transfer(&key_id, &outdated).await), refused(Code::PermissionDenied, "policy_mismatch"));
    let debuggable = stack.verifier.token(|claims| claims.measurements.td_attributes[0] = 1);
    assert_eq!(refusal(stack.transfer(&key_id, &debuggable).await), refused(Code::PermissionDenied, "policy_mismatch"));
    assert!(stack.transfer(&key_id, &token).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_simulators_td_needs_the_policys_consent() {
    let stack = Stack::start().await;
    let policy = stack.policy(json!({ "mrtd": ["aa".repeat(48)] })).await;
    let key_id = stack.key(&policy).await;
    let token = stack.verifier.token(|_| {});
    assert_eq!(refusal(stack.transfer(&key_id, &token).await), refused(Code::PermissionDenied, "trust_anchor_not_allowed"));
    let unnamed = stack.verifier.forged(|payload| drop(payload.as_object_mut().unwrap().remove("keyferry.trust_anchor")));
    assert_eq!(refusal(stack.transfer(&key_id, &unnamed).await), refused(Code::PermissionDenied, "trust_anchor_not_allowed"));
    let record = stack.audit().await.pop().unwrap();
    assert_eq!((record.reason(), record.trust_anchor.as_str()), (Reason::TrustAnchorNotAllowed, "unknown"));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_sound_public_key_is_wrapped_for() {
    let stack = Stack::start().await;
    let key_id = stack.simulator_key().await;
    let short = [&65537_u32.to_le_bytes()[..], &[0xc7; 256]].concat();
    let big_endian = [&65537_u32.to_be_bytes()[..], &[0xc7; 384]].concat();
    for held_data in [Vec::new(), vec![1], short, big_endian, br#"{"a":1}"#.to_vec()] {
        let token = stack.verifier.token(|claims| claims.held_data.clone_from(&held_data));
        assert_eq!(refusal(stack.transfer(&key_id, &token).await), refused(Code::InvalidArgument, "held_data_invalid"));
    }
    let garbled = stack.verifier.forged(|payload| payload["tdx"]["attester_held_data"] = json!("!"));
    assert_eq!(refusal(stack.transfer(&key_id, &garbled).await), refused(Code::InvalidArgument, "held_data_invalid"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_simulators_verifier_cannot_vouch_for_hardware() {
    let stack = Stack::start().await;
    let policy = stack.policy(json!({ "mrtd": ["aa".repeat(48)] })).await;
    let key_id = stack.key(&policy).await;
    // Everything is right, and signed by the issuer's real key; but the issuer is configured for a simulator's root alone.
    let token = stack.verifier.token(|claims| claims.trust_anchor = "intel-sgx-root".to_owned());
    assert_eq!(refusal(stack.transfer(&key_id, &token).await), refused(Code::PermissionDenied, "trust_anchor_not_allowed"));
    let record = stack.audit().await.pop().unwrap();
    assert_eq!((record.decision(), record.reason()), (AuditDecision::Denied, Reason::TrustAnchorNotAllowed));
    assert!(record.detail.contains("may not speak for"), "{}", record.detail);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_does_not_say_whether_the_td_can_be_debugged_gets_nothing() {
    let stack = Stack::start().await;
    let key_id = stack.simulator_key().await;
    let silent = stack.verifier.forged(|payload| {
        let tdx = payload["tdx"].as_object_mut().unwrap();
        tdx.retain(|name, _| !["dbgstat", "tdx_is_debuggable", "tdx_td_attributes_debug", "tdx_td_attributes"].contains(&name.as_str()));
    });
    assert_eq!(refusal(stack.transfer(&key_id, &silent).await), refused(Code::PermissionDenied, "policy_mismatch"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_td_gets_nothing_from_the_next_request_on() {
    let stack = Stack::start().await;
    let key_id = stack.simulator_key().await;
    let token = stack.verifier.token(|_| {});
    let fleet = stack.nats.connect(Role::Admin).await.unwrap().bucket(Bucket::Fleet);
    let record = |state: TdState| TdRecord { td_id: TD_ID.to_owned(), state: state.into(), ..TdRecord::default() }.encode_to_vec();
    let revision = fleet.create(TD_ID, record(TdState::Attested).into()).await.unwrap();
    assert!(stack.transfer(&key_id, &token).await.is_ok());

    let revision = fleet.update(TD_ID, record(TdState::Revoked).into(), revision).await.unwrap();
    assert_eq!(refusal(stack.transfer(&key_id, &token).await), refused(Code::PermissionDenied, "td_revoked"));
    let denied = stack.audit().await.pop().unwrap();
    assert_eq!((denied.decision(), denied.reason(), denied.td_id.as_str()), (AuditDecision::Denied, Reason::TdRevoked, TD_ID));
    let other = stack.verifier.token(|claims| claims.td_id = Some(TdId::parse("UOTHER").unwrap()));
    assert!(stack.transfer(&key_id, &other).await.is_ok(), "another TD is not concerned");

    fleet.update(TD_ID, vec![0xff; 9].into(), revision).await.unwrap();
    assert_eq!(refusal(stack.transfer(&key_id, &token).await), refused(Code::Unavailable, "store_unavailable"), "garbage is no acquittal");
}
