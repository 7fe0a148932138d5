//! A trust authority that answers what a test recorded: over real TLS, with a real token-signing chain.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    sync::{Arc, Mutex},
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use axum_server::tls_rustls::RustlsConfig;
use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use keyferry_attestation_token::{Algorithm, CollateralDigests, Nonce, Shape, SigningKey, TdMeasurements, TdxClaims, TokenIssuer, jwks};
use keyferry_contract::attestation::v1::{Evidence, VerifierNonce};
use keyferry_tdx_quote::Quote;
use keyferry_testkit::nats::now;
use keyferry_tls::{ALPN_HTTP, CertificateAuthority, server_config_from_issued};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Notify;

use crate::world::World;

pub(crate) const ISSUER: &str = "https://portal.recorded.test";
pub(crate) const ANCHOR: &str = "intel-sgx-root";

/// Status and body of one answer.
#[derive(Clone, Debug)]
pub(crate) struct Recorded(pub(crate) u16, pub(crate) Vec<u8>);

impl Recorded {
    pub(crate) fn token(jwt: &str) -> Self {
        Self(200, json!({ "token": jwt }).to_string().into_bytes())
    }
    pub(crate) fn error(status: u16, text: &str) -> Self {
        Self(status, json!({ "error": text }).to_string().into_bytes())
    }
}

/// Who signs tokens: key, chain and root.
pub(crate) struct Signer {
    pub(crate) issuer: TokenIssuer,
    pub(crate) jwks: String,
    pub(crate) root_pem: String,
    pkcs8: Vec<u8>,
}

impl Signer {
    pub(crate) fn new(algorithm: Algorithm, lifetime_seconds: u64) -> Self {
        let pkcs8 = SigningKey::generate(algorithm).unwrap().to_pkcs8().unwrap().to_vec();
        let (root_key, middle_key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let (root, middle) = (authority("Recorded Root CA"), authority("Recorded Signing CA"));
        let root_certificate = root.self_signed(&root_key).unwrap();
        let middle_certificate = middle.signed_by(&middle_key, &Issuer::from_params(&root, &root_key)).unwrap();
        let leaf_key = KeyPair::try_from(pkcs8.as_slice()).unwrap();
        let leaf = params("Recorded Token Signing").signed_by(&leaf_key, &Issuer::from_params(&middle, &middle_key)).unwrap();
        let chain = vec![leaf.der().to_vec(), middle_certificate.der().to_vec(), root_certificate.der().to_vec()];
        let key = SigningKey::from_pkcs8(algorithm, &pkcs8, chain).unwrap();
        let jwks = jwks([&key]);
        Self { issuer: TokenIssuer::new(ISSUER, key, lifetime_seconds), jwks, root_pem: root_certificate.pem(), pkcs8 }
    }

    /// The same signer, whose tokens are good for so long.
    pub(crate) fn with_lifetime(&self, lifetime_seconds: u64) -> Self {
        let key = self.issuer.key();
        let key = SigningKey::from_pkcs8(key.algorithm(), &self.pkcs8, key.chain().to_vec()).unwrap();
        let issuer = TokenIssuer::new(ISSUER, key, lifetime_seconds);
        Self { issuer, jwks: self.jwks.clone(), root_pem: self.root_pem.clone(), pkcs8: self.pkcs8.clone() }
    }

    /// These parts with this key, whatever they say. ES256 only.
    pub(crate) fn sign(&self, header: &Value, payload: &Value) -> String {
        let encoded = |json: &Value| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
        let message = format!("{}.{}", encoded(header), encoded(payload));
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &self.pkcs8).unwrap();
        let signature = key.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }
}

/// Header and payload of a token.
pub(crate) fn parts(jwt: &str) -> (Value, Value) {
    let mut parts = jwt.split('.').map(|part| BASE64_URL_SAFE_NO_PAD.decode(part).unwrap());
    let mut next = || serde_json::from_slice(&parts.next().unwrap()).unwrap();
    (next(), next())
}

fn authority(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(2025, 1, 1);
    params.not_after = rcgen::date_time_ymd(2045, 1, 1);
    params
}

#[derive(Default)]
struct Script {
    nonces: VecDeque<Recorded>,
    attests: VecDeque<Recorded>,
    jwks: String,
    /// Paths that were asked for.
    asked: Vec<String>,
    /// Attestations wait for it.
    gate: Option<Arc<Notify>>,
}

type Shared = Arc<Mutex<Script>>;

/// The server and what it was told to answer.
pub(crate) struct Upstream {
    pub(crate) url: String,
    pub(crate) signer: Signer,
    script: Shared,
    directory: TempDir,
}

impl Upstream {
    pub(crate) fn start() -> Self {
        let authority = CertificateAuthority::generate("recorded", now(), 1).unwrap();
        let issued = authority.issue_server(&["127.0.0.1"], now(), 1).unwrap();
        let tls = RustlsConfig::from_config(server_config_from_issued(&issued, ALPN_HTTP).unwrap());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let signer = Signer::new(Algorithm::Es256, 300);
        let script = Shared::new(Mutex::new(Script { jwks: signer.jwks.clone(), ..Script::default() }));
        let router = Router::new().fallback(answer).with_state(Arc::clone(&script));
        tokio::spawn(axum_server::from_tcp_rustls(listener, tls).unwrap().serve(router.into_make_service()));
        let directory = tempfile::tempdir().unwrap();
        authority.write_certificate(&directory.path().join("ca.pem")).unwrap();
        std::fs::write(directory.path().join("root.pem"), &signer.root_pem).unwrap();
        std::fs::write(directory.path().join("api-key"), "an-api-key").unwrap();
        Self { url, signer, script, directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A broker that has its evidence judged here.
    pub(crate) async fn front(&self) -> World {
        let verifier = json!({
            "kind": "trust-authority",
            "api_url": self.url,
            "base_url": self.url,
            "issuer": ISSUER,
            "api_key_file": self.path("api-key"),
            "root_file": self.path("root.pem"),
            "ca_file": self.path("ca.pem"),
            "algorithms": ["ES256"],
            "absent_anchor": "intel",
            "retry_pause_milliseconds": 10,
        });
        World::start_with(json!({ "verifier": verifier })).await
    }

    /// The next answers to attestations; the last one is given for ever.
    pub(crate) fn attests(&self, answers: impl IntoIterator<Item = Recorded>) {
        self.script.lock().unwrap().attests = answers.into_iter().collect();
    }
    pub(crate) fn nonces(&self, answers: impl IntoIterator<Item = Recorded>) {
        self.script.lock().unwrap().nonces = answers.into_iter().collect();
    }
    /// How often attestations were asked for.
    pub(crate) fn attestations(&self) -> usize {
        self.script.lock().unwrap().asked.iter().filter(|path| path.contains("/attest")).count()
    }
    /// Paths in the order of the questions.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.script.lock().unwrap().asked.clone()
    }
    /// Attestations wait until the returned gate lets one through.
    pub(crate) fn hold(&self) -> Arc<Notify> {
        let gate = Arc::new(Notify::new());
        self.script.lock().unwrap().gate = Some(Arc::clone(&gate));
        gate
    }
}

async fn answer(State(script): State<Shared>, uri: Uri, _body: Bytes) -> Response {
    let gate = {
        let mut script = script.lock().unwrap();
        script.asked.push(uri.path().to_owned());
        script.gate.clone().filter(|_| uri.path().contains("/attest"))
    };
    if let Some(gate) = gate {
        gate.notified().await;
    }
    let mut script = script.lock().unwrap();
    let answers = match uri.path() {
        "/certs" => return script.jwks.clone().into_response(),
        path if path.ends_with("/nonce") => &mut script.nonces,
        path if path.contains("/attest") => &mut script.attests,
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    let next = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
    let Recorded(status, body) = next.unwrap_or(Recorded(500, b"nothing was recorded".to_vec()));
    (StatusCode::from_u16(status).unwrap(), body).into_response()
}

/// A fresh nonce in Intel's form, signed by nobody: the upstream is the one who would look at that.
pub(crate) fn nonce(number: u8) -> VerifierNonce {
    let time = jiff::Timestamp::from_second(i64::try_from(now()).unwrap()).unwrap();
    let iat = time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string().into_bytes();
    VerifierNonce { val: BASE64_STANDARD.encode([number; 64]).into_bytes(), iat, signature: vec![number; 384] }
}

/// The claims that a truthful upstream makes about this evidence.
pub(crate) fn claims(evidence: &Evidence) -> TdxClaims {
    let quote = Quote::parse(&evidence.quote).unwrap();
    let body = quote.body();
    TdxClaims {
        tcb_status: "UpToDate".to_owned(),
        tcb_date: "2025-05-14T00:00:00Z".to_owned(),
        advisory_ids: Vec::new(),
        held_data: evidence.user_data.clone(),
        azure_runtime: None,
        measurements: TdMeasurements {
            mr_td: body.mr_td,
            mr_seam: body.mr_seam,
            mr_signer_seam: body.mr_signer_seam,
            mr_config_id: body.mr_config_id,
            mr_owner: body.mr_owner,
            mr_owner_config: body.mr_owner_config,
            rtmrs: body.rtmrs,
            report_data: body.report_data,
            tee_tcb_svn: body.tee_tcb_svn,
            td_attributes: body.td_attributes.to_bytes(),
            xfam: body.xfam.to_bytes(),
            seam_attributes: body.seam_attributes,
        },
        collateral: CollateralDigests {
            fmspc: [0; 6],
            tcb_evaluation_data_number: 19,
            qe_identity_certificates: [0; 32],
            qe_identity_crl: [0; 32],
            qe_identity: [0; 32],
            quote: quote.digest(),
            tcb_info_certificates: [0; 32],
            tcb_info_crl: [0; 32],
            tcb_info: [0; 32],
        },
        pce_svn: 13,
        sgx_tcb_components: [0; 16],
        nonce: evidence.nonce.clone().map(|nonce| Nonce { val: nonce.val, iat: nonce.iat, signature: nonce.signature }),
        trust_anchor: ANCHOR.to_owned(),
        td_id: None,
        attestation_id: None,
        policies_matched: Vec::new(),
        policies_unmatched: Vec::new(),
    }
}

/// A token of this signer, as Intel's are: without the members that only ours have.
pub(crate) fn token(signer: &Signer, claims: &TdxClaims, shape: Shape, issued_at: u64) -> String {
    let (header, mut payload) = parts(&signer.issuer.issue(claims, shape, issued_at).unwrap().jwt);
    payload.as_object_mut().unwrap().remove("keyferry.trust_anchor");
    signer.sign(&header, &payload)
}
