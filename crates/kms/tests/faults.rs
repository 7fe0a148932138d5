//! What happens when the server, the network or the answer is not as it should be.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking; the exemption covers helpers only inside #[test]")]

mod support;

use std::{fs::Permissions, io, os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration};

use keyferry_kms::{Curve, KeyRef, KeySpec, KmipConfig, KmipKms, Kms, KmsError, Stage, TlsLibrary};
use openssl::{
    ec::{EcGroup, EcKey},
    nid::Nid,
    pkey::{PKey, Private},
    rsa::Rsa,
};
use support::{
    scripted::{Reaction, Scripted},
    ttlv::{Key, answered, message, refused, text},
};

const GET_ATTRIBUTES: u32 = 0x0B;
const CREATE: u32 = 0x01;
const LOCATE: u32 = 0x08;
const ACTIVATE: u32 = 0x12;

fn spec() -> KeySpec {
    KeySpec::aes(256).unwrap().named("faults").unwrap()
}

fn seven() -> KeyRef {
    KeyRef::parse("7").unwrap()
}

async fn fetch(config: &KmipConfig) -> Result<Arc<keyferry_key_wrap::KeyMaterial>, KmsError> {
    KmipKms::new(config).unwrap().fetch(&seven(), &spec()).await
}

/// Fetches from a server that always answers `bytes`.
async fn fetch_answered(bytes: Vec<u8>) -> Result<(), KmsError> {
    let server = Scripted::start(move |_, _| Reaction::Answer(bytes.clone())).await;
    fetch(&server.config()).await.map(drop)
}

async fn fetch_key(change: impl FnOnce(&mut Key)) -> Result<(), KmsError> {
    let mut key = Key::default();
    change(&mut key);
    fetch_answered(key.fetched()).await
}

#[tokio::test]
async fn a_good_answer_is_a_key() {
    let server = Scripted::start(|_, _| Reaction::Answer(Key::default().fetched())).await;
    let material = fetch(&server.config()).await.unwrap();
    assert_eq!(material.expose(), [0xA5; 32]);
}

#[tokio::test]
async fn another_object_than_asked_for_is_a_mismatch() {
    let mismatch = |field| Err(KmsError::KeyMismatch { field });
    assert_eq!(fetch_key(|key| key.id = "8").await, mismatch("unique identifier"));
    assert_eq!(fetch_key(|key| key.attributes_id = "8").await, mismatch("unique identifier"));
    assert_eq!(fetch_key(|key| key.object_type = 4).await, mismatch("object type"));
    assert_eq!(fetch_key(|key| key.material.truncate(16)).await, mismatch("length"));
}

#[tokio::test]
async fn states_and_usage_are_ours_to_check() {
    assert_eq!(fetch_key(|key| key.state = 1).await, Err(KmsError::KeyPreActive));
    assert_eq!(fetch_key(|key| key.state = 3).await, Err(KmsError::KeyDeactivated));
    assert_eq!(fetch_key(|key| key.state = 4).await, Err(KmsError::KeyCompromised));
    assert_eq!(fetch_key(|key| key.state = 6).await, Err(KmsError::KeyDestroyed));
    assert_eq!(fetch_key(|key| key.usage = 0x04).await, Err(KmsError::KeyUsage { missing: "Decrypt" }));
}

#[tokio::test]
async fn keys_of_intels_broker_are_released_only_with_the_switch() {
    let answer = Key { state: 1, ..Key::default() }.fetched();
    let server = Scripted::start(move |_, _| Reaction::Answer(answer.clone())).await;
    let mut config = server.config();
    assert_eq!(fetch(&config).await.map(drop), Err(KmsError::KeyPreActive));
    config.release.accept_pre_active = true;
    assert!(fetch(&config).await.is_ok());
}

#[tokio::test]
async fn a_key_that_is_not_plain_bytes_is_not_releasable() {
    assert_eq!(fetch_key(|key| key.wrapped = true).await, Err(KmsError::KeyNotReleasable));
    assert_eq!(fetch_key(|key| key.format = 4).await, Err(KmsError::KeyNotReleasable));
    assert_eq!(fetch_answered(refused(0x10)).await, Err(KmsError::KeyNotReleasable));
}

/// An RSA key that nobody else has, in the forms in which servers give one.
fn rsa_private_key() -> Rsa<Private> {
    Rsa::generate(2048).unwrap()
}

async fn fetch_private(spec: &KeySpec, change: impl FnOnce(&mut Key)) -> Result<Vec<u8>, KmsError> {
    let (algorithm, length) = if spec.curve().is_some() { (0x1A, i32::from(spec.length_bits())) } else { (4, 2048) };
    let mut key = Key { object_type: 4, usage: 0x09, algorithm, length, format: 4, ..Key::default() };
    change(&mut key);
    let answer = key.fetched();
    let server = Scripted::start(move |_, _| Reaction::Answer(answer.clone())).await;
    KmipKms::new(&server.config()).unwrap().fetch(&seven(), spec).await.map(|material| material.expose().to_vec())
}

#[tokio::test]
async fn a_private_key_is_pkcs8_in_whichever_form_the_server_has_it() {
    let rsa = rsa_private_key();
    let pkcs8 = PKey::from_rsa(rsa.clone()).unwrap().private_key_to_pkcs8().unwrap();
    let spec = KeySpec::rsa(2048).unwrap();
    let got = fetch_private(&spec, |key| (key.format, key.material) = (4, pkcs8.clone())).await;
    assert_eq!(got.as_ref(), Ok(&pkcs8));
    let got = fetch_private(&spec, |key| (key.format, key.material) = (3, rsa.private_key_to_der().unwrap())).await;
    assert_eq!(got.as_ref(), Ok(&pkcs8));
    let ec = EcKey::generate(&EcGroup::from_curve_name(Nid::SECP384R1).unwrap()).unwrap();
    let sec1 = ec.private_key_to_der().unwrap();
    let got = fetch_private(&KeySpec::ec(Curve::P384), |key| (key.format, key.material) = (6, sec1.clone())).await;
    assert_eq!(got, Ok(PKey::from_ec_key(ec).unwrap().private_key_to_pkcs8().unwrap()));
}

#[tokio::test]
async fn bytes_that_are_not_the_recorded_private_key_stay() {
    let spec = KeySpec::rsa(2048).unwrap();
    let small = PKey::from_rsa(Rsa::generate(1024).unwrap()).unwrap().private_key_to_pkcs8().unwrap();
    let larger = PKey::from_rsa(Rsa::generate(3072).unwrap()).unwrap().private_key_to_pkcs8().unwrap();
    for material in [small, larger, vec![0xA5; 32], vec![0x30; 1200]] {
        let refused = fetch_private(&spec, |key| key.material = material).await.unwrap_err();
        assert_eq!(refused.label(), "key_mismatch");
    }
    let pkcs8 = PKey::from_rsa(rsa_private_key()).unwrap().private_key_to_pkcs8().unwrap();
    let good = |key: &mut Key| key.material = pkcs8.clone();
    assert!(fetch_private(&spec, good).await.is_ok());
    let mismatch = |field| Err(KmsError::KeyMismatch { field });
    assert_eq!(fetch_private(&KeySpec::rsa(3072).unwrap(), good).await, mismatch("length"));
    assert_eq!(
        fetch_private(&KeySpec::ec(Curve::P384), |key| (key.material, key.algorithm) = (pkcs8.clone(), 4)).await,
        mismatch("algorithm")
    );
    assert_eq!(fetch_private(&spec, |key| key.object_type = 3).await, mismatch("object type"));
    assert_eq!(fetch_private(&spec, |key| key.usage = 0x04).await, Err(KmsError::KeyUsage { missing: "Decrypt or Sign" }));
    assert_eq!(fetch_private(&spec, |key| key.format = 0x0A).await, Err(KmsError::KeyNotReleasable), "a transparent key");
}

#[tokio::test]
async fn half_an_answer_that_stalls_is_a_timeout_and_not_a_key() {
    let good = Key::default().fetched();
    for sent in [4, 8, good.len() / 2, good.len() - 1] {
        let half = good[..sent].to_vec();
        let server = Scripted::start(move |_, _| Reaction::AnswerAndStall(half.clone())).await;
        let mut config = server.config();
        config.timeouts.request = Duration::from_millis(100);
        assert_eq!(fetch(&config).await.map(drop), Err(KmsError::Timeout(Stage::Request)), "after {sent} bytes");
    }
}

#[tokio::test]
async fn a_server_without_curves_is_named_as_the_cause() {
    let server = Scripted::start(|_, _| Reaction::Answer(refused(0x07))).await;
    let kms = KmipKms::new(&server.config()).unwrap();
    let error = kms.create(&KeySpec::ec(Curve::P256)).await.unwrap_err();
    assert!(matches!(error, KmsError::Configuration { field: "algorithm", .. }), "{error:?}");
    let error = kms.create(&KeySpec::rsa(2048).unwrap()).await.unwrap_err();
    assert_eq!(error.label(), "kms_protocol", "an RSA key is never refused for its curve");
}

#[test]
fn secrets_that_others_may_read_are_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = runtime.block_on(Scripted::start(|_, _| Reaction::Silence));
    let mut config = server.config();
    let password = server.path().join("password");
    std::fs::write(&password, "secret\n").unwrap();
    (config.username, config.password_file) = (Some("broker".to_owned()), Some(password.clone()));
    let mode = |path: &Path, mode| std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    let field = |config: &KmipConfig| match KmipKms::new(config) {
        Ok(_) => None,
        Err(KmsError::Configuration { field, what }) => what.contains("chmod 600").then_some(field),
        Err(other) => panic!("{other:?}"),
    };
    for library in [TlsLibrary::Rustls, TlsLibrary::OpenSsl] {
        config.tls = library;
        for open in [0o644, 0o640, 0o604] {
            mode(&password, open);
            assert_eq!(field(&config), Some("password_file"), "{open:o}");
            mode(&password, 0o600);
            mode(&config.key_file, open);
            assert_eq!(field(&config), Some("key_file"), "{open:o}");
            mode(&config.key_file, 0o600);
        }
        assert_eq!(field(&config), None);
    }
}

#[tokio::test]
async fn each_refusal_has_its_reason_and_no_text_of_the_peer() {
    let cases = [
        (0x01, "key_not_found", false),
        (0x03, "kms_auth", false),
        (0x04, "kms_protocol", false),
        (0x0C, "kms_denied", false),
        (0x100, "kms_internal", true),
        (0x7777, "kms_protocol", false),
    ];
    for (reason, label, retryable) in cases {
        let error = fetch_answered(refused(reason)).await.unwrap_err();
        assert_eq!((error.label(), error.retryable()), (label, retryable));
        assert!(!format!("{error} {error:?}").contains("PEER"), "{error:?}");
    }
}

#[tokio::test]
async fn malformed_answers_are_protocol_errors_and_end_the_connection() {
    let good = Key::default().fetched();
    let oversized = [&[0x42, 0x00, 0x7B, 0x01, 0x7F, 0xFF, 0xFF, 0xFF][..], &good].concat();
    let one_item = message(&[answered(GET_ATTRIBUTES, Some(0), &Key::default().attributes())]);
    let wrong_operation = message(&[answered(0x18, Some(0), &[]), answered(0x18, Some(1), &[])]);
    let wrong_index = message(&[answered(GET_ATTRIBUTES, Some(1), &Key::default().attributes()), answered(0x0A, Some(0), &[])]);
    for bytes in [oversized, one_item, wrong_operation, wrong_index] {
        let good = good.clone();
        let server = Scripted::start(move |number, _| Reaction::Answer(if number == 0 { bytes.clone() } else { good.clone() })).await;
        let kms = KmipKms::new(&server.config()).unwrap();
        let error = kms.fetch(&seven(), &spec()).await.unwrap_err();
        assert_eq!(error.label(), "kms_protocol");
        assert_eq!(server.requests(), 1, "a protocol error is not repeated");
        kms.fetch(&seven(), &spec()).await.unwrap();
        assert_eq!(server.connections(), 2, "the connection was not used again");
    }
}

#[tokio::test]
async fn a_cut_answer_is_repeated_once_on_a_new_connection() {
    let good = Key::default().fetched();
    let cut = good[..good.len() - 1].to_vec();
    let always = cut.clone();
    let server = Scripted::start(move |_, _| Reaction::AnswerAndClose(always.clone())).await;
    assert_eq!(fetch(&server.config()).await.map(drop), Err(KmsError::Unreachable(io::ErrorKind::UnexpectedEof)));
    assert_eq!((server.requests(), server.connections()), (2, 2));

    let once = move |number, _: &[u32]| if number == 0 { Reaction::AnswerAndClose(cut.clone()) } else { Reaction::Answer(good.clone()) };
    let server = Scripted::start(once).await;
    assert!(fetch(&server.config()).await.is_ok());
}

#[tokio::test]
async fn an_answer_to_the_last_request_is_never_taken_for_this_one() {
    let (eight, seven_) = (Key { id: "8", attributes_id: "8", ..Key::default() }.fetched(), Key::default().fetched());
    // The first request is answered twice: the surplus waits in the connection for whoever uses it next.
    let surplus = [seven_, eight].concat();
    let server = Scripted::start(move |_, _| Reaction::Answer(surplus.clone())).await;
    let kms = KmipKms::new(&server.config()).unwrap();
    kms.fetch(&seven(), &spec()).await.unwrap();
    assert_eq!(kms.fetch(&seven(), &spec()).await.map(drop), Err(KmsError::KeyMismatch { field: "unique identifier" }));
}

#[tokio::test]
async fn a_silent_server_is_a_timeout_of_the_request() {
    let server = Scripted::start(|_, _| Reaction::Silence).await;
    let mut config = server.config();
    config.timeouts.request = Duration::from_millis(100);
    assert_eq!(fetch(&config).await.map(drop), Err(KmsError::Timeout(Stage::Request)));
    config.timeouts.request = Duration::from_mins(1);
    config.timeouts.total = Duration::from_millis(200);
    assert_eq!(fetch(&config).await.map(drop), Err(KmsError::Timeout(Stage::Total)));
}

#[tokio::test]
async fn a_server_that_never_shakes_hands_is_a_timeout_of_the_handshake() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let certificates = Scripted::start(|_, _| Reaction::Silence).await;
    let mut config = certificates.config();
    config.address = listener.local_addr().unwrap().to_string();
    config.timeouts.handshake = Duration::from_millis(100);
    assert_eq!(fetch(&config).await.map(drop), Err(KmsError::Timeout(Stage::Handshake)));
}

#[tokio::test]
async fn a_cancelled_fetch_leaves_no_half_read_connection() {
    let good = Key::default().fetched();
    let server = Scripted::start(move |number, _| if number == 0 { Reaction::Silence } else { Reaction::Answer(good.clone()) }).await;
    let kms = KmipKms::new(&server.config()).unwrap();
    {
        let (key, spec) = (seven(), spec());
        let abandoned = kms.fetch(&key, &spec);
        tokio::select! {
            _ = abandoned => panic!("the server is silent"),
            () = until(|| server.requests() == 1) => {}
        }
    }
    kms.fetch(&seven(), &spec()).await.unwrap();
    assert_eq!(server.connections(), 2);
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn many_fetches_of_one_key_are_one_request() {
    let good = Key::default().fetched();
    let server = Scripted::start(move |_, _| Reaction::Answer(good.clone())).await;
    let kms = Arc::new(KmipKms::new(&server.config()).unwrap());
    let (key, spec) = (seven(), spec());
    for result in futures::future::join_all((0..500).map(|_| kms.fetch(&key, &spec))).await {
        result.unwrap();
    }
    assert_eq!(server.requests(), 1);
    kms.fetch(&key, &spec).await.unwrap();
    assert_eq!(server.requests(), 2, "a later fetch asks again: nothing is cached");
}

#[tokio::test]
async fn a_dead_server_is_left_alone_after_five_failures() {
    let certificates = Scripted::start(|_, _| Reaction::Silence).await;
    let mut config = certificates.config();
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    config.address = closed.to_string();
    let kms = KmipKms::new(&config).unwrap();
    for _ in 0..5 {
        assert_eq!(kms.health().await, Err(KmsError::Unreachable(io::ErrorKind::ConnectionRefused)));
    }
    assert_eq!(kms.health().await, Err(KmsError::CircuitOpen));
    assert_eq!(KmsError::CircuitOpen.label(), "kms_unreachable");
}

#[tokio::test]
async fn a_lost_answer_to_create_is_found_by_name_and_never_repeated() {
    let server = Scripted::start(|_, operations| match operations {
        [CREATE] => Reaction::AnswerAndClose(Vec::new()),
        [LOCATE] => Reaction::Answer(message(&[answered(LOCATE, None, &[text(0x42_0094, "7")])])),
        [GET_ATTRIBUTES] => Reaction::Answer(message(&[answered(GET_ATTRIBUTES, None, &Key { state: 1, ..Key::default() }.attributes())])),
        [ACTIVATE] => Reaction::Answer(message(&[answered(ACTIVATE, None, &[text(0x42_0094, "7")])])),
        _ => Reaction::Silence,
    })
    .await;
    let kms = KmipKms::new(&server.config()).unwrap();
    assert_eq!(kms.create(&spec()).await, Ok(seven()));
    assert_eq!(server.asked(CREATE), 1);
}

#[tokio::test]
async fn two_objects_with_the_name_of_a_lost_one_are_refused() {
    let server = Scripted::start(|_, operations| match operations {
        [LOCATE] => Reaction::Answer(message(&[answered(LOCATE, None, &[text(0x42_0094, "7"), text(0x42_0094, "8")])])),
        _ => Reaction::AnswerAndClose(Vec::new()),
    })
    .await;
    let error = KmipKms::new(&server.config()).unwrap().create(&spec()).await.unwrap_err();
    assert_eq!(error.label(), "key_mismatch");
}

#[tokio::test]
async fn waiting_for_a_free_connection_has_its_own_limit() {
    let server = Scripted::start(|_, _| Reaction::Silence).await;
    let mut config = server.config();
    config.connections = 1;
    config.timeouts.request = Duration::from_millis(300);
    let kms = KmipKms::new(&config).unwrap();
    // The first holds the only connection for two limits (it is repeated once); the second gives up after one.
    let (key, other) = (seven(), KeyRef::parse("8").unwrap());
    let (first, second) = futures::future::join(kms.inspect(&key), kms.inspect(&other)).await;
    assert_eq!(first.map(drop), Err(KmsError::Timeout(Stage::Request)));
    assert_eq!(second.map(drop), Err(KmsError::Timeout(Stage::Pool)));
}

#[test]
fn settings_that_cannot_work_are_refused_before_anything_is_sent() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = runtime.block_on(Scripted::start(|_, _| Reaction::Silence));
    let refused = |change: &dyn Fn(&mut KmipConfig)| {
        let mut config = server.config();
        change(&mut config);
        match KmipKms::new(&config).unwrap_err() {
            KmsError::Configuration { field, .. } => field,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused(&|config| config.address = "no-port".to_owned()), "address");
    assert_eq!(refused(&|config| config.address = ":5696".to_owned()), "address");
    assert_eq!(refused(&|config| config.connections = 0), "connections");
    assert_eq!(refused(&|config| config.connections = 17), "connections");
    assert_eq!(refused(&|config| config.username = Some("broker".to_owned())), "username");
    assert_eq!(refused(&|config| config.cipher_list = Some("AES128-SHA256".to_owned())), "cipher_list");
    for library in [TlsLibrary::Rustls, TlsLibrary::OpenSsl] {
        refused(&|config| {
            config.tls = library;
            config.ca_file = "/nonexistent/ca.pem".into();
        });
        refused(&|config| {
            config.tls = library;
            config.key_file = config.ca_file.clone();
        });
    }
}
