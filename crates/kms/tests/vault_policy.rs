//! The server's own policy on attested ground: it demands the attestation token as the credential, and it wraps for the TD
//! so that the broker never sees the key.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking; the exemption covers helpers only inside #[test]")]

mod support;

use std::{sync::Arc, time::Duration};

use keyferry_key_wrap::KmsWrappedKey;
use keyferry_kms::{
    AttestedTd, FetchedKey, KeyRef, KeySpec, Kms, KmsError, VaultAttestation, VaultAuth, VaultConfig, VaultEngine, VaultKms,
};
use keyferry_testkit::openbao::OpenBao;
use openssl::{
    cipher::Cipher,
    cipher_ctx::{CipherCtx, CipherCtxFlags},
    encrypt::Decrypter,
    hash::MessageDigest,
    pkey::{PKey, Private},
    rsa::{Padding, Rsa},
};
use reqwest::Method;
use serde_json::{Value, json};
use support::{
    jwt::Signer,
    vault::{Line, Proxy, app_role, config, connect, start_with, until},
};

const ISSUER: &str = "https://verifier.example.net";
const MRTD: &str = "5d56080eb9ef8ce0bbaf6bdcdadeeb06e7c5b0a4d1ec16be868a85a953babe0c5e54d01c8e050a54fe1ca078372530d2";

fn aes() -> KeySpec {
    KeySpec::aes(256).unwrap()
}

fn uuid(key: &KeyRef) -> &str {
    key.as_str().split(':').nth(1).unwrap_or(key.as_str())
}

/// The claims of a TD that may have the key.
fn claims() -> Value {
    json!({
        "iss": ISSUER, "sub": "td-1",
        "tdx": { "tdx_mrtd": MRTD, "attester_tcb_status": "UpToDate", "tdx_is_debuggable": false },
    })
}

fn with(change: impl FnOnce(&mut Value)) -> Value {
    let mut claims = claims();
    change(&mut claims);
    claims
}

fn td(token: String, key: &PKey<Private>) -> AttestedTd {
    AttestedTd { token: token.into(), public_key_pem: String::from_utf8(key.public_key_to_pem().unwrap()).unwrap() }
}

fn td_key() -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(3072).unwrap()).unwrap()
}

/// A JWT method that knows the verifier, and a role for `key` that demands the claims above. Its token is good for `uses`.
async fn demand_attestation(server: &OpenBao, verifier: &Signer, key: &KeyRef, mrtd: &str, uses: u32, rules: &[(&str, &[&str])]) {
    // Enabled once; a second key finds it there.
    if server.enable_auth("jwt").await.is_ok() {
        let keys = json!({
            "jwt_validation_pubkeys": [verifier.public_key_pem()], "jwt_supported_algs": ["PS384"], "bound_issuer": ISSUER,
        });
        server.call(Method::POST, "auth/jwt/config", Some(keys)).await.unwrap();
    }
    let role = format!("release-{}", uuid(key));
    server.policy(&role, rules).await.unwrap();
    let settings = json!({
        "role_type": "jwt", "user_claim": "sub",
        "bound_claims": { "/tdx/tdx_mrtd": mrtd, "/tdx/attester_tcb_status": ["UpToDate"], "/tdx/tdx_is_debuggable": false },
        "token_policies": [role], "token_num_uses": uses, "token_ttl": "1m", "token_no_default_policy": true,
    });
    server.call(Method::POST, &format!("auth/jwt/role/{role}"), Some(settings)).await.unwrap();
}

fn attestation() -> VaultAuth {
    VaultAuth::Attestation(VaultAttestation { mount: "jwt".to_owned(), role: "release-{key}".to_owned() })
}

async fn released(kms: &VaultKms, key: &KeyRef, td: &AttestedTd) -> Result<Vec<u8>, KmsError> {
    match kms.release(key, &aes(), td).await? {
        FetchedKey::Material(material) => Ok(material.expose().to_vec()),
        FetchedKey::WrappedForTd(_) => panic!("nothing was to be wrapped"),
    }
}

#[tokio::test]
async fn the_server_judges_the_attestation_itself_and_the_broker_holds_no_credential() {
    let (server, administrator) = start_with(VaultEngine::Kv2).await;
    let maker = connect(&administrator);
    let (key, other) = (maker.create(&aes()).await.unwrap(), maker.create(&aes()).await.unwrap());
    let material = maker.fetch(&key, &aes()).await.unwrap();
    let (verifier, impostor) = (Signer::new(), Signer::new());
    for (key, mrtd) in [(&key, MRTD), (&other, "00")] {
        let path = format!("keyferry/data/{}", uuid(key));
        demand_attestation(&server, &verifier, key, mrtd, 1, &[(&path, &["read"])]).await;
    }
    let kms = connect(&config(&server, VaultEngine::Kv2, attestation()));
    let own = td_key();
    let right = td(verifier.sign(&claims(), 300), &own);
    assert_eq!(released(&kms, &key, &right).await.unwrap(), material.expose());
    assert_eq!(released(&kms, &key, &right).await.unwrap(), material.expose(), "a token may log in until it expires");

    let token = |claims: Value| td(verifier.sign(&claims, 300), &own);
    let refused = [
        ("wrong MRTD", token(with(|claims| claims["tdx"]["tdx_mrtd"] = json!("00")))),
        ("out of date", token(with(|claims| claims["tdx"]["attester_tcb_status"] = json!("OutOfDate")))),
        ("debuggable", token(with(|claims| claims["tdx"]["tdx_is_debuggable"] = json!(true)))),
        ("no claims", token(with(|claims| claims["tdx"] = json!({})))),
        ("other issuer", token(with(|claims| claims["iss"] = json!("https://other.example.net")))),
        ("expired", td(verifier.sign(&claims(), -600), &own)),
        ("signed by another", td(impostor.sign(&claims(), 300), &own)),
        ("no token", td("not a token".to_owned(), &own)),
        ("nothing", td(String::new(), &own)),
    ];
    for (what, td) in refused {
        assert_eq!(released(&kms, &key, &td).await, Err(KmsError::Denied), "{what}");
    }
    // The claims are right for one key and not for the other.
    assert_eq!(released(&kms, &other, &right).await, Err(KmsError::Denied));

    // Without a TD there is nobody to ask for a key, and no credential to do anything else with.
    assert_eq!(kms.fetch(&key, &aes()).await.map(drop), Err(KmsError::KeyNotReleasable));
    assert_eq!(kms.create(&aes()).await.unwrap_err().label(), "kms_configuration");
    assert_eq!(kms.inspect(&key).await.unwrap_err().label(), "kms_configuration");
    assert_eq!(kms.destroy(&key).await.unwrap_err().label(), "kms_configuration");
    assert_eq!(kms.health().await, Ok(()));
}

#[tokio::test]
async fn the_token_that_an_attestation_gives_is_for_one_read() {
    let (server, administrator) = start_with(VaultEngine::Kv1).await;
    let key = connect(&administrator).create(&aes()).await.unwrap();
    let verifier = Signer::new();
    let path = format!("keybroker/{}", uuid(&key));
    demand_attestation(&server, &verifier, &key, MRTD, 1, &[(&path, &["read"])]).await;
    let login = json!({ "role": format!("release-{}", uuid(&key)), "jwt": verifier.sign(&claims(), 300) });
    let (status, answer) = server.call_as("", Method::POST, "auth/jwt/login", Some(login)).await.unwrap();
    assert_eq!(status, 200, "{answer}");
    let token = answer["auth"]["client_token"].as_str().unwrap();
    let read = async || server.call_as(token, Method::GET, &path, None).await.unwrap().0;
    assert_eq!((read().await, read().await), (200, 403), "one read, and no second");
    // The broker is content with that one.
    let kms = connect(&config(&server, VaultEngine::Kv1, attestation()));
    released(&kms, &key, &td(verifier.sign(&claims(), 300), &td_key())).await.unwrap();
}

#[tokio::test]
async fn what_one_td_may_have_is_not_shared_with_another_who_asks_at_the_same_moment() {
    let (server, administrator) = start_with(VaultEngine::Kv2).await;
    let key = connect(&administrator).create(&aes()).await.unwrap();
    let verifier = Signer::new();
    let path = format!("keyferry/data/{}", uuid(&key));
    demand_attestation(&server, &verifier, &key, MRTD, 1, &[(&path, &["read"])]).await;
    let kms = connect(&config(&server, VaultEngine::Kv2, attestation()));
    let own = td_key();
    let right = td(verifier.sign(&claims(), 300), &own);
    let wrong = td(verifier.sign(&with(|claims| claims["tdx"]["tdx_mrtd"] = json!("00")), 300), &own);
    let tds: Vec<_> = (0..20).map(|number| if number % 2 == 0 { &right } else { &wrong }).collect();
    let results = futures::future::join_all(tds.iter().map(|td| released(&kms, &key, td))).await;
    for (number, result) in results.into_iter().enumerate() {
        match result {
            Ok(_) => assert_eq!(number % 2, 0, "a TD that the server refuses got the key"),
            Err(error) => assert_eq!((number % 2, error), (1, KmsError::Denied)),
        }
    }
}

/// OAEP and KWP by another library than the broker's.
fn unwrap(wrapped: &KmsWrappedKey, key: &PKey<Private>) -> Vec<u8> {
    let (encrypted, wrapped) = wrapped.as_bytes().split_at(key.size());
    let mut decrypter = Decrypter::new(key).unwrap();
    decrypter.set_rsa_padding(Padding::PKCS1_OAEP).unwrap();
    decrypter.set_rsa_oaep_md(MessageDigest::sha256()).unwrap();
    decrypter.set_rsa_mgf1_md(MessageDigest::sha256()).unwrap();
    let mut kek = vec![0; decrypter.decrypt_len(encrypted).unwrap()];
    let length = decrypter.decrypt(encrypted, &mut kek).unwrap();
    assert_eq!(length, 32);
    let mut context = CipherCtx::new().unwrap();
    context.set_flags(CipherCtxFlags::FLAG_WRAP_ALLOW);
    context.decrypt_init(Some(Cipher::aes_256_wrap_pad()), Some(&kek[..length]), None).unwrap();
    let mut material = Vec::new();
    context.cipher_update_vec(wrapped, &mut material).unwrap();
    material
}

/// Transit, with an administrator who may export, and a broker that may only let the server wrap.
struct Wrapping {
    server: OpenBao,
    administrator: VaultKms,
    broker: VaultConfig,
}

const WRAP: &[(&str, &[&str])] =
    &[("transit/keys/*", &["read"]), ("transit/keys/td-*", &["create", "update", "delete"]), ("transit/byok-export/td-*", &["read"])];

impl Wrapping {
    async fn start() -> Self {
        let (server, administrator) = start_with(VaultEngine::Transit).await;
        server.policy("wrap", WRAP).await.unwrap();
        let role = server.app_role("broker", json!({ "token_policies": ["wrap"], "token_ttl": "10m" })).await.unwrap();
        let mut broker = config(&server, VaultEngine::Transit, app_role(&role));
        broker.wrap_for_td = true;
        Self { administrator: connect(&administrator), server, broker }
    }

    /// Waits until no TD's key is left, and says which keys are.
    async fn cleaned(&self) {
        until("an engine without keys of TDs", || async { self.td_keys().await.is_empty() }).await;
    }

    async fn td_keys(&self) -> Vec<String> {
        let (_, listed) =
            self.server.call_as(self.server.root_token(), Method::from_bytes(b"LIST").unwrap(), "transit/keys", None).await.unwrap();
        let keys = listed["data"]["keys"].as_array().cloned().unwrap_or_default();
        keys.iter().filter_map(|key| key.as_str()).filter(|key| key.starts_with("td-")).map(str::to_owned).collect()
    }
}

async fn wrapped(kms: &VaultKms, key: &KeyRef, spec: &KeySpec, td: &AttestedTd) -> Result<KmsWrappedKey, KmsError> {
    match kms.release(key, spec, td).await? {
        FetchedKey::WrappedForTd(wrapped) => Ok(wrapped),
        FetchedKey::Material(_) => panic!("the broker saw the key"),
    }
}

#[tokio::test]
async fn the_server_wraps_for_the_td_and_the_broker_cannot_export() {
    let rig = Wrapping::start().await;
    let (own, other) = (td_key(), PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap());
    let kms = connect(&rig.broker);
    for spec in [aes(), KeySpec::aes(128).unwrap(), KeySpec::rsa(2048).unwrap()] {
        let key = rig.administrator.create(&spec).await.unwrap();
        let material = rig.administrator.fetch(&key, &spec).await.unwrap();
        for recipient in [&own, &other] {
            let opened = unwrap(&wrapped(&kms, &key, &spec, &td(String::new(), recipient)).await.unwrap(), recipient);
            if spec.algorithm() == keyferry_kms::Algorithm::Aes {
                assert_eq!(opened, material.expose());
            } else {
                let public = |der: &[u8]| PKey::private_key_from_pkcs8(der).unwrap().public_key_to_der().unwrap();
                assert_eq!(public(&opened), public(material.expose()));
            }
        }
        rig.cleaned().await;

        // The way out that would show the key is closed to the broker, by the server.
        assert_eq!(kms.fetch(&key, &spec).await.map(drop), Err(KmsError::KeyNotReleasable));
        let token = rig.server.token(json!({ "policies": ["wrap"] })).await.unwrap();
        let export = format!("transit/export/encryption-key/{}/1", uuid(&key));
        assert_eq!(rig.server.call_as(&token, Method::GET, &export, None).await.unwrap().0, 403);
        assert_eq!(kms.create(&spec).await.unwrap_err(), KmsError::Denied);
        assert_eq!(kms.destroy(&key).await.unwrap_err(), KmsError::Denied);
    }
}

#[tokio::test]
async fn the_pinned_version_is_wrapped_and_what_may_not_leave_stays() {
    let rig = Wrapping::start().await;
    let (own, kms) = (td_key(), connect(&rig.broker));
    let recipient = td(String::new(), &own);
    let first = rig.administrator.create(&aes()).await.unwrap();
    rig.server.call(Method::POST, &format!("transit/keys/{}/rotate", uuid(&first)), Some(json!({}))).await.unwrap();
    let second = KeyRef::parse(&format!("transit:{}:2", uuid(&first))).unwrap();
    for key in [&first, &second] {
        let material = rig.administrator.fetch(key, &aes()).await.unwrap();
        assert_eq!(unwrap(&wrapped(&kms, key, &aes(), &recipient).await.unwrap(), &own), material.expose());
    }
    let refused = async |key: &KeyRef, spec: &KeySpec| wrapped(&kms, key, spec, &recipient).await.map(drop).unwrap_err();
    assert_eq!(refused(&first, &KeySpec::aes(128).unwrap()).await, KmsError::KeyMismatch { field: "length" });
    assert_eq!(refused(&KeyRef::parse(&format!("transit:{}:3", uuid(&first))).unwrap(), &aes()).await, KmsError::KeyNotFound);
    let rsa = rig.administrator.create(&KeySpec::rsa(2048).unwrap()).await.unwrap();
    assert_eq!(refused(&rsa, &KeySpec::rsa(3072).unwrap()).await, KmsError::KeyMismatch { field: "length" });
    assert_eq!(refused(&rsa, &aes()).await, KmsError::KeyMismatch { field: "algorithm" });
    let unknown = KeyRef::parse("transit:00000000-0000-4000-8000-000000000000:1").unwrap();
    assert_eq!(refused(&unknown, &aes()).await, KmsError::KeyNotFound);
    rig.administrator.revoke(&first, keyferry_kms::Revocation::Retired).await.unwrap();
    assert_eq!(refused(&first, &aes()).await, KmsError::KeyDeactivated);
    let kept = json!({ "type": "aes256-gcm96" });
    rig.server.call(Method::POST, "transit/keys/11111111-2222-4333-8444-555555555555", Some(kept)).await.unwrap();
    let kept = KeyRef::parse("transit:11111111-2222-4333-8444-555555555555:1").unwrap();
    assert_eq!(refused(&kept, &aes()).await, KmsError::KeyNotReleasable);
    rig.cleaned().await;

    // A key of the TD that the engine cannot wrap for is refused before anything is sent.
    let curve = openssl::ec::EcGroup::from_curve_name(openssl::nid::Nid::X9_62_PRIME256V1).unwrap();
    let ec = PKey::from_ec_key(openssl::ec::EcKey::generate(&curve).unwrap()).unwrap();
    let error = wrapped(&kms, &second, &aes(), &td(String::new(), &ec)).await.unwrap_err();
    assert_eq!(error.label(), "kms_configuration");
}

#[tokio::test]
async fn a_release_that_nobody_waits_for_leaves_no_key_of_the_td_behind() {
    let rig = Wrapping::start().await;
    let key = rig.administrator.create(&aes()).await.unwrap();
    let proxy = Proxy::start(rig.server.address()).await;
    let mut broker = rig.broker.clone();
    broker.url = proxy.url();
    let kms = Arc::new(connect(&broker));
    let (own, spec) = (td_key(), aes());
    let recipient = td(String::new(), &own);
    kms.release(&key, &spec, &recipient).await.unwrap();
    rig.cleaned().await;

    // The TD's key arrives, and the answer to that does not: the caller gives up.
    proxy.set(Line::Silent);
    tokio::select! {
        _ = kms.release(&key, &spec, &recipient) => panic!("the line is silent"),
        () = until("the TD's key in the engine", || async { !rig.td_keys().await.is_empty() }) => {}
    }
    proxy.set(Line::Good);
    rig.cleaned().await;
}

#[tokio::test]
async fn an_attested_td_has_its_key_wrapped_by_the_server() {
    let rig = Wrapping::start().await;
    let key = rig.administrator.create(&aes()).await.unwrap();
    let material = rig.administrator.fetch(&key, &aes()).await.unwrap();
    let (verifier, own) = (Signer::new(), td_key());
    let byok = format!("transit/byok-export/+/{}/1", uuid(&key));
    demand_attestation(&rig.server, &verifier, &key, MRTD, 0, &[WRAP[1], (&byok, &["read"])]).await;
    let mut config = rig.broker.clone();
    config.auth = attestation();
    config.timeouts.total = Duration::from_secs(20);
    let kms = connect(&config);
    let right = td(verifier.sign(&claims(), 300), &own);
    assert_eq!(unwrap(&wrapped(&kms, &key, &aes(), &right).await.unwrap(), &own), material.expose());
    let wrong = td(verifier.sign(&with(|claims| claims["tdx"]["tdx_mrtd"] = json!("00")), 300), &own);
    assert_eq!(wrapped(&kms, &key, &aes(), &wrong).await.map(drop), Err(KmsError::Denied));
    rig.cleaned().await;
}
