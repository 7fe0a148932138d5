//! Up to 1 MiB of user data, of any bytes or JSON, travels from a workload through quote, bus and token to its relying party.
#![allow(clippy::unwrap_used, reason = "the helpers below are test code; clippy exempts only functions marked #[test]")]

use std::time::Duration;

use keyferry_attestation_token::{Algorithm, AuthenticToken, KeySet, TrustedIssuer, authenticate};
use keyferry_bus::Role;
use keyferry_contract::{
    Rpc, Stream, USER_DATA_BYTES_MAX,
    attestation::v1::{
        EvidenceCollected, GetEvidenceRequest, GetJwksRequest, GetJwksResponse, GetTokenRequest, attester_client::AttesterClient,
    },
    release::v1::{AuditDecision, TransferKeyRequest, key_broker_client::KeyBrokerClient, transfer_key_request::Credential},
};
use keyferry_integration_tests::{Story, told};
use keyferry_tls::RootsConfig;
use serde_json::{Map, Value, json};
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt;

/// Bytes without a pattern: the high bytes of a linear congruential generator.
fn noise(bytes: usize) -> Vec<u8> {
    let next = |state: &u64| Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
    std::iter::successors(Some(7_u64), next).map(|state| state.to_be_bytes()[0]).take(bytes).collect()
}

/// A JSON object of exactly so many bytes, with members of every kind and characters beyond ASCII.
fn object(bytes: usize) -> Vec<u8> {
    let mut object = json!({ "name": "Würfel", "list": [1, 2.5, null, true], "nested": { "deep": { "er": [] } }, "text": "" });
    let missing = bytes - object.to_string().len();
    object["text"] = Value::from("x".repeat(missing));
    object.to_string().into_bytes()
}

/// A story without models, and the attester of its one TD.
async fn begin() -> (Story, AttesterClient<Channel>) {
    let story = Story::begin(|options| {
        options.tds = 1;
        options.load_models = false;
    })
    .await;
    let socket = &story.stack.description.tds[0].attester_socket;
    let attester = AttesterClient::new(keyferry_tls::grpc_unix_channel(socket)).max_decoding_message_size(4 * USER_DATA_BYTES_MAX);
    (story, attester)
}

async fn token(attester: &mut AttesterClient<Channel>, user_data: Vec<u8>) -> Result<String, Status> {
    let answer = attester.get_token(GetTokenRequest { user_data, policy_ids: Vec::new() }).await?;
    Ok(answer.into_inner().token)
}

/// As a relying party that pinned the verifier's root.
async fn relied_on(story: &Story, jwt: &str) -> AuthenticToken {
    let services = told(story.stack.nats.connect(Role::KeyRelease).await);
    let keys: GetJwksResponse = services.request(Rpc::TokenBrokerJwks, &GetJwksRequest {}, Duration::from_secs(5)).await.unwrap();
    let root = keyferry_tls::read_certificates(&story.stack.directory().join("token-broker-keys/root.pem")).unwrap()[0].to_vec();
    let trusted = TrustedIssuer::new("https://token-broker.keyferry.internal", root, Algorithm::ALL.to_vec());
    let now = keyferry_lifecycle::clock::now();
    let keys = KeySet::from_jwks(&keys.jwks, &trusted, now).unwrap();
    authenticate(jwt, std::slice::from_ref(&keys), now).unwrap()
}

fn refused_by_name(status: &Status, field: &str, got: usize) {
    let text = status.message();
    let names = [field, &got.to_string(), &USER_DATA_BYTES_MAX.to_string()].iter().all(|part| text.contains(part));
    let reason = status.get_error_details().error_info().map(|info| info.reason.clone());
    assert!(names && reason.as_deref() == Some("request_too_large"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mebibyte_of_any_bytes_and_of_json_reaches_its_relying_party_intact() {
    let (story, mut attester) = begin().await;
    for bytes in [noise(USER_DATA_BYTES_MAX), vec![0; USER_DATA_BYTES_MAX - 1], b"[1]".to_vec()] {
        let jwt = token(&mut attester, bytes.clone()).await.unwrap();
        assert!(relied_on(&story, &jwt).await.held_data() == Some(bytes.as_slice()), "{} bytes", bytes.len());
    }
    for text in [object(USER_DATA_BYTES_MAX), object(200)] {
        let jwt = token(&mut attester, text.clone()).await.unwrap();
        let relied_on = relied_on(&story, &jwt).await;
        let sent: Map<String, Value> = serde_json::from_slice(&text).unwrap();
        assert!(relied_on.held_data().is_none() && relied_on.members()["attester_runtime_data"] == Value::Object(sent));
    }
    story.end().await;
}

/// What a token cannot carry as an object, because it is too deep for a reader's parser, travels as bytes; numbers that would
/// grow if they were written again travel as the text they are.
#[tokio::test(flavor = "multi_thread")]
async fn json_that_is_too_deep_travels_as_bytes_and_long_numbers_as_they_are() {
    let (story, mut attester) = begin().await;
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(120), "]".repeat(120));
    let growing = format!("{{\"a\":[{}1]}}", "1e15,".repeat(200_000));
    let jwt = token(&mut attester, deep.clone().into_bytes()).await.unwrap();
    assert!(relied_on(&story, &jwt).await.held_data() == Some(deep.as_bytes()));
    let jwt = token(&mut attester, growing.clone().into_bytes()).await.unwrap();
    let sent: Map<String, Value> = serde_json::from_str(&growing).unwrap();
    let relied_on = relied_on(&story, &jwt).await;
    assert!(relied_on.held_data().is_none() && relied_on.members()["attester_runtime_data"] == Value::Object(sent));
    assert!(jwt.len() < 2 * growing.len(), "it did not grow");
    story.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_more_is_refused_by_name_at_every_door_before_anything_is_sent() {
    let (story, mut attester) = begin().await;
    let over = USER_DATA_BYTES_MAX + 1;
    refused_by_name(&token(&mut attester, vec![1; over]).await.unwrap_err(), "user_data", over);
    let evidence = attester.get_evidence(GetEvidenceRequest { user_data: vec![1; over], nonce: None }).await;
    refused_by_name(&evidence.unwrap_err(), "user_data", over);
    // So much more that it is not even decoded.
    let unread = token(&mut attester, vec![1; 3 * USER_DATA_BYTES_MAX]).await.unwrap_err();
    assert_eq!(
        (unread.code(), unread.get_error_details().error_info().unwrap().reason.as_str()),
        (Code::InvalidArgument, "request_too_large")
    );
    assert!(story.stored::<EvidenceCollected>(Stream::Evidence).await.is_empty());

    // The token of the most user data is read by the key broker, which releases nothing for it.
    let jwt = token(&mut attester, noise(USER_DATA_BYTES_MAX)).await.unwrap();
    assert!(jwt.len() > 1_800_000);
    let tls = keyferry_tls::client_config(&RootsConfig::CaFile(story.stack.description.ca_file.clone()), false).unwrap();
    let mut broker = KeyBrokerClient::new(keyferry_tls::grpc_channel(&story.stack.description.grpc_url, &tls).unwrap());
    let mut transfer = async |token: String| {
        let request = TransferKeyRequest { key_id: story.stack.description.key_id.clone(), credential: Some(Credential::Token(token)) };
        let refused = broker.transfer_key(request).await.unwrap_err();
        refused.get_error_details().error_info().unwrap().reason.clone()
    };
    assert_eq!(transfer(jwt).await, "held_data_invalid");
    assert_eq!(transfer("a".repeat(2 * 1024 * 1024 + 1)).await, "request_too_large");
    assert!(story.audit(AuditDecision::Released).await.is_empty());
    story.end().await;
}
