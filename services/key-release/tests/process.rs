//! The program itself: its example configuration, its readiness, a restart, a drain.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod harness;

use std::{path::Path, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use harness::{TD, admin, issuer_config, refusal, refused, verifier};
use key_release::Config;
use keyferry_bus::{AuditCopy, AuditPublicKey, AuditReader, AuditReport, AuditVerifier, Provisioning, Role};
use keyferry_contract::release::v1::{
    AuditRecord, CreateKeyRequest, CreatePolicyRequest, KeyAlgorithm, TransferKeyRequest, TransferKeyResponse,
    key_administration_client::KeyAdministrationClient, key_broker_client::KeyBrokerClient, transfer_key_request::Credential,
};
use keyferry_key_wrap::WrappedKey;
use keyferry_lifecycle::{Layers, clock, load};
use keyferry_testkit::{
    nats::NatsServer,
    process::{Service, ServiceSpec},
};
use keyferry_tls::{CertificateAuthority, RootsConfig, client_config, grpc_channel};
use prost::Message;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{Code, Status, transport::Channel};
use verifier::{ANCHOR, Verifier};

fn example() -> Layers {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("key-release.example.toml");
    Layers { file: Some(file), ..Layers::default() }
}

#[test]
fn the_example_configuration_is_accepted() {
    let config: Config = load(&example()).unwrap();
    assert_eq!((config.issuers.len(), config.listen.port()), (2, 9443));
    assert!(config.verifier.is_some() && config.admin.username.as_deref() == Some("admin"));
}

#[test]
fn every_mistake_is_reported_at_once() {
    let settings = ["issuers=[]", "listen=nowhere", "surprise=1", "verifier.api_url=http://plain", "trace_context=believe"];
    let layers = Layers { settings: settings.map(str::to_owned).to_vec(), ..example() };
    let error = load::<Config>(&layers).unwrap_err();
    let mistakes: Vec<_> = error.mistakes().iter().map(|mistake| mistake.setting().to_owned()).collect();
    for setting in ["issuers", "listen", "surprise", "trace_context"] {
        assert!(mistakes.iter().any(|mistake| mistake == setting), "{setting} is not in {mistakes:?}");
    }
    let layers = Layers { settings: vec!["verifier.api_url=http://plain".to_owned()], ..example() };
    assert_eq!(load::<Config>(&layers).unwrap_err().mistakes()[0].setting(), "verifier.api_url");
    let anchors = |anchors: &str| {
        let issuer = r#"{issuer="i",root_file="r",jwks_url="https://i",jwks_ca_file="c",algorithms=["PS384"],absent_anchor="intel""#;
        let layers = Layers { settings: vec![format!("issuers=[{issuer},trust_anchors={anchors}}}]")], ..example() };
        load::<Config>(&layers).map_err(|error| error.mistakes().iter().map(|mistake| mistake.setting().to_owned()).collect::<Vec<_>>())
    };
    assert_eq!(anchors(r#"["intel-sgx-root"]"#).unwrap().issuers.len(), 1);
    assert_eq!(anchors("[]").unwrap_err(), ["issuers.0.trust_anchors", "issuers.0.absent_anchor"]);
    assert_eq!(anchors(r#"["simulator:1"]"#).unwrap_err(), ["issuers.0.trust_anchors", "issuers.0.absent_anchor"]);
    assert_eq!(anchors(&format!(r#"["simulator:{}"]"#, "0".repeat(64))).unwrap_err(), ["issuers.0.absent_anchor"]);
}

fn settings(directory: &Path, nats: &NatsServer, verifier: &Verifier, authority: &CertificateAuthority) -> Value {
    let issuer = issuer_config(directory, authority, verifier);
    let tls = authority.issue_server(&["127.0.0.1"], clock::now(), 30).unwrap().write_server(directory, "listener").unwrap();
    let password = directory.join("password");
    std::fs::write(&password, format!("{}\n", harness::PASSWORD)).unwrap();
    json!({
        "listen": "127.0.0.1:0",
        "store_key_file": directory.join("store.key"),
        "tls": { "certificate_file": tls.certificate_file, "key_file": tls.key_file },
        "bus": { "url": nats.url(), "ca_file": nats.ca_file(), "credentials_file": nats.credentials_file(Role::KeyRelease) },
        "issuers": [{
            "issuer": issuer.issuer, "root_file": issuer.root_file, "jwks_url": issuer.jwks_url, "jwks_ca_file": issuer.jwks_ca_file,
            "algorithms": ["ES256"], "trust_anchors": [ANCHOR]
        }],
        "kms": { "dev": { "file": directory.join("keys"), "key_file": directory.join("keys.key") } },
        "runtime": { "health": { "listen": "127.0.0.1:0" } }
    })
}

async fn ready(service: &Service) -> String {
    let mut stream = TcpStream::connect(service.address("health").unwrap()).await.unwrap();
    stream.write_all(b"GET /health/ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Readiness is a level, not an edge: asked until it is there.
async fn until(service: &Service, state: impl Fn(&str) -> bool) {
    let waiting = async {
        while !state(&ready(service).await) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap();
}

async fn until_ready(service: &Service) {
    until(service, |answer| answer.starts_with("HTTP/1.1 200")).await;
}

fn channel(service: &Service, authority: &CertificateAuthority) -> Channel {
    let roots = RootsConfig::Ders(vec![authority.certificate_der().to_vec()]);
    grpc_channel(&format!("https://{}", service.address("grpc").unwrap()), &client_config(&roots, false).unwrap()).unwrap()
}

async fn transfer(channel: &Channel, key_id: &str, token: String) -> Result<TransferKeyResponse, Status> {
    let request = TransferKeyRequest { key_id: key_id.to_owned(), credential: Some(Credential::Token(token)) };
    KeyBrokerClient::new(channel.clone()).transfer_key(request).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_starts_before_the_verifier_and_keeps_its_keys_over_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let authority = CertificateAuthority::generate("test root", clock::now(), 30).unwrap();
    let verifier = Verifier::start(&authority);
    let mut nats = NatsServer::start().await.unwrap();
    let spec = ServiceSpec {
        name: "key-release",
        instance: "key-release".to_owned(),
        config: settings(directory.path(), &nats, &verifier, &authority),
        environment: vec![
            ("ADMIN_USERNAME".to_owned(), "admin".to_owned()),
            ("ADMIN_PASSWORD_FILE".to_owned(), directory.path().join("password").display().to_string()),
        ],
    };
    let mut service = Service::start(spec, directory.path()).await.unwrap();
    let answer = ready(&service).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("jwks"), "{answer}");

    let first = channel(&service, &authority);
    let mut administration = KeyAdministrationClient::new(first.clone());
    let document = json!({ "attestation_type": "TDX", "tdx": { "attributes": { "trust_anchor": ANCHOR } } }).to_string();
    let policy_id = administration.create_policy(admin(CreatePolicyRequest { document })).await.unwrap().into_inner().policy_id;
    let request = CreateKeyRequest { algorithm: KeyAlgorithm::Aes.into(), length_bits: 256, policy_id, ..CreateKeyRequest::default() };
    let key_id = administration.create_key(admin(request)).await.unwrap().into_inner().key_id;
    assert_eq!(refusal(transfer(&first, &key_id, verifier.token(|_| {})).await), refused(Code::Unavailable, "jwks_unavailable"));

    verifier.publish();
    until_ready(&service).await;
    let released = transfer(&first, &key_id, verifier.token(|_| {})).await.unwrap();
    let before = TD.unwrap_key(&WrappedKey::from_parts(released.wrapped_key, released.wrapped_swk)).unwrap();
    assert_eq!(service.stop().await, Some(0), "a drain ends with 0\n{}", service.log());

    service.restart().await.unwrap();
    until_ready(&service).await;
    let released = transfer(&channel(&service, &authority), &key_id, verifier.token(|_| {})).await.unwrap();
    let after = TD.unwrap_key(&WrappedKey::from_parts(released.wrapped_key, released.wrapped_swk)).unwrap();
    assert_eq!(before.expose(), after.expose());

    nats.stop().await;
    until(&service, |answer| answer.starts_with("HTTP/1.1 503") && answer.contains("bus")).await;
    nats.restart().await.unwrap();
    until_ready(&service).await;
    service.kill().await;
    let log = service.log();
    assert!(!log.contains(harness::PASSWORD));
    assert!(log.lines().any(|line| line.contains("key not released") && line.contains("jwks_unavailable")), "{log}");
}

/// The audit as it is stored, verified, and the ids of its records.
async fn audited(nats: &NatsServer, key: &Path) -> (AuditReport, Vec<String>) {
    let auditor = nats.connect(Role::Auditor).await.unwrap();
    let mut reader = AuditReader::open(&auditor, AuditCopy::Original).await.unwrap();
    let state = reader.state().await.unwrap();
    let mut verifier = AuditVerifier::new(AuditPublicKey::read_all(key).unwrap(), state.first, Vec::new());
    let mut ids = Vec::new();
    let records: Vec<_> = reader.read(state.first..=state.last).collect().await;
    for stored in records.into_iter().map(Result::unwrap) {
        verifier.next(stored.stream_sequence, &stored.subject, &stored.body);
        ids.push(AuditRecord::decode(stored.body).unwrap().record_id);
    }
    (verifier.finish(state.last), ids)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_middle_leaves_an_audit_of_every_answer_and_a_drain_signs_it_to_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let authority = CertificateAuthority::generate("test root", clock::now(), 30).unwrap();
    let verifier = Verifier::start(&authority);
    verifier.publish();
    let nats = NatsServer::start().await.unwrap();
    let mut config = settings(directory.path(), &nats, &verifier, &authority);
    config["admin"] = json!({ "username": "admin", "password_file": directory.path().join("password") });
    let spec = ServiceSpec { name: "key-release", instance: "key-release".to_owned(), config, environment: Vec::new() };
    let mut service = Service::start(spec, directory.path()).await.unwrap();
    until_ready(&service).await;
    let first = channel(&service, &authority);
    let mut administration = KeyAdministrationClient::new(first.clone());
    let document = json!({ "attestation_type": "TDX", "tdx": { "attributes": { "trust_anchor": ANCHOR } } }).to_string();
    let policy_id = administration.create_policy(admin(CreatePolicyRequest { document })).await.unwrap().into_inner().policy_id;
    let request = CreateKeyRequest { algorithm: KeyAlgorithm::Aes.into(), length_bits: 256, policy_id, ..CreateKeyRequest::default() };
    let key_id = administration.create_key(admin(request)).await.unwrap().into_inner().key_id;

    // Killed while most of them are under way.
    let token = verifier.token(|_| {});
    let mut under_way: FuturesUnordered<_> = (0..64).map(|_| transfer(&first, &key_id, token.clone())).collect();
    let mut answered = vec![under_way.next().await.unwrap().unwrap().release_id];
    service.kill().await;
    while let Some(answer) = under_way.next().await {
        answered.extend(answer.ok().map(|answer| answer.release_id));
    }
    let key = directory.path().join("audit.key.pub");
    let (report, ids) = audited(&nats, &key).await;
    assert_eq!(report.findings, []);
    assert!(report.chains.iter().all(|chain| !chain.closed));
    assert!(answered.iter().all(|release| ids.contains(release)), "an answer without a record");

    let killed = report.chains.len();
    service.restart().await.unwrap();
    until_ready(&service).await;
    let released = transfer(&channel(&service, &authority), &key_id, token).await.unwrap();
    assert_eq!(service.stop().await, Some(0), "{}", service.log());
    let (report, ids) = audited(&nats, &key).await;
    assert_eq!(report.findings, []);
    assert!(ids.contains(&released.release_id));
    let closed = report.chains.iter().filter(|chain| chain.closed && chain.unsigned() == 0).count();
    assert_eq!((closed, report.chains.len()), (1, killed + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_of_users_may_come_later() {
    let directory = tempfile::tempdir().unwrap();
    let authority = CertificateAuthority::generate("test root", clock::now(), 30).unwrap();
    let verifier = Verifier::start(&authority);
    verifier.publish();
    let nats = NatsServer::start_empty(&directory.path().join("nats")).await.unwrap();
    let mut config = settings(directory.path(), &nats, &verifier, &authority);
    config["admin"] = json!({ "username": "admin", "password_file": directory.path().join("password") });
    let spec = ServiceSpec { name: "key-release", instance: "key-release".to_owned(), config, environment: Vec::new() };
    let service = Service::start(spec, directory.path()).await.unwrap();
    let answer = ready(&service).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("users"), "{answer}");
    nats.connect(Role::Admin).await.unwrap().provision(&Provisioning::default()).await.unwrap();
    until_ready(&service).await;
    let mut administration = KeyAdministrationClient::new(channel(&service, &authority));
    let document = json!({ "attestation_type": "TDX", "tdx": { "attributes": { "trust_anchor": ANCHOR } } }).to_string();
    administration.create_policy(admin(CreatePolicyRequest { document })).await.unwrap();
}

#[test]
fn numbers_for_users_have_bounds() {
    for setting in
        ["token_validity_minutes=0", "token_validity_minutes=31", "attempts_max=0", "attempt_interval_minutes=0", "lockout_minutes=0"]
    {
        let layers = Layers { settings: vec![format!("users.{setting}")], ..example() };
        let error = load::<Config>(&layers).unwrap_err();
        assert_eq!(format!("users.{}", setting.split('=').next().unwrap()), error.mistakes()[0].setting());
    }
    let config: Config = load(&example()).unwrap();
    assert_eq!((config.users.token_validity_minutes, config.users.attempts_max, config.users.lockout_minutes), (5, 5, 15));
    let admin = |username: &str, password: &str| {
        let secret = Some(keyferry_lifecycle::Secret::new(password.to_owned()));
        key_release::AdminConfig { username: Some(username.to_owned()), password: secret, password_file: None }.resolved()
    };
    assert!(admin("admin", harness::PASSWORD).is_ok());
    assert_eq!(admin("!!!", harness::PASSWORD).unwrap_err().setting(), "admin.username");
    assert_eq!(admin("admin", "12345678").unwrap_err().setting(), "admin.password");
}
