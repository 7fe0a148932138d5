//! A verifier over real TLS: it serves its key set, nonces, and tokens for whatever evidence comes.

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use axum_server::tls_rustls::RustlsConfig;
use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use keyferry_attestation_token::{Algorithm, CollateralDigests, Shape, SigningKey, TdMeasurements, TdxClaims, TokenIssuer, jwks};
use keyferry_identifiers::TdId;
use keyferry_lifecycle::clock;
use keyferry_tls::{ALPN_HTTP, CertificateAuthority, server_config_from_issued};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};

use super::TD;

pub(crate) const ISSUER: &str = "https://verifier.test";
pub(crate) const ANCHOR: &str = "simulator:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
pub(crate) const TD_ID: &str = "UABCDEF";

pub(crate) struct Verifier {
    pub(crate) url: String,
    pub(crate) root_pem: String,
    pub(crate) issuer: Arc<TokenIssuer>,
    pub(crate) jwks: String,
    pub(crate) answer: Answer,
    /// While held, no evidence is appraised.
    pub(crate) gate: Arc<tokio::sync::Mutex<()>>,
    /// Evidence is there.
    pub(crate) appraising: Arc<tokio::sync::Notify>,
    pkcs8: Vec<u8>,
    published: Arc<AtomicBool>,
    silent: Arc<AtomicBool>,
}

/// What `attest` does: a token with claims made from the evidence's user data, or an error body with a status.
pub(crate) type Answer = Arc<Mutex<Result<fn(Vec<u8>) -> TdxClaims, (StatusCode, &'static str)>>>;

#[derive(Clone)]
struct Shared {
    jwks: String,
    issuer: Arc<TokenIssuer>,
    published: Arc<AtomicBool>,
    silent: Arc<AtomicBool>,
    answer: Answer,
    gate: Arc<tokio::sync::Mutex<()>>,
    appraising: Arc<tokio::sync::Notify>,
}

impl Verifier {
    pub(crate) fn start(authority: &CertificateAuthority) -> Self {
        Self::start_as(authority, Algorithm::Es256, |_| ISSUER.to_owned())
    }

    /// One that signs with `algorithm` and calls itself what `issuer` makes of its address.
    pub(crate) fn start_as(authority: &CertificateAuthority, algorithm: Algorithm, issuer: impl Fn(&str) -> String) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let key = SigningKey::generate(algorithm).unwrap();
        let pkcs8 = key.to_pkcs8().unwrap().to_vec();
        let (chain, root_pem) = chain(&pkcs8);
        let key = key.with_chain(chain).unwrap();
        let jwks = jwks([&key]);
        let issuer = Arc::new(TokenIssuer::new(issuer(&url), key, 300));
        let answer: Answer = Arc::new(Mutex::new(Ok(|user_data| TdxClaims { held_data: user_data, ..claims() })));
        let (published, silent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let shared = Shared {
            jwks: jwks.clone(),
            issuer: issuer.clone(),
            published: published.clone(),
            silent: silent.clone(),
            answer: answer.clone(),
            gate: Arc::default(),
            appraising: Arc::default(),
        };
        let (gate, appraising) = (shared.gate.clone(), shared.appraising.clone());
        let router = Router::new()
            .route("/certs", get(certs))
            .route("/appraisal/v2/nonce", get(nonce))
            .route("/appraisal/v2/attest", post(attest))
            .with_state(shared);
        let certificate = authority.issue_server(&["127.0.0.1"], clock::now(), 30).unwrap();
        let tls = RustlsConfig::from_config(server_config_from_issued(&certificate, ALPN_HTTP).unwrap());
        tokio::spawn(axum_server::from_tcp_rustls(listener, tls).unwrap().serve(router.into_make_service()));
        Self { url, root_pem, issuer, jwks, answer, gate, appraising, pkcs8, published, silent }
    }

    /// Serves the key set from now on.
    pub(crate) fn publish(&self) {
        self.published.store(true, Ordering::SeqCst);
    }

    /// Takes requests for its key set and never answers.
    pub(crate) fn fall_silent(&self) {
        self.silent.store(true, Ordering::SeqCst);
    }

    /// A token for the test's TD.
    pub(crate) fn token(&self, change: impl FnOnce(&mut TdxClaims)) -> String {
        let mut claims = claims();
        change(&mut claims);
        self.issuer.issue(&claims, Shape::V2Nested, clock::now()).unwrap().jwt
    }

    /// A token with a changed payload, signed with the real key.
    pub(crate) fn forged(&self, change: impl FnOnce(&mut Value)) -> String {
        let token = self.token(|_| {});
        let mut payload: Value = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap();
        change(&mut payload);
        let message = format!("{}.{}", token.split('.').next().unwrap(), encoded(&payload));
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &self.pkcs8).unwrap();
        let signature = key.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }
}

pub(crate) fn encoded(json: &Value) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(json).unwrap())
}

async fn certs(State(shared): State<Shared>) -> Response {
    if shared.silent.load(Ordering::SeqCst) {
        std::future::pending::<()>().await;
    }
    if shared.published.load(Ordering::SeqCst) { shared.jwks.into_response() } else { StatusCode::NOT_FOUND.into_response() }
}

async fn nonce() -> Json<Value> {
    Json(json!({ "val": BASE64_STANDARD.encode("val"), "iat": BASE64_STANDARD.encode("iat"), "signature": BASE64_STANDARD.encode("sig") }))
}

async fn attest(State(shared): State<Shared>, Json(body): Json<Value>) -> Response {
    let user_data = BASE64_STANDARD.decode(body["tdx"]["runtime_data"].as_str().unwrap_or_default()).unwrap();
    shared.appraising.notify_one();
    drop(shared.gate.lock().await);
    let answer = *shared.answer.lock().unwrap();
    match answer {
        Ok(claims) => {
            let token = shared.issuer.issue(&claims(user_data), Shape::V2Nested, clock::now()).unwrap().jwt;
            Json(json!({ "token": token })).into_response()
        }
        Err((status, body)) => (status, body).into_response(),
    }
}

fn chain(leaf_pkcs8: &[u8]) -> (Vec<Vec<u8>>, String) {
    let (root_key, leaf_key) = (KeyPair::generate().unwrap(), KeyPair::try_from(leaf_pkcs8).unwrap());
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root = authority.self_signed(&root_key).unwrap();
    let leaf = CertificateParams::new(Vec::new()).unwrap().signed_by(&leaf_key, &Issuer::from_params(&authority, &root_key)).unwrap();
    (vec![leaf.der().to_vec(), root.der().to_vec()], root.pem())
}

pub(crate) fn claims() -> TdxClaims {
    TdxClaims {
        tcb_status: "UpToDate".to_owned(),
        tcb_date: "2025-05-14T00:00:00Z".to_owned(),
        advisory_ids: Vec::new(),
        azure_runtime: None,
        held_data: TD.held_data(),
        measurements: TdMeasurements {
            mr_td: [0xaa; 48],
            mr_seam: [0xbb; 48],
            mr_signer_seam: [0; 48],
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
        trust_anchor: ANCHOR.to_owned(),
        td_id: Some(TdId::parse(TD_ID).unwrap()),
        attestation_id: None,
        policies_matched: Vec::new(),
        policies_unmatched: Vec::new(),
    }
}
