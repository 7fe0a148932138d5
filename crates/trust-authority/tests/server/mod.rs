//! A TLS server on 127.0.0.1 that remembers what it was asked and answers as a test says.

#![allow(clippy::unwrap_used, dead_code, reason = "a helper of a test fails the test; each test file uses a part")]

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Uri},
    response::Response,
};
use axum_server::tls_rustls::RustlsConfig;
use keyferry_tls::{ALPN_HTTP, CertificateAuthority, server_config_from_issued};

const LONG_AGO: u64 = 1_763_900_000;

pub(crate) type Seen = Arc<Mutex<Vec<(Uri, HeaderMap, Bytes)>>>;
type Answer = Arc<dyn Fn(usize, &Uri) -> Response + Send + Sync>;

pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) root: Vec<u8>,
    pub(crate) seen: Seen,
}

/// Gives `answer(0)`, `answer(1)`, ... to whatever is asked.
pub(crate) fn start(answer: impl Fn(usize, &Uri) -> Response + Send + Sync + 'static) -> Server {
    let authority = CertificateAuthority::generate("test root", clock(), 30).unwrap();
    let issued = authority.issue_server(&["127.0.0.1"], clock(), 30).unwrap();
    let tls = RustlsConfig::from_config(server_config_from_issued(&issued, ALPN_HTTP).unwrap());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let seen = Seen::default();
    let state = (seen.clone(), Arc::new(AtomicUsize::new(0)), Arc::new(answer) as Answer);
    let router = Router::new().fallback(serve).with_state(state);
    tokio::spawn(axum_server::from_tcp_rustls(listener, tls).unwrap().serve(router.into_make_service()));
    Server { url, root: authority.certificate_der().to_vec(), seen }
}

async fn serve(
    State((seen, count, answer)): State<(Seen, Arc<AtomicUsize>, Answer)>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    seen.lock().unwrap().push((uri.clone(), headers, body));
    answer(count.fetch_add(1, Ordering::SeqCst), &uri)
}

/// rustls asks the system's clock about certificates.
#[allow(clippy::disallowed_methods, reason = "the handshake reads the same clock")]
pub(crate) fn clock() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(now > LONG_AGO);
    now
}
