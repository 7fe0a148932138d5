//! What is issued, in both shapes and all algorithms; that it is believed; and Intel's own shapes read.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod verifier;

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use keyferry_attestation_token::{
    AbsentAnchor, Algorithm, KeySet, MatchedPolicy, Shape, SigningKey, SigningKeyError, TdxClaims, authenticate, jwks,
};
use serde_json::{Value, json};
use verifier::{ANCHOR, ES256, ES384, ISSUER, NOW, PS384, Verifier, claims, payload};

fn issued(verifier: &Verifier, claims: &TdxClaims, shape: Shape) -> String {
    verifier.issuer.issue(claims, shape, NOW).unwrap().jwt
}

#[test]
fn every_algorithm_and_shape_is_believed_with_the_same_claims() {
    for verifier in [&*PS384, &*ES384, &*ES256] {
        let nested = authenticate(&issued(verifier, &claims(), Shape::V2Nested), &[verifier.key_set()], NOW).unwrap();
        let flat = authenticate(&issued(verifier, &claims(), Shape::V1Flat), &[verifier.key_set()], NOW).unwrap();
        let (mut nested_claims, flat_claims) = (nested.claims().clone(), flat.claims().clone());
        // v2 names the collateral more precisely; all else is equal.
        assert_eq!(nested_claims.fmspc.take().as_deref(), Some("90c06f000000"));
        assert_eq!(nested_claims.tcb_evaluation_data_number.take(), Some(19));
        assert_eq!(nested_claims, flat_claims);
        assert_eq!(flat.nonce(), claims().nonce.as_ref(), "only the flat shape carries the nonce");
        assert!(nested.nonce().is_none());
        for token in [nested, flat] {
            assert_eq!(token.held_data().unwrap(), claims().held_data);
            assert_eq!(token.trust_anchor(), ANCHOR);
            assert_eq!(token.td_id().unwrap().as_str(), "UABC");
            assert_eq!((token.issuer(), token.expires_at(), token.issued_at()), (ISSUER, NOW + 300, NOW - 60));
            assert_eq!(token.claims().seam_svn, Some(269));
            assert_eq!(token.claims().is_debuggable, Some(false));
        }
    }
}

#[test]
fn the_claims_are_encoded_as_intel_encodes_them() {
    let jwt = issued(&ES256, &claims(), Shape::V2Nested);
    let payload = payload(&jwt);
    let tdx = &payload["tdx"];
    assert_eq!(tdx["tdx_td_attributes"], "0000001000000000", "memory byte order: bit 28");
    assert_eq!(tdx["tdx_td_attributes_septve_disable"], true);
    assert_eq!(tdx["tdx_xfam"], "e702060000000000");
    assert_eq!(tdx["tdx_seamsvn"], 269, "0d 01, little-endian");
    assert_eq!(tdx["tdx_tee_tcb_svn"], "0d010400000000000000000000000000");
    assert_eq!(tdx["tdx_mrtd"], "b7".repeat(48));
    assert_eq!(tdx["tdx_report_data"], "e4".repeat(64));
    assert_eq!(tdx["attester_held_data"], BASE64_STANDARD.encode(&claims().held_data));
    assert_eq!((&tdx["dbgstat"], &tdx["tdx_is_debuggable"]), (&json!("disabled"), &json!(false)));
    assert_eq!(tdx["tdx_collateral"]["quotehash"], "04".repeat(32));
    assert_eq!(tdx["tdx_collateral"]["tcbevaluationdatanumber"], 19);
    assert_eq!((&payload["ver"], &payload["appraisal"]["method"]), (&json!("2.0.0"), &json!("default")));
    assert_eq!(
        (payload["iat"].as_u64(), payload["nbf"].as_u64(), payload["exp"].as_u64()),
        (Some(NOW - 60), Some(NOW - 60), Some(NOW + 300))
    );
    assert_eq!(payload["keyferry.trust_anchor"], ANCHOR);
    for absent in ["aud", "sub", "policy_ids_matched"] {
        assert!(payload.get(absent).is_none(), "{absent}");
    }
    let header: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(jwt.split('.').next().unwrap()).unwrap()).unwrap();
    assert_eq!((&header["alg"], &header["typ"], &header["jku"]), (&json!("ES256"), &json!("JWT"), &json!("https://verifier.test/certs")));
    assert_eq!(header["kid"].as_str().unwrap().len(), 96);
}

#[test]
fn the_flat_shape_lifts_the_members_and_has_no_appraisal() {
    let flat = payload(&issued(&ES256, &claims(), Shape::V1Flat));
    let nested = payload(&issued(&ES256, &claims(), Shape::V2Nested));
    assert!(flat.get("tdx").is_none() && flat.get("appraisal").is_none());
    assert_eq!((&flat["ver"], &flat["verifier_nonce"]["val"]), (&json!("1.0.0"), &json!(BASE64_STANDARD.encode("val"))));
    for (name, value) in nested["tdx"].as_object().unwrap() {
        if name != "tdx_collateral" {
            assert_eq!(&flat[name], value, "{name}");
        }
    }
    assert!(flat["tdx_collateral"].get("fmspc").is_none());
}

#[test]
fn user_data_that_is_a_json_object_changes_its_claim() {
    for (data, claim, value) in [
        (b"{\"a\": 1}".as_slice(), "attester_runtime_data", json!({ "a": 1 })),
        (b"[1]", "attester_held_data", json!("WzFd")),
        (b"{\"a\": 1} ", "attester_runtime_data", json!({ "a": 1 })),
        (b"{", "attester_held_data", json!("ew==")),
    ] {
        let payload = payload(&issued(&ES256, &TdxClaims { held_data: data.to_vec(), ..claims() }, Shape::V2Nested));
        assert_eq!(payload["tdx"][claim], value);
        assert_eq!(
            payload["tdx"].as_object().unwrap().keys().filter(|name| name.ends_with("held_data") || name.ends_with("runtime_data")).count(),
            1
        );
    }
    let none = payload(&issued(&ES256, &TdxClaims { held_data: Vec::new(), ..claims() }, Shape::V2Nested));
    assert!(none["tdx"].get("attester_held_data").is_none() && none["tdx"].get("attester_runtime_data").is_none());
}

#[test]
fn matched_policies_are_named_and_read_back() {
    let policy = MatchedPolicy { id: uuid::Uuid::from_u128(7), version: 2, hash: Some([9; 48]) };
    let jwt = issued(&ES256, &TdxClaims { policies_matched: vec![policy.clone()], ..claims() }, Shape::V2Nested);
    let entry = &payload(&jwt)["policy_ids_matched"][0];
    assert_eq!((&entry["id"], &entry["version"]), (&json!(policy.id.to_string()), &json!("v2")));
    assert_eq!(entry["hash"], BASE64_STANDARD.encode(BASE64_STANDARD.encode([9; 48])));
    let token = authenticate(&jwt, &[ES256.key_set()], NOW).unwrap();
    assert_eq!(token.claims().policy_ids_matched, Some(vec![policy.id]));
}

#[test]
fn a_ps384_signature_verifies_with_another_implementation() {
    use rsa::{PublicKey, pkcs8::DecodePublicKey};
    let jwt = issued(&PS384, &claims(), Shape::V2Nested);
    let (message, signature) = jwt.rsplit_once('.').unwrap();
    let key = PublicKey::from_public_key_der(PS384.issuer.key().public_key_der()).unwrap();
    key.pss_verify::<sha2::Sha384>(message.as_bytes(), &BASE64_URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
}

/// A nested token in the shape of Intel's service of 2026: no trust anchor, null lists, unknown members.
#[test]
fn a_token_of_intels_shape_is_read() {
    let body = json!({
        "appraisal": { "method": "default", "ver": 2 }, "intuse": "generic", "policy_ids_unmatched": null, "policy_defined_claims": null,
        "tdx": {
            "attester_tcb_status": "UpToDate", "attester_tcb_date": "2025-05-14T00:00:00Z", "attester_held_data": "AQABAK/V",
            "dbgstat": "disabled", "tdx_mrtd": "B7".repeat(48), "tdx_seamsvn": 269, "tdx_is_debuggable": false, "pce_svn": 13,
            "tdx_collateral": { "fmspc": "90c06f000000" }, "some_future_claim": [1, 2]
        },
        "ver": "2.0.0", "iss": ISSUER, "jti": "c2c3c3a0-7d0f-4c1c-8f0d-2f2f0c5b9a11", "iat": NOW, "nbf": NOW, "exp": NOW + 300
    });
    let mut trusted = ES256.trusted();
    let unknown = KeySet::from_jwks(ES256.jwks.as_bytes(), &trusted, NOW).unwrap();
    trusted.absent_anchor = AbsentAnchor::Intel;
    let intel = KeySet::from_jwks(ES256.jwks.as_bytes(), &trusted, NOW).unwrap();
    let jwt = ES256.sign(&body);
    assert_eq!(authenticate(&jwt, &[unknown], NOW).unwrap().trust_anchor(), "unknown");
    let token = authenticate(&jwt, &[intel], NOW).unwrap();
    assert_eq!(token.trust_anchor(), "intel-sgx-root");
    assert_eq!(token.claims().attester_type, "TDX", "the object's name tells");
    assert_eq!(token.claims().mr_td, Some("b7".repeat(48)), "lower case");
    assert_eq!(token.claims().policy_ids_matched, None);
    assert!(token.td_id().is_none() && token.held_data() == Some(&[1, 0, 1, 0, 0xaf, 0xd5]));
}

#[test]
fn any_sign_of_debugging_counts() {
    for tdx in [
        json!({ "dbgstat": "enabled" }),
        json!({ "tdx_is_debuggable": true }),
        json!({ "tdx_td_attributes_debug": true }),
        json!({ "tdx_td_attributes": "0100001000000000", "dbgstat": "disabled" }),
        json!({ "tdx_td_attributes": "1000001000000000" }),
    ] {
        let body = json!({ "tdx": tdx, "iss": ISSUER, "jti": "1", "iat": NOW, "exp": NOW + 300 });
        assert_eq!(authenticate(&ES256.sign(&body), &[ES256.key_set()], NOW).unwrap().claims().is_debuggable, Some(true), "{tdx}");
    }
    let silent = json!({ "tdx": {}, "iss": ISSUER, "jti": "1", "iat": NOW, "exp": NOW + 300 });
    let claims = authenticate(&ES256.sign(&silent), &[ES256.key_set()], NOW).unwrap();
    assert_eq!(claims.claims().is_debuggable, None, "nobody says that it cannot be debugged");
}

#[test]
fn a_signing_key_comes_back_from_its_file_and_knows_its_certificate() {
    for algorithm in Algorithm::ALL {
        let key = SigningKey::generate(algorithm).unwrap();
        let again = SigningKey::from_pkcs8(algorithm, &key.to_pkcs8().unwrap(), Vec::new()).unwrap();
        assert_eq!((key.kid(), jwks([&key])), (again.kid(), jwks([&again])));
        let foreign = SigningKey::from_pkcs8(algorithm, &key.to_pkcs8().unwrap(), ES256.issuer.key().chain().to_vec());
        assert_eq!(foreign.unwrap_err(), SigningKeyError::LeafMismatch);
        assert!(format!("{key:?}").ends_with("redacted)"));
    }
    let wrong = SigningKey::from_pkcs8(Algorithm::Es384, &SigningKey::generate(Algorithm::Es256).unwrap().to_pkcs8().unwrap(), Vec::new());
    assert_eq!(wrong.unwrap_err(), SigningKeyError::Pkcs8 { algorithm: Algorithm::Es384 });
}
