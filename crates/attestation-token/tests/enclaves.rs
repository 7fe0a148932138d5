//! Tokens of SGX enclaves in both shapes, tokens that name two attesters, and what an unverified payload says.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod verifier;

use keyferry_attestation_token::{AuthenticToken, Shape, TokenDenial, UnverifiedClaims, authenticate};
use serde_json::{Value, json};
use verifier::{ANCHOR, ES256, ISSUER, NOW, claims, payload};

fn enclave() -> Value {
    json!({
        "attester_tcb_status": "UpToDate", "attester_held_data": "AQABAK/V", "dbgstat": "disabled", "pce_svn": 13,
        "sgx_mrsigner": "A1".repeat(32), "sgx_mrenclave": "e2".repeat(32), "sgx_isvprodid": 7, "sgx_isvsvn": 3, "sgx_is_debuggable": false
    })
}

fn body(members: &Value) -> Value {
    let mut body = json!({ "iss": ISSUER, "jti": "1", "iat": NOW, "exp": NOW + 300, "keyferry.trust_anchor": ANCHOR });
    body.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    body
}

fn flat(mut enclave: Value) -> Value {
    enclave["attester_type"] = json!("SGX");
    body(&enclave)
}

fn judged(body: &Value) -> Result<AuthenticToken, TokenDenial> {
    authenticate(&ES256.sign(body), &[ES256.key_set()], NOW)
}

#[test]
fn an_enclaves_token_is_read_in_both_shapes() {
    let (flat, nested) = (judged(&flat(enclave())).unwrap(), judged(&body(&json!({ "sgx": enclave() }))).unwrap());
    assert_eq!(flat.claims(), nested.claims());
    assert_eq!(flat.held_data(), Some(&[1, 0, 1, 0, 0xaf, 0xd5][..]));
    assert_eq!(flat.members(), nested.members(), "members are at the top, whatever the shape");
    let claims = flat.claims();
    assert_eq!(claims.attester_type, "SGX");
    assert_eq!(claims.sgx_mr_signer, Some("a1".repeat(32)), "lower case");
    assert_eq!(claims.sgx_mr_enclave, Some("e2".repeat(32)));
    assert_eq!((claims.sgx_isv_prod_id, claims.sgx_isv_svn, claims.pce_svn), (Some(7), Some(3), Some(13)));
    assert_eq!((claims.is_debuggable, &claims.mr_td), (Some(false), &None));
}

#[test]
fn the_object_names_the_attester_and_an_enclaves_wins() {
    let both = judged(&body(&json!({ "sgx": enclave(), "tdx": { "tdx_mrtd": "b7".repeat(48) } }))).unwrap();
    assert_eq!((both.claims().attester_type.as_str(), &both.claims().mr_td), ("SGX", &None));
    assert!(!both.members().contains_key("tdx_mrtd") && !both.members().contains_key("tdx"), "nothing of the other one is left");
    let beside_a_gpu = judged(&body(&json!({ "tdx": { "dbgstat": "disabled" }, "nvgpu": { "attester_type": "NVGPU" } }))).unwrap();
    assert_eq!(beside_a_gpu.claims().attester_type, "TDX");
    for lying in [json!({ "sgx": { "attester_type": "TDX" } }), json!({ "tdx": { "attester_type": "SGX" } })] {
        assert_eq!(judged(&body(&lying)).unwrap_err(), TokenDenial::ClaimMalformed { claim: "attester_type" }, "{lying}");
    }
    assert_eq!(judged(&body(&json!({}))).unwrap_err(), TokenDenial::ClaimMissing { claim: "attester_type" });
}

#[test]
fn what_stands_inside_the_object_wins_over_the_same_name_at_the_top() {
    let token =
        judged(&body(&json!({ "tdx": { "tdx_mrtd": "b7".repeat(48) }, "tdx_mrtd": "00".repeat(48), "attester_type": "SGX" }))).unwrap();
    assert_eq!(token.members()["tdx_mrtd"], json!("b7".repeat(48)));
    assert_eq!(token.members()["attester_type"], json!("TDX"));
}

#[test]
fn any_sign_of_an_enclave_for_debugging_counts_and_silence_is_not_a_no() {
    for (claims, wanted) in [
        (json!({ "sgx_is_debuggable": true }), Some(true)),
        (json!({ "dbgstat": "enabled", "sgx_is_debuggable": false }), Some(true)),
        (json!({ "sgx_is_debuggable": false }), Some(false)),
        (json!({ "tdx_is_debuggable": false }), None),
        (json!({}), None),
    ] {
        assert_eq!(judged(&body(&json!({ "sgx": claims }))).unwrap().claims().is_debuggable, wanted, "{claims}");
    }
}

#[test]
fn an_absent_claim_family_is_no_panic_and_a_malformed_one_is_refused() {
    let bare = judged(&flat(json!({}))).unwrap();
    assert_eq!((&bare.claims().sgx_mr_signer, bare.claims().sgx_isv_svn, bare.held_data()), (&None, None, None));
    for (claim, value) in [("sgx_mrsigner", json!("a1")), ("sgx_mrenclave", json!("zz".repeat(32))), ("sgx_tcb_comp_svn", json!("0b"))] {
        let mut enclave = enclave();
        enclave[claim] = value;
        assert_eq!(judged(&flat(enclave)).unwrap_err(), TokenDenial::ClaimMalformed { claim });
    }
    for (claim, value) in [("sgx_isvsvn", json!("3")), ("sgx_isvprodid", json!(65536)), ("sgx_is_debuggable", json!("false"))] {
        let mut enclave = enclave();
        enclave[claim] = value;
        assert_eq!(judged(&flat(enclave)).unwrap_err(), TokenDenial::Malformed { field: "payload" }, "{claim}");
    }
}

#[test]
fn an_unverified_payload_says_what_the_authentic_token_says() {
    for shape in [Shape::V1Flat, Shape::V2Nested] {
        let jwt = ES256.issuer.issue(&claims(), shape, NOW).unwrap().jwt;
        let token = authenticate(&jwt, &[ES256.key_set()], NOW).unwrap();
        let unverified = UnverifiedClaims::from_token(&jwt).unwrap();
        assert_eq!((unverified.claims(), unverified.members()), (token.claims(), token.members()));
        assert_eq!(unverified.trust_anchor(), token.trust_anchor());
        assert_eq!(unverified, UnverifiedClaims::from_payload(&payload(&jwt)).unwrap());
    }
    let silent = UnverifiedClaims::from_payload(&json!({ "tdx": {} })).unwrap();
    assert_eq!(silent.trust_anchor(), "unknown");
    assert_eq!(silent.with_absent_anchor("intel-sgx-root").trust_anchor(), "intel-sgx-root");
    for bad in [json!(null), json!([]), json!({ "tdx": 1 }), json!({ "tdx": {}, "keyferry.trust_anchor": "any" })] {
        assert!(UnverifiedClaims::from_payload(&bad).is_err(), "{bad}");
    }
    assert!(UnverifiedClaims::from_token("abc").is_err());
}
