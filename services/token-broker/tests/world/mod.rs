//! A real bus, a real token-broker process, and a simulated TD that can be made to misbehave.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests: a broken fixture has to fail them")]
#![allow(dead_code, reason = "each test binary uses its part")]

use std::{collections::BTreeMap, path::PathBuf, pin::Pin, time::Duration};

use async_nats::HeaderMap;
use futures::{Stream as FutureStream, StreamExt};
use keyferry_attestation_token::{Algorithm, AuthenticToken, KeySet, TrustedIssuer, authenticate};
use keyferry_bus::{Bus, Provisioning, Role};
use keyferry_contract::{
    Event, Reason, Rpc, Stream,
    attestation::v1::{
        AttestationRejected, Evidence, EvidenceCollected, GetJwksRequest, GetJwksResponse, GetNonceRequest, GetNonceResponse, TokenIssued,
        VerifierNonce,
    },
    identifiers::{AttestationId, TdId},
    release::v1::{AuditDecision, AuditRecord},
};
use keyferry_td_simulator::{CollateralOptions, PlatformOptions, SimulatedTd, SimulatorRoot, TdOptions};
use keyferry_tdx_quote::report_data;
use keyferry_testkit::{
    nats::{NatsServer, now},
    process::{Service, ServiceSpec},
    write_private,
};
use keyferry_tls::CertificateAuthority;
use prost::Message;
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const ISSUER: &str = "https://token-broker.test:9444";
pub(crate) const API_KEY: &str = "dGVzdC1hcGkta2V5";
pub(crate) const USER_DATA: &[u8] = b"the public key of this TD";
const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) struct World {
    pub(crate) nats: NatsServer,
    pub(crate) admin: Bus,
    pub(crate) td: Bus,
    pub(crate) td_id: TdId,
    pub(crate) root: SimulatorRoot,
    pub(crate) simulated: SimulatedTd,
    pub(crate) authority: CertificateAuthority,
    pub(crate) broker: Service,
    config: Value,
    tokens: Pin<Box<dyn FutureStream<Item = TokenIssued> + Send>>,
    rejections: Pin<Box<dyn FutureStream<Item = AttestationRejected> + Send>>,
    directory: TempDir,
}

/// What the bus answered.
#[derive(Debug)]
pub(crate) enum Answer {
    Token(TokenIssued),
    Rejected(AttestationRejected),
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::start_with(json!({})).await
    }

    /// With additional settings, each a table at the top.
    pub(crate) async fn start_with(more: Value) -> Self {
        let nats = NatsServer::start().await.unwrap_or_else(|failure| panic!("{failure}; {}", failure.hint()));
        let (td_id, credentials) = nats.enrol("one").unwrap();
        let td = Bus::connect(&nats.config(credentials), "attester").await.unwrap();
        let td_id = TdId::parse(&td_id).unwrap();
        let (tokens, rejections) = (td.subscribe(&td_id).await.unwrap(), td.subscribe(&td_id).await.unwrap());
        let admin = nats.connect(Role::Admin).await.unwrap();

        let directory = tempfile::tempdir().unwrap();
        let root = SimulatorRoot::generate("token-broker tests", now()).unwrap();
        let simulated = SimulatedTd::new(root.platform(&PlatformOptions::default(), now()).unwrap(), TdOptions::default());
        let path = |name: &str| directory.path().join(name);
        write_private(&path("simulator-root.der"), root.certificate_der()).unwrap();
        let collateral = root.collateral(&CollateralOptions::for_platform(simulated.platform()), now()).unwrap();
        write_private(&path("collateral.json"), collateral).unwrap();
        write_private(&path("api-key"), API_KEY).unwrap();
        let authority = CertificateAuthority::generate("test root", now(), 1).unwrap();
        let certificate = authority.issue_server(&["localhost", "127.0.0.1"], now(), 1).unwrap();
        let certificate = certificate.write_server(directory.path(), "https").unwrap();

        let bus = nats.config(nats.credentials_file(Role::TokenBroker));
        let mut config = json!({
            "bus": { "url": bus.url, "ca_file": bus.ca_file, "credentials_file": bus.credentials_file },
            "token": { "issuer": ISSUER, "key_directory": path("keys"), "algorithm": "ES256" },
            "evidence": {
                "trust_anchor": "simulator",
                "simulator_root_file": path("simulator-root.der"),
                "collateral_files": [path("collateral.json")],
                "collateral_reload_seconds": 1,
            },
            "https": {
                "listen": "127.0.0.1:0",
                "certificate": { "certificate_file": certificate.certificate_file, "key_file": certificate.key_file },
                "api_key_file": path("api-key"),
            },
            "runtime": { "health": { "listen": "127.0.0.1:0" } },
        });
        merge(&mut config, more);
        let spec =
            ServiceSpec { name: "token-broker", instance: "token-broker".to_owned(), config: config.clone(), environment: Vec::new() };
        let broker = Service::start(spec, directory.path()).await.unwrap_or_else(|failure| panic!("{failure}; {}", failure.hint()));
        Self { nats, admin, td, td_id, root, simulated, authority, broker, config, tokens, rejections, directory }
    }

    /// A second broker on the same queue, with the same key directory.
    pub(crate) async fn replica(&self) -> Service {
        let (instance, config) = ("token-broker-2".to_owned(), self.config.clone());
        let spec = ServiceSpec { name: "token-broker", instance, config, environment: Vec::new() };
        Service::start(spec, self.directory.path()).await.unwrap_or_else(|failure| panic!("{failure}; {}", failure.hint()))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn replace_collateral(&self, options: &CollateralOptions) {
        let collateral = self.root.collateral(options, now()).unwrap();
        write_private(&self.path("collateral.new"), collateral).unwrap();
        std::fs::rename(self.path("collateral.new"), self.path("collateral.json")).unwrap();
    }

    pub(crate) async fn nonce(&self) -> VerifierNonce {
        let answer: GetNonceResponse = self.td.request(Rpc::TokenBrokerNonce, &GetNonceRequest {}, PATIENCE).await.unwrap();
        answer.nonce.unwrap()
    }

    /// The broker's keys as a relying party has them: fetched over the bus, believed under the pinned root.
    pub(crate) async fn key_set(&self) -> KeySet {
        let answer: GetJwksResponse = self.td.request(Rpc::TokenBrokerJwks, &GetJwksRequest {}, PATIENCE).await.unwrap();
        KeySet::from_jwks(&answer.jwks, &self.trusted_issuer(), now()).unwrap()
    }

    pub(crate) fn trusted_issuer(&self) -> TrustedIssuer {
        let root = pem::parse(std::fs::read(self.path("keys/root.pem")).unwrap()).unwrap();
        TrustedIssuer::new(ISSUER, root.into_contents(), vec![Algorithm::Es256])
    }

    pub(crate) async fn authenticate(&self, token: &str) -> AuthenticToken {
        authenticate(token, &[self.key_set().await], now()).unwrap()
    }

    /// Sound evidence of the TD over this nonce.
    pub(crate) fn evidence(&self, nonce: &VerifierNonce) -> Evidence {
        evidence_of(&self.simulated, nonce)
    }

    pub(crate) fn event(&self, evidence: Evidence) -> EvidenceCollected {
        EvidenceCollected {
            attestation_id: AttestationId::random().to_string(),
            td_id: self.td_id.to_string(),
            evidence: Some(evidence),
            policy_ids: Vec::new(),
            collected_at: None,
        }
    }

    /// Publishes and waits for the answer to this attestation.
    pub(crate) async fn attest(&mut self, event: &EvidenceCollected) -> Answer {
        self.td.publish(&self.td_id, event).await.unwrap();
        self.answer(&event.attestation_id).await
    }

    /// Whatever is answered next, to whichever attestation.
    pub(crate) async fn next_answer(&mut self) -> Answer {
        let waiting = async {
            tokio::select! {
                Some(token) = self.tokens.next() => Answer::Token(token),
                Some(rejected) = self.rejections.next() => Answer::Rejected(rejected),
            }
        };
        let answered = tokio::time::timeout(PATIENCE, waiting).await;
        answered.unwrap_or_else(|_| panic!("no answer; the broker's log:\n{}", self.broker.log()))
    }

    pub(crate) async fn answer(&mut self, attestation_id: &str) -> Answer {
        let waiting = async {
            loop {
                tokio::select! {
                    Some(token) = self.tokens.next() => if token.attestation_id == attestation_id { return Answer::Token(token) },
                    Some(rejected) = self.rejections.next() => if rejected.attestation_id == attestation_id { return Answer::Rejected(rejected) },
                }
            }
        };
        let answered = tokio::time::timeout(PATIENCE, waiting).await;
        answered.unwrap_or_else(|_| panic!("no answer to {attestation_id}; the broker's log:\n{}", self.broker.log()))
    }

    pub(crate) async fn token(&mut self, event: &EvidenceCollected) -> TokenIssued {
        match self.attest(event).await {
            Answer::Token(token) => token,
            Answer::Rejected(rejected) => panic!("rejected: {:?}", rejected.reason()),
        }
    }

    pub(crate) async fn rejection(&mut self, event: &EvidenceCollected) -> Reason {
        match self.attest(event).await {
            Answer::Rejected(rejected) => rejected.reason(),
            Answer::Token(_) => panic!("a token was issued"),
        }
    }

    /// Publishes any body on this TD's own subject, past the typed interface, under an id of its own.
    pub(crate) async fn publish_raw(&self, body: Vec<u8>, message_id: &str) {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", message_id);
        let subject = EvidenceCollected::subject(&self.td_id);
        self.td.jetstream().publish_with_headers(subject, headers, body.into()).await.unwrap().await.unwrap();
    }

    /// Every decision in the audit, oldest first, once there are at least `wanted`.
    pub(crate) async fn audit(&self, wanted: u64) -> Vec<AuditRecord> {
        let mut messages = wanted;
        loop {
            let letters = self.messages(Stream::Audit, messages).await;
            messages = letters.len() as u64 + 1;
            let records = letters.into_iter().map(|(_, body)| AuditRecord::decode(body.as_slice()).unwrap());
            let decisions: Vec<AuditRecord> = records.filter(|record| record.checkpoint.is_none()).collect();
            if decisions.len() as u64 >= wanted {
                return decisions;
            }
        }
    }

    /// Headers and bodies of a stream, once it holds at least `wanted` messages.
    pub(crate) async fn messages(&self, stream: Stream, wanted: u64) -> Vec<(BTreeMap<String, String>, Vec<u8>)> {
        let mut handle = self.admin.jetstream().get_stream(stream.name()).await.unwrap();
        let waiting = async {
            loop {
                let state = handle.info().await.unwrap().state.clone();
                if state.messages >= wanted {
                    return state;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let state = tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{} never held {wanted}", stream.name()));
        let mut messages = Vec::new();
        for sequence in state.first_sequence..=state.last_sequence {
            let message = handle.get_raw_message(sequence).await.unwrap();
            let headers = message.headers.iter().filter_map(|(name, values)| Some((name.to_string(), values.first()?.to_string())));
            messages.push((headers.collect(), message.payload.to_vec()));
        }
        messages
    }

    /// Waits until no evidence is left in its queue.
    pub(crate) async fn until_evidence_is_gone(&self) {
        let mut handle = self.admin.jetstream().get_stream(Stream::Evidence.name()).await.unwrap();
        let waiting = async {
            while handle.info().await.unwrap().state.messages > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap();
    }

    pub(crate) async fn delete_audit_stream(&self) {
        self.admin.jetstream().delete_stream(Stream::Audit.name()).await.unwrap();
    }

    pub(crate) async fn provision(&self) {
        self.admin.provision(&Provisioning::default()).await.unwrap();
    }
}

pub(crate) fn evidence_of(td: &SimulatedTd, nonce: &VerifierNonce) -> Evidence {
    let quote = td.quote(&report_data(&nonce.val, &nonce.iat, USER_DATA)).unwrap();
    Evidence { quote, nonce: Some(nonce.clone()), user_data: USER_DATA.to_vec(), event_log: Vec::new() }
}

pub(crate) fn decided(records: &[AuditRecord], decision: AuditDecision) -> Vec<&AuditRecord> {
    records.iter().filter(|record| record.decision() == decision).collect()
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}
