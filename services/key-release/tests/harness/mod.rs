//! The service on real parts: a NATS server of its own, a verifier over TLS, a development KMS that can be made to fail,
//! and gRPC clients over TLS.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    dead_code,
    reason = "a helper of a test fails the test; each test file uses a part"
)]

pub(crate) mod kms;
pub(crate) mod rest;
pub(crate) mod verifier;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{Arc, LazyLock},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use key_release::{
    IssuerConfig, UsersConfig,
    issuers::Issuers,
    release::{Parts, Release},
    rest::ClientLimits,
    surface,
    users::{Admin, Caller, Users},
};
use keyferry_attestation_token::{AbsentAnchor, Algorithm, Revocation};
use keyferry_bus::{AuditKey, AuditLog, Role};
use keyferry_contract::release::v1::{
    AuditRecord, CreateKeyRequest, CreatePolicyRequest, KeyAlgorithm, TransferKeyRequest, TransferKeyResponse,
    key_administration_client::KeyAdministrationClient, key_broker_client::KeyBrokerClient, transfer_key_request::Credential,
    user_administration_client::UserAdministrationClient,
};
use keyferry_key_wrap::TdKeyPair;
use keyferry_kms::{DevConfig, DevKms, Kms};
use keyferry_lifecycle::{Secret, clock};
use keyferry_sealed_store::StoreKey;
use keyferry_telemetry::Trust;
use keyferry_testkit::nats::NatsServer;
use keyferry_tls::{ALPN_HTTP, CertificateAuthority, RootsConfig, client_config, grpc_channel, server_config_from_issued};
use keyferry_trust_authority::{Settings, TrustAuthority};
use prost::Message;
use prost_types::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::{Code, Request, Status, metadata::MetadataValue, transport::Channel};
use tonic_types::StatusExt;

use self::{kms::BrokenKms, verifier::Verifier};

pub(crate) const PASSWORD: &str = "correct horse battery";

/// One key pair for all tests: making one takes up to a second.
pub(crate) static TD: LazyLock<TdKeyPair> = LazyLock::new(|| TdKeyPair::generate().unwrap());

pub(crate) struct Stack {
    pub(crate) nats: NatsServer,
    pub(crate) verifier: Verifier,
    pub(crate) kms: Arc<BrokenKms>,
    pub(crate) address: SocketAddr,
    pub(crate) channel: Channel,
    pub(crate) authority: CertificateAuthority,
    pub(crate) release: Release,
    pub(crate) users: Users,
    pub(crate) store_key: Arc<StoreKey>,
    pub(crate) directory: TempDir,
}

impl Stack {
    /// Everything up, and the key set already there.
    pub(crate) async fn start() -> Self {
        let stack = Self::start_without_keys().await;
        stack.verifier.publish();
        stack
    }

    /// The verifier's key set is not served until [`Verifier::publish`].
    pub(crate) async fn start_without_keys() -> Self {
        Self::start_with(None).await
    }

    /// Everything up, with the keys in `other` instead of the development KMS.
    pub(crate) async fn start_on(other: Arc<dyn Kms>) -> Self {
        let stack = Self::start_with(Some(other)).await;
        stack.verifier.publish();
        stack
    }

    async fn start_with(other: Option<Arc<dyn Kms>>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = CertificateAuthority::generate("test root", clock::now(), 30).unwrap();
        let verifier = Verifier::start(&authority);
        let nats = NatsServer::start().await.unwrap();
        let bus = nats.connect(Role::KeyRelease).await.unwrap();
        let config = DevConfig { file: directory.path().join("keys"), key_file: directory.path().join("keys.key") };
        let kms = Arc::new(BrokenKms::new(DevKms::open(&config).await.unwrap()));
        let roots = RootsConfig::Ders(vec![authority.certificate_der().to_vec()]);
        let settings = Settings::new(&verifier.url, roots, "api key".into());
        let store_key = Arc::new(StoreKey::generate().unwrap());
        let audit = AuditLog::new(bus.clone(), AuditKey::generate().unwrap(), Timestamp::default);
        let release = Release::new(Parts {
            bus: bus.clone(),
            audit,
            store_key: store_key.clone(),
            issuers: Arc::new(Issuers::open(&[issuer_config(directory.path(), &authority, &verifier)]).unwrap()),
            kms: other.unwrap_or_else(|| kms.clone()),
            verifier: Some(TrustAuthority::new(&settings).unwrap()),
        });
        let users = Users::new(&release, &bus, &store_key, &UsersConfig::default().settings());
        users.bootstrap(Some(&("admin".to_owned(), Secret::new(PASSWORD.to_owned())))).await.unwrap();
        let (address, channel) = listen(&release, &users, &authority).await;
        Self { nats, verifier, kms, address, channel, authority, release, users, store_key, directory }
    }

    pub(crate) fn broker(&self) -> KeyBrokerClient<Channel> {
        KeyBrokerClient::new(self.channel.clone())
    }
    pub(crate) fn administration(&self) -> KeyAdministrationClient<Channel> {
        KeyAdministrationClient::new(self.channel.clone())
    }

    pub(crate) fn user_administration(&self) -> UserAdministrationClient<Channel> {
        UserAdministrationClient::new(self.channel.clone())
    }

    /// The users as another replica has them: its own connection, nothing shared but the bus.
    pub(crate) async fn replica(&self) -> Users {
        let bus = self.nats.connect(Role::KeyRelease).await.unwrap();
        let users = Users::new(&self.release, &bus, &self.store_key, &UsersConfig::default().settings());
        users.bootstrap(None).await.unwrap();
        users
    }

    /// The administration of another replica: nothing shared but the bus, the store key and the KMS.
    pub(crate) async fn administration_elsewhere(&self) -> KeyAdministrationClient<Channel> {
        let bus = self.nats.connect(Role::KeyRelease).await.unwrap();
        let release = Release::new(Parts {
            bus: bus.clone(),
            audit: AuditLog::new(bus.clone(), AuditKey::generate().unwrap(), Timestamp::default),
            store_key: self.store_key.clone(),
            issuers: Arc::new(Issuers::open(&[issuer_config(self.directory.path(), &self.authority, &self.verifier)]).unwrap()),
            kms: self.kms.clone(),
            verifier: None,
        });
        let users = Users::new(&release, &bus, &self.store_key, &UsersConfig::default().settings());
        users.bootstrap(None).await.unwrap();
        KeyAdministrationClient::new(listen(&release, &users, &self.authority).await.1)
    }

    /// The administrator, to the functions behind the surfaces.
    pub(crate) async fn admin(&self) -> Admin {
        self.users.authenticate(&caller("admin", PASSWORD, "127.0.0.1")).await.unwrap()
    }

    pub(crate) async fn policy(&self, attributes: Value) -> String {
        let document = json!({ "attestation_type": "TDX", "tdx": { "attributes": attributes } }).to_string();
        let created = self.administration().create_policy(admin(CreatePolicyRequest { document })).await;
        created.unwrap().into_inner().policy_id
    }

    pub(crate) async fn key(&self, policy_id: &str) -> String {
        let request = CreateKeyRequest {
            algorithm: KeyAlgorithm::Aes.into(),
            length_bits: 256,
            policy_id: policy_id.to_owned(),
            ..CreateKeyRequest::default()
        };
        self.administration().create_key(admin(request)).await.unwrap().into_inner().key_id
    }

    /// A key that a TD of the test's simulator may have.
    pub(crate) async fn simulator_key(&self) -> String {
        let policy = self.policy(json!({ "trust_anchor": verifier::ANCHOR, "mrtd": ["aa".repeat(48)] })).await;
        self.key(&policy).await
    }

    pub(crate) async fn transfer(&self, key_id: &str, token: &str) -> Result<TransferKeyResponse, Status> {
        let request = TransferKeyRequest { key_id: key_id.to_owned(), credential: Some(Credential::Token(token.to_owned())) };
        self.broker().transfer_key(request).await.map(tonic::Response::into_inner)
    }

    /// Every decision in the audit stream.
    pub(crate) async fn audit(&self) -> Vec<AuditRecord> {
        let records = self.messages("AUDIT").await.into_iter().map(|body| AuditRecord::decode(body.as_slice()).unwrap());
        records.filter(|record| record.checkpoint.is_none()).collect()
    }

    /// Everything in a stream, as whoever owns the bus reads it.
    pub(crate) async fn messages(&self, stream: &str) -> Vec<Vec<u8>> {
        let owner = self.nats.connect(Role::Admin).await.unwrap();
        let stream = owner.jetstream().get_stream(stream).await.unwrap();
        let last = stream.cached_info().state.last_sequence;
        let mut messages = Vec::new();
        for sequence in 1..=last {
            messages.push(stream.get_raw_message(sequence).await.unwrap().payload.to_vec());
        }
        messages
    }
}

pub(crate) fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{name}:{password}")))
}

/// Somebody with a name and a password at an address.
pub(crate) fn caller(name: &str, password: &str, address: &str) -> Caller {
    Caller { authorization: Some(basic(name, password)), address: Some(address.parse().unwrap()) }
}

/// Serves gRPC; returns where, and a client's channel.
async fn listen(release: &Release, users: &Users, authority: &CertificateAuthority) -> (SocketAddr, Channel) {
    listen_within(ClientLimits::default(), release, users, authority).await
}

/// One more listener of the same service.
pub(crate) async fn listen_within(
    limits: ClientLimits,
    release: &Release,
    users: &Users,
    authority: &CertificateAuthority,
) -> (SocketAddr, Channel) {
    let router = surface::router(release, users, limits, Trust::Adopt).await.unwrap();
    let issued = authority.issue_server(&["127.0.0.1"], clock::now(), 30).unwrap();
    let tls = server_config_from_issued(&issued, ALPN_HTTP).unwrap();
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(surface::serve(listener, tls, router, std::future::pending()));
    let roots = RootsConfig::Ders(vec![authority.certificate_der().to_vec()]);
    (address, grpc_channel(&format!("https://{address}"), &client_config(&roots, false).unwrap()).unwrap())
}

/// A request of the administrator.
pub(crate) fn admin<T>(message: T) -> Request<T> {
    with_credential(message, &basic("admin", PASSWORD))
}

pub(crate) fn with_credential<T>(message: T, authorization: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", MetadataValue::try_from(authorization).unwrap());
    request
}

/// Code and reason of a refusal; every one carries `ErrorInfo`.
pub(crate) fn refusal<T: std::fmt::Debug>(result: Result<T, Status>) -> (Code, String) {
    let status = result.unwrap_err();
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, "keyferry");
    (status.code(), info.reason)
}

pub(crate) fn refused(code: Code, reason: &str) -> (Code, String) {
    (code, reason.to_owned())
}

pub(crate) fn issuer_config(directory: &Path, authority: &CertificateAuthority, verifier: &Verifier) -> IssuerConfig {
    let (root_file, jwks_ca_file) = (directory.join("token-root.pem"), directory.join("ca.pem"));
    std::fs::write(&root_file, &verifier.root_pem).unwrap();
    authority.write_certificate(&jwks_ca_file).unwrap();
    IssuerConfig {
        issuer: verifier::ISSUER.to_owned(),
        root_file,
        jwks_url: format!("{}/certs", verifier.url),
        jwks_ca_file,
        algorithms: vec![Algorithm::Es256],
        trust_anchors: vec![verifier::ANCHOR.to_owned()],
        absent_anchor: AbsentAnchor::Unknown,
        token_age_seconds_max: 3600,
        pin_on_first_use: false,
        proxy: None,
        revocation: Revocation::default(),
    }
}
