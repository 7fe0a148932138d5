//! A real bus, the real binary on a simulated TD, and a verifier whose answers a test scripts.
#![allow(clippy::unwrap_used, dead_code, reason = "a helper of a test fails the test; each test file uses a part")]

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyferry_attestation_token::{
    Algorithm, CollateralDigests, Nonce, Shape, SigningKey, TdMeasurements, TdxClaims, TokenIssuer, TrustedIssuer, jwks,
};
use keyferry_bus::{Bus, Outcome, Role};
use keyferry_contract::Rpc;
use keyferry_contract::attestation::v1::attester_client::AttesterClient;
use keyferry_contract::attestation::v1::{
    AttestationRejected, EvidenceCollected, GetJwksRequest, GetJwksResponse, GetNonceRequest, GetNonceResponse, GetTokenRequest,
    TokenIssued, VerifierNonce,
};
use keyferry_identifiers::{AttestationId, TdId};
use keyferry_td_simulator::{PlatformOptions, SimulatedTd, SimulatorRoot, TdOptions};
use keyferry_tdx_quote::Quote;
use keyferry_testkit::nats::{NatsServer, now};
use keyferry_testkit::process::{Service, ServiceSpec};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tonic::Request;
use tonic::transport::Channel;

pub(crate) const ISSUER: &str = "https://verifier.test";

/// A verifier's key with its chain.
pub(crate) struct Verifier {
    pub(crate) issuer: TokenIssuer,
    pub(crate) root_der: Vec<u8>,
}

impl Verifier {
    pub(crate) fn new() -> Self {
        let key = SigningKey::generate(Algorithm::Es256).unwrap();
        let (chain, root_der) = chain(&key.to_pkcs8().unwrap());
        Self { issuer: TokenIssuer::new(ISSUER, key.with_chain(chain).unwrap(), 300), root_der }
    }

    pub(crate) fn trusted(&self) -> TrustedIssuer {
        TrustedIssuer::new(ISSUER, self.root_der.clone(), vec![Algorithm::Es256])
    }

    pub(crate) fn jwks(&self) -> String {
        jwks([self.issuer.key()])
    }

    /// The token for this evidence, after `change`.
    pub(crate) fn token(&self, event: &EvidenceCollected, shape: Shape, change: impl FnOnce(&mut TdxClaims)) -> TokenIssued {
        let mut claims = claims(event);
        change(&mut claims);
        let token = self.issuer.issue(&claims, shape, now()).unwrap();
        TokenIssued {
            attestation_id: event.attestation_id.clone(),
            td_id: event.td_id.clone(),
            token: token.jwt,
            token_id: token.token_id.to_string(),
            expires_at: None,
        }
    }
}

fn chain(leaf_pkcs8: &[u8]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let (root_key, middle_key, leaf_key) =
        (KeyPair::generate().unwrap(), KeyPair::generate().unwrap(), KeyPair::try_from(leaf_pkcs8).unwrap());
    let root_params = params("Test Root CA", Some(1));
    let root = root_params.self_signed(&root_key).unwrap();
    let middle_params = params("Test Signing CA", Some(0));
    let middle = middle_params.signed_by(&middle_key, &Issuer::from_params(&root_params, &root_key)).unwrap();
    let leaf = params("Test Token Signing", None).signed_by(&leaf_key, &Issuer::from_params(&middle_params, &middle_key)).unwrap();
    (vec![leaf.der().to_vec(), middle.der().to_vec(), root.der().to_vec()], root.der().to_vec())
}

fn params(name: &str, path_length: Option<u8>) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    if let Some(length) = path_length {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(length));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    }
    params
}

fn claims(event: &EvidenceCollected) -> TdxClaims {
    let evidence = event.evidence.clone().unwrap();
    let quote = Quote::parse(&evidence.quote).unwrap();
    let body = quote.body();
    let nonce = evidence.nonce.unwrap();
    TdxClaims {
        tcb_status: "UpToDate".to_owned(),
        tcb_date: "2025-05-14T00:00:00Z".to_owned(),
        advisory_ids: Vec::new(),
        azure_runtime: None,
        held_data: evidence.user_data,
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
            fmspc: [1; 6],
            tcb_evaluation_data_number: 20,
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
        nonce: Some(Nonce { val: nonce.val, iat: nonce.iat, signature: nonce.signature }),
        trust_anchor: format!("simulator:{}", "ab".repeat(32)),
        td_id: TdId::parse(&event.td_id).ok(),
        attestation_id: AttestationId::parse(&event.attestation_id).ok(),
        policies_matched: Vec::new(),
        policies_unmatched: Vec::new(),
    }
}

pub(crate) fn nonce() -> VerifierNonce {
    VerifierNonce { val: vec![b'v'; 88], iat: b"2026-03-04 10:11:12 +0000 UTC".to_vec(), signature: vec![7; 384] }
}

/// Everything a test needs. Fields end in this order.
pub(crate) struct World {
    pub(crate) attester: Service,
    pub(crate) client: AttesterClient<Channel>,
    pub(crate) td_id: TdId,
    pub(crate) broker: Bus,
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) nats: NatsServer,
    pub(crate) directory: TempDir,
    /// Evidence in the order of its arrival, when nobody answers it by itself.
    pub(crate) evidence: mpsc::Receiver<EvidenceCollected>,
    /// What whoever asks for a nonce is given.
    pub(crate) nonce: Arc<Mutex<VerifierNonce>>,
    _services: keyferry_bus::RpcService,
}

impl World {
    /// The verifier gives nonces and keys; evidence waits for the test in [`World::evidence`].
    pub(crate) async fn start() -> Self {
        Self::start_with(Arc::new(Verifier::new()), |jwks| jwks).await
    }

    /// With another answer to the request for keys.
    pub(crate) async fn start_with(verifier: Arc<Verifier>, keys: impl Fn(String) -> String + Send + Sync + 'static) -> Self {
        Self::start_limited(verifier, keys, serde_json::json!({})).await
    }

    /// With other limits, too.
    pub(crate) async fn start_limited(
        verifier: Arc<Verifier>,
        keys: impl Fn(String) -> String + Send + Sync + 'static,
        limits: serde_json::Value,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let nats = NatsServer::start().await.unwrap();
        let (td_id, credentials) = nats.enrol("td-0").unwrap();
        let broker = nats.connect(Role::TokenBroker).await.unwrap();
        let nonce = Arc::new(Mutex::new(nonce()));
        let services = answer_requests(&broker, &verifier, keys, Arc::clone(&nonce)).await;
        let evidence = collect_evidence(&broker);
        let mut config = config(&nats, &credentials, &directory, &verifier);
        config["limits"] = limits;
        let spec = ServiceSpec { name: "attester", instance: "attester".to_owned(), config, environment: Vec::new() };
        let attester = Service::start(spec, directory.path()).await.unwrap();
        let client = AttesterClient::new(keyferry_tls::grpc_unix_channel(&socket(&directory)));
        let td_id = TdId::parse(&td_id).unwrap();
        Self { attester, client, td_id, broker, verifier, nats, directory, evidence, nonce, _services: services }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        socket(&self.directory)
    }

    /// Asks for a token in the background.
    pub(crate) fn ask(&self, user_data: &[u8], within: Duration) -> tokio::task::JoinHandle<Result<String, tonic::Status>> {
        let mut client = self.client.clone();
        let mut request = Request::new(GetTokenRequest { user_data: user_data.to_vec(), policy_ids: Vec::new() });
        request.set_timeout(within);
        tokio::spawn(async move { client.get_token(request).await.map(|answer| answer.into_inner().token) })
    }

    pub(crate) async fn next_evidence(&mut self) -> EvidenceCollected {
        tokio::time::timeout(Duration::from_secs(20), self.evidence.recv()).await.unwrap().unwrap()
    }

    pub(crate) async fn publish_token(&self, issued: &TokenIssued) {
        self.broker.publish(&self.td_id, issued).await.unwrap();
    }

    pub(crate) async fn publish_rejection(&self, rejected: &AttestationRejected) {
        self.broker.publish(&self.td_id, rejected).await.unwrap();
    }

    /// Sends a signal to the attester's process.
    pub(crate) fn signal_attester(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.attester.pid().unwrap()).unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// The attester's metrics page.
    pub(crate) async fn metrics(&self) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(self.attester.address("health").unwrap()).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }
}

fn socket(directory: &TempDir) -> PathBuf {
    directory.path().join("attester.sock")
}

async fn answer_requests(
    broker: &Bus,
    verifier: &Arc<Verifier>,
    keys: impl Fn(String) -> String + Send + Sync + 'static,
    nonce: Arc<Mutex<VerifierNonce>>,
) -> keyferry_bus::RpcService {
    let mut services = broker.rpc_service("0.1.0", "a scripted verifier").await.unwrap();
    let give = move |_: GetNonceRequest| {
        let nonce = nonce.lock().unwrap().clone();
        async move { Ok(GetNonceResponse { nonce: Some(nonce), expires_at: None }) }
    };
    services.serve(Rpc::TokenBrokerNonce, 4, give).await.unwrap();
    let jwks = keys(verifier.jwks()).into_bytes();
    let give = move |_: GetJwksRequest| {
        let jwks = jwks.clone();
        async move { Ok(GetJwksResponse { jwks }) }
    };
    services.serve(Rpc::TokenBrokerJwks, 4, give).await.unwrap();
    services
}

fn collect_evidence(broker: &Bus) -> mpsc::Receiver<EvidenceCollected> {
    let (sender, receiver) = mpsc::channel(16);
    let broker = broker.clone();
    tokio::spawn(async move {
        let collect = move |delivery: keyferry_bus::Delivery<EvidenceCollected>| {
            let sender = sender.clone();
            async move {
                let _the_test_is_over = sender.send(delivery.event).await;
                Outcome::Done
            }
        };
        broker.consume("token-broker", 4, std::future::pending(), collect).await;
    });
    receiver
}

fn config(nats: &NatsServer, credentials: &std::path::Path, directory: &TempDir, verifier: &Verifier) -> serde_json::Value {
    let root = SimulatorRoot::generate("test", now()).unwrap();
    let td =
        SimulatedTd::new(root.platform(&PlatformOptions::default(), now()).unwrap(), TdOptions { tail_bytes: 70, ..TdOptions::default() });
    let td_file = directory.path().join("td.json");
    td.save(&td_file).unwrap();
    let root_file = directory.path().join("verifier-root.der");
    std::fs::write(&root_file, &verifier.root_der).unwrap();
    serde_json::json!({
        "bus": { "url": nats.url(), "ca_file": nats.ca_file(), "credentials_file": credentials },
        "socket": { "path": socket(directory) },
        "platform": { "kind": "simulator", "td_file": td_file },
        "verifier": { "issuer": ISSUER, "root_file": root_file },
        "runtime": { "health": { "listen": "127.0.0.1:0" } },
    })
}
