//! Keys in a real OpenBao: every engine passes the suite, and what Intel's KBS left there is read as it was written.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking; the exemption covers helpers only inside #[test]")]

mod support;

use keyferry_kms::{
    Algorithm, Curve, KeyRef, KeySpec, KeyState, Kms, KmsError, Revocation, VaultEngine,
    conformance::{self, Capabilities, Pairs},
};
use reqwest::Method;
use serde_json::{Value, json};
use support::vault::{add, connect, start, start_with};

const ID: &str = "9d8ff5f2-0f4a-4c31-8f6c-3ac3a7d2d7a4";

fn key(text: &str) -> KeyRef {
    KeyRef::parse(text).unwrap()
}

fn aes() -> KeySpec {
    KeySpec::aes(256).unwrap()
}

#[tokio::test]
async fn every_engine_conforms() {
    let server = start().await;
    server.enable_auth("approle").await.unwrap();
    let transit = Capabilities { aes_lengths: &[128, 256], compromised_state: false, rsa: Pairs::Made, ec: Pairs::Made };
    for (engine, capabilities) in
        [(VaultEngine::Kv1, Capabilities::ALL), (VaultEngine::Kv2, Capabilities::ALL), (VaultEngine::Transit, transit)]
    {
        let kms = connect(&add(&server, engine).await);
        if let Err(deviation) = conformance::run_within(&kms, "suite", capabilities).await {
            panic!("{engine:?}: {deviation}\n{}", server.log());
        }
    }
}

#[tokio::test]
async fn private_keys_are_made_brought_and_given_back_by_every_engine() {
    let server = start().await;
    server.enable_auth("approle").await.unwrap();
    for engine in [VaultEngine::Kv1, VaultEngine::Kv2, VaultEngine::Transit] {
        let kms = connect(&add(&server, engine).await);
        for spec in [KeySpec::rsa(2048).unwrap(), KeySpec::ec(Curve::P256), KeySpec::ec(Curve::P384), KeySpec::ec(Curve::P521)] {
            let made = kms.create(&spec).await.unwrap();
            let found = kms.inspect(&made).await.unwrap();
            assert_eq!((found.algorithm, found.length_bits), (Some(spec.algorithm()), Some(spec.length_bits())), "{engine:?}");
            let material = kms.fetch(&made, &spec).await.unwrap();
            spec.check_material(&material).unwrap();

            let brought = kms.register(&spec, &material).await.unwrap();
            let again = kms.fetch(&brought, &spec).await.unwrap();
            // The engine may write the same private key in another order of optional fields; it is the same key.
            let public = |der: &[u8]| openssl::pkey::PKey::private_key_from_pkcs8(der).unwrap().public_key_to_der().unwrap();
            assert_eq!(public(again.expose()), public(material.expose()), "{engine:?}");

            let as_aes = kms.fetch(&made, &aes()).await.map(drop);
            assert!(matches!(as_aes, Err(KmsError::KeyMismatch { .. })), "{engine:?}: {as_aes:?}");
        }
    }
}

#[tokio::test]
async fn entries_of_intels_kbs_are_read_and_ours_are_of_their_form() {
    let (server, config) = start_with(VaultEngine::Kv1).await;
    let kms = connect(&config);
    let write = async |id: &str, record: Value| {
        server.call(Method::PUT, &format!("keybroker/{id}"), Some(json!({ id: record.to_string() }))).await.unwrap();
    };
    let nil = "00000000-0000-0000-0000-000000000000";
    let intels = json!({
        "id": ID, "algorithm": "AES", "key_length": 256, "key_data": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        "transfer_policy_id": nil, "transfer_link": format!("/kbs/v1/keys/{ID}/transfer"), "created_at": "2026-01-02T03:04:05Z",
    });
    write(ID, intels.clone()).await;
    let found = kms.inspect(&key(ID)).await.unwrap();
    assert_eq!((found.algorithm, found.length_bits, found.state), (Some(Algorithm::Aes), Some(256), Some(KeyState::Active)));
    let material = kms.fetch(&key(ID), &aes()).await.unwrap();
    assert_eq!(material.expose(), (0..32).collect::<Vec<u8>>());
    assert_eq!(kms.fetch(&key(ID), &KeySpec::aes(128).unwrap()).await.map(drop), Err(KmsError::KeyMismatch { field: "length" }));

    // Ours: named by the record's id, one member, a string that holds the members of Intel's record.
    let own = "0d3f8a52-6a52-4d0e-9b0e-5c6f1e1f9b11";
    for spec in [aes(), KeySpec::ec(Curve::P384), KeySpec::rsa(2048).unwrap()] {
        let reference = kms.create(&spec.clone().named(own).unwrap()).await.unwrap();
        assert_eq!(reference, key(own));
        let stored = server.call(Method::GET, &format!("keybroker/{own}"), None).await.unwrap();
        assert_eq!(stored["data"].as_object().unwrap().len(), 1);
        let record: Value = serde_json::from_str(stored["data"][own].as_str().unwrap()).unwrap();
        assert_eq!((&record["id"], &record["transfer_policy_id"]), (&json!(own), &json!(nil)));
        assert_eq!(record["transfer_link"], format!("/kbs/v1/keys/{own}/transfer"));
        assert_eq!(record["key_length"], spec.length_bits());
        let members = if spec.algorithm() == Algorithm::Aes { vec!["key_data"] } else { vec!["private_key", "public_key"] };
        for member in ["key_data", "private_key", "public_key"] {
            assert_eq!(record[member].is_string(), members.contains(&member), "{member}");
        }
        kms.destroy(&reference).await.unwrap();
    }

    // Another key under the name of a record is not overwritten.
    let taken = aes().named(ID).unwrap();
    assert_eq!(kms.create(&taken).await.unwrap_err().label(), "key_mismatch");
    kms.register(&taken, &material).await.unwrap(); // the same key: a repeated import
    assert_eq!(kms.fetch(&key(ID), &aes()).await.unwrap().expose(), material.expose());

    // A revoked entry is still one that Intel's KBS reads.
    kms.revoke(&key(ID), Revocation::Retired).await.unwrap();
    let stored = server.call(Method::GET, &format!("keybroker/{ID}"), None).await.unwrap();
    let mut record: Value = serde_json::from_str(stored["data"][ID].as_str().unwrap()).unwrap();
    assert_eq!(record.as_object_mut().unwrap().remove("state"), Some(json!("deactivated")));
    assert_eq!(record, intels);
}

#[tokio::test]
async fn entries_that_are_no_key_records_are_refused_without_their_text() {
    let (server, config) = start_with(VaultEngine::Kv1).await;
    let kms = connect(&config);
    let other = "11111111-2222-4333-8444-555555555555";
    let wrong = [
        json!({ "password": "SECRET" }),
        json!({ other: "{}" }),
        json!({ ID: { "algorithm": "AES", "key_data": "AAAA" } }),
        json!({ ID: "SECRET" }),
        json!({ ID: "{\"algorithm\":\"AES\",\"key_data\":\"SECRET!\"}" }),
        json!({ ID: "{\"algorithm\":\"SECRET\",\"key_data\":\"AAAA\"}" }),
        json!({ ID: "{\"algorithm\":\"RSA\",\"private_key\":\"AAAA\"}" }),
    ];
    for entry in wrong {
        server.call(Method::PUT, &format!("keybroker/{ID}"), Some(entry.clone())).await.unwrap();
        let error = kms.fetch(&key(ID), &aes()).await.unwrap_err();
        assert!(["kms_protocol", "key_mismatch"].contains(&error.label()), "{entry}: {error:?}");
        assert!(!format!("{error} {error:?}").contains("SECRET"), "{error:?}");
    }
}

#[tokio::test]
async fn kv2_pins_the_version_and_tells_deleted_from_destroyed() {
    let (server, config) = start_with(VaultEngine::Kv2).await;
    let kms = connect(&config);
    let first = kms.create(&aes().named(ID).unwrap()).await.unwrap();
    assert_eq!(first, key(&format!("kv2:{ID}:1")));
    let material = kms.fetch(&first, &aes()).await.unwrap();

    // A second version, written by somebody else: the pinned one stays what it was, and check-and-set kept ours out.
    assert_eq!(kms.create(&aes().named(ID).unwrap()).await.unwrap_err().label(), "key_mismatch");
    let second = json!({ "data": { "algorithm": "AES", "key_length": 256, "key_data": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=" } });
    server.call(Method::POST, &format!("keyferry/data/{ID}"), Some(second)).await.unwrap();
    assert_eq!(kms.fetch(&first, &aes()).await.unwrap().expose(), material.expose());
    assert_eq!(kms.fetch(&key(ID), &aes()).await.unwrap().expose(), material.expose(), "a bare UUID is version 1, never the latest");
    let second = key(&format!("kv2:{ID}:2"));
    assert_eq!(kms.fetch(&second, &aes()).await.unwrap().expose(), (0..32).collect::<Vec<u8>>());
    assert_eq!(kms.fetch(&key(&format!("kv2:{ID}:3")), &aes()).await.map(drop), Err(KmsError::KeyNotFound));

    // Deleted, restored, marked compromised, restored, destroyed.
    kms.revoke(&first, Revocation::Retired).await.unwrap();
    assert_eq!(kms.fetch(&first, &aes()).await.map(drop), Err(KmsError::KeyDeactivated));
    let undelete = || server.call(Method::POST, "keyferry/undelete/9d8ff5f2-0f4a-4c31-8f6c-3ac3a7d2d7a4", Some(json!({ "versions": [1] })));
    undelete().await.unwrap();
    assert_eq!(kms.fetch(&first, &aes()).await.unwrap().expose(), material.expose());
    kms.revoke(&first, Revocation::Compromised).await.unwrap();
    assert_eq!(kms.fetch(&first, &aes()).await.map(drop), Err(KmsError::KeyCompromised));
    undelete().await.unwrap();
    assert_eq!(kms.fetch(&first, &aes()).await.map(drop), Err(KmsError::KeyCompromised), "the mark outlives an undeletion");
    assert!(kms.fetch(&second, &aes()).await.is_ok(), "and is of one version");
    kms.destroy(&first).await.unwrap();
    assert_eq!(kms.fetch(&first, &aes()).await.map(drop), Err(KmsError::KeyDestroyed), "its history stays while a version is left");
    assert_eq!(kms.inspect(&first).await.unwrap().state, Some(KeyState::Destroyed));
    assert!(kms.fetch(&second, &aes()).await.is_ok());
    kms.destroy(&second).await.unwrap();
    assert_eq!(kms.fetch(&second, &aes()).await.map(drop), Err(KmsError::KeyNotFound));
}

#[tokio::test]
async fn a_transit_key_that_may_not_leave_stays_and_a_revoked_version_can_be_brought_back() {
    let (server, config) = start_with(VaultEngine::Transit).await;
    let kms = connect(&config);
    server.call(Method::POST, &format!("transit/keys/{ID}"), Some(json!({ "type": "aes256-gcm96" }))).await.unwrap();
    let reference = key(&format!("transit:{ID}:1"));
    assert_eq!(kms.fetch(&reference, &aes()).await.map(drop), Err(KmsError::KeyNotReleasable));
    assert_eq!(kms.fetch(&key(&format!("transit:{ID}:2")), &aes()).await.map(drop), Err(KmsError::KeyNotFound));

    let own = kms.create(&aes()).await.unwrap();
    kms.revoke(&own, Revocation::Retired).await.unwrap();
    kms.revoke(&own, Revocation::Retired).await.unwrap();
    assert_eq!(kms.fetch(&own, &aes()).await.map(drop), Err(KmsError::KeyDeactivated));
    let name = own.as_str().split(':').nth(1).unwrap().to_owned();
    let back = json!({ "min_decryption_version": 1 });
    server.call(Method::POST, &format!("transit/keys/{name}/config"), Some(back)).await.unwrap();
    assert!(kms.fetch(&own, &aes()).await.is_ok());
    let unsupported = kms.create(&KeySpec::aes(192).unwrap()).await.unwrap_err();
    assert_eq!(unsupported.label(), "kms_configuration");
}

#[tokio::test]
async fn a_reference_that_is_no_uuid_never_reaches_the_server() {
    let (_server, config) = start_with(VaultEngine::Kv1).await;
    let kms = connect(&config);
    for text in ["../../sys/seal", "a", "..", "9d8ff5f2-0f4a-4c31-8f6c-3ac3a7d2d7a4/../x", "{9d8ff5f2-0f4a-4c31-8f6c-3ac3a7d2d7a4}"] {
        assert_eq!(kms.fetch(&key(text), &aes()).await.unwrap_err().label(), "key_reference", "{text}");
        assert_eq!(kms.destroy(&key(text)).await.unwrap_err().label(), "key_reference", "{text}");
    }
}
