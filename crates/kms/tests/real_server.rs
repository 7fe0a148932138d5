//! Faults against a real KMIP server: killed, rebuilt, asked by a stranger, reached with the wrong TLS.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking; the exemption covers helpers only inside #[test]")]

mod support;

use std::sync::Arc;

use keyferry_kmip::{Algorithm, HEADER_BYTES, NewKey, Operation, Request, UsageMask, decode, encode, frame_length};
use keyferry_kms::{
    KeyRef, KeySpec, KeyState, KmipConfig, KmipKms, Kms, KmsError, Revocation, TlsLibrary, Version, fingerprint, fingerprint_matches,
};
use keyferry_testkit::pykmip::{Profile, Pykmip};
use keyferry_tls::{RootsConfig, mutual_client_config};
use rustls::pki_types::ServerName;
use support::{
    scripted::{Reaction, Scripted},
    start,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

fn connect(config: &KmipConfig) -> KmipKms {
    KmipKms::new(config).unwrap()
}

fn owner(server: &Pykmip) -> KmipKms {
    connect(&server.config(server.owner()))
}

fn spec(name: &str) -> KeySpec {
    KeySpec::aes(256).unwrap().named(name).unwrap()
}

#[tokio::test]
async fn a_killed_server_is_unreachable_and_a_restarted_one_is_found_again() {
    let mut server = start(Profile::Ecdsa).await;
    let kms = owner(&server);
    let key = kms.create(&spec("killed")).await.unwrap();
    let before = kms.fetch(&key, &spec("killed")).await.unwrap();
    server.kill().await;
    let error = kms.fetch(&key, &spec("killed")).await.unwrap_err();
    assert_eq!((error.label(), error.retryable()), ("kms_unreachable", true));
    server.restart().await.unwrap();
    let after = kms.fetch(&key, &spec("killed")).await.unwrap();
    assert_eq!(before.expose(), after.expose());
}

#[tokio::test]
async fn a_rebuilt_database_gives_another_key_under_the_same_reference_and_the_fingerprint_tells() {
    let mut server = start(Profile::Ecdsa).await;
    let store_key = [9; 32];
    let recorded = owner(&server).create(&spec("before")).await.unwrap();
    let material = owner(&server).fetch(&recorded, &spec("before")).await.unwrap();
    let stored = fingerprint(&store_key, &material);
    assert!(fingerprint_matches(&store_key, &material, &stored));

    server.rebuild().await.unwrap();
    assert_eq!(owner(&server).fetch(&recorded, &spec("before")).await.map(drop), Err(KmsError::KeyNotFound));
    assert_eq!(owner(&server).create(&spec("after")).await.unwrap(), recorded, "identifiers begin at 1 again");
    let other = owner(&server).fetch(&recorded, &spec("before")).await.unwrap();
    assert!(!fingerprint_matches(&store_key, &other, &stored));
}

#[tokio::test]
async fn a_stranger_gets_changes_and_learns_nothing() {
    let server = start(Profile::Ecdsa).await;
    let key = owner(&server).create(&spec("mine")).await.unwrap();
    let stranger = connect(&server.config(server.stranger()));
    let refused = |error: KmsError| assert!(matches!(error, KmsError::Denied | KmsError::KeyNotFound), "{error:?}");
    refused(stranger.fetch(&key, &spec("mine")).await.unwrap_err());
    refused(stranger.inspect(&key).await.unwrap_err());
    refused(stranger.revoke(&key, Revocation::Compromised).await.unwrap_err());
    refused(stranger.destroy(&key).await.unwrap_err());
    owner(&server).fetch(&key, &spec("mine")).await.unwrap();
}

#[tokio::test]
async fn certificates_of_another_authority_end_the_handshake() {
    let server = start(Profile::Ecdsa).await;
    let authority = Scripted::start(|_, _| Reaction::Silence).await;
    let foreign = authority.config();
    for library in [TlsLibrary::Rustls, TlsLibrary::OpenSsl] {
        let mut config = server.config(server.owner());
        config.tls = library;
        connect(&config).health().await.unwrap();
        let ours = KmipConfig { ca_file: foreign.ca_file.clone(), ..config.clone() };
        assert_eq!(connect(&ours).health().await.unwrap_err().label(), "kms_tls", "{library:?}: the server is not known to us");
        let theirs = KmipConfig { certificate_file: foreign.certificate_file.clone(), key_file: foreign.key_file.clone(), ..config };
        assert_eq!(connect(&theirs).health().await.unwrap_err().label(), "kms_tls", "{library:?}: we are not known to the server");
    }
}

#[tokio::test]
async fn a_server_for_another_host_is_not_trusted() {
    let server = start(Profile::Intel).await;
    let mut config = server.config(server.owner());
    config.address = format!("localhost:{}", server.address().port());
    assert_eq!(connect(&config).health().await.unwrap_err().label(), "kms_tls");
    let server = start(Profile::Ecdsa).await;
    let mut config = server.config(server.owner());
    config.address = format!("localhost:{}", server.address().port());
    assert_eq!(connect(&config).health().await.unwrap_err().label(), "kms_tls");
}

#[tokio::test]
async fn rustls_says_that_intels_configuration_needs_openssl() {
    let server = start(Profile::Intel).await;
    let mut config = server.config(server.owner());
    config.tls = TlsLibrary::Rustls;
    let error = connect(&config).health().await.unwrap_err();
    assert_eq!((error.label(), error.retryable()), ("kms_tls", false));
    assert!(error.to_string().contains("openssl"), "{error}");
}

/// One request over a connection of its own, as Intel's broker sends it: nothing else before or after.
async fn raw(server: &Pykmip, request: &Request<'_>) -> Vec<u8> {
    let tls = mutual_client_config(&RootsConfig::CaFile(server.ca_file()), server.owner(), true).unwrap();
    let tcp = TcpStream::connect(server.address()).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = TlsConnector::from(Arc::new(tls)).connect(name, tcp).await.unwrap();
    stream.write_all(&encode(Version::V1_4, None, std::slice::from_ref(request)).unwrap()).await.unwrap();
    let mut answer = vec![0; HEADER_BYTES];
    stream.read_exact(&mut answer).await.unwrap();
    let length = frame_length(answer[..].try_into().unwrap()).unwrap();
    answer.resize(HEADER_BYTES + length, 0);
    stream.read_exact(&mut answer[HEADER_BYTES..]).await.unwrap();
    answer
}

#[tokio::test]
async fn a_key_that_was_never_activated_is_inspected_released_with_the_switch_and_destroyed() {
    let server = start(Profile::Ecdsa).await;
    let usage = UsageMask::ENCRYPT.with(UsageMask::DECRYPT);
    let request = Request::Create { key: NewKey { algorithm: Algorithm::Aes, length_bits: 256, usage, name: None } };
    let answer = raw(&server, &request).await;
    let key = KeyRef::parse(decode(&answer, &[request]).unwrap()[0].id().unwrap().as_str()).unwrap();

    let mut config = server.config(server.owner());
    let strict = connect(&config);
    assert_eq!(strict.inspect(&key).await.unwrap().state, Some(KeyState::PreActive));
    assert_eq!(strict.fetch(&key, &spec("intel")).await.map(drop), Err(KmsError::KeyPreActive));
    config.release.accept_pre_active = true;
    connect(&config).fetch(&key, &spec("intel")).await.unwrap();
    strict.destroy(&key).await.unwrap();
    assert_eq!(strict.inspect(&key).await, Err(KmsError::KeyNotFound));
}

#[tokio::test]
async fn the_server_tells_what_it_can_do() {
    let server = start(Profile::Ecdsa).await;
    let answer = raw(&server, &Request::DiscoverVersions).await;
    let versions = decode(&answer, &[Request::DiscoverVersions]).unwrap()[0].versions().unwrap();
    assert!(versions.contains(&(2, 0)) && versions.contains(&(1, 4)), "{versions:?}");
    let answer = raw(&server, &Request::Query).await;
    let operations = decode(&answer, &[Request::Query]).unwrap()[0].operations().unwrap();
    assert!(operations.contains(&Operation::Get) && operations.contains(&Operation::Create), "{operations:?}");
}
