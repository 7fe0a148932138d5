//! Administrators: who may, what they can make, and what a stranger gets.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod harness;

use base64::{Engine, prelude::BASE64_STANDARD};
use harness::{Stack, admin, refusal, refused, with_credential};
use keyferry_contract::{
    Reason,
    release::v1::{
        AuditDecision, CreateKeyRequest, CreatePolicyRequest, ExplainPolicyRequest, ExportKeyRequest, GetKeyRequest, GetPolicyRequest,
        KeyAlgorithm,
    },
};
use keyferry_key_wrap::{ExportKeyPair, KeyMaterial};
use keyferry_kms::{KeySpec, KeyState, Kms};
use serde_json::json;
use tonic::{Code, Request};

#[tokio::test(flavor = "multi_thread")]
async fn nobody_administers_without_the_right_name_and_password() {
    let stack = Stack::start().await;
    let key_id = stack.simulator_key().await;
    let basic = |text: &str| format!("Basic {}", BASE64_STANDARD.encode(text));
    let wrong = [None, Some("Bearer x".to_owned()), Some(basic("admin")), Some("Digest x".to_owned())];
    let strangers = refused(Code::Unauthenticated, "unauthenticated");
    for authorization in wrong {
        macro_rules! refused_by {
            ($client:ident, $method:ident, $message:expr) => {{
                let message = $message;
                let request = match &authorization {
                    Some(authorization) => with_credential(message, authorization),
                    None => Request::new(message),
                };
                assert_eq!(refusal(stack.$client().$method(request).await), strangers);
            }};
        }
        refused_by!(administration, create_policy, CreatePolicyRequest { document: "{}".to_owned() });
        refused_by!(administration, get_policy, GetPolicyRequest { policy_id: String::new(), version: 0 });
        refused_by!(administration, create_key, CreateKeyRequest::default());
        refused_by!(administration, get_key, GetKeyRequest { key_id: key_id.clone() });
        refused_by!(administration, export_key, ExportKeyRequest { key_id: key_id.clone(), public_key_pem: String::new() });
        refused_by!(
            broker,
            explain_policy,
            ExplainPolicyRequest { key_id: key_id.clone(), token: String::new(), ..ExplainPolicyRequest::default() }
        );
    }
    for wrong in ["admin:wrong", "root:correct horse battery"] {
        let request = with_credential(GetKeyRequest { key_id: key_id.clone() }, &basic(wrong));
        assert_eq!(refusal(stack.administration().get_key(request).await), strangers);
    }
    let record = stack.audit().await.into_iter().find(|record| record.decision() == AuditDecision::Denied).unwrap();
    assert_eq!((record.reason(), record.client_address.as_str()), (Reason::Unauthenticated, "127.0.0.1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_and_keys_are_made_read_and_exported() {
    let stack = Stack::start().await;
    let mut administration = stack.administration();
    let document = json!({ "attestation_type": "TDX", "tdx": { "attributes": { "mrtd": ["aa".repeat(48)] } } }).to_string();
    let created = administration.create_policy(admin(CreatePolicyRequest { document: document.clone() })).await.unwrap().into_inner();
    assert_eq!(created.version, 1);
    assert!(created.warnings[0].starts_with("only mrtd is pinned"), "{:?}", created.warnings);
    let policy =
        administration.get_policy(admin(GetPolicyRequest { policy_id: created.policy_id.clone(), version: 0 })).await.unwrap().into_inner();
    assert_eq!((policy.document, policy.version), (document, 1));

    let request = CreateKeyRequest {
        algorithm: KeyAlgorithm::Aes.into(),
        length_bits: 128,
        policy_id: created.policy_id.clone(),
        ..CreateKeyRequest::default()
    };
    let key_id = administration.create_key(admin(request)).await.unwrap().into_inner().key_id;
    let key = administration.get_key(admin(GetKeyRequest { key_id: key_id.clone() })).await.unwrap().into_inner();
    assert_eq!((key.algorithm(), key.length_bits, key.policy_id), (KeyAlgorithm::Aes, 128, created.policy_id));

    let pair = ExportKeyPair::generate(2048).unwrap();
    let request = ExportKeyRequest { key_id, public_key_pem: pair.public_pem() };
    let exported = administration.export_key(admin(request)).await.unwrap().into_inner().wrapped_key;
    assert_eq!(pair.open(&exported).unwrap().bits(), 128);
    let records = stack.audit().await;
    let exported = records.last().unwrap();
    assert_eq!((exported.decision(), exported.actor.as_str(), exported.mode.as_str()), (AuditDecision::Exported, "admin", "export"));
    assert_eq!(records[0].actor, "bootstrap");
    assert!(records[1..].iter().all(|record| record.actor == "admin"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_in_the_kms_already_is_adopted() {
    let stack = Stack::start().await;
    let material = KeyMaterial::new(vec![0x5a; 32]).unwrap();
    let reference = stack.kms.inner.register(&KeySpec::aes(256).unwrap(), &material).await.unwrap();
    let adopt = |length_bits, reference: &str| CreateKeyRequest {
        algorithm: KeyAlgorithm::Aes.into(),
        length_bits,
        policy_id: String::new(),
        kms_key_ref: reference.to_owned(),
        ..CreateKeyRequest::default()
    };
    let key_id = stack.administration().create_key(admin(adopt(256, reference.as_str()))).await.unwrap().into_inner().key_id;
    let pair = ExportKeyPair::generate(2048).unwrap();
    let request = ExportKeyRequest { key_id, public_key_pem: pair.public_pem() };
    let exported = stack.administration().export_key(admin(request)).await.unwrap().into_inner().wrapped_key;
    assert_eq!(pair.open(&exported).unwrap().expose(), [0x5a; 32]);

    let wrong_length = stack.administration().create_key(admin(adopt(128, reference.as_str()))).await;
    assert_eq!(refusal(wrong_length), refused(Code::FailedPrecondition, "key_mismatch"));
    let unknown = stack.administration().create_key(admin(adopt(256, "5f1c7a52-3c0e-4f0b-9f43-5d1d2a6f7b10"))).await;
    assert_eq!(refusal(unknown), refused(Code::NotFound, "key_not_found"));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_of_an_administrator_name_the_field() {
    let stack = Stack::start().await;
    let mut administration = stack.administration();
    for (document, names) in [("", "policy"), ("{}", "attestation_type"), (r#"{"attestation_type":"TDX","tdx":{"x":1}}"#, "unknown field")]
    {
        let status = administration.create_policy(admin(CreatePolicyRequest { document: document.to_owned() })).await.unwrap_err();
        assert!(status.code() == Code::InvalidArgument && status.message().contains(names), "{status}");
    }
    let key = |algorithm: KeyAlgorithm, length_bits, policy_id: &str| {
        admin(CreateKeyRequest { algorithm: algorithm.into(), length_bits, policy_id: policy_id.to_owned(), ..CreateKeyRequest::default() })
    };
    for (request, names) in [
        (key(KeyAlgorithm::Unspecified, 256, ""), "algorithm"),
        (key(KeyAlgorithm::Aes, 0, ""), "length_bits"),
        (key(KeyAlgorithm::Aes, 65_792, ""), "length_bits"),
        (key(KeyAlgorithm::Aes, 256, "x"), "policy_id"),
    ] {
        let status = administration.create_key(request).await.unwrap_err();
        assert!(status.code() == Code::InvalidArgument && status.message().contains(names), "{status}");
    }
    let dangling = administration.create_key(key(KeyAlgorithm::Aes, 256, "5f1c7a52-3c0e-4f0b-9f43-5d1d2a6f7b10")).await;
    assert_eq!(refusal(dangling), refused(Code::FailedPrecondition, "policy_not_found"));
    let key_id = stack.key("").await;
    let no_pem = administration.export_key(admin(ExportKeyRequest { key_id, public_key_pem: "x".to_owned() })).await.unwrap_err();
    assert!(no_pem.code() == Code::InvalidArgument && no_pem.message().contains("public_key_pem"), "{no_pem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_cannot_be_fetched_again_is_taken_back() {
    let stack = Stack::start().await;
    stack.kms.keep_every_key();
    let request =
        CreateKeyRequest { algorithm: KeyAlgorithm::Aes.into(), length_bits: 256, policy_id: String::new(), ..CreateKeyRequest::default() };
    assert_eq!(refusal(stack.administration().create_key(admin(request)).await).1, "key_not_releasable");
    let made = stack.kms.made.lock().unwrap().clone();
    assert_eq!(made.len(), 1);
    assert_eq!(stack.kms.inner.inspect(&made[0]).await.unwrap().state, Some(KeyState::Destroyed), "nobody has its reference");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_recorded_though_the_administrator_hung_up() {
    let stack = Stack::start().await;
    let request =
        CreateKeyRequest { algorithm: KeyAlgorithm::Aes.into(), length_bits: 256, policy_id: String::new(), ..CreateKeyRequest::default() };
    let gate = stack.kms.gate.lock().await;
    let mut administration = stack.administration();
    let call = tokio::spawn(async move { administration.create_key(admin(request)).await });
    stack.kms.fetching.notified().await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    // The same connection answers this after it took the end of the call.
    for _ in 0..2 {
        refusal(stack.broker().explain_policy(ExplainPolicyRequest::default()).await);
    }
    drop(gate);
    stack.release.finish().await;
    let records = stack.audit().await;
    assert!(records.iter().any(|record| record.decision() == AuditDecision::KeyCreated), "{records:?}");
    assert_eq!(stack.messages("KV_keys").await.len(), 1, "the key that was made has a record");
}
