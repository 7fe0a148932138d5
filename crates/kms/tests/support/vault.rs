//! A real OpenBao with an engine, policies and an AppRole; a proxy that can misbehave; a stand-in that answers anything.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use keyferry_kms::{VaultAppRole, VaultAuth, VaultConfig, VaultEngine, VaultKms, VaultTimeouts};
use keyferry_testkit::openbao::{AppRole, OpenBao};
use keyferry_tls::{RootsConfig, client_config, server_config_from_issued};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const ALL: &[&str] = &["create", "read", "update", "delete"];

/// Paths and capabilities of whoever makes, inspects, exports and destroys keys.
pub(crate) fn administration(engine: VaultEngine) -> Vec<(&'static str, &'static [&'static str])> {
    match engine {
        VaultEngine::Kv1 => vec![("keybroker/*", ALL)],
        VaultEngine::Kv2 => vec![
            ("keyferry/data/*", &["create", "read"]),
            ("keyferry/delete/*", &["create", "update"]),
            ("keyferry/destroy/*", &["create", "update"]),
            ("keyferry/metadata/*", ALL),
        ],
        VaultEngine::Transit => {
            vec![("transit/keys/*", ALL), ("transit/export/*", &["read"]), ("transit/wrapping_key", &["read"])]
        }
    }
}

/// A server of one's own, or a panic that says what to do.
pub(crate) async fn start() -> OpenBao {
    match OpenBao::start().await {
        Ok(server) => server,
        Err(failure) => panic!("{failure}; {}", failure.hint()),
    }
}

/// A server with `engine` at its usual mount, and the AppRole `administrator`.
pub(crate) async fn start_with(engine: VaultEngine) -> (OpenBao, VaultConfig) {
    let server = start().await;
    server.enable_auth("approle").await.unwrap();
    let config = add(&server, engine).await;
    (server, config)
}

/// Adds an engine with an AppRole for it.
pub(crate) async fn add(server: &OpenBao, engine: VaultEngine) -> VaultConfig {
    match engine {
        VaultEngine::Kv1 => server.mount_kv("keybroker", 1).await.unwrap(),
        VaultEngine::Kv2 => server.mount_kv("keyferry", 2).await.unwrap(),
        VaultEngine::Transit => server.mount_transit("transit").await.unwrap(),
    }
    let name = format!("administrator-{engine:?}");
    server.policy(&name, &administration(engine)).await.unwrap();
    let role = server.app_role(&name, json!({ "token_policies": [name], "token_ttl": "10m" })).await.unwrap();
    config(server, engine, app_role(&role))
}

pub(crate) fn app_role(role: &AppRole) -> VaultAuth {
    VaultAuth::AppRole(VaultAppRole {
        mount: "approle".to_owned(),
        role_id: role.role_id.clone(),
        secret_id_file: role.secret_id_file.clone(),
    })
}

pub(crate) fn config(server: &OpenBao, engine: VaultEngine, auth: VaultAuth) -> VaultConfig {
    VaultConfig {
        url: server.url(),
        ca_file: Some(server.ca_file()),
        allow_plain_http: false,
        namespace: None,
        engine,
        mount: None,
        wrap_for_td: false,
        auth,
        administration: None,
        timeouts: VaultTimeouts::default(),
    }
}

pub(crate) fn connect(config: &VaultConfig) -> VaultKms {
    VaultKms::new(config).unwrap()
}

/// Waits for a state; a test that never reaches it ends by its own limit.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let reached = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), reached).await.unwrap_or_else(|_| panic!("never reached: {what}"));
}

/// What the proxy does with what it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// Carries both ways.
    Good,
    /// Carries requests, and keeps the answers.
    Silent,
    /// Carries requests and this many more bytes of answers, then cuts the connection.
    Cut(usize),
}

/// A TCP proxy before a server. TLS passes through it.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    line: watch::Sender<Line>,
    connections: Arc<AtomicUsize>,
    requested: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    pub(crate) async fn start(server: std::net::SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (line, watched) = watch::channel(Line::Good);
        let (connections, requested) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (counted, bytes) = (Arc::clone(&connections), Arc::clone(&requested));
        let task = tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                counted.fetch_add(1, Ordering::SeqCst);
                let (line, bytes) = (watched.clone(), Arc::clone(&bytes));
                tokio::spawn(async move {
                    if let Ok(server) = TcpStream::connect(server).await {
                        Box::pin(carry(client, server, line, &bytes)).await;
                    }
                });
            }
        });
        Self { port, line, connections, requested, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }
    pub(crate) fn set(&self, line: Line) {
        self.line.send_replace(line);
    }
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
    /// Bytes that clients sent so far.
    pub(crate) fn requested(&self) -> usize {
        self.requested.load(Ordering::SeqCst)
    }
}

async fn carry(client: TcpStream, server: TcpStream, mut line: watch::Receiver<Line>, requested: &AtomicUsize) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async {
        let mut buffer = [0; 8192];
        while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
            requested.fetch_add(length, Ordering::SeqCst);
            if to_server.write_all(&buffer[..length]).await.is_err() {
                break;
            }
        }
    };
    let down = async {
        let mut buffer = [0; 8192];
        while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
            let now = *line.wait_for(|line| *line != Line::Silent).await.unwrap();
            let carried = if let Line::Cut(bytes) = now { bytes.min(length) } else { length };
            let written = to_client.write_all(&buffer[..carried]).await;
            if written.is_err() || carried < length {
                break;
            }
        }
    };
    tokio::select! { () = up => {}, () = down => {} }
}

/// The port of a listener that speaks plain HTTP before `server`, as one without a certificate would.
pub(crate) async fn plain_http(server: &OpenBao) -> u16 {
    let mut tls = client_config(&RootsConfig::CaFile(server.ca_file()), false).unwrap();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let (connector, address) = (TlsConnector::from(Arc::new(tls)), server.address());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let connector = connector.clone();
            tokio::spawn(async move {
                let server = TcpStream::connect(address).await.unwrap();
                let mut server = connector.connect(address.ip().into(), server).await.unwrap();
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    port
}

/// A server with a certificate that we trust, and answers that nobody should.
pub(crate) struct StandIn {
    pub(crate) config: VaultConfig,
    requests: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl StandIn {
    /// Answers every request with what `script` makes of its first line: a whole HTTP/1.1 response.
    pub(crate) async fn start(directory: &std::path::Path, script: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let ca = keyferry_tls::CertificateAuthority::generate("stand-in root", NOW, 36_500).unwrap();
        ca.write_certificate(&directory.join("stand-in-ca.pem")).unwrap();
        let tls = server_config_from_issued(&ca.issue_server(&["127.0.0.1"], NOW, 36_500).unwrap(), &["http/1.1"]).unwrap();
        std::fs::write(directory.join("stand-in-token"), "s.a-token-of-nobody").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (requests, script, acceptor) = (Arc::<Mutex<Vec<String>>>::default(), Arc::new(script), TlsAcceptor::from(tls));
        let seen = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, script, seen) = (acceptor.clone(), Arc::clone(&script), Arc::clone(&seen));
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    while let Some(request) = request(&mut stream).await {
                        let answer = script(request.lines().next().unwrap_or_default());
                        seen.lock().unwrap().push(request);
                        if stream.write_all(&answer).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        let config = VaultConfig {
            url: format!("https://127.0.0.1:{port}"),
            ca_file: Some(directory.join("stand-in-ca.pem")),
            allow_plain_http: false,
            namespace: None,
            engine: VaultEngine::Kv1,
            mount: None,
            wrap_for_td: false,
            auth: VaultAuth::TokenFile(directory.join("stand-in-token")),
            administration: None,
            timeouts: VaultTimeouts::default(),
        };
        Self { config, requests, task }
    }

    /// Heads of the requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// 1 November 2026: the certificates' first day.
const NOW: u64 = 1_793_491_200;

/// The head of a request; its body is read and dropped.
async fn request(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(head)
}

/// A response with a JSON body.
pub(crate) fn response(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}
