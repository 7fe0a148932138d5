//! The main job: a TD attests, gets its key, decrypts its model and serves it; one trace tells all of it.
#![allow(clippy::unwrap_used)] // tests: a missing value is the failure

use keyferry_bus::{Bus, BusConfig};
use keyferry_contract::{Reason, Stream, model::v1::ModelLoaded, release::v1::AuditDecision};
use keyferry_integration_tests::{PATIENCE, Story, told};
use keyferry_testkit::{
    otlp::OtlpReceiver,
    stack::{KmsKind, ModelKind},
};
use prost::Message;

const SERVICES: [&str; 4] = ["attester", "key-release", "model-runner", "token-broker"];

#[tokio::test(flavor = "multi_thread")]
async fn the_sample_model_is_served_and_one_trace_tells_how() {
    let receiver = told(OtlpReceiver::start().await);
    let story = Story::begin(|options| options.otlp_url = Some(receiver.endpoint().to_owned())).await;
    let prediction = told(story.stack.predict(0).await);
    assert!(prediction.is_right(), "{prediction:?}");

    let released = story.audit(AuditDecision::Released).await;
    let issued = story.audit(AuditDecision::TokenIssued).await;
    assert_eq!((released.len(), issued.len()), (1, 1), "released once, issued once");
    let td = &story.stack.description.tds[0];
    assert_eq!(released[0].td_id, td.id);
    assert_eq!(released[0].key_id, story.stack.description.key_id);
    assert_eq!(released[0].token_id, issued[0].token_id);
    assert_eq!(released[0].trust_anchor, story.stack.description.trust_anchor);
    assert_eq!(released[0].reason(), Reason::Unspecified);

    let events = story.raw(Stream::Events).await;
    let subjects: Vec<String> = events.iter().map(|event| event.subject.to_string()).collect();
    assert!(subjects.contains(&format!("keyferry.v1.key.released.{}", td.id)), "{subjects:?}");
    assert!(subjects.contains(&format!("keyferry.v1.model.loaded.{}", td.id)), "{subjects:?}");
    for event in &events {
        for header in ["Nats-Msg-Id", "traceparent", "content-type", "keyferry-schema"] {
            assert!(event.headers.get(header).is_some(), "{} lacks {header}", event.subject);
        }
    }
    assert!(story.raw(Stream::Dlq).await.is_empty(), "nothing was undeliverable");

    one_trace(&receiver, &released[0].trace_id).await;
    its_description_is_enough_to_reach_the_bus(&story).await;
    no_secret_is_in_the_logs(&story);
    story.end().await;
}

/// Whoever has `stack.json` needs nothing else: its root file is for the NATS server too.
async fn its_description_is_enough_to_reach_the_bus(story: &Story) {
    let description = &story.stack.description;
    let config = BusConfig::new(description.nats_url.clone(), description.ca_file.clone(), description.bus.auditor_credentials.clone());
    let auditor = Bus::connect(&config, "auditor").await.unwrap();
    auditor.jetstream().get_stream(Stream::Audit.name()).await.unwrap();
}

async fn one_trace(receiver: &OtlpReceiver, trace_id: &str) {
    let trace = receiver
        .wait_for_trace(trace_id, PATIENCE, |trace| trace.is_whole() && trace.services == SERVICES && trace.has("load_model"))
        .await;
    let shown = trace.waterfall(160);
    assert_eq!(trace.roots.len(), 1, "{shown}");
    assert_eq!(trace.roots[0].name, "load_model", "{shown}");
    assert!(trace.orphans.is_empty(), "{shown}");
    assert_eq!(trace.services, SERVICES, "{shown}");
    assert_eq!(trace.call_mistakes(), Vec::<String>::new(), "{shown}");
    for name in [
        "keyferry.release.v1.KeyBroker/TransferKey",
        "keyferry.attestation.v1.Attester/GetToken",
        "token-broker/nonce",
        "verify_token",
        "evaluate_policy",
        "wrap_key",
    ] {
        assert!(trace.has(name), "no span {name}:\n{shown}");
    }
    for fragment in [
        "publish keyferry.v1.evidence.collected.{td_id}",
        "process keyferry.v1.evidence.collected.{td_id}",
        "publish keyferry.v1.token.issued.{td_id}",
        "get dev",
    ] {
        assert!(trace.spans.iter().any(|span| span.name == fragment), "no span {fragment}:\n{shown}");
    }
    for span in &trace.spans {
        for (name, value) in &span.attributes {
            assert!(!value.contains("eyJ"), "{} has a token in {name}", span.name);
            assert!(value.len() < 300, "{} carries {} characters in {name}", span.name, value.len());
        }
    }
}

fn no_secret_is_in_the_logs(story: &Story) {
    let logs = story.logs();
    let directory = story.stack.directory();
    for file in ["admin-password", "ita-api-key", "store-key"] {
        let secret = std::fs::read_to_string(directory.join(file)).unwrap();
        assert!(!logs.contains(secret.trim()), "{file} is in a log");
    }
    assert!(!logs.contains("eyJ"), "a token is in a log");
    assert!(!logs.contains("PRIVATE KEY"), "a private key is in a log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_of_ones_own_is_served_with_its_key_in_a_real_kmip_server() {
    let story = Story::begin(|options| {
        options.kms = KmsKind::Pykmip;
        options.model = ModelKind::Onnx;
    })
    .await;
    let prediction = told(story.stack.predict(0).await);
    assert!(prediction.is_right(), "{prediction:?}");
    let loaded = story.raw(Stream::Events).await.into_iter().find(|event| event.subject.contains(".model.loaded."));
    let loaded = ModelLoaded::decode(loaded.unwrap().payload).unwrap();
    assert_eq!((loaded.model_format.as_str(), loaded.model_name.as_str()), ("onnx", "breast-cancer"));
    assert_eq!(loaded.key_id, story.stack.description.key_id);
    story.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_may_be_in_a_real_openbao_that_a_release_can_only_read() {
    let story = Story::begin(|options| options.kms = KmsKind::Openbao).await;
    let prediction = told(story.stack.predict(0).await);
    assert!(prediction.is_right(), "{prediction:?}");
    assert_eq!(story.stack.description.kms.kind, "openbao");
    let released = story.audit(AuditDecision::Released).await;
    assert_eq!(released.len(), 1);
    no_secret_is_in_the_logs(&story);
    story.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tds_get_the_key_each_for_itself() {
    let story = Story::begin(|options| options.tds = 2).await;
    let released = story.audit(AuditDecision::Released).await;
    let mut tds: Vec<&str> = released.iter().map(|record| record.td_id.as_str()).collect();
    tds.sort_unstable();
    let mut wanted: Vec<&str> = story.stack.description.tds.iter().map(|td| td.id.as_str()).collect();
    wanted.sort_unstable();
    assert_eq!(tds, wanted);
    for td in 0..2 {
        assert!(told(story.stack.predict(td).await).is_right());
    }
    let names = |subject: &str, name: &str| subject.contains(name);
    let events = story.raw(Stream::Events).await;
    let released = events.iter().filter(|event| names(&event.subject, ".key.released.")).count();
    let loaded = events.iter().filter(|event| names(&event.subject, ".model.loaded.")).count();
    assert_eq!((released, loaded), (2, 2));
    story.end().await;
}
