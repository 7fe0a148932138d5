//! Against a real TLS server: what is sent, what is believed of the answer, what is repeated and what is not.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use axum_server::tls_rustls::RustlsConfig;
use keyferry_attestation_token::Nonce;
use keyferry_tls::{ALPN_HTTP, CertificateAuthority, RootsConfig, server_config_from_issued};
use keyferry_trust_authority::{Evidence, JwksSource, Proxy, Settings, TrustAuthority, TrustAuthorityError, read_api_key};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const NOW: u64 = 1_763_900_000;
const CANARY: &str = "canary-7c1f";

type Seen = Arc<Mutex<Vec<(Uri, HeaderMap, Bytes)>>>;
type Answer = Arc<dyn Fn(usize) -> Response + Send + Sync>;

struct Server {
    url: String,
    root: Vec<u8>,
    seen: Seen,
}

/// A TLS server on 127.0.0.1 that gives `answer(0)`, `answer(1)`, ... to whatever is asked.
fn server(answer: impl Fn(usize) -> Response + Send + Sync + 'static) -> Server {
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
    seen.lock().unwrap().push((uri, headers, body));
    answer(count.fetch_add(1, Ordering::SeqCst))
}

/// rustls asks the system's clock about certificates.
#[allow(clippy::disallowed_methods, reason = "the handshake reads the same clock")]
fn clock() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(now > NOW);
    now
}

impl Server {
    fn client(&self) -> TrustAuthority {
        self.client_trusting(&self.root)
    }
    fn client_trusting(&self, root: &[u8]) -> TrustAuthority {
        let mut settings = Settings::new(&self.url, RootsConfig::Ders(vec![root.to_vec()]), CANARY.into());
        settings.retry_delay = Duration::from_millis(5);
        settings.decorate = Some(Arc::new(|headers| drop(headers.insert("traceparent", "00-ab".parse().unwrap()))));
        TrustAuthority::new(&settings).unwrap()
    }
    fn calls(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

fn json(text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

fn evidence() -> Evidence {
    let nonce = Nonce { val: b"dmFs".to_vec(), iat: b"now".to_vec(), signature: b"sig".to_vec() };
    Evidence {
        quote: vec![1, 2, 3],
        user_data: b"user".to_vec(),
        nonce: Some(nonce),
        event_log: Vec::new(),
        policy_ids: vec![uuid::Uuid::from_u128(5)],
        policy_must_match: true,
    }
}

#[tokio::test]
async fn a_nonce_is_decoded_exactly_once() {
    let server = server(|_| json(r#"{"val":"ZG1Gcw==","iat":"bm93","signature":"c2ln"}"#));
    let nonce = server.client().nonce().await.unwrap();
    assert_eq!(nonce, Nonce { val: b"dmFs".to_vec(), iat: b"now".to_vec(), signature: b"sig".to_vec() });
    let (uri, headers, _) = server.seen.lock().unwrap().remove(0);
    assert_eq!(uri.path(), "/appraisal/v2/nonce");
    assert_eq!(headers["x-api-key"], CANARY);
    assert_eq!(headers["accept"], "application/json");
    assert_eq!(headers["request-id"].len(), 36);
    assert_eq!(headers["traceparent"], "00-ab", "the caller's own header");
}

#[tokio::test]
async fn evidence_is_sent_in_the_composite_form() {
    let server = server(|_| json(r#"{"token":"a.b.c"}"#));
    assert_eq!(server.client().attest(&evidence()).await.unwrap(), "a.b.c");
    let (uri, headers, body) = server.seen.lock().unwrap().remove(0);
    assert_eq!((uri.path(), headers["content-type"].to_str().unwrap()), ("/appraisal/v2/attest", "application/json"));
    let expected = concat!(
        r#"{"policy_ids":["00000000-0000-0000-0000-000000000005"],"policy_must_match":true,"tdx":{"quote":"AQID","runtime_data":"dXNlcg==","#,
        r#""verifier_nonce":{"val":"ZG1Gcw==","iat":"bm93","signature":"c2ln"}}}"#
    );
    assert_eq!(std::str::from_utf8(&body).unwrap(), expected);
}

#[tokio::test]
async fn a_call_is_repeated_twice_on_500_503_and_504_alone() {
    for status in [500, 503, 504] {
        let server = server(move |call| match call {
            0 | 1 => StatusCode::from_u16(status).unwrap().into_response(),
            _ => json(r#"{"token":"a.b.c"}"#),
        });
        assert!(server.client().attest(&evidence()).await.is_ok());
        assert_eq!(server.calls(), 3);
    }
    let always = server(|_| StatusCode::SERVICE_UNAVAILABLE.into_response());
    assert!(matches!(always.client().nonce().await, Err(TrustAuthorityError::Status { status: 503, .. })));
    assert_eq!(always.calls(), 3);
    for status in [201, 204, 301, 400, 401, 403, 404, 413, 429, 502] {
        let server = server(move |_| StatusCode::from_u16(status).unwrap().into_response());
        let error = server.client().nonce().await.unwrap_err();
        assert!(matches!(error, TrustAuthorityError::Status { status: found, .. } if found == status), "{error}");
        assert_eq!(server.calls(), 1, "{status}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let target = server(|_| json(r#"{"val":"AA==","iat":"AA==","signature":"AA=="}"#));
    let location = format!("{}/appraisal/v2/nonce", target.url);
    let origin = server(move |_| (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, location.clone())]).into_response());
    assert!(matches!(origin.client().nonce().await, Err(TrustAuthorityError::Status { status: 307, .. })));
    assert_eq!(target.calls(), 0);
}

#[tokio::test]
async fn a_brokers_reason_is_kept_and_free_text_is_not() {
    for (body, expected) in [
        (r#"{"error":"debug_enabled: TDATTRIBUTES.DEBUG is set"}"#, Some("debug_enabled")),
        (r#"{"error":"Bad request: canary-7c1f"}"#, None),
        (r#"{"error":"no colon"}"#, None),
        ("canary-7c1f", None),
    ] {
        let server = server(move |_| (StatusCode::BAD_REQUEST, body).into_response());
        let error = server.client().attest(&evidence()).await.unwrap_err();
        assert!(!error.to_string().contains("canary"), "{error}");
        let TrustAuthorityError::Status { reason, .. } = error else { panic!("{error}") };
        assert_eq!(reason.as_deref(), expected);
    }
}

#[tokio::test]
async fn oversized_empty_and_malformed_answers_are_refused() {
    let huge = server(|_| "x".repeat(3_000_000).into_response());
    assert!(matches!(huge.client().nonce().await, Err(TrustAuthorityError::AnswerTooLarge { max: 4096, .. })));
    assert!(matches!(huge.client().attest(&evidence()).await, Err(TrustAuthorityError::AnswerTooLarge { .. })));
    for text in ["", "{}", "[]", r#"{"val":"AA==","iat":"AA=="}"#, r#"{"val":"!","iat":"AA==","signature":"AA=="}"#, r#"{"token":""}"#] {
        let server = server(move |_| json(text));
        assert!(matches!(server.client().nonce().await, Err(TrustAuthorityError::Malformed { .. })), "{text}");
        assert!(matches!(server.client().attest(&evidence()).await, Err(TrustAuthorityError::Malformed { .. })), "{text}");
    }
}

#[tokio::test]
async fn oversized_evidence_is_not_sent() {
    let server = server(|_| json(r#"{"token":"a.b.c"}"#));
    let evidence = Evidence { user_data: vec![0; 400_000], ..evidence() };
    assert!(matches!(server.client().attest(&evidence).await, Err(TrustAuthorityError::RequestTooLarge { .. })));
    assert_eq!(server.calls(), 0);
}

#[tokio::test]
async fn only_the_pinned_root_is_trusted_and_only_over_https() {
    let server = server(|_| json(r#"{"token":"a.b.c"}"#));
    let other = CertificateAuthority::generate("other root", clock(), 30).unwrap();
    let client = server.client_trusting(other.certificate_der());
    assert!(matches!(client.nonce().await, Err(TrustAuthorityError::Unreachable { .. })));
    assert_eq!(server.calls(), 0);
    for url in ["http://127.0.0.1:1", "127.0.0.1", "https://", "ftp://x", "https://user:password@host"] {
        let settings = Settings::new(url, RootsConfig::Ders(vec![server.root.clone()]), CANARY.into());
        assert!(matches!(TrustAuthority::new(&settings), Err(TrustAuthorityError::Url { .. })), "{url}");
    }
}

#[tokio::test]
async fn a_key_set_is_fetched_without_a_credential() {
    let server = server(|_| json(r#"{"keys":[]}"#));
    let roots = RootsConfig::Ders(vec![server.root.clone()]);
    let source = JwksSource::new(&format!("{}/certs", server.url), &roots, Duration::from_millis(5)).unwrap();
    assert_eq!(source.fetch().await.unwrap(), br#"{"keys":[]}"#);
    let (uri, headers, _) = server.seen.lock().unwrap().remove(0);
    assert_eq!(uri.path(), "/certs");
    assert!(headers.get("x-api-key").is_none() && headers.get("authorization").is_none());
}

/// A proxy that does what CONNECT asks for, and tells for which host it was asked.
async fn proxy() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (address, asked) = (listener.local_addr().unwrap().to_string(), Arc::<Mutex<Vec<String>>>::default());
    let seen = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(client.read_u8().await.unwrap());
            }
            let target = String::from_utf8(head).unwrap().split(' ').nth(1).unwrap().to_owned();
            seen.lock().unwrap().push(target.clone());
            tokio::spawn(async move {
                let mut server = tokio::net::TcpStream::connect(target).await.unwrap();
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (address, asked)
}

#[tokio::test]
async fn a_proxy_carries_tls_to_the_pinned_root_unless_the_host_is_excepted() {
    let server = server(|_| json(r#"{"keys":[]}"#));
    let (address, asked) = proxy().await;
    let fetch = |except: &str, root: &[u8], url: String| {
        let (proxy, roots) = (Proxy { url, except: except.to_owned() }, RootsConfig::Ders(vec![root.to_vec()]));
        JwksSource::through(&format!("{}/certs", server.url), &roots, Duration::from_millis(5), Some(&proxy)).unwrap()
    };
    for url in [address.clone(), format!("http://{address}")] {
        fetch("", &server.root, url).fetch().await.unwrap();
    }
    let target = server.url.trim_start_matches("https://").to_owned();
    assert_eq!(*asked.lock().unwrap(), [target.clone(), target]);
    fetch("127.0.0.0/8", &server.root, address.clone()).fetch().await.unwrap();
    assert_eq!(asked.lock().unwrap().len(), 2, "reached directly");
    let other = CertificateAuthority::generate("other root", clock(), 30).unwrap();
    assert!(fetch("", other.certificate_der(), address).fetch().await.is_err(), "a proxy vouches for nobody");
}

#[tokio::test]
async fn an_api_key_comes_from_a_file_and_is_never_printed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    std::fs::write(&path, format!("{CANARY}\n")).unwrap();
    let settings = Settings::new("https://127.0.0.1", RootsConfig::Ders(Vec::new()), read_api_key(&path).unwrap());
    assert!(!format!("{settings:?}").contains("canary"));
    for bad in ["", "\n", "a\nb", "a\u{0}"] {
        std::fs::write(&path, bad).unwrap();
        assert!(matches!(read_api_key(&path), Err(TrustAuthorityError::ApiKeyFile { .. })), "{bad:?}");
    }
    assert!(matches!(read_api_key(&directory.path().join("none")), Err(TrustAuthorityError::ApiKeyFile { .. })));
}
