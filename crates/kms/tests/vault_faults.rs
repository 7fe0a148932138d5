//! What happens when the server is sealed, slow, gone or hostile, and when a login is wrong, spent or taken away.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking; the exemption covers helpers only inside #[test]")]

mod support;

use std::{io, sync::Arc, time::Duration};

use keyferry_kms::{
    KeyRef, KeySpec, Kms, KmsError, Stage, VaultAppRole, VaultAuth, VaultCert, VaultConfig, VaultEngine, VaultJwt, VaultKms,
};
use keyferry_testkit::{openbao::OpenBao, write_private};
use reqwest::Method;
use serde_json::json;
use support::vault::{Line, Proxy, StandIn, add, administration, app_role, config, connect, response, start, start_with, until};

const ID: &str = "9d8ff5f2-0f4a-4c31-8f6c-3ac3a7d2d7a4";

fn key() -> KeyRef {
    KeyRef::parse(ID).unwrap()
}

fn aes() -> KeySpec {
    KeySpec::aes(256).unwrap().named(ID).unwrap()
}

async fn refusal(kms: &VaultKms) -> KmsError {
    kms.fetch(&key(), &aes()).await.unwrap_err()
}

/// A server with one key in KV 1, and what an administrator of it needs.
async fn with_a_key() -> (OpenBao, VaultConfig, VaultKms) {
    let (server, config) = start_with(VaultEngine::Kv1).await;
    let kms = connect(&config);
    kms.create(&aes()).await.unwrap();
    (server, config, kms)
}

#[tokio::test]
async fn sealed_killed_and_restarted() {
    let (mut server, _, kms) = with_a_key().await;
    let before = kms.fetch(&key(), &aes()).await.unwrap();
    assert_eq!(kms.health().await, Ok(()));

    server.seal().await.unwrap();
    assert_eq!(refusal(&kms).await, KmsError::Sealed);
    assert_eq!(kms.health().await, Err(KmsError::Sealed));
    assert!(KmsError::Sealed.retryable());
    server.unseal().await.unwrap();
    assert_eq!(kms.fetch(&key(), &aes()).await.unwrap().expose(), before.expose());

    server.kill().await;
    let error = refusal(&kms).await;
    assert_eq!((error.label(), error.retryable()), ("kms_unreachable", true), "{error:?}");
    server.restart().await.unwrap();
    assert_eq!(kms.health().await, Err(KmsError::Sealed), "a restarted server is sealed");
    server.unseal().await.unwrap();
    assert_eq!(kms.fetch(&key(), &aes()).await.unwrap().expose(), before.expose());
}

#[tokio::test]
async fn a_server_that_never_was_initialised_is_sealed() {
    let directory = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(directory.path(), |_| response("501 Not Implemented", r#"{"initialized":false,"sealed":true}"#)).await;
    assert_eq!(connect(&stand_in.config).health().await, Err(KmsError::Sealed));
    assert!(!stand_in.requests()[0].to_lowercase().contains("x-vault-token"), "health never needs a token");
}

#[tokio::test]
async fn a_dead_login_is_replaced_once_and_a_denied_path_is_told_apart() {
    let (server, config, kms) = with_a_key().await;
    kms.fetch(&key(), &aes()).await.unwrap();

    // Revoked: the next call logs in again and goes through.
    revoke_all_tokens(&server).await;
    kms.fetch(&key(), &aes()).await.unwrap();

    // The policy is taken away: a living token that may not is a denial.
    server.policy("administrator-Kv1", &[("keybroker/nothing", &["read"])]).await.unwrap();
    assert_eq!(refusal(&kms).await, KmsError::Denied);
    assert_eq!(refusal(&connect(&config)).await, KmsError::Denied);
    server.policy("administrator-Kv1", &administration(VaultEngine::Kv1)).await.unwrap();
    kms.fetch(&key(), &aes()).await.unwrap();

    // The role is taken away: nobody lets us in any more.
    revoke_all_tokens(&server).await;
    server.call(Method::DELETE, "auth/approle/role/administrator-Kv1", None).await.unwrap();
    assert_eq!(refusal(&kms).await, KmsError::Auth);
    assert!(!KmsError::Auth.retryable());
}

/// Ends every token that AppRole gave.
async fn revoke_all_tokens(server: &OpenBao) {
    server.call(Method::PUT, "sys/leases/revoke-prefix/auth/approle", None).await.unwrap();
}

#[tokio::test]
async fn a_wrong_secret_id_is_an_identity_that_is_not_accepted_until_it_changes() {
    let (server, mut config, _) = with_a_key().await;
    let VaultAuth::AppRole(role) = &config.auth else { panic!("an AppRole") };
    let role = role.clone();
    let good = std::fs::read_to_string(&role.secret_id_file).unwrap();
    write_private(&role.secret_id_file, "00000000-1111-2222-3333-444444444444").unwrap();
    let kms = connect(&config);
    for _ in 0..20 {
        assert_eq!(refusal(&kms).await, KmsError::Auth);
    }
    // The server locks a role out after five wrong secrets; after one it does not.
    write_private(&role.secret_id_file, format!("{good}\n")).unwrap();
    kms.fetch(&key(), &aes()).await.unwrap();

    config.auth = VaultAuth::AppRole(VaultAppRole { role_id: "nobody".to_owned(), ..role.clone() });
    assert_eq!(refusal(&connect(&config)).await, KmsError::Auth);
    std::fs::remove_file(&role.secret_id_file).unwrap();
    assert_eq!(refusal(&connect(&config)).await.label(), "kms_configuration");
    drop(server);
}

#[tokio::test]
async fn a_refused_secret_is_sent_once() {
    let directory = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(directory.path(), |_| response("400 Bad Request", r#"{"errors":["invalid role or secret ID"]}"#)).await;
    let mut config = stand_in.config.clone();
    let secret_id_file = directory.path().join("secret-id");
    let role = VaultAppRole { mount: "approle".to_owned(), role_id: "role".to_owned(), secret_id_file: secret_id_file.clone() };
    config.auth = VaultAuth::AppRole(role);
    let kms = connect(&config);
    for (secret, sent) in [("first", 1), ("second", 2)] {
        write_private(&secret_id_file, secret).unwrap();
        for _ in 0..20 {
            assert_eq!(refusal(&kms).await, KmsError::Auth);
        }
        assert_eq!(stand_in.requests().len(), sent);
    }
}

#[tokio::test]
async fn a_token_file_is_read_again_when_its_token_is_dead() {
    let (server, _, _) = with_a_key().await;
    let file = server.directory().join("token");
    let token = async |settings| server.token(settings).await.unwrap();
    let policies = json!({ "policies": ["administrator-Kv1"], "ttl": "10m" });
    write_private(&file, token(policies.clone()).await + "\n").unwrap();
    let kms = connect(&config(&server, VaultEngine::Kv1, VaultAuth::TokenFile(file.clone())));
    kms.fetch(&key(), &aes()).await.unwrap();

    let revoke = async || {
        let token = std::fs::read_to_string(&file).unwrap();
        server.call_as(token.trim(), Method::POST, "auth/token/revoke-self", None).await.unwrap();
    };
    revoke().await;
    assert_eq!(refusal(&kms).await, KmsError::Auth, "a dead token");
    write_private(&file, token(policies).await).unwrap();
    kms.fetch(&key(), &aes()).await.unwrap();

    write_private(&file, token(json!({ "policies": ["default"] })).await).unwrap();
    let kms = connect(&config(&server, VaultEngine::Kv1, VaultAuth::TokenFile(file.clone())));
    assert_eq!(refusal(&kms).await, KmsError::Denied, "a living token that may not");
    for nothing in ["", "\n", "two words"] {
        write_private(&file, nothing).unwrap();
        let kms = connect(&config(&server, VaultEngine::Kv1, VaultAuth::TokenFile(file.clone())));
        assert_eq!(refusal(&kms).await.label(), "kms_configuration");
    }
}

#[tokio::test]
async fn a_certificate_logs_in_and_another_does_not() {
    let (server, _, _) = with_a_key().await;
    server.enable_auth("cert").await.unwrap();
    let ca = std::fs::read_to_string(server.ca_file()).unwrap();
    let role = json!({ "certificate": ca, "allowed_common_names": ["broker"], "token_policies": ["administrator-Kv1"] });
    server.call(Method::POST, "auth/cert/certs/keyferry", Some(role)).await.unwrap();
    let auth = |name: &str| {
        let certificate = server.issue_client(name).unwrap();
        let (certificate_file, key_file) = (certificate.certificate_file, certificate.key_file);
        VaultAuth::Cert(VaultCert { mount: "cert".to_owned(), role: "keyferry".to_owned(), certificate_file, key_file })
    };
    let kms = connect(&config(&server, VaultEngine::Kv1, auth("broker")));
    kms.fetch(&key(), &aes()).await.unwrap();
    let stranger = connect(&config(&server, VaultEngine::Kv1, auth("stranger")));
    assert_eq!(refusal(&stranger).await, KmsError::Auth);
}

#[tokio::test]
async fn a_jwt_logs_in_and_is_read_again() {
    let (server, _, _) = with_a_key().await;
    let signer = support::jwt::Signer::new();
    server.enable_auth("jwt").await.unwrap();
    let keys = json!({ "jwt_validation_pubkeys": [signer.public_key_pem()], "jwt_supported_algs": ["PS384"] });
    server.call(Method::POST, "auth/jwt/config", Some(keys)).await.unwrap();
    let role = json!({
        "role_type": "jwt", "user_claim": "sub", "bound_audiences": ["keyferry"], "token_policies": ["administrator-Kv1"],
    });
    server.call(Method::POST, "auth/jwt/role/keyferry", Some(role)).await.unwrap();
    let jwt_file = server.directory().join("jwt");
    let jwt = |audience: &str, seconds: i64| signer.sign(&json!({ "sub": "broker", "aud": audience }), seconds);
    let auth = VaultAuth::Jwt(VaultJwt { mount: "jwt".to_owned(), role: "keyferry".to_owned(), jwt_file: jwt_file.clone() });
    let kms = connect(&config(&server, VaultEngine::Kv1, auth));
    write_private(&jwt_file, jwt("another", 600)).unwrap();
    assert_eq!(refusal(&kms).await, KmsError::Auth);
    write_private(&jwt_file, jwt("keyferry", -600)).unwrap();
    assert_eq!(refusal(&kms).await, KmsError::Auth);
    write_private(&jwt_file, jwt("keyferry", 600)).unwrap();
    kms.fetch(&key(), &aes()).await.unwrap();
}

#[tokio::test]
async fn a_login_is_renewed_and_at_its_end_replaced_without_a_failed_call() {
    let (server, _, _) = with_a_key().await;
    let settings = json!({ "token_policies": ["administrator-Kv1"], "token_ttl": "4s", "token_max_ttl": "9s", "secret_id_num_uses": 3 });
    let role = server.app_role("short", settings).await.unwrap();
    let kms = connect(&config(&server, VaultEngine::Kv1, app_role(&role)));
    kms.fetch(&key(), &aes()).await.unwrap();
    // Accessors of its living logins, with the times of their making and last renewal.
    let alive = || async {
        let accessors = server.call(Method::from_bytes(b"LIST").unwrap(), "auth/token/accessors", None).await.unwrap();
        let mut alive = Vec::new();
        for accessor in accessors["data"]["keys"].as_array().unwrap() {
            let body = json!({ "accessor": accessor });
            // One of them may end between the two calls.
            if let Ok(found) = server.call(Method::POST, "auth/token/lookup-accessor", Some(body)).await
                && found["data"]["meta"]["role_name"] == "short"
                && found["data"]["ttl"].as_u64() > Some(0)
            {
                let time = |name: &str| found["data"][name].as_u64();
                alive.push((accessor.clone(), time("creation_time"), time("last_renewal_time")));
            }
        }
        alive
    };
    let (first, created, _) = alive().await.remove(0);
    until("a renewal of the first login", || async {
        kms.fetch(&key(), &aes()).await.unwrap();
        alive().await.iter().any(|(accessor, _, renewed)| *accessor == first && *renewed > created)
    })
    .await;
    until("a second login", || async {
        kms.fetch(&key(), &aes()).await.unwrap();
        alive().await.iter().any(|(accessor, ..)| *accessor != first)
    })
    .await;
}

#[tokio::test]
async fn a_lease_that_shrinks_or_comes_with_a_warning_is_not_waited_out() {
    let directory = tempfile::tempdir().unwrap();
    let auth = |lease: u64| format!(r#""auth":{{"client_token":"s.token","lease_duration":{lease},"renewable":true}}"#);
    for renewed in [format!(r#"{{{},"warnings":["capped"]}}"#, auth(3)), format!("{{{}}}", auth(1))] {
        let login = format!("{{{}}}", auth(3));
        let stand_in = StandIn::start(directory.path(), move |line| match line {
            line if line.contains("/login") => response("200 OK", &login),
            line if line.contains("renew-self") => response("200 OK", &renewed),
            _ => response("404 Not Found", r#"{"errors":[]}"#),
        })
        .await;
        let mut config = stand_in.config.clone();
        let secret_id_file = directory.path().join("secret-id");
        write_private(&secret_id_file, "secret").unwrap();
        config.auth = VaultAuth::AppRole(VaultAppRole { mount: "approle".to_owned(), role_id: "role".to_owned(), secret_id_file });
        let kms = connect(&config);
        assert_eq!(refusal(&kms).await.label(), "kms_protocol", "it has no engine, which does not matter here");
        let asked = |path: &str| stand_in.requests().iter().filter(|head| head.contains(path)).count();
        until("a second login", || async { asked("/login") > 1 }).await;
        assert_eq!(asked("renew-self"), 1);
    }
}

#[tokio::test]
async fn an_expired_login_of_an_idle_broker_is_obtained_anew() {
    let (server, _, _) = with_a_key().await;
    let settings = json!({ "token_policies": ["administrator-Kv1"], "token_ttl": "1s", "token_max_ttl": "1s", "token_type": "batch" });
    let role = server.app_role("batch", settings).await.unwrap();
    let file = server.directory().join("token");
    let kms = connect(&config(&server, VaultEngine::Kv1, app_role(&role)));
    kms.fetch(&key(), &aes()).await.unwrap();

    // The same with a token nobody renews, dead before it is first used.
    let token = server.token(json!({ "policies": ["administrator-Kv1"], "ttl": "1s", "renewable": false })).await.unwrap();
    write_private(&file, &token).unwrap();
    until("the end of the token", || async { server.call_as(&token, Method::GET, "auth/token/lookup-self", None).await.unwrap().0 == 403 })
        .await;
    let spent = connect(&config(&server, VaultEngine::Kv1, VaultAuth::TokenFile(file)));
    assert_eq!(refusal(&spent).await, KmsError::Auth);
    kms.fetch(&key(), &aes()).await.unwrap();
}

#[tokio::test]
async fn many_callers_log_in_once_and_fetch_once() {
    let (server, mut config, _) = with_a_key().await;
    let proxy = Proxy::start(server.address()).await;
    config.url = proxy.url();
    let kms = connect(&config);
    let before = logins(&server).await;
    let (key, spec) = (key(), aes());
    for result in futures::future::join_all((0..200).map(|_| kms.fetch(&key, &spec))).await {
        result.unwrap();
    }
    assert_eq!(logins(&server).await - before, 1);
    // Calls that are made one by one share the login all the same.
    let (before, fresh) = (logins(&server).await, connect(&config));
    for result in futures::future::join_all((0..50).map(|_| fresh.inspect(&key))).await {
        result.unwrap();
    }
    assert_eq!(logins(&server).await - before, 1);
    assert_eq!(proxy.connections(), 2, "HTTP/2 carries all of it over one connection for each client");
}

async fn logins(server: &OpenBao) -> usize {
    let accessors = server.call(Method::from_bytes(b"LIST").unwrap(), "auth/token/accessors", None).await.unwrap();
    accessors["data"]["keys"].as_array().unwrap().len()
}

#[tokio::test]
async fn a_quota_is_throttling() {
    let (server, _, kms) = with_a_key().await;
    server.quota("keybroker/", 0.001).await.unwrap();
    until("the limit", || async {
        match kms.fetch(&key(), &aes()).await {
            Ok(_) => false,
            Err(error) => {
                assert_eq!((error.clone(), error.retryable()), (KmsError::Throttled, true));
                true
            }
        }
    })
    .await;
    server.no_quota().await.unwrap();
    kms.fetch(&key(), &aes()).await.unwrap();
}

#[tokio::test]
async fn the_wrong_engine_is_a_protocol_error_and_not_a_missing_key() {
    let (server, _, _) = with_a_key().await;
    for engine in [VaultEngine::Kv2, VaultEngine::Transit] {
        add(&server, engine).await;
    }
    let everything = VaultAuth::TokenFile(server.directory().join("root-token"));
    let mounts = [(VaultEngine::Kv1, "keybroker"), (VaultEngine::Kv2, "keyferry"), (VaultEngine::Transit, "transit")];
    for (engine, own) in mounts {
        for (_, mount) in mounts.iter().filter(|(_, mount)| *mount != own) {
            let mut config = config(&server, engine, everything.clone());
            config.mount = Some((*mount).to_owned());
            let kms = connect(&config);
            let unknown = KeySpec::aes(256).unwrap();
            let fetched = kms.fetch(&KeyRef::parse("11111111-2222-4333-8444-555555555555").unwrap(), &unknown).await.unwrap_err();
            assert_eq!(fetched.label(), "kms_protocol", "{engine:?} at {mount}: {fetched:?}");
            let created = kms.create(&unknown).await.unwrap_err();
            assert_eq!(created.label(), "kms_protocol", "{engine:?} at {mount}: {created:?}");
        }
        let mut config = config(&server, engine, everything.clone());
        config.mount = Some("nowhere".to_owned());
        let error = connect(&config).fetch(&key(), &KeySpec::aes(256).unwrap()).await.unwrap_err();
        assert_eq!(error.label(), "kms_protocol", "{engine:?} nowhere: {error:?}");
    }
}

#[tokio::test]
async fn a_slow_server_is_a_timeout_and_five_of_them_open_the_circuit() {
    let (server, mut config, _) = with_a_key().await;
    let proxy = Proxy::start(server.address()).await;
    config.url = proxy.url();
    config.timeouts.request = Duration::from_millis(200);
    let kms = connect(&config);
    kms.fetch(&key(), &aes()).await.unwrap();
    proxy.set(Line::Silent);
    for _ in 0..5 {
        assert_eq!(refusal(&kms).await, KmsError::Timeout(Stage::Request));
    }
    assert_eq!(refusal(&kms).await, KmsError::CircuitOpen);
    proxy.set(Line::Good);
    until("a closed circuit", || async { kms.health().await.is_ok() }).await;
    kms.fetch(&key(), &aes()).await.unwrap();

    proxy.set(Line::Silent);
    config.timeouts.request = Duration::from_mins(1);
    config.timeouts.total = Duration::from_millis(200);
    config.timeouts.connect = Duration::from_mins(1);
    assert_eq!(refusal(&connect(&config)).await, KmsError::Timeout(Stage::Total));
    config.timeouts.connect = Duration::from_millis(200);
    config.timeouts.total = Duration::from_mins(1);
    assert_eq!(refusal(&connect(&config)).await, KmsError::Timeout(Stage::Connect), "a handshake that nobody answers");
}

#[tokio::test]
async fn a_cut_answer_is_repeated_once_and_a_restart_in_the_middle_of_a_call_is_survived() {
    let (mut server, mut config, _) = with_a_key().await;
    let proxy = Proxy::start(server.address()).await;
    config.url = proxy.url();
    let kms = connect(&config);
    kms.fetch(&key(), &aes()).await.unwrap();
    proxy.set(Line::Cut(10));
    let error = refusal(&kms).await;
    assert_eq!(error.label(), "kms_unreachable", "{error:?}");
    proxy.set(Line::Good);
    kms.fetch(&key(), &aes()).await.unwrap();

    // A call waits for its answer, the server dies and comes back, and the call is made again.
    proxy.set(Line::Silent);
    let sent = proxy.requested();
    let waiting = async { kms.fetch(&key(), &aes()).await };
    let restart = async {
        until("a request on its way", || async { proxy.requested() > sent }).await;
        server.kill().await;
        server.restart().await.unwrap();
        server.unseal().await.unwrap();
        proxy.set(Line::Cut(0));
        proxy.set(Line::Good);
    };
    let (fetched, ()) = futures::future::join(waiting, restart).await;
    match fetched {
        Ok(_) => {}
        // The server took longer to come back than a call may take.
        Err(error) => assert!(error.retryable(), "{error:?}"),
    }
    until("the key again", || async { kms.fetch(&key(), &aes()).await.is_ok() }).await;
}

#[tokio::test]
async fn no_answer_of_a_hostile_server_is_a_key_or_a_text_in_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let long = "x".repeat(300 * 1024);
    let endless = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{long}\r\n", long.len());
    let deep = "[".repeat(100_000);
    let good = |member: &str| format!(r#"{{"data":{{"{member}":"{{\"algorithm\":\"AES\",\"key_data\":\"PEER\"}}"}}}}"#);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (response("200 OK", &long), "kms_protocol"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n{".to_vec(), "kms_protocol"),
        (endless.into_bytes(), "kms_protocol"),
        (response("200 OK", &deep), "kms_protocol"),
        (response("200 OK", "PEER"), "kms_protocol"),
        (response("200 OK", ""), "kms_protocol"),
        (response("200 OK", "null"), "kms_protocol"),
        (response("200 OK", r#"{"data":null}"#), "kms_protocol"),
        (response("200 OK", r#"{"data":{"PEER":1}}"#), "kms_protocol"),
        (response("200 OK", &good("11111111-2222-4333-8444-555555555555")), "kms_protocol"),
        (response("200 OK", &good(ID)), "key_mismatch"),
        (response("302 Found\r\nlocation: https://127.0.0.1:1/PEER", ""), "kms_protocol"),
        (response("307 Temporary Redirect\r\nlocation: https://127.0.0.1:1/PEER", ""), "kms_protocol"),
        (response("418 PEER", "PEER"), "kms_protocol"),
        (response("500 PEER", "PEER"), "kms_internal"),
        (response("502 Bad Gateway", "<html>PEER"), "kms_internal"),
        (response("503 Service Unavailable", "<html>PEER"), "kms_internal"),
        (response("503 Service Unavailable", r#"{"errors":["PEER"]}"#), "kms_sealed"),
        (response("400 Bad Request", r#"{"errors":["PEER"]}"#), "kms_protocol"),
        (response("403 Forbidden", r#"{"errors":["PEER"]}"#), "kms_auth"),
        (response("404 Not Found", r#"{"errors":["PEER"]}"#), "kms_protocol"),
        (response("429 Too Many Requests", "PEER"), "kms_throttled"),
        (b"PEER is no HTTP\r\n\r\n".to_vec(), "kms_unreachable"),
    ];
    for (answer, label) in cases {
        let shown = String::from_utf8_lossy(&answer[..answer.len().min(80)]).into_owned();
        let stand_in = StandIn::start(directory.path(), move |line| {
            if line.contains("lookup-self") { response("403 Forbidden", r#"{"errors":["permission denied"]}"#) } else { answer.clone() }
        })
        .await;
        let error = refusal(&connect(&stand_in.config)).await;
        assert_eq!(error.label(), label, "{shown}: {error:?}");
        assert!(!format!("{error} {error:?}").contains("PEER"), "{error:?}");
        let heads = stand_in.requests();
        assert!(heads.iter().all(|head| !head.contains("/PEER")), "a redirect was followed");
    }
}

#[tokio::test]
async fn another_host_another_root_and_plain_http_are_refused() {
    let (server, good, kms) = with_a_key().await;
    let other = start().await;
    let with = |change: &dyn Fn(&mut VaultConfig)| {
        let mut config = good.clone();
        change(&mut config);
        config
    };
    let tls = refusal(&connect(&with(&|config| config.ca_file = Some(other.ca_file())))).await;
    assert_eq!((tls.label(), tls.retryable()), ("kms_tls", false), "{tls:?}");

    let proxy = Proxy::start(server.address()).await;
    let named = |config: &mut VaultConfig| config.url = format!("https://127.0.0.2:{}", proxy.port);
    // A name that the certificate does not have; the listener is on another address, so the name is what fails first.
    let error = refusal(&connect(&with(&named))).await;
    assert!(["kms_tls", "kms_unreachable"].contains(&error.label()), "{error:?}");

    let refused = |change: &dyn Fn(&mut VaultConfig)| match VaultKms::new(&with(change)).unwrap_err() {
        KmsError::Configuration { field, .. } => field,
        other => panic!("{other:?}"),
    };
    let plain = server.url().replace("https", "http");
    assert_eq!(refused(&|config| config.url.clone_from(&plain)), "url");
    assert_eq!(refused(&|config| config.url = "https://user:secret@127.0.0.1".to_owned()), "url");
    assert_eq!(refused(&|config| config.url = "ftp://127.0.0.1".to_owned()), "url");
    assert_eq!(refused(&|config| config.url = "127.0.0.1:8200".to_owned()), "url");
    assert_eq!(refused(&|config| config.ca_file = None), "ca_file");
    assert_eq!(refused(&|config| config.mount = Some("../sys".to_owned())), "mount");
    assert_eq!(refused(&|config| config.mount = Some("a b".to_owned())), "mount");
    assert_eq!(refused(&|config| config.namespace = Some("a\r\nb".to_owned())), "namespace");
    assert_eq!(refused(&|config| config.wrap_for_td = true), "wrap_for_td");

    // Allowed, loudly: the server's TLS port then answers that it speaks TLS.
    let error = refusal(&connect(&with(&|config| {
        config.url.clone_from(&plain);
        config.allow_plain_http = true;
        config.auth = VaultAuth::TokenFile(server.directory().join("root-token"));
    })))
    .await;
    assert_eq!(error.label(), "kms_protocol", "{error:?}");
    kms.fetch(&key(), &aes()).await.unwrap();
}

#[tokio::test]
async fn a_namespace_is_where_keys_and_logins_are_and_health_is_not() {
    let server = start().await;
    let inside = async |method: Method, path: &str, body| server.call(method, &format!("team-a/{path}"), body).await.unwrap();
    server.call(Method::POST, "sys/namespaces/team-a", None).await.unwrap();
    inside(Method::POST, "sys/mounts/keyferry", Some(json!({ "type": "kv", "options": { "version": "2" } }))).await;
    let policy = json!({ "policy": "path \"keyferry/*\" { capabilities = [\"create\", \"read\"] }" });
    inside(Method::POST, "sys/policies/acl/keys", Some(policy)).await;
    inside(Method::POST, "sys/auth/approle", Some(json!({ "type": "approle" }))).await;
    inside(Method::POST, "auth/approle/role/broker", Some(json!({ "token_policies": ["keys"] }))).await;
    let role_id = inside(Method::GET, "auth/approle/role/broker/role-id", None).await["data"]["role_id"].as_str().unwrap().to_owned();
    let secret = inside(Method::POST, "auth/approle/role/broker/secret-id", Some(json!({}))).await;
    let secret_id_file = server.directory().join("secret-id");
    write_private(&secret_id_file, secret["data"]["secret_id"].as_str().unwrap()).unwrap();
    let auth = VaultAuth::AppRole(VaultAppRole { mount: "approle".to_owned(), role_id, secret_id_file });
    let mut config = config(&server, VaultEngine::Kv2, auth);
    config.namespace = Some("team-a".to_owned());
    let kms = connect(&config);
    assert_eq!(kms.health().await, Ok(()));
    let made = kms.create(&aes()).await.unwrap();
    kms.fetch(&made, &aes()).await.unwrap();
    config.namespace = Some("team-b".to_owned());
    assert!(connect(&config).fetch(&made, &aes()).await.is_err());
}

#[tokio::test]
async fn plain_http_works_where_it_is_allowed_as_intels_kbs_is_set_up() {
    let (server, mut config, kms) = with_a_key().await;
    let port = support::vault::plain_http(&server).await;
    config.url = format!("http://127.0.0.1:{port}");
    config.ca_file = None;
    assert!(VaultKms::new(&config).is_err(), "it is not allowed by default");
    let token = server.token(json!({ "policies": ["administrator-Kv1"] })).await.unwrap();
    let plain = VaultConfig::of_intels_kbs("127.0.0.1", port, token.clone().into());
    assert!(!format!("{plain:?}").contains(&token));
    let plain = connect(&plain);
    assert_eq!(plain.health().await, Ok(()));
    let (found, wanted) = (plain.fetch(&key(), &aes()).await.unwrap(), kms.fetch(&key(), &aes()).await.unwrap());
    assert_eq!(found.expose(), wanted.expose());
    server.call_as(&token, Method::POST, "auth/token/revoke-self", None).await.unwrap();
    assert_eq!(refusal(&plain).await, KmsError::Auth);
}

#[tokio::test]
async fn nobody_listening_is_unreachable_and_no_secret_is_printed() {
    let directory = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(directory.path(), |_| Vec::new()).await;
    let mut config = stand_in.config.clone();
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    config.url = format!("https://{closed}");
    let kms = Arc::new(connect(&config));
    assert_eq!(refusal(&kms).await, KmsError::Unreachable(io::ErrorKind::ConnectionRefused));
    let role = VaultAppRole { mount: "approle".to_owned(), role_id: "ROLE".to_owned(), secret_id_file: "SECRET".into() };
    config.auth = VaultAuth::AppRole(role);
    let printed = format!("{config:?} {kms:?}");
    assert!(!printed.contains("ROLE") && !printed.contains("SECRET"), "{printed}");
}
