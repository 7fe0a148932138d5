//! Authentic tokens for tests: one verifier with an ES256 key, made once per test binary.

#![allow(clippy::unwrap_used, dead_code, reason = "a helper of a test fails the test; each test file uses a part")]

use std::sync::LazyLock;

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use keyferry_attestation_token::{
    AbsentAnchor, Algorithm, AuthenticToken, CollateralDigests, KeySet, Shape, SigningKey, TdMeasurements, TdxClaims, TokenIssuer,
    TrustedIssuer, authenticate, jwks,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};

pub(crate) const NOW: u64 = 1_790_000_000;
pub(crate) const INTEL: &str = "intel-sgx-root";
pub(crate) const SIMULATOR: &str = "simulator:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

static VERIFIER: LazyLock<(TokenIssuer, KeySet, Vec<u8>)> = LazyLock::new(|| {
    let key = SigningKey::generate(Algorithm::Es256).unwrap();
    let pkcs8 = key.to_pkcs8().unwrap();
    let (root_key, leaf_key) = (KeyPair::generate().unwrap(), KeyPair::try_from(pkcs8.as_slice()).unwrap());
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root = authority.self_signed(&root_key).unwrap().der().to_vec();
    let leaf = CertificateParams::new(Vec::new()).unwrap().signed_by(&leaf_key, &Issuer::from_params(&authority, &root_key)).unwrap();
    let key = key.with_chain(vec![leaf.der().to_vec(), root.clone()]).unwrap();
    let mut trusted = TrustedIssuer::new("verifier", root, vec![Algorithm::Es256]);
    trusted.absent_anchor = AbsentAnchor::Unknown;
    let keys = KeySet::from_jwks(jwks([&key]).as_bytes(), &trusted, NOW).unwrap();
    (TokenIssuer::new("verifier", key, 300), keys, pkcs8.to_vec())
});

/// An authentic token with these claims.
pub(crate) fn token(claims: &TdxClaims) -> AuthenticToken {
    let (issuer, keys, _) = &*VERIFIER;
    let jwt = issuer.issue(claims, Shape::V2Nested, NOW).unwrap().jwt;
    authenticate(&jwt, std::slice::from_ref(keys), NOW).unwrap()
}

/// An authentic token with this payload; `iss`, `jti` and the times are added.
pub(crate) fn signed(payload: &Value) -> AuthenticToken {
    let (issuer, keys, pkcs8) = &*VERIFIER;
    let mut payload = payload.clone();
    for (name, value) in [("iss", json!("verifier")), ("jti", json!("1")), ("iat", json!(NOW)), ("exp", json!(NOW + 300))] {
        payload[name] = value;
    }
    let encoded = |json: &Value| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
    let message = format!("{}.{}", encoded(&json!({ "alg": "ES256", "kid": issuer.key().kid() })), encoded(&payload));
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8).unwrap();
    let signature = key.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
    let jwt = format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature));
    authenticate(&jwt, std::slice::from_ref(keys), NOW).unwrap()
}

/// What a token says about an enclave, in the flat shape.
pub(crate) fn enclave() -> Value {
    json!({
        "attester_type": "SGX", "attester_tcb_status": "UpToDate", "attester_tcb_date": "2025-05-14T00:00:00Z", "dbgstat": "disabled",
        "pce_svn": 13, "sgx_mrsigner": "a1".repeat(32), "sgx_mrenclave": "e2".repeat(32), "sgx_isvprodid": 7, "sgx_isvsvn": 3,
        "sgx_is_debuggable": false, "attester_held_data": "AQABAK/V", "keyferry.trust_anchor": INTEL
    })
}

pub(crate) fn claims() -> TdxClaims {
    TdxClaims {
        tcb_status: "UpToDate".to_owned(),
        tcb_date: "2025-05-14T00:00:00Z".to_owned(),
        advisory_ids: Vec::new(),
        azure_runtime: None,
        held_data: vec![1; 388],
        measurements: TdMeasurements {
            mr_td: [0xaa; 48],
            mr_seam: [0xbb; 48],
            mr_signer_seam: [0xcc; 48],
            mr_config_id: [0; 48],
            mr_owner: [0; 48],
            mr_owner_config: [0; 48],
            rtmrs: [[0xd0; 48], [0xd1; 48], [0xd2; 48], [0xd3; 48]],
            report_data: [0; 64],
            tee_tcb_svn: [3, 1, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            td_attributes: [0, 0, 0, 0x10, 0, 0, 0, 0],
            xfam: [0; 8],
            seam_attributes: [0; 8],
        },
        collateral: CollateralDigests {
            fmspc: [0; 6],
            tcb_evaluation_data_number: 19,
            qe_identity_certificates: [0; 32],
            qe_identity_crl: [0; 32],
            qe_identity: [0; 32],
            quote: [0; 32],
            tcb_info_certificates: [0; 32],
            tcb_info_crl: [0; 32],
            tcb_info: [0; 32],
        },
        pce_svn: 13,
        sgx_tcb_components: [0; 16],
        nonce: None,
        trust_anchor: INTEL.to_owned(),
        td_id: None,
        attestation_id: None,
        policies_matched: Vec::new(),
        policies_unmatched: Vec::new(),
    }
}
