//! Faults against a real KMIP server: killed, rebuilt, asked by a stranger, reached with the wrong TLS.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking; the exemption covers helpers only inside #[test]")]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use keyferry_kmip::{Algorithm, HEADER_BYTES, NewKey, NewPair, ObjectName, Operation, Request, UsageMask, decode, encode, frame_length};
use keyferry_kms::{
    KeyRef, KeySpec, KeyState, KmipConfig, KmipKms, Kms, KmsError, Revocation, TlsLibrary, Version, fingerprint, fingerprint_matches,
};
use keyferry_testkit::pykmip::{Profile, Pykmip};
use keyferry_tls::{ClientCertificate, RootsConfig, mutual_client_config};
use rustls::pki_types::ServerName;
use support::{
    scripted::{Reaction, Scripted},
    start,
};
use tempfile::TempDir;
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
    let refused = |error: KmsError| assert_eq!(error, KmsError::Denied);
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
async fn a_server_may_be_told_by_another_name_than_its_address() {
    for profile in [Profile::Ecdsa, Profile::Intel] {
        let server = start(profile).await;
        let mut config = server.config(server.owner());
        config.address = format!("localhost:{}", server.address().port());
        config.server_name = Some("127.0.0.1".to_owned());
        connect(&config).health().await.unwrap();
        config.server_name = Some("kmip.example".to_owned());
        assert_eq!(connect(&config).health().await.unwrap_err().label(), "kms_tls", "{profile:?}");
    }
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
    raw_in(Version::V1_4, server, request).await
}

async fn raw_in(version: Version, server: &Pykmip, request: &Request<'_>) -> Vec<u8> {
    let tls = mutual_client_config(&RootsConfig::CaFile(server.ca_file()), server.owner(), true).unwrap();
    let tcp = TcpStream::connect(server.address()).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut stream = TlsConnector::from(Arc::new(tls)).connect(name, tcp).await.unwrap();
    stream.write_all(&encode(version, None, std::slice::from_ref(request)).unwrap()).await.unwrap();
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
    for version in [Version::V1_4, Version::V2_0] {
        let request = Request::Create { key: NewKey { algorithm: Algorithm::Aes, length_bits: 256, usage, name: None } };
        let answer = raw_in(version, &server, &request).await;
        let key = KeyRef::parse(decode(&answer, &[request]).unwrap()[0].id().unwrap().as_str()).unwrap();
        never_activated(&server, version, &key, &spec("intel")).await;

        // A pair as Intel's broker makes it: without names, and the public half forgotten.
        let (private_usage, public_usage) = (UsageMask::DECRYPT, UsageMask::ENCRYPT);
        let pair = NewPair { algorithm: Algorithm::Rsa, length_bits: 2048, curve: None, private_usage, public_usage, names: None };
        let request = Request::CreateKeyPair { pair };
        let answer = raw_in(version, &server, &request).await;
        let (private, _) = decode(&answer, &[request]).unwrap()[0].pair().unwrap();
        never_activated(&server, version, &KeyRef::parse(private.as_str()).unwrap(), &KeySpec::rsa(2048).unwrap()).await;
    }
}

async fn never_activated(server: &Pykmip, version: Version, key: &KeyRef, spec: &KeySpec) {
    let mut config = server.config(server.owner());
    config.version = version;
    let strict = connect(&config);
    assert_eq!(strict.inspect(key).await.unwrap().state, Some(KeyState::PreActive));
    assert_eq!(strict.fetch(key, spec).await.map(drop), Err(KmsError::KeyPreActive));
    config.release.accept_pre_active = true;
    connect(&config).fetch(key, spec).await.unwrap();
    strict.destroy(key).await.unwrap();
    assert_eq!(strict.inspect(key).await, Err(KmsError::KeyNotFound));
}

/// How many objects have this name.
async fn named(server: &Pykmip, name: &str) -> usize {
    let name = ObjectName::parse(name).unwrap();
    let answer = raw(server, &Request::Locate { name: &name }).await;
    decode(&answer, &[Request::Locate { name: &name }]).unwrap()[0].ids().unwrap().len()
}

#[tokio::test]
async fn both_halves_of_a_pair_are_made_active_and_destroyed_together() {
    let server = start(Profile::Ecdsa).await;
    for version in [Version::V1_4, Version::V2_0] {
        let mut config = server.config(server.owner());
        config.version = version;
        let kms = connect(&config);
        let spec = KeySpec::rsa(2048).unwrap().named("pair").unwrap();
        let made = kms.create(&spec).await.unwrap();
        assert_eq!((named(&server, "pair").await, named(&server, "pair/public").await), (1, 1));
        let material = kms.fetch(&made, &spec).await.unwrap();
        kms.destroy(&made).await.unwrap();
        assert_eq!((named(&server, "pair").await, named(&server, "pair/public").await), (0, 0));

        let registered = kms.register(&spec, &material).await.unwrap();
        assert_eq!((named(&server, "pair").await, named(&server, "pair/public").await), (1, 1));
        assert_eq!(kms.fetch(&registered, &spec).await.unwrap().expose(), material.expose());
        kms.destroy(&registered).await.unwrap();
        assert_eq!((named(&server, "pair").await, named(&server, "pair/public").await), (0, 0));
    }
}

#[tokio::test]
async fn another_object_with_the_name_of_a_public_half_is_left_alone() {
    let server = start(Profile::Ecdsa).await;
    let kms = owner(&server);
    let pair = kms.create(&KeySpec::rsa(2048).unwrap().named("mine").unwrap()).await.unwrap();
    let other = kms.create(&spec("mine/public")).await.unwrap();
    kms.destroy(&pair).await.unwrap();
    assert_eq!(kms.inspect(&other).await.unwrap().state, Some(KeyState::Active));
}

#[tokio::test]
async fn a_certificate_that_is_not_for_clients_is_not_who_we_are() {
    for profile in [Profile::Ecdsa, Profile::Intel] {
        let server = start(profile).await;
        let mut config = server.config(server.owner());
        let unmarked = server.unmarked();
        (config.certificate_file, config.key_file) = (unmarked.certificate_file.clone(), unmarked.key_file.clone());
        let error = connect(&config).health().await.unwrap_err();
        assert_eq!((error.label(), error.retryable()), ("kms_auth", false), "{profile:?}");
    }
}

/// A certificate and its key where they can be replaced.
struct Replaceable {
    directory: TempDir,
}

impl Replaceable {
    fn new(client: &ClientCertificate) -> Self {
        let this = Self { directory: tempfile::tempdir().unwrap() };
        this.replace(client);
        this
    }
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
    /// As tools that renew certificates do: a new file takes the old one's name.
    fn put(&self, name: &str, from: &Path) {
        fs::copy(from, self.path("new")).unwrap();
        fs::rename(self.path("new"), self.path(name)).unwrap();
    }
    fn replace(&self, client: &ClientCertificate) {
        self.put("client.pem", &client.certificate_file);
        self.put("client.key", &client.key_file);
    }
    fn config(&self, server: &Pykmip) -> KmipConfig {
        let files = ClientCertificate { certificate_file: self.path("client.pem"), key_file: self.path("client.key") };
        server.config(&files)
    }
}

#[tokio::test]
async fn a_replaced_certificate_counts_without_a_restart_and_half_a_replacement_does_not() {
    for profile in [Profile::Ecdsa, Profile::Intel] {
        let server = start(profile).await;
        let files = Replaceable::new(server.owner());
        let kms = connect(&files.config(&server));
        let key = kms.create(&spec("mine")).await.unwrap();
        kms.fetch(&key, &spec("mine")).await.unwrap();

        files.put("client.pem", &server.stranger().certificate_file);
        kms.health().await.unwrap();
        kms.fetch(&key, &spec("mine")).await.unwrap();
        files.put("client.key", &server.stranger().key_file);
        kms.health().await.unwrap();
        assert_eq!(kms.fetch(&key, &spec("mine")).await.map(drop), Err(KmsError::Denied), "{profile:?}: now a stranger");
        files.replace(server.owner());
        kms.health().await.unwrap();
        kms.fetch(&key, &spec("mine")).await.unwrap();
    }
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
