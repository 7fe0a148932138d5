//! A verifier for tests: root, "Signing CA", leaf; keys are made once per test binary.

#![allow(clippy::unwrap_used, clippy::expect_used, dead_code, reason = "a helper of a test fails the test; each test file uses a part")]

use std::sync::LazyLock;

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use keyferry_attestation_token::{
    Algorithm, CollateralDigests, KeySet, Nonce, SigningKey, TdMeasurements, TdxClaims, TokenIssuer, TrustedIssuer, jwks,
};
use keyferry_identifiers::TdId;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd};
use serde_json::Value;

/// 2026-09-21.
pub(crate) const NOW: u64 = 1_790_000_000;
pub(crate) const ISSUER: &str = "https://verifier.test";
pub(crate) const ANCHOR: &str = "simulator:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

pub(crate) struct Verifier {
    pub(crate) issuer: TokenIssuer,
    pub(crate) root_der: Vec<u8>,
    pub(crate) jwks: String,
    pkcs8: Vec<u8>,
}

pub(crate) static ES256: LazyLock<Verifier> = LazyLock::new(|| Verifier::new(Algorithm::Es256, (2026, 2028)));
pub(crate) static ES384: LazyLock<Verifier> = LazyLock::new(|| Verifier::new(Algorithm::Es384, (2026, 2028)));
pub(crate) static PS384: LazyLock<Verifier> = LazyLock::new(|| Verifier::new(Algorithm::Ps384, (2026, 2028)));

impl Verifier {
    /// The certificates are good from the start of the first year to the start of the second.
    pub(crate) fn new(algorithm: Algorithm, years: (i32, i32)) -> Self {
        Self::shaped(algorithm, years, |_, _| {})
    }

    /// The same with a changed intermediate and leaf, in this order.
    pub(crate) fn shaped(
        algorithm: Algorithm,
        years: (i32, i32),
        change: impl FnOnce(&mut CertificateParams, &mut CertificateParams),
    ) -> Self {
        let key = SigningKey::generate(algorithm).unwrap();
        let pkcs8 = key.to_pkcs8().unwrap().to_vec();
        let (chain, root_der) = chain(&pkcs8, algorithm, years, change);
        let key = SigningKey::from_pkcs8(algorithm, &pkcs8, chain).unwrap();
        let jwks = jwks([&key]);
        Self { issuer: TokenIssuer::new(ISSUER, key, 300), root_der, jwks, pkcs8 }
    }

    pub(crate) fn trusted(&self) -> TrustedIssuer {
        TrustedIssuer::new(ISSUER, self.root_der.clone(), vec![self.issuer.key().algorithm()])
    }

    pub(crate) fn key_set(&self) -> KeySet {
        KeySet::from_jwks(self.jwks.as_bytes(), &self.trusted(), NOW).unwrap()
    }

    /// A token with this payload, signed with the verifier's real key. ES256 only.
    pub(crate) fn sign(&self, payload: &Value) -> String {
        let header = serde_json::json!({ "alg": "ES256", "kid": self.issuer.key().kid(), "typ": "JWT" });
        let message = format!("{}.{}", encoded(&header), encoded(payload));
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &self.pkcs8).unwrap();
        let signature = key.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }
}

pub(crate) fn encoded(json: &Value) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(json).unwrap())
}

/// The payload of a token, unverified.
pub(crate) fn payload(jwt: &str) -> Value {
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(jwt.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

fn chain(
    leaf_pkcs8: &[u8],
    algorithm: Algorithm,
    years: (i32, i32),
    change: impl FnOnce(&mut CertificateParams, &mut CertificateParams),
) -> (Vec<Vec<u8>>, Vec<u8>) {
    let authority_key = || match algorithm {
        Algorithm::Ps384 => KeyPair::try_from(SigningKey::generate(algorithm).unwrap().to_pkcs8().unwrap().as_slice()).unwrap(),
        _ => KeyPair::generate().unwrap(),
    };
    let (root_key, middle_key) = (authority_key(), authority_key());
    let leaf_key = KeyPair::try_from(leaf_pkcs8).unwrap();
    let root_params = params("Test Root CA", Some(1), years);
    let root = root_params.self_signed(&root_key).unwrap();
    let (mut middle_params, mut leaf) = (params("Test Signing CA", Some(0), years), params("Test Token Signing", None, years));
    change(&mut middle_params, &mut leaf);
    let middle = middle_params.signed_by(&middle_key, &Issuer::from_params(&root_params, &root_key)).unwrap();
    let leaf = leaf.signed_by(&leaf_key, &Issuer::from_params(&middle_params, &middle_key)).unwrap();
    (vec![leaf.der().to_vec(), middle.der().to_vec(), root.der().to_vec()], root.der().to_vec())
}

fn params(name: &str, path_length: Option<u8>, years: (i32, i32)) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(years.0, 1, 1);
    params.not_after = date_time_ymd(years.1, 1, 1);
    if let Some(length) = path_length {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(length));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    } else {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    }
    params
}

pub(crate) fn claims() -> TdxClaims {
    TdxClaims {
        tcb_status: "UpToDate".to_owned(),
        tcb_date: "2025-05-14T00:00:00Z".to_owned(),
        advisory_ids: vec!["INTEL-SA-01103".to_owned()],
        azure_runtime: None,
        held_data: [&[1, 0, 1, 0][..], &[0xc7; 384]].concat(),
        measurements: TdMeasurements {
            mr_td: [0xb7; 48],
            mr_seam: [0xca; 48],
            mr_signer_seam: [0; 48],
            mr_config_id: [1; 48],
            mr_owner: [2; 48],
            mr_owner_config: [3; 48],
            rtmrs: [[0x10; 48], [0x11; 48], [0x12; 48], [0x13; 48]],
            report_data: [0xe4; 64],
            tee_tcb_svn: [0x0d, 0x01, 0x04, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            td_attributes: [0, 0, 0, 0x10, 0, 0, 0, 0],
            xfam: [0xe7, 0x02, 0x06, 0, 0, 0, 0, 0],
            seam_attributes: [0; 8],
        },
        collateral: CollateralDigests {
            fmspc: [0x90, 0xc0, 0x6f, 0, 0, 0],
            tcb_evaluation_data_number: 19,
            qe_identity_certificates: [1; 32],
            qe_identity_crl: [2; 32],
            qe_identity: [3; 32],
            quote: [4; 32],
            tcb_info_certificates: [5; 32],
            tcb_info_crl: [6; 32],
            tcb_info: [7; 32],
        },
        pce_svn: 13,
        sgx_tcb_components: [11; 16],
        nonce: Some(Nonce { val: b"val".to_vec(), iat: b"iat".to_vec(), signature: b"signature".to_vec() }),
        trust_anchor: ANCHOR.to_owned(),
        td_id: Some(TdId::parse("UABC").unwrap()),
        attestation_id: None,
        policies_matched: Vec::new(),
        policies_unmatched: Vec::new(),
    }
}
