//! The real binary on a real NATS server, between scripted peers: start, retry, serve, tell, drain.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod support;

use std::{collections::HashSet, fs, path::Path, time::Duration};

use keyferry_bus::{Bus, Role};
use keyferry_contract::{
    Event, Reason,
    model::v1::{ModelExecuted, ModelLoaded, ModelReset},
};
use keyferry_identifiers::TdId;
use keyferry_lifecycle::clock;
use keyferry_testkit::{
    nats::NatsServer,
    process::{Service, ServiceSpec},
};
use keyferry_tls::CertificateAuthority;
use serde_json::{Value, json};
use support::{
    KEY_ID, Reply, http_client,
    peers::{FakeAttester, FakeBroker, Script},
    sealed_linreg,
};

const ROW: &str = r#"{"pregnancies":"1","blood-glucose":"128","blood-pressure":"88","skin-thickness":"39","insulin":"110","bmi":"36.5","dbf":"1.057","age":"37"}"#;

struct Site {
    attester: FakeAttester,
    broker: FakeBroker,
    config: Value,
}

fn prepare(directory: &Path, nats: &NatsServer, credentials: &Path) -> Site {
    let authority = CertificateAuthority::generate("test root", clock::now(), 2).unwrap();
    authority.write_certificate(&directory.join("ca.pem")).unwrap();
    fs::write(directory.join("model.enc"), sealed_linreg(1)).unwrap();
    let attester = FakeAttester::start(&directory.join("attester.sock"));
    let broker = FakeBroker::start(&authority, directory, 1);
    let certificate = authority.issue_server(&["localhost"], clock::now(), 1).unwrap().write_server(directory, "https").unwrap();
    let config = json!({
        "runtime": { "drain_seconds": 10, "health": { "listen": "127.0.0.1:0" } },
        "bus": { "url": nats.url(), "ca_file": nats.ca_file(), "credentials_file": credentials },
        "attester": { "socket": directory.join("attester.sock") },
        "key_broker": { "url": broker.url(), "ca_file": directory.join("ca.pem") },
        "model": { "file": directory.join("model.enc"), "key_id": KEY_ID, "name": "diabetes" },
        "https": {
            "listen": "127.0.0.1:0",
            "certificate_file": certificate.certificate_file,
            "key_file": certificate.key_file,
        },
    });
    Site { attester, broker, config }
}

/// The last event of its kind about this TD.
async fn last<E: Event>(admin: &Bus, td_id: &TdId) -> E {
    let stream = admin.jetstream().get_stream(E::KIND.stream.name()).await.unwrap();
    let message = stream.get_last_raw_message_by_subject(&E::subject(td_id)).await.unwrap();
    E::decode(message.payload.as_ref()).unwrap()
}

async fn readiness(service: &Service) -> (u16, String) {
    let url = format!("http://{}/health/ready", service.address("health").unwrap());
    let response = reqwest::Client::builder().no_proxy().build().unwrap().get(url).send().await.unwrap();
    let reply = Reply::of(response).await;
    (reply.status, reply.text)
}

async fn until(service: &Service, wanted: impl Fn(u16, &str) -> bool) {
    let reached = async {
        loop {
            let (status, text) = readiness(service).await;
            if wanted(status, &text) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(30), reached).await.is_ok(), "{}", service.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_retries_loads_serves_tells_and_drains() {
    let nats = NatsServer::start().await.unwrap();
    let (td_id, credentials) = nats.enrol("runner").unwrap();
    let td_id = TdId::parse(&td_id).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let site = prepare(directory.path(), &nats, &credentials);

    // The broker cannot audit for a while: not ready, and tried again until it can.
    site.broker.script(Script::Refuse(Reason::AuditUnavailable));
    let spec = ServiceSpec { name: "model-runner", instance: "runner".into(), config: site.config.clone(), environment: Vec::new() };
    let mut service = Service::start(spec, directory.path()).await.unwrap();
    until(&service, |status, text| status == 503 && text.contains("audit_unavailable")).await;
    site.broker.script(Script::Good);
    until(&service, |status, _| status == 200).await;

    let http = http_client(&directory.path().join("ca.pem"));
    let url = format!("https://localhost:{}/taa/v1/execute", service.address("https").unwrap().port());
    let request = http.post(url).header("content-type", "application/json").body(ROW);
    let reply = Reply::of(request.send().await.unwrap()).await;
    assert_eq!((reply.status, reply.text.as_str()), (200, "{\"high-risk\":1}\n"));

    // One trace a load, over the Unix socket and over TLS; another load, another trace.
    let traces = site.attester.traces();
    assert_eq!(traces, site.broker.traces());
    assert!(traces.len() > 1 && traces.iter().all(|trace| trace.len() == 32), "{traces:?}");
    assert_eq!(traces.iter().collect::<HashSet<_>>().len(), traces.len());

    assert_eq!(service.stop().await, Some(0), "{}", service.log());
    let admin = nats.connect(Role::Admin).await.unwrap();
    let loaded: ModelLoaded = last(&admin, &td_id).await;
    assert_eq!((loaded.td_id.as_str(), loaded.model_name.as_str(), loaded.key_id.as_str()), (td_id.as_str(), "diabetes", KEY_ID));
    let executed: ModelExecuted = last(&admin, &td_id).await;
    assert_eq!(executed.predictions, 1);
    let reset: ModelReset = last(&admin, &td_id).await;
    assert_eq!((reset.model_name.as_str(), reset.cause.as_str()), ("diabetes", "shutdown"));
    assert!(!service.log().contains("panicked"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denial_is_not_repeated_and_the_service_stays_up() {
    let nats = NatsServer::start().await.unwrap();
    let (_, credentials) = nats.enrol("denied").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let site = prepare(directory.path(), &nats, &credentials);
    site.broker.script(Script::Refuse(Reason::PolicyMismatch));
    let spec = ServiceSpec { name: "model-runner", instance: "runner".into(), config: site.config.clone(), environment: Vec::new() };
    let mut service = Service::start(spec, directory.path()).await.unwrap();
    until(&service, |status, text| status == 503 && text.contains("policy_mismatch")).await;
    assert_eq!(site.broker.transfers().len(), 1, "asked once");
    assert!(service.log().contains("until somebody acts"));
    assert_eq!(service.stop().await, Some(0));
}
