//! Files as the service writes them, and files that it, an editor or an attacker broke.

use serde_json::json;

use super::*;

const ID: &str = "6f5b2c1e-0d4a-4c3b-9a8f-1e2d3c4b5a69";
const POLICY: &str = "11111111-2222-4333-8444-555555555555";
/// `$2a$10$`, a salt of 22 characters, a digest of 31.
const BCRYPT: &str = "$2a$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy";

fn user_file() -> Value {
    json!({
        "id": ID, "created_at": "2024-05-06T07:08:09.123456789Z", "updated_at": "0001-01-01T00:00:00Z", "username": "admin",
        "password_hash": STANDARD.encode(BCRYPT), "password_cost": 10, "permissions": ["keys:create", "key_transfer_policies:search"],
    })
}

fn key_file() -> Value {
    json!({
        "id": ID, "algorithm": "AES", "key_length": 256, "kmip_key_id": "17", "transfer_policy_id": POLICY,
        "transfer_link": format!("/kbs/v1/keys/{ID}/transfer"), "created_at": "2024-05-06T07:08:09Z",
    })
}

fn policy_file(attributes: &Value) -> Value {
    json!({ "id": ID, "created_at": "2024-05-06T07:08:09Z", "attestation_type": "TDX", "tdx": { "attributes": attributes } })
}

fn with(mut file: Value, member: &str, value: Value) -> Vec<u8> {
    file[member] = value;
    file.to_string().into_bytes()
}

fn bytes(file: &Value) -> Vec<u8> {
    file.to_string().into_bytes()
}

fn why<T>(result: Result<T, Refusal>) -> String {
    let refusal = result.err().unwrap();
    assert!(!refusal.fix.is_empty());
    refusal.reason
}

#[test]
fn a_user_keeps_hash_permissions_and_times() {
    let user = user(ID, &bytes(&user_file())).unwrap();
    assert_eq!((user.id.to_string().as_str(), user.username.as_str(), user.bcrypt_hash.as_str()), (ID, "admin", BCRYPT));
    assert_eq!(user.created_at.unwrap().subsec_nanosecond(), 123_456_789);
    assert_eq!(user.updated_at, None, "Go's zero time is no time");
    assert_eq!(user.permissions.into_iter().collect::<Vec<_>>(), ["key_transfer_policies:search", "keys:create"]);
}

#[test]
fn both_spellings_of_a_permission_are_one_and_meaningless_ones_are_left_out() {
    let listed = json!(["key-transfer-policies:create", "key_transfer_policies:create", "users:transfer", "keys:transfer"]);
    let user = user(ID, &with(user_file(), "permissions", listed)).unwrap();
    assert_eq!(user.permissions.into_iter().collect::<Vec<_>>(), ["key_transfer_policies:create", "keys:transfer"]);
    assert_eq!(user.notes, ["users:transfer permits nothing and is left out"]);
    for wrong in [json!([]), json!(["users:transfer"]), json!(["keys:release"]), json!(["keys"]), json!(["*:*"])] {
        assert!(why(super::user(ID, &with(user_file(), "permissions", wrong))).contains("permission"));
    }
}

#[test]
fn a_hash_that_is_no_bcrypt_string_is_refused_and_not_shown() {
    let cost_31_digits = BCRYPT.replace("$10$", "$1$");
    for wrong in
        ["", "plain", "$2a$10$short", &BCRYPT.replace("$2a$", "$1$"), &cost_31_digits, &format!("{BCRYPT}$"), &BCRYPT.replace("N9", "é")]
    {
        let refused = why(user(ID, &with(user_file(), "password_hash", STANDARD.encode(wrong).into())));
        assert!(refused.contains("bcrypt") && !refused.contains("N9qo"), "{refused}");
    }
    assert!(why(user(ID, &with(user_file(), "password_hash", BCRYPT.into()))).contains("base64"));
    let dear = STANDARD.encode(BCRYPT.replace("$10$", "$31$"));
    assert!(why(user(ID, &with(user_file(), "password_hash", dear.into()))).contains("cost 31"));
    // A number where the hash was: the mistake is placed, the content is not repeated.
    let broken = bytes(&user_file()).iter().map(|byte| if *byte == b'}' { b']' } else { *byte }).collect::<Vec<_>>();
    assert!(!why(user(ID, &broken)).contains("N9qo"));
}

#[test]
fn a_file_whose_name_or_id_is_none_is_refused() {
    for name in ["", "config.bak", "../../etc/passwd", "6f5b2c1e0d4a4c3b9a8f1e2d3c4b5a69", ".swp", "00000000-0000-0000-0000-000000000000"] {
        assert!(why(user(name, &bytes(&user_file()))).contains("no UUID"), "{name}");
        assert!(why(policy(name, &bytes(&policy_file(&json!({}))))).contains("no UUID"));
        assert!(why(key(name, &bytes(&key_file()), None)).contains("no UUID"));
    }
    for id in ["../../etc/passwd", POLICY, "", "6f5b2c1e|0d4a-4c3b-9a8f-1e2d3c4b5a69"] {
        assert!(why(user(ID, &with(user_file(), "id", id.into()))).contains("not the file's name"), "{id}");
        assert!(why(key(ID, &with(key_file(), "id", id.into()), None)).contains("not the file's name"));
        assert!(why(policy(ID, &with(policy_file(&json!({})), "id", id.into()))).contains("not the file's name"));
    }
}

#[test]
fn whatever_a_file_holds_the_answer_is_a_reason() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let half = bytes(&key_file())[..40].to_vec();
    let broken: [&[u8]; 12] = [
        b"",
        b"null",
        b"{}",
        b"[]",
        b"{",
        b"\xff\xfe",
        b"{\"id\":null}",
        b"{\"id\":1}",
        b"\"\"",
        b"{\"id\":\"\xc3\"}",
        deep.as_bytes(),
        &half,
    ];
    for content in broken {
        for refused in [why(user(ID, content)), why(policy(ID, content)), why(key(ID, content, None))] {
            assert!(!refused.is_empty());
        }
    }
    for member in user_file().as_object().unwrap().keys() {
        for value in [json!(null), json!(-1), json!([[]]), json!({ "a": {} })] {
            let _ = user(ID, &with(user_file(), member, value)).map(|user| user.username);
        }
    }
    for member in key_file().as_object().unwrap().keys() {
        for value in [json!(null), json!(-1), json!(1e300), json!([[]]), json!("\u{0}")] {
            let _ = key(ID, &with(key_file(), member, value), None).map(|key| key.kms_key_ref);
        }
    }
}

#[test]
fn a_key_lies_where_its_record_says() {
    let kmip = key(ID, &bytes(&key_file()), None).unwrap();
    assert_eq!((kmip.kms_kind, kmip.kms_key_ref.as_str(), kmip.length_bits), (KmsKind::Kmip, "17", 256));
    assert_eq!(kmip.policy_id.unwrap().to_string(), POLICY);
    assert!(why(key(ID, &bytes(&key_file()), Some(KmsKind::Vault))).contains("KMIP"));

    let mut file = key_file();
    file.as_object_mut().unwrap().remove("kmip_key_id");
    file["transfer_policy_id"] = "00000000-0000-0000-0000-000000000000".into();
    let vault = key(ID, &bytes(&file), Some(KmsKind::Vault)).unwrap();
    assert_eq!((vault.kms_kind, vault.kms_key_ref.as_str(), vault.policy_id), (KmsKind::Vault, ID, None));
    assert!(why(key(ID, &bytes(&file), Some(KmsKind::Kmip))).contains("Vault"));
    assert!(why(key(ID, &with(key_file(), "kmip_key_id", "a\u{0}b".into()), None)).contains("kmip_key_id"));
    assert!(why(key(ID, &with(key_file(), "kmip_key_id", "x".repeat(256).into()), None)).contains("kmip_key_id"));
    let clear = key(ID, &with(key_file(), "key_data", "c2VjcmV0".into()), None).unwrap();
    assert!(clear.notes[0].contains("in the clear"), "{:?}", clear.notes);
}

#[test]
fn an_algorithm_is_one_with_a_length_it_has() {
    for (algorithm, length, curve, wanted) in [
        ("AES", 128, "", Some(KeyAlgorithm::Aes)),
        ("rsa", 3072, "", Some(KeyAlgorithm::Rsa)),
        ("EC", 2048, "secp384r1", Some(KeyAlgorithm::Ec)),
        ("EC", 0, "", Some(KeyAlgorithm::Ec)),
        ("AES", 257, "", None),
        ("AES", 3072, "", None),
        ("RSA", 1024, "", None),
        ("rsa", 3072, "prime256v1", None),
        ("EC", 0, "ed25519", None),
        ("ChaCha20", 256, "", None),
        ("", 256, "", None),
    ] {
        let mut file = key_file();
        file["algorithm"] = algorithm.into();
        file["key_length"] = length.into();
        file["curve_type"] = curve.into();
        let found = key(ID, &bytes(&file), None);
        assert_eq!(found.as_ref().ok().map(|key| key.algorithm), wanted, "{algorithm} {length} {curve}");
        if wanted == Some(KeyAlgorithm::Ec) {
            assert_eq!(found.ok().map(|key| key.length_bits), Some(0), "the length of an EC key meant nothing");
        }
    }
}

#[test]
fn a_policy_loses_its_records_members_and_says_what_changes() {
    let upper = "A".repeat(96);
    let mut file = policy_file(&json!({ "mrtd": [upper], "enforce_tcb_upto_date": true }));
    file["tdx"]["policy_ids"] = json!([POLICY]);
    let record = policy(ID, &bytes(&file)).unwrap();
    let document: Value = serde_json::from_str(&record.document).unwrap();
    assert_eq!(document.as_object().unwrap().keys().collect::<Vec<_>>(), ["attestation_type", "tdx"]);
    assert!(Policy::parse(&record.document).is_ok());
    let notes = record.notes.join("\n");
    for words in ["mrtd is in upper case", "both have to match", "UpToDate meets it"] {
        assert!(notes.contains(words), "{words}: {notes}");
    }
    let plain =
        policy(ID, &bytes(&policy_file(&json!({ "mrtd": ["a".repeat(96)], "rtmr1": "1".repeat(96), "enforce_tcb_upto_date": false }))))
            .unwrap();
    assert!(plain.notes.iter().any(|note| note.starts_with("lint: enforce_tcb_upto_date")), "{:?}", plain.notes);
    assert!(!plain.notes.iter().any(|note| note.contains("upper case") || note.contains("both")), "{:?}", plain.notes);
}

#[test]
fn a_policy_that_would_mean_something_else_is_refused_with_a_way_out() {
    for (attributes, words) in
        [(json!({ "mrtd": ["abc"] }), "mrtd"), (json!({ "mrtdd": [] }), "mrtdd"), (json!({ "seamsvn": "3" }), "malformed")]
    {
        let refused = policy(ID, &bytes(&policy_file(&attributes))).err().unwrap();
        assert!(refused.reason.contains(words), "{}", refused.reason);
        assert!(refused.fix.contains("keyferry policy create"));
    }
}
