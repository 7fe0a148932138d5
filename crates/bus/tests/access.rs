//! Who may connect and do what, tried against a real server: also everything that is forbidden.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the helpers below are test code; clippy exempts only functions marked #[test]"
)]

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use async_nats::{Client, jetstream};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures::StreamExt;
use keyferry_bus::{AuditKey, AuditLog, Bus, BusConfig, ConnectError, Credentials, OperatorError, PublishError, Role};
use keyferry_contract::{
    Event, Stream,
    attestation::v1::{EvidenceCollected, TokenIssued},
    identifiers::TdId,
};
use keyferry_testkit::nats::{NatsServer, now};
use tokio::io::AsyncReadExt;

const PATIENCE: Duration = Duration::from_secs(30);

async fn start() -> NatsServer {
    NatsServer::start().await.unwrap_or_else(|failure| panic!("{failure}; {}", failure.hint()))
}

/// A client that follows no rule of ours but the server's: raw protocol with these credentials.
struct Raw {
    client: Client,
    violations: tokio::sync::Mutex<tokio::sync::mpsc::Receiver<String>>,
}

impl Raw {
    async fn connect(server: &NatsServer, credentials: &Path) -> Self {
        let nkey = Credentials::read(credentials).unwrap().public_key();
        Self::with_inbox(server, credentials, &nkey).await
    }

    async fn with_inbox(server: &NatsServer, credentials: &Path, owner: &str) -> Self {
        keyferry_tls::install_provider();
        let (sender, violations) = tokio::sync::mpsc::channel(64);
        let options = async_nats::ConnectOptions::with_credentials_file(credentials).await.unwrap();
        let client = options
            .add_root_certificates(server.ca_file())
            .require_tls(true)
            .tls_first()
            .custom_inbox_prefix(format!("_INBOX.{owner}"))
            .event_callback(move |event| {
                let _ = sender.try_send(event.to_string());
                std::future::ready(())
            })
            .connect(server.url())
            .await
            .unwrap();
        Self { client, violations: violations.into() }
    }

    /// Waits for the server to say that it forbade something with this subject.
    async fn forbidden(&self, subject: &str) -> bool {
        let mut violations = self.violations.lock().await;
        let wanted = format!("\"{subject}\"");
        let waiting = async {
            while let Some(text) = violations.recv().await {
                if text.to_lowercase().contains("permissions violation") && text.contains(&wanted) {
                    return true;
                }
            }
            false
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap_or(false)
    }

    async fn must_not_publish(&self, subject: &str) {
        self.client.publish(subject.to_owned(), "x".into()).await.unwrap();
        assert!(self.forbidden(subject).await, "could publish to {subject}");
    }
    async fn must_not_subscribe(&self, subject: &str) {
        let _subscription = self.client.subscribe(subject.to_owned()).await.unwrap();
        assert!(self.forbidden(subject).await, "could subscribe to {subject}");
    }
    /// The server answered a PING, so it has seen everything sent before, and forbade none of it.
    async fn may_publish(&self, subject: &str) {
        self.client.publish(subject.to_owned(), "x".into()).await.unwrap();
        self.must_not_publish("a.subject.nobody.may.use").await;
    }
}

async fn messages(admin: &Bus, stream: Stream) -> u64 {
    admin.jetstream().get_stream(stream.name()).await.unwrap().info().await.unwrap().state.messages
}

#[tokio::test(flavor = "multi_thread")]
async fn a_td_may_use_its_own_subjects_and_no_others() {
    let server = start().await;
    let (own, credentials) = server.enrol("one").unwrap();
    let (other, _) = server.enrol("two").unwrap();
    let td = Raw::connect(&server, &credentials).await;
    let forbidden_to_publish = [
        format!("keyferry.v1.evidence.collected.{other}"),
        "keyferry.v1.evidence.collected.x".to_owned(),
        format!("keyferry.v1.model.loaded.{other}"),
        format!("keyferry.v1.token.issued.{own}"),
        format!("keyferry.v1.attestation.rejected.{own}"),
        format!("keyferry.v1.td.reattest.{own}"),
        format!("keyferry.v1.key.released.{own}"),
        "keyferry.v1.audit.token-broker.x".to_owned(),
        "keyferry.v1.dlq.evidence.token-broker".to_owned(),
        "$KV.fleet.x".to_owned(),
        "$JS.API.INFO".to_owned(),
        "$JS.API.STREAM.LIST".to_owned(),
        "$JS.API.STREAM.PURGE.EVIDENCE".to_owned(),
        "$JS.API.STREAM.MSG.GET.RESULTS".to_owned(),
        "$JS.API.DIRECT.GET.RESULTS".to_owned(),
        format!("$JS.API.DIRECT.GET.RESULTS.keyferry.v1.token.issued.{other}"),
        "$JS.API.CONSUMER.MSG.NEXT.EVIDENCE.token-broker".to_owned(),
        format!("_INBOX.{other}.x"),
        "_R_.x".to_owned(),
        "$SYS.REQ.SERVER.PING".to_owned(),
    ];
    for subject in &forbidden_to_publish {
        td.must_not_publish(subject).await;
    }
    let forbidden_to_subscribe = [
        ">".to_owned(),
        "keyferry.>".to_owned(),
        "keyferry.v1.token.issued.*".to_owned(),
        format!("keyferry.v1.token.issued.{other}"),
        format!("keyferry.v1.evidence.collected.{own}"),
        "keyferry.v1.rpc.token-broker.nonce".to_owned(),
        "_INBOX.>".to_owned(),
        format!("_INBOX.{other}.>"),
        "$JS.EVENT.>".to_owned(),
        "$KV.>".to_owned(),
    ];
    for subject in &forbidden_to_subscribe {
        td.must_not_subscribe(subject).await;
    }
    for subject in ["evidence.collected", "model.loaded", "model.executed", "model.reset"] {
        td.may_publish(&format!("keyferry.v1.{subject}.{own}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn services_may_do_their_own_work_and_nothing_else() {
    let server = start().await;
    let runtime_forbidden = [
        "$JS.API.STREAM.CREATE.AUDIT",
        "$JS.API.STREAM.UPDATE.AUDIT",
        "$JS.API.STREAM.DELETE.AUDIT",
        "$JS.API.STREAM.PURGE.AUDIT",
        "$JS.API.STREAM.MSG.DELETE.AUDIT",
        "$JS.API.STREAM.MSG.DELETE.KV_policies",
        "$JS.API.STREAM.PURGE.KV_keys",
        "$JS.API.CONSUMER.CREATE.EVIDENCE.other",
        "$JS.API.CONSUMER.DELETE.EVIDENCE.token-broker",
        "keyferry.v1.evidence.collected.x",
        "$SYS.REQ.SERVER.PING",
    ];
    let own = [
        (
            Role::TokenBroker,
            &[
                "keyferry.v1.audit.key-release.x",
                "keyferry.v1.key.released.x",
                "keyferry.v1.policy.changed.x",
                "$KV.policies.x",
                "$KV.keys.x",
                "$KV.users.x",
                "$JS.API.STREAM.MSG.GET.KV_keys",
                "$JS.API.STREAM.MSG.GET.AUDIT",
            ][..],
        ),
        (
            Role::KeyRelease,
            &[
                "keyferry.v1.audit.token-broker.x",
                "keyferry.v1.token.issued.x",
                "keyferry.v1.attestation.rejected.x",
                "$KV.fleet.x",
                "$KV.seen.x",
                "$JS.API.CONSUMER.MSG.NEXT.EVIDENCE.token-broker",
                "$JS.API.STREAM.MSG.GET.AUDIT",
                "_INBOX.x",
                "_R_.x",
            ][..],
        ),
        (
            Role::Auditor,
            &["keyferry.v1.audit.key-release.x", "$KV.keys.x", "$JS.API.STREAM.MSG.GET.KV_keys", "$JS.API.DIRECT.GET.RESULTS"][..],
        ),
    ];
    for (role, forbidden) in own {
        let raw = Raw::connect(&server, &server.credentials_file(role)).await;
        for subject in runtime_forbidden.iter().chain(forbidden) {
            raw.must_not_publish(subject).await;
        }
        raw.must_not_subscribe(">").await;
        raw.must_not_subscribe("_INBOX.>").await;
        raw.must_not_subscribe("keyferry.v1.evidence.collected.*").await;
        raw.must_not_subscribe("$KV.>").await;
    }
}

async fn audit_log(server: &NatsServer) -> AuditLog {
    AuditLog::new(server.connect(Role::KeyRelease).await.unwrap(), AuditKey::generate().unwrap(), prost_types::Timestamp::default)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auditor_cannot_have_answers_stored_elsewhere() {
    let server = start().await;
    let writer = audit_log(&server).await;
    writer.record(keyferry_contract::release::v1::AuditRecord::default()).await.unwrap();
    let (td, _) = server.enrol("one").unwrap();
    let admin = server.connect(Role::Admin).await.unwrap();
    let auditor = Raw::connect(&server, &server.credentials_file(Role::Auditor)).await;
    let consumer = r#"{"stream_name":"AUDIT","config":{"name":"c","ack_policy":"none","deliver_policy":"all"}}"#;
    auditor.client.request("$JS.API.CONSUMER.CREATE.AUDIT.c", consumer.into()).await.unwrap();
    for target in ["$KV.keys.x".to_owned(), format!("keyferry.v1.evidence.collected.{td}"), format!("keyferry.v1.token.issued.{td}")] {
        for (subject, body) in [
            ("$JS.API.STREAM.MSG.GET.AUDIT", r#"{"seq":1}"#),
            ("$JS.API.CONSUMER.MSG.NEXT.AUDIT.c", r#"{"batch":1}"#),
            ("$JS.API.STREAM.INFO.AUDIT", ""),
        ] {
            auditor.client.publish_with_reply(subject, target.clone(), body.into()).await.unwrap();
        }
    }
    // The same requests, answered: so those before them were answered too, wherever that went.
    auditor.client.request("$JS.API.STREAM.INFO.AUDIT", "".into()).await.unwrap();
    for stream in ["KV_keys", "EVIDENCE", "RESULTS"] {
        let state = admin.jetstream().get_stream(stream).await.unwrap().info().await.unwrap().state.clone();
        assert_eq!(state.last_sequence, 0, "{stream}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_can_name_an_inbox_by_its_role_and_no_other() {
    let server = start().await;
    for role in [Role::Auditor, Role::Admin] {
        let raw = Raw::with_inbox(&server, &server.credentials_file(role), role.name()).await;
        let stream = jetstream::new(raw.client.clone()).get_stream("AUDIT").await.unwrap();
        assert_eq!(stream.cached_info().config.name, "AUDIT");
        raw.must_not_subscribe("_INBOX.key-release.>").await;
        raw.must_not_subscribe("_INBOX.*").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auditor_reads_the_audit_and_cannot_alter_it() {
    let server = start().await;
    let writer = audit_log(&server).await;
    for _ in 0..3 {
        writer.record(keyferry_contract::release::v1::AuditRecord::default()).await.unwrap();
    }
    let auditor = server.connect(Role::Auditor).await.unwrap();
    let stream = auditor.jetstream().get_stream("AUDIT").await.unwrap();
    assert_eq!(stream.cached_info().state.messages, 3);
    stream.get_raw_message(1).await.unwrap();
    let consumer = stream.create_consumer(jetstream::consumer::pull::Config { name: Some("auditor-1".into()), ..Default::default() });
    let mut messages = consumer.await.unwrap().fetch().max_messages(3).messages().await.unwrap();
    for _ in 0..3 {
        messages.next().await.unwrap().unwrap();
    }
    // Not even the admin can delete or purge single records: the stream denies it.
    let admin = server.connect(Role::Admin).await.unwrap();
    let stream = admin.jetstream().get_stream("AUDIT").await.unwrap();
    assert!(stream.delete_message(1).await.is_err());
    assert!(stream.purge().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_subject_makes_nobody_publish_for_a_td() {
    let server = start().await;
    let admin = server.connect(Role::Admin).await.unwrap();
    let broker = server.connect(Role::TokenBroker).await.unwrap();
    let mut service = broker.rpc_service("0.1.0", "test").await.unwrap();
    let (asked, mut was_asked) = tokio::sync::mpsc::channel(4);
    let answer = move |_: keyferry_contract::attestation::v1::GetNonceRequest| {
        let asked = asked.clone();
        async move {
            let _ = asked.send(()).await;
            Ok(keyferry_contract::attestation::v1::GetNonceResponse::default())
        }
    };
    service.serve(keyferry_contract::Rpc::TokenBrokerNonce, 4, answer).await.unwrap();

    let (own, credentials) = server.enrol("attacker").unwrap();
    let (victim, victim_credentials) = server.enrol("victim").unwrap();
    let td = Raw::connect(&server, &credentials).await;
    let victims_subject = format!("keyferry.v1.evidence.collected.{victim}");
    let reply = || victims_subject.clone();

    // 1. Our own evidence, acknowledged to the victim's subject: the server would publish its acknowledgement there.
    td.client.publish_with_reply(format!("keyferry.v1.evidence.collected.{own}"), reply(), "mine".into()).await.unwrap();
    // 2. A read of our own result, answered to the victim's subject: with a result whose content we know.
    let token = TokenIssued { td_id: own.clone(), token: "attacker's".into(), ..TokenIssued::default() };
    broker.publish(&TdId::parse(&own).unwrap(), &token).await.unwrap();
    td.client
        .publish_with_reply(format!("$JS.API.DIRECT.GET.RESULTS.keyferry.v1.token.issued.{own}"), reply(), bytes::Bytes::new())
        .await
        .unwrap();
    // 3. A call, answered to the victim's subject: the service would publish there.
    td.client.publish_with_reply("keyferry.v1.rpc.token-broker.nonce", reply(), bytes::Bytes::new()).await.unwrap();
    tokio::time::timeout(PATIENCE, was_asked.recv()).await.unwrap().unwrap();
    td.client.flush().await.unwrap();

    // The victim publishes; whatever was redirected came before.
    let victim_id = TdId::parse(&victim).unwrap();
    let victim = Bus::connect(&server.config(victim_credentials), "attester").await.unwrap();
    let genuine = EvidenceCollected { td_id: victim_id.to_string(), ..EvidenceCollected::default() };
    victim.publish(&victim_id, &genuine).await.unwrap();
    let evidence = admin.jetstream().get_stream(Stream::Evidence.name()).await.unwrap();
    let mut subjects = evidence.info_with_subjects("keyferry.v1.evidence.collected.*").await.unwrap();
    let mut counted = Vec::new();
    while let Some(subject) = subjects.next().await {
        counted.push(subject.unwrap());
    }
    counted.sort();
    let mut wanted = vec![(format!("keyferry.v1.evidence.collected.{own}"), 1), (EvidenceCollected::subject(&victim_id), 1)];
    wanted.sort();
    assert_eq!(counted, wanted);
    let stored = evidence.get_last_raw_message_by_subject(&victims_subject).await.unwrap();
    assert_eq!(<EvidenceCollected as prost::Message>::decode(stored.payload).unwrap(), genuine);
    assert_eq!(messages(&admin, Stream::Results).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_on_another_tds_subject_is_refused_by_the_server() {
    let server = start().await;
    let (_, credentials) = server.enrol("one").unwrap();
    let (other, _) = server.enrol("two").unwrap();
    let td = Bus::connect(&server.config(credentials), "attester").await.unwrap();
    let other = TdId::parse(&other).unwrap();
    let forged = EvidenceCollected { td_id: other.to_string(), ..EvidenceCollected::default() };
    assert!(matches!(td.publish(&other, &forged).await, Err(PublishError::Forbidden { .. })));
    let admin = server.connect(Role::Admin).await.unwrap();
    assert_eq!(messages(&admin, Stream::Evidence).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_enrolment_key_mints_tds_with_safe_names_only() {
    let server = start().await;
    let enrolment = server.deployment().enrolment().unwrap();
    for label in ["", "*", ">", "a.b", "a b", "a\n", &"a".repeat(65)] {
        assert!(matches!(enrolment.enrol_new(label, now(), 3600), Err(OperatorError::Label(_))), "{label:?}");
    }
    let user = nkeys::KeyPair::new_user().public_key();
    let account = nkeys::KeyPair::new_account().public_key();
    let broken = format!("{}A", &user[..55]);
    for nkey in ["", "*", ">", "U", account.as_str(), broken.as_str(), &user.to_lowercase(), &format!("{user} "), &user[..55]] {
        assert!(matches!(enrolment.enrol(nkey, "label", now(), 3600), Err(OperatorError::Nkey)), "{nkey:?}");
    }
    for lifetime in [0, 1, u64::MAX] {
        assert!(matches!(enrolment.enrol(&user, "label", now(), lifetime), Err(OperatorError::Lifetime { .. })));
    }
}

/// Even a signer that follows none of our rules gets no wildcard: the template takes the key, not the name.
#[tokio::test(flavor = "multi_thread")]
async fn a_jwt_named_like_a_wildcard_gains_nothing() {
    let server = start().await;
    for name in [">", "*", "a.b"] {
        let user = nkeys::KeyPair::new_user();
        let credentials = forge(&server, &user, &serde_json::json!({ "name": name, "nats": {} }), "wild");
        let td = Raw::connect(&server, &credentials).await;
        td.must_not_publish("keyferry.v1.evidence.collected.victim").await;
        td.must_not_subscribe("keyferry.v1.token.issued.*").await;
        td.may_publish(&format!("keyferry.v1.evidence.collected.{}", user.public_key())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jwt_with_permissions_of_its_own_is_refused() {
    let server = start().await;
    let user = nkeys::KeyPair::new_user();
    let greedy = serde_json::json!({ "name": "greedy", "nats": { "pub": { "allow": [">"] }, "sub": { "allow": [">"] } } });
    let credentials = forge(&server, &user, &greedy, "greedy");
    let refused = Bus::connect(&server.config(credentials), "attester").await;
    assert!(matches!(refused, Err(ConnectError::Refused { .. })), "{refused:?}");
}

/// Signs claims with the real enrolment key, by hand.
fn forge(server: &NatsServer, user: &nkeys::KeyPair, extra: &serde_json::Value, label: &str) -> PathBuf {
    let directory = server.deployment().directory();
    let seed = std::fs::read_to_string(directory.join("enrolment/td-signing.nk")).unwrap();
    let signer = nkeys::KeyPair::from_seed(&seed).unwrap();
    let mut claims = serde_json::json!({
        "iss": signer.public_key(), "sub": user.public_key(), "iat": now(), "exp": now() + 3600, "jti": "x",
    });
    claims["name"] = extra["name"].clone();
    claims["nats"] = extra["nats"].clone();
    claims["nats"]["type"] = "user".into();
    claims["nats"]["version"] = 2.into();
    claims["nats"]["issuer_account"] = server.deployment().enrolment().unwrap().account().into();
    let text =
        format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"ed25519-nkey"}"#), URL_SAFE_NO_PAD.encode(claims.to_string()));
    let jwt = format!("{text}.{}", URL_SAFE_NO_PAD.encode(signer.sign(text.as_bytes()).unwrap()));
    let path = directory.join(format!("{label}.creds"));
    let seed = user.seed().unwrap();
    let contents = format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    );
    std::fs::write(&path, contents).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_jwt_is_worth_nothing_without_its_key() {
    let server = start().await;
    let (_, credentials) = server.enrol("one").unwrap();
    let stolen = std::fs::read_to_string(credentials).unwrap();
    let own = nkeys::KeyPair::new_user();
    let (jwt, _) = stolen.split_once("-----BEGIN USER NKEY SEED-----").unwrap();
    let path = server.deployment().directory().join("stolen.creds");
    let seed = own.seed().unwrap();
    std::fs::write(&path, format!("{jwt}-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n")).unwrap();
    // We notice it ourselves; the server would, too.
    assert!(matches!(Bus::connect(&server.config(&path), "attester").await, Err(ConnectError::Credentials(_))));
    let raw = async_nats::ConnectOptions::with_credentials_file(&path).await.unwrap();
    let raw = raw.add_root_certificates(server.ca_file()).require_tls(true).tls_first().connect(server.url()).await;
    assert!(raw.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_speak_tls_first_is_told_nothing() {
    let server = start().await;
    let address = server.url().replace("nats://", "");
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut first = [0; 1];
    // The server waits for our handshake and hangs up: not one byte of its greeting in clear.
    let heard = tokio::time::timeout(PATIENCE, socket.read(&mut first)).await.unwrap();
    assert!(matches!(heard, Ok(0) | Err(_)), "heard {first:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_root_is_not_trusted() {
    let (server, other) = (start().await, start().await);
    let config = BusConfig { ca_file: other.ca_file(), ..server.config(server.credentials_file(Role::KeyRelease)) };
    assert!(matches!(Bus::connect(&config, "key-release").await, Err(ConnectError::Tls { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_of_another_operator_are_refused() {
    let (server, other) = (start().await, start().await);
    let refused = Bus::connect(&server.config(other.credentials_file(Role::Admin)), "admin").await;
    assert!(matches!(refused, Err(ConnectError::Refused { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_credentials_are_refused_and_fresh_ones_heal_the_connection() {
    let server = start().await;
    let enrolment = server.deployment().enrolment().unwrap();
    let user = nkeys::KeyPair::new_user();
    let path = server.deployment().directory().join("short.creds");
    let write = |issued_at: u64, lifetime: u64| {
        let jwt = enrolment.enrol(&user.public_key(), "short", issued_at, lifetime).unwrap();
        let seed = user.seed().unwrap();
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        std::fs::write(&path, text).unwrap();
    };
    write(now() - 3600, 600);
    let refused = Bus::connect(&server.config(&path), "attester").await;
    assert!(matches!(refused, Err(ConnectError::Refused { .. })), "{refused:?}");

    // Ends in a few seconds; the file is replaced meanwhile, as an enrolment service would do.
    write(now(), 10);
    let td = Bus::connect(&server.config(&path), "attester").await.unwrap();
    write(now(), 3600);
    let mut connects = td.connects();
    let again = connects.wait_for(|count| *count >= 2);
    tokio::time::timeout(PATIENCE, again).await.expect("cut at expiry, and back").unwrap();
    let td_id = TdId::parse(&user.public_key()).unwrap();
    let event = EvidenceCollected { td_id: td_id.to_string(), ..EvidenceCollected::default() };
    td.publish(&td_id, &event).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn revoked_credentials_are_refused_after_a_restart_and_new_ones_are_not() {
    let mut server = start().await;
    let (td_id, credentials) = server.enrol("one").unwrap();
    Bus::connect(&server.config(&credentials), "attester").await.unwrap();
    server.deployment().revoke(&td_id, now()).unwrap();
    assert_eq!(server.stop().await, Some(0));
    server.restart().await.unwrap();
    let refused = Bus::connect(&server.config(&credentials), "attester").await;
    assert!(matches!(refused, Err(ConnectError::Refused { .. })), "{refused:?}");
    let (_, other) = server.enrol("two").unwrap();
    Bus::connect(&server.config(other), "attester").await.unwrap();
}

/// A reload is enough, and it cuts a connection that is up.
#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_td_is_cut_off_when_the_server_reloads() {
    let server = start().await;
    let (td_id, credentials) = server.enrol("one").unwrap();
    let td = Bus::connect(&server.config(&credentials), "attester").await.unwrap();
    server.deployment().revoke(&td_id, now()).unwrap();
    server.reload();
    let cut = async {
        while td.is_connected() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, cut).await.expect("the connection is cut");
    let refused = Bus::connect(&server.config(&credentials), "attester").await;
    assert!(matches!(refused, Err(ConnectError::Refused { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn provisioning_twice_changes_nothing_and_only_the_admin_may() {
    let server = start().await;
    let admin = server.connect(Role::Admin).await.unwrap();
    let before = admin.jetstream().get_stream("AUDIT").await.unwrap().cached_info().config.clone();
    admin.provision(&keyferry_bus::Provisioning::default()).await.unwrap();
    assert_eq!(admin.jetstream().get_stream("AUDIT").await.unwrap().cached_info().config, before);
    let wrong = keyferry_bus::Provisioning { replicas: 2, ..Default::default() };
    assert!(matches!(admin.provision(&wrong).await, Err(keyferry_bus::ProvisionError::Replicas { found: 2 })));
    let broker = server.connect(Role::TokenBroker).await.unwrap();
    assert!(broker.provision(&keyferry_bus::Provisioning::default()).await.is_err());
}
