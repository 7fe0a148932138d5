//! A model runner with everything around it: a fake attester on a real Unix socket and a fake key broker on a real TLS 1.3
//! listener, both speaking the real contract, and the runner's own HTTPS listener.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "shared by several test programs; helpers of a test fail by panicking")]

pub mod peers;

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
};

use axum_server::Handle;
use keyferry_identifiers::TdId;
use keyferry_key_wrap::KeyMaterial;
use keyferry_lifecycle::{Layers, clock};
use keyferry_model_envelope::{ChunkSize, Header, MediaType, ModelName, one_shot, seal};
use keyferry_tls::{ALPN_HTTP, CertificateAuthority, RootsConfig};
use model_runner::{
    Config, Runner,
    events::{EventQueue, Events, ModelEvent},
    rest,
};
use peers::{FakeAttester, FakeBroker};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

pub const KEY_ID: &str = "6f1c0d3e-1f0a-4a55-9d5e-2f0d3c6b7a81";
pub const TD_ID: &str = "UAKZ6LQ5ZSVXCIJJTNRJ3E2KTGGXTWGSDHEYIBG3SYLOVKCYRJOOCBMV";
pub const LINREG: &[u8] = include_bytes!("../../../../models/diabetes-linreg.model");
pub const BREAST_CANCER: &[u8] = include_bytes!("../../../../models/breast-cancer.onnx");

pub fn key(seed: u8) -> KeyMaterial {
    KeyMaterial::new(vec![seed; 32]).unwrap()
}

/// What the sample's encryptor makes of its model.
pub fn sealed_linreg(seed: u8) -> Vec<u8> {
    one_shot::seal(&key(seed), LINREG).unwrap()
}

pub fn sealed_onnx(seed: u8) -> Vec<u8> {
    let header =
        Header::new(uuid::Uuid::parse_str(KEY_ID).unwrap(), MediaType::parse("onnx").unwrap(), ModelName::parse("breast-cancer").unwrap());
    seal(&key(seed), &header, ChunkSize::DEFAULT, BREAST_CANCER).unwrap()
}

pub struct Stand {
    pub runner: Arc<Runner>,
    pub attester: FakeAttester,
    pub broker: FakeBroker,
    pub events: EventQueue,
    pub https: SocketAddr,
    pub http: reqwest::Client,
    pub directory: TempDir,
    cancel: CancellationToken,
    handle: Handle<SocketAddr>,
}

impl Stand {
    /// Inside a Tokio runtime: a runner for `sealed`, with a broker that releases the key made of `seed`.
    pub fn start(sealed: &[u8], seed: u8) -> Self {
        Self::with(sealed, seed, &[])
    }

    /// The same with further `a.b=c` settings.
    pub fn with(sealed: &[u8], seed: u8, settings: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = CertificateAuthority::generate("test root", clock::now(), 2).unwrap();
        let ca_file = directory.path().join("ca.pem");
        authority.write_certificate(&ca_file).unwrap();
        fs::write(directory.path().join("model.enc"), sealed).unwrap();

        let attester = FakeAttester::start(&directory.path().join("attester.sock"));
        let broker = FakeBroker::start(&authority, directory.path(), seed);
        let certificate = authority.issue_server(&["localhost", "127.0.0.1"], clock::now(), 1).unwrap();
        let certificate = certificate.write_server(directory.path(), "https").unwrap();

        let path = |name: &str| directory.path().join(name).display().to_string();
        let mut layers = vec![
            "bus.url=nats://localhost:1".to_owned(),
            format!("bus.ca_file={}", path("ca.pem")),
            format!("bus.credentials_file={}", path("none.creds")),
            format!("attester.socket={}", path("attester.sock")),
            format!("key_broker.url={}", broker.url()),
            format!("key_broker.ca_file={}", path("ca.pem")),
            format!("model.file={}", path("model.enc")),
            format!("model.key_id={KEY_ID}"),
            "model.name=diabetes".to_owned(),
            format!("https.certificate_file={}", certificate.certificate_file.display()),
            format!("https.key_file={}", certificate.key_file.display()),
        ];
        layers.extend(settings.iter().map(|setting| (*setting).to_owned()));
        let config: Config = keyferry_lifecycle::load(&Layers { settings: layers, ..Layers::default() }).unwrap();

        let cancel = CancellationToken::new();
        let (queue, events) = Events::new(TdId::parse(TD_ID).unwrap());
        let tls = keyferry_tls::server_config(&certificate, ALPN_HTTP).unwrap();
        let (runner, background) = Runner::new(config, queue).unwrap();
        tokio::spawn(background.run(cancel.clone()));

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let https = listener.local_addr().unwrap();
        let handle = Handle::new();
        tokio::spawn(rest::serve(listener, tls, rest::router(Arc::clone(&runner)), handle.clone()));
        let http = http_client(&ca_file);
        Self { runner, attester, broker, events, https, http, directory, cancel, handle }
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.https.port())
    }

    pub fn model_file(&self) -> PathBuf {
        self.directory.path().join("model.enc")
    }

    /// The next event; fails if there is none yet.
    pub fn event(&mut self) -> ModelEvent {
        self.events.try_recv().unwrap().0
    }

    pub fn no_event(&mut self) -> bool {
        self.events.try_recv().is_err()
    }

    /// Sends JSON the way the sample's script does.
    pub async fn post(&self, path: &str, body: &str) -> Reply {
        let request = self.http.post(self.url(path)).header("accept", "application/json").header("content-type", "application/json");
        Reply::of(request.body(body.to_owned()).send().await.unwrap()).await
    }

    pub async fn get(&self, path: &str) -> Reply {
        Reply::of(self.http.get(self.url(path)).header("accept", "application/json").send().await.unwrap()).await
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.handle.shutdown();
    }
}

pub fn http_client(ca_file: &std::path::Path) -> reqwest::Client {
    let tls = keyferry_tls::http_client_config(&RootsConfig::CaFile(ca_file.to_owned())).unwrap();
    reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap()
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: http::HeaderMap,
    pub text: String,
}

impl Reply {
    pub async fn of(response: reqwest::Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Self { status, headers, text: response.text().await.unwrap() }
    }
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.text).unwrap()
    }
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}
