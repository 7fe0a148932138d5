//! The two shapes of a token member by member, RS256, and JSON that travels as the text it is.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails the test")]

mod verifier;

use std::collections::BTreeSet;

use base64::{Engine, prelude::BASE64_STANDARD, prelude::BASE64_URL_SAFE_NO_PAD};
use keyferry_attestation_token::{
    Algorithm, KeySet, MatchedPolicy, Shape, SigningKeyError, TdxClaims, TokenDenial, TokenIssuer, TrustedIssuer, authenticate, jwks,
};
use serde_json::{Value, json};
use verifier::{ANCHOR, ES256, ISSUER, NOW, PS384, Verifier, claims, payload};

fn issued(verifier: &Verifier, claims: &TdxClaims, shape: Shape) -> String {
    verifier.issuer.issue(claims, shape, NOW).unwrap().jwt
}

/// What a payload says, as the text it says it in.
fn text(jwt: &str) -> String {
    String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(jwt.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

fn names(object: &Value) -> BTreeSet<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

const HEX: [(&str, usize); 16] = [
    ("tdx_mrtd", 96),
    ("tdx_mrseam", 96),
    ("tdx_mrsignerseam", 96),
    ("tdx_mrconfigid", 96),
    ("tdx_mrowner", 96),
    ("tdx_mrownerconfig", 96),
    ("tdx_rtmr0", 96),
    ("tdx_rtmr1", 96),
    ("tdx_rtmr2", 96),
    ("tdx_rtmr3", 96),
    ("tdx_report_data", 128),
    ("tdx_tee_tcb_svn", 32),
    ("tdx_td_attributes", 16),
    ("tdx_xfam", 16),
    ("tdx_seam_attributes", 16),
    ("sgx_tcb_comp_svn", 32),
];
const FLAGS: [&str; 8] = [
    "tdx_td_attributes_debug",
    "tdx_td_attributes_septve_disable",
    "tdx_td_attributes_protection_keys",
    "tdx_td_attributes_key_locker",
    "tdx_td_attributes_perfmon",
    "tdx_td_attributes_migratable",
    "tdx_is_debuggable",
    "tdx_is_migratable",
];
const TEXTS: [(&str, &str); 5] = [
    ("attester_type", "TDX"),
    ("attester_tcb_status", "UpToDate"),
    ("attester_tcb_date", "2025-05-14T00:00:00Z"),
    ("dbgstat", "disabled"),
    ("attester_held_data", ""),
];
const DIGESTS: [&str; 7] = ["qeidcerthash", "qeidcrlhash", "qeidhash", "quotehash", "tcbinfocerthash", "tcbinfocrlhash", "tcbinfohash"];

/// The attester's members as Intel Trust Authority has them, name, type and encoding; returns their names.
fn check_attester(object: &Value, nested: bool) -> BTreeSet<&'static str> {
    for (name, digits) in HEX {
        let value = object[name].as_str().unwrap_or_else(|| panic!("{name}"));
        assert!(value.len() == digits && value.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{name}: {value}");
    }
    for name in FLAGS {
        assert!(object[name].is_boolean(), "{name}");
    }
    for (name, wanted) in TEXTS {
        let value = object[name].as_str().unwrap_or_else(|| panic!("{name}"));
        assert!(wanted.is_empty() || value == wanted, "{name}: {value}");
    }
    assert_eq!(object["attester_advisory_ids"], json!(["INTEL-SA-01103"]));
    assert_eq!((&object["tdx_seamsvn"], &object["pce_svn"]), (&json!(269), &json!(13)));
    let collateral = &object["tdx_collateral"];
    for name in DIGESTS {
        assert_eq!(collateral[name].as_str().map(str::len), Some(64), "{name}");
    }
    let more: &[&str] = if nested { &["fmspc", "tcbevaluationdatanumber"] } else { &[] };
    assert_eq!(names(collateral), DIGESTS.iter().chain(more).copied().collect());
    let mut all: BTreeSet<&'static str> = HEX.map(|(name, _)| name).into();
    all.extend(FLAGS);
    all.extend(TEXTS.map(|(name, _)| name));
    all.extend(["attester_advisory_ids", "tdx_seamsvn", "pce_svn", "tdx_collateral"]);
    all
}

#[test]
fn both_shapes_have_intels_members_and_ours_and_no_other() {
    let policy = MatchedPolicy { id: uuid::Uuid::from_u128(7), version: 1, hash: Some([9; 48]) };
    let claims = TdxClaims { policies_matched: vec![policy.clone()], policies_unmatched: vec![policy], ..claims() };
    let common = [
        "eat_profile",
        "intuse",
        "policy_ids_matched",
        "policy_ids_unmatched",
        "ver",
        "verifier_instance_ids",
        "iss",
        "jti",
        "iat",
        "nbf",
        "exp",
        "keyferry.trust_anchor",
        "keyferry.td_id",
    ];
    let nested = payload(&issued(&ES256, &claims, Shape::V2Nested));
    let attester = check_attester(&nested["tdx"], true);
    assert_eq!(names(&nested["tdx"]), attester);
    assert_eq!(names(&nested), common.iter().copied().chain(["appraisal", "tdx"]).collect());

    let flat = payload(&issued(&ES256, &claims, Shape::V1Flat));
    let attester = check_attester(&flat, false);
    assert_eq!(names(&flat), common.iter().copied().chain(["verifier_nonce"]).chain(attester).collect());
    for payload in [&nested, &flat] {
        assert_eq!(payload["eat_profile"], format!("{ISSUER}/eat_profile.html"));
        assert_eq!((&payload["intuse"], &payload["iss"]), (&json!("generic"), &json!(ISSUER)));
        assert_eq!(payload["iat"], payload["nbf"]);
        for name in ["jti", "verifier_instance_ids"] {
            let id = payload[name].as_str().or_else(|| payload[name][0].as_str()).unwrap();
            assert!(uuid::Uuid::parse_str(id).is_ok(), "{name}");
        }
        for name in ["policy_ids_matched", "policy_ids_unmatched"] {
            assert_eq!(names(&payload[name][0]), BTreeSet::from(["id", "version", "hash"]));
        }
    }
}

#[test]
fn json_travels_as_the_text_it_is() {
    let data = br#"{"z":1.0, "a":1e2,"n":12345678901234567890123,  "u":"\u00e9","a":[ ] }"#;
    for shape in [Shape::V2Nested, Shape::V1Flat] {
        let jwt = issued(&ES256, &TdxClaims { held_data: data.to_vec(), ..claims() }, shape);
        let wanted = format!(r#""attester_runtime_data":{}"#, std::str::from_utf8(data).unwrap());
        assert!(text(&jwt).contains(&wanted), "{}", text(&jwt));
        let token = authenticate(&jwt, &[ES256.key_set()], NOW).unwrap();
        assert_eq!(token.runtime_data().map(str::as_bytes), Some(&data[..]));
        assert!(token.held_data().is_none() && token.holds(data) && !token.holds(b"{}") && !token.holds(b""));
    }
    let around = authenticate(
        &issued(&ES256, &TdxClaims { held_data: b" {\"a\":1}\n".to_vec(), ..claims() }, Shape::V2Nested),
        &[ES256.key_set()],
        NOW,
    );
    let around = around.unwrap();
    assert_eq!(around.runtime_data(), Some(r#"{"a":1}"#));
    assert!(around.holds(b" {\"a\":1}\n"));
}

#[test]
fn what_is_no_json_object_travels_as_bytes() {
    let deep = format!("{}{}", "{\"a\":".repeat(200), "1".to_owned() + &"}".repeat(200));
    for data in [&b"[1]"[..], b"1", b"{", b"{\"a\":\"\\ud800\"}", b"{\"a\":\"\xff\"}", &[0; 388], deep.as_bytes()] {
        for shape in [Shape::V2Nested, Shape::V1Flat] {
            let jwt = issued(&ES256, &TdxClaims { held_data: data.to_vec(), ..claims() }, shape);
            let token = authenticate(&jwt, &[ES256.key_set()], NOW).unwrap();
            assert_eq!(token.held_data(), Some(data));
            assert!(token.runtime_data().is_none() && token.holds(data) && !token.holds(b"other"));
        }
    }
    let nothing = issued(&ES256, &TdxClaims { held_data: Vec::new(), ..claims() }, Shape::V2Nested);
    let nothing = authenticate(&nothing, &[ES256.key_set()], NOW).unwrap();
    assert!(nothing.holds(b"") && !nothing.holds(b"x"));
}

#[test]
fn azures_runtime_json_and_user_data_have_a_claim_each() {
    let runtime = br#"{"keys":[],"user-data":"AB","vm-configuration":{"secure-boot":true} }"#;
    for (user_data, user, held) in [
        (&b"{\"b\": 2.0}"[..], Some("{\"b\": 2.0}"), None),
        (b"[1,2]", Some("[1,2]"), None),
        (b"\x01\x00", None, Some(&b"\x01\x00"[..])),
        (b"", None, None),
    ] {
        let claims = TdxClaims { held_data: user_data.to_vec(), azure_runtime: Some(runtime.to_vec()), ..claims() };
        for shape in [Shape::V2Nested, Shape::V1Flat] {
            let jwt = issued(&ES256, &claims, shape);
            let token = authenticate(&jwt, &[ES256.key_set()], NOW).unwrap();
            assert_eq!(token.runtime_data().map(str::as_bytes), Some(&runtime[..]));
            assert_eq!((token.azure_user_data(), token.held_data()), (user, held));
            assert_eq!(
                payload(&jwt).get("appraisal").map(|appraisal| appraisal["method"] == "azure"),
                (shape == Shape::V2Nested).then_some(true)
            );
        }
        let token = authenticate(&issued(&ES256, &claims, Shape::V2Nested), &[ES256.key_set()], NOW).unwrap();
        assert!(user_data.is_empty() || token.holds(user_data));
        assert!(!token.holds(b"other"));
    }
}

/// One RSA key under both of its algorithms, as `/certs` lists it; the issuer signs with RS256.
fn both() -> (TokenIssuer, String) {
    let rs256 = PS384.issuer.key().signing_with(Algorithm::Rs256).unwrap();
    let jwks = jwks([PS384.issuer.key(), &rs256]);
    (PS384.issuer.with_key(rs256), jwks)
}

#[test]
fn rs256_is_issued_and_believed_where_it_is_allowed() {
    use rsa::{PublicKey, pkcs8::DecodePublicKey};
    let (issuer, jwks) = both();
    let jwt = issuer.issue(&claims(), Shape::V2Nested, NOW).unwrap().jwt;
    let header: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(jwt.split('.').next().unwrap()).unwrap()).unwrap();
    assert_eq!(header["alg"], "RS256");
    let (message, signature) = jwt.rsplit_once('.').unwrap();
    let key = PublicKey::from_public_key_der(issuer.key().public_key_der()).unwrap();
    key.pkcs1v15_verify::<sha2::Sha256>(message.as_bytes(), &BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();

    let believing = |algorithms: &[Algorithm]| {
        let trusted = TrustedIssuer::new(ISSUER, PS384.root_der.clone(), algorithms.to_vec());
        authenticate(&jwt, &[KeySet::from_jwks(jwks.as_bytes(), &trusted, NOW).unwrap()], NOW)
    };
    assert_eq!(believing(&[Algorithm::Rs256]).unwrap().trust_anchor(), ANCHOR);
    assert_eq!(believing(&Algorithm::ALL).unwrap().held_data(), Some(claims().held_data.as_slice()));
    assert!(matches!(believing(&Algorithm::BELIEVED_BY_DEFAULT).unwrap_err(), TokenDenial::AlgorithmNotAllowed { .. }));
}

/// The same key lies behind both entries: only the `kid` says which algorithm it may be used with.
#[test]
fn the_kid_of_one_algorithm_does_not_serve_the_other() {
    let (issuer, jwks) = both();
    let trusted = TrustedIssuer::new(ISSUER, PS384.root_der.clone(), Algorithm::ALL.to_vec());
    let keys = [KeySet::from_jwks(jwks.as_bytes(), &trusted, NOW).unwrap()];
    let jwt = issuer.issue(&claims(), Shape::V2Nested, NOW).unwrap().jwt;
    let other = issuer.key().signing_with(Algorithm::Ps384).unwrap();
    assert_ne!(other.kid(), issuer.key().kid());
    assert!(keys[0].knows(other.kid()) && keys[0].knows(issuer.key().kid()));
    let header = verifier::encoded(&json!({ "alg": "RS256", "kid": other.kid(), "typ": "JWT" }));
    let swapped = format!("{header}.{}", jwt.split_once('.').unwrap().1);
    assert!(matches!(authenticate(&swapped, &keys, NOW).unwrap_err(), TokenDenial::AlgorithmNotAllowed { .. }));
}

#[test]
fn a_key_signs_with_the_algorithms_of_its_kind_only() {
    let rsa = PS384.issuer.key();
    assert_eq!(rsa.signing_with(Algorithm::Ps384).unwrap().kid(), rsa.kid());
    let wanted = Algorithm::Es256;
    assert_eq!(rsa.signing_with(wanted).unwrap_err(), SigningKeyError::OtherKind { algorithm: Algorithm::Ps384, wanted });
    assert!(ES256.issuer.key().signing_with(Algorithm::Es384).is_err() && ES256.issuer.key().signing_with(Algorithm::Rs256).is_err());
}

#[test]
fn held_data_is_standard_base64() {
    let jwt = issued(&ES256, &TdxClaims { held_data: vec![0xfb, 0xff, 0xfe, 1], ..claims() }, Shape::V2Nested);
    assert_eq!(payload(&jwt)["tdx"]["attester_held_data"], BASE64_STANDARD.encode([0xfb, 0xff, 0xfe, 1]));
}
