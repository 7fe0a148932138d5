//! A fake attester and a fake key broker. Their gRPC, socket and TLS are real; their answers are scripted.

use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::{Arc, Mutex},
};

use aes_kw::{KeyInit, KwpAes256};
use axum_server::{Handle, tls_rustls::RustlsConfig};
use base64::{Engine, prelude::BASE64_STANDARD};
use keyferry_contract::{
    DOMAIN, Reason,
    attestation::v1::{
        Evidence, GetEvidenceRequest, GetEvidenceResponse, GetTokenRequest, GetTokenResponse, VerifierNonce,
        attester_server::{Attester, AttesterServer},
    },
    release::v1::{
        ExplainPolicyRequest, ExplainPolicyResponse, GetNonceRequest, GetNonceResponse, TransferKeyRequest, TransferKeyResponse,
        key_broker_server::{KeyBroker, KeyBrokerServer},
        transfer_key_request::Credential,
    },
};
use keyferry_key_wrap::{HeldPublicKey, KeyMaterial, wrap};
use keyferry_lifecycle::clock;
use keyferry_tls::{ALPN_GRPC, CertificateAuthority};
use rsa::BoxedUint;
use sha2::Sha256;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

pub const RELEASE_ID: &str = "0a4be3b5-6d0b-4b7e-8f3a-55d1a2b0c9e4";
/// Hides the key from a search of this process's memory.
const MASK: u8 = 0xa5;

/// What a fake answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    Good,
    /// A refusal of ours.
    Refuse(Reason),
    /// A status without a reason.
    Bare(tonic::Code),
    /// `wrapped_key` with one bit changed.
    AlteredKey,
    /// Wrapped for somebody else's key pair.
    ForeignKey,
    /// Wrapped by a KMS, which the broker passes on.
    KmsWrapped,
    /// The same with one bit changed behind the RSA block.
    KmsAltered,
    /// The same for somebody else's key pair.
    KmsForeign,
    /// Both forms in one answer.
    BothForms,
    /// An answer without its contents.
    Empty,
}

fn refused(reason: Reason) -> Status {
    let details = ErrorDetails::with_error_info(reason.label(), DOMAIN, std::collections::HashMap::new());
    Status::with_error_details(reason.advice().grpc, "text of the peer", details)
}

/// From `traceparent`: 00-<trace id>-<span id>-<flags>.
fn trace_id<T>(request: &Request<T>) -> String {
    let parent = request.metadata().get("traceparent").and_then(|value| value.to_str().ok()).unwrap_or_default();
    parent.split('-').nth(1).unwrap_or_default().to_owned()
}

fn scripted(script: Script) -> Result<(), Status> {
    match script {
        Script::Refuse(reason) => Err(refused(reason)),
        Script::Bare(code) => Err(Status::new(code, "text of the peer")),
        _ => Ok(()),
    }
}

/// As a KMS wraps by itself: RSA-OAEP-SHA256 of an AES key, then AES-KWP of the key. Another implementation than the runner's.
fn kms_wrapped(key: &[u8], held_data: &[u8]) -> Vec<u8> {
    let modulus = BoxedUint::from_be_slice(&held_data[4..], 3072).unwrap();
    let kek = [0x3c; 32];
    let public = rsa::PublicKey::new(modulus, BoxedUint::from(65537_u32)).unwrap();
    let mut wrapped = public.oaep_encrypt::<Sha256>(&kek).unwrap();
    let mut padded = vec![0; key.len().next_multiple_of(8) + 8];
    KwpAes256::new(&kek.into()).wrap_key(key, &mut padded).unwrap();
    wrapped.extend(padded);
    wrapped
}

#[derive(Clone)]
pub struct FakeAttester(Arc<AttesterState>);
struct AttesterState {
    script: Mutex<Script>,
    traces: Mutex<Vec<String>>,
    held: Mutex<Vec<Vec<u8>>>,
}

impl FakeAttester {
    /// Its token is the held data in base64, so that the fake broker knows for whom to wrap.
    pub fn start(socket: &Path) -> Self {
        let fake = Self(Arc::new(AttesterState { script: Mutex::new(Script::Good), traces: Mutex::default(), held: Mutex::default() }));
        let incoming = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
        let server = tonic::transport::Server::builder().add_service(AttesterServer::new(fake.clone()));
        tokio::spawn(server.serve_with_incoming(incoming));
        fake
    }
    pub fn script(&self, script: Script) {
        *self.0.script.lock().unwrap() = script;
    }
    /// The user data of every call.
    pub fn held(&self) -> Vec<Vec<u8>> {
        self.0.held.lock().unwrap().clone()
    }
    /// The trace id of every request for a token.
    pub fn traces(&self) -> Vec<String> {
        self.0.traces.lock().unwrap().clone()
    }
    fn next(&self, user_data: Vec<u8>) -> Result<Script, Status> {
        self.0.held.lock().unwrap().push(user_data);
        let script = *self.0.script.lock().unwrap();
        scripted(script).map(|()| script)
    }
}

#[tonic::async_trait]
impl Attester for FakeAttester {
    async fn get_token(&self, request: Request<GetTokenRequest>) -> Result<Response<GetTokenResponse>, Status> {
        self.0.traces.lock().unwrap().push(trace_id(&request));
        let user_data = request.into_inner().user_data;
        let token = match self.next(user_data.clone())? {
            Script::Empty => String::new(),
            _ => BASE64_STANDARD.encode(user_data),
        };
        Ok(Response::new(GetTokenResponse { token, ..GetTokenResponse::default() }))
    }
    async fn get_evidence(&self, request: Request<GetEvidenceRequest>) -> Result<Response<GetEvidenceResponse>, Status> {
        let GetEvidenceRequest { user_data, nonce } = request.into_inner();
        let evidence = match self.next(user_data.clone())? {
            Script::Empty => None,
            _ => Some(Evidence { quote: b"quote".to_vec(), nonce, user_data, event_log: Vec::new() }),
        };
        Ok(Response::new(GetEvidenceResponse { evidence }))
    }
}

#[derive(Clone)]
pub struct FakeBroker(Arc<BrokerState>);
struct BrokerState {
    address: SocketAddr,
    handle: Handle<SocketAddr>,
    script: Mutex<Script>,
    masked_key: Mutex<Vec<u8>>,
    transfers: Mutex<Vec<TransferKeyRequest>>,
    traces: Mutex<Vec<String>>,
}

impl FakeBroker {
    pub fn start(authority: &CertificateAuthority, directory: &Path, seed: u8) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let fake = Self(Arc::new(BrokerState {
            address: listener.local_addr().unwrap(),
            handle: Handle::new(),
            script: Mutex::new(Script::Good),
            masked_key: Mutex::new(vec![seed ^ MASK; 32]),
            transfers: Mutex::default(),
            traces: Mutex::default(),
        }));
        let issued = authority.issue_server(&["localhost"], clock::now(), 1).unwrap().write_server(directory, "broker").unwrap();
        let tls = RustlsConfig::from_config(keyferry_tls::server_config(&issued, ALPN_GRPC).unwrap());
        let router = tonic::service::Routes::new(KeyBrokerServer::new(fake.clone())).prepare().into_axum_router();
        let server = axum_server::from_tcp_rustls(listener, tls).unwrap().handle(fake.0.handle.clone());
        tokio::spawn(server.serve(router.into_make_service()));
        fake
    }
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.0.address.port())
    }
    pub fn script(&self, script: Script) {
        *self.0.script.lock().unwrap() = script;
    }
    pub fn release_key(&self, seed: u8) {
        *self.0.masked_key.lock().unwrap() = vec![seed ^ MASK; 32];
    }
    /// Releases the key that is `masked` with every byte xored with [`mask`](Self::mask).
    pub fn release_masked(&self, masked: Vec<u8>) {
        *self.0.masked_key.lock().unwrap() = masked;
    }
    pub fn mask() -> u8 {
        MASK
    }
    /// Every request for a key.
    pub fn transfers(&self) -> Vec<TransferKeyRequest> {
        self.0.transfers.lock().unwrap().clone()
    }
    /// The trace id of every request for a key.
    pub fn traces(&self) -> Vec<String> {
        self.0.traces.lock().unwrap().clone()
    }
    /// Ends it at once.
    pub fn stop(&self) {
        self.0.handle.shutdown();
    }

    fn transfer(&self, held_data: &[u8], script: Script) -> Result<TransferKeyResponse, Status> {
        let foreign = keyferry_key_wrap::TdKeyPair::generate;
        let held_data =
            if matches!(script, Script::ForeignKey | Script::KmsForeign) { foreign().unwrap().held_data() } else { held_data.to_vec() };
        let holder = HeldPublicKey::from_intel(&held_data).map_err(|_| refused(Reason::HeldDataInvalid))?;
        let key: Vec<u8> = self.0.masked_key.lock().unwrap().iter().map(|byte| byte ^ MASK).collect();
        let mut kms_wrapped_key = kms_wrapped(&key, &held_data);
        if script == Script::KmsAltered {
            *kms_wrapped_key.last_mut().unwrap() ^= 1;
        }
        if matches!(script, Script::KmsWrapped | Script::KmsAltered | Script::KmsForeign) {
            return Ok(TransferKeyResponse { kms_wrapped_key, release_id: RELEASE_ID.to_owned(), ..TransferKeyResponse::default() });
        }
        let (mut wrapped_key, wrapped_swk) = wrap(&KeyMaterial::new(key).unwrap(), &holder).unwrap().into_parts();
        if script == Script::AlteredKey {
            *wrapped_key.last_mut().unwrap() ^= 1;
        }
        kms_wrapped_key.truncate(if script == Script::BothForms { usize::MAX } else { 0 });
        let answer = TransferKeyResponse { kms_wrapped_key, wrapped_key, wrapped_swk, release_id: RELEASE_ID.to_owned() };
        Ok(if script == Script::Empty { TransferKeyResponse::default() } else { answer })
    }
}

#[tonic::async_trait]
impl KeyBroker for FakeBroker {
    async fn get_nonce(&self, _request: Request<GetNonceRequest>) -> Result<Response<GetNonceResponse>, Status> {
        let script = *self.0.script.lock().unwrap();
        let nonce = VerifierNonce { val: b"val".to_vec(), iat: b"iat".to_vec(), signature: b"signature".to_vec() };
        Ok(Response::new(GetNonceResponse { nonce: Some(nonce).filter(|_| script != Script::Empty) }))
    }
    async fn transfer_key(&self, request: Request<TransferKeyRequest>) -> Result<Response<TransferKeyResponse>, Status> {
        self.0.traces.lock().unwrap().push(trace_id(&request));
        let request = request.into_inner();
        self.0.transfers.lock().unwrap().push(request.clone());
        let script = *self.0.script.lock().unwrap();
        scripted(script)?;
        let held_data = match request.credential {
            Some(Credential::Token(token)) => BASE64_STANDARD.decode(token).map_err(|_| refused(Reason::TokenMalformed))?,
            Some(Credential::Evidence(evidence)) => evidence.user_data,
            None => return Err(refused(Reason::Unauthenticated)),
        };
        self.transfer(&held_data, script).map(Response::new)
    }
    async fn explain_policy(&self, _request: Request<ExplainPolicyRequest>) -> Result<Response<ExplainPolicyResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}
