//! Against a real TLS server: what is sent, what is believed of the answer, what is repeated and what is not.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod server;

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use keyferry_attestation_token::Nonce;
use keyferry_tls::{CertificateAuthority, RootsConfig};
use keyferry_trust_authority::{
    ApiVersion, Evidence, JwksSource, Proxy, Region, Settings, TrustAuthority, TrustAuthorityError, read_api_key,
};
use server::{Server, clock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const CANARY: &str = "canary-7c1f";

/// Answers by the number of the call alone.
fn server(answer: impl Fn(usize) -> Response + Send + Sync + 'static) -> Server {
    server::start(move |call, _| answer(call))
}

trait Client {
    fn settings(&self) -> Settings;
    fn client(&self) -> TrustAuthority {
        TrustAuthority::new(&self.settings()).unwrap()
    }
    fn client_trusting(&self, root: &[u8]) -> TrustAuthority {
        TrustAuthority::new(&Settings { roots: RootsConfig::Ders(vec![root.to_vec()]), ..self.settings() }).unwrap()
    }
    fn calls(&self) -> usize;
}

impl Client for Server {
    fn settings(&self) -> Settings {
        let mut settings = Settings::new(&self.url, RootsConfig::Ders(vec![self.root.clone()]), CANARY.into());
        settings.retry_delay = Duration::from_millis(5);
        settings.decorate = Some(Arc::new(|headers| drop(headers.insert("traceparent", "00-ab".parse().unwrap()))));
        settings
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
        user_data: b"user".to_vec(),
        nonce: Some(nonce),
        policy_ids: vec![uuid::Uuid::from_u128(5)],
        policy_must_match: true,
        ..Evidence::of(vec![1, 2, 3])
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
async fn each_version_and_azure_have_their_address_and_form() {
    let nonce = r#""verifier_nonce":{"val":"ZG1Gcw==","iat":"bm93","signature":"c2ln"}"#;
    let ids = r#""policy_ids":["00000000-0000-0000-0000-000000000005"],"policy_must_match":true,"token_signing_alg":"RS256""#;
    let azure = r#""quote":"AQID","runtime_data":"e30=","user_data":"dXNlcg==""#;
    for (version, runtime, path, expected) in [
        (ApiVersion::V1, None, "/appraisal/v1/attest", format!(r#"{{{ids},"quote":"AQID","runtime_data":"dXNlcg==",{nonce}}}"#)),
        (ApiVersion::V1, Some("{}"), "/appraisal/v1/attest/azure/tdxvm", format!("{{{ids},{azure},{nonce}}}")),
        (ApiVersion::V2, Some("{}"), "/appraisal/v2/attest/azure", format!(r#"{{{ids},"tdx":{{{azure},{nonce}}}}}"#)),
    ] {
        let server = server(|_| json(r#"{"token":"a.b.c"}"#));
        let client = TrustAuthority::new(&Settings { version, ..server.settings() }).unwrap();
        let azure_runtime = runtime.map(|text| text.as_bytes().to_vec());
        let evidence = Evidence { azure_runtime, token_signing_alg: Some("RS256".to_owned()), ..evidence() };
        client.attest(&evidence).await.unwrap();
        let _malformed = client.nonce().await;
        let seen = server.seen.lock().unwrap();
        assert_eq!((seen[0].0.path(), std::str::from_utf8(&seen[0].2).unwrap()), (path, expected.as_str()));
        assert_eq!(seen[1].0.path(), version.nonce_path());
    }
}

#[tokio::test]
async fn a_changed_key_file_is_read_before_the_next_call_and_a_bad_one_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    std::fs::write(&path, "first").unwrap();
    let server = server(|_| json(r#"{"val":"AA==","iat":"AA==","signature":"AA=="}"#));
    let settings = Settings { api_key: read_api_key(&path).unwrap(), api_key_file: Some(path.clone()), ..server.settings() };
    let client = TrustAuthority::new(&settings).unwrap();
    for (content, seconds, sent) in [("first", 1, "first"), ("second\n", 2, "second"), ("", 3, "second"), ("third", 4, "third")] {
        std::fs::write(&path, content).unwrap();
        // Two writes within the clock's grain would look like one.
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)).unwrap();
        client.nonce().await.unwrap();
        assert_eq!(server.seen.lock().unwrap().last().unwrap().1["x-api-key"], sent);
    }
    std::fs::remove_file(&path).unwrap();
    client.nonce().await.unwrap();
}

#[test]
fn regions_are_known_by_name() {
    for (name, api, base) in [
        ("world", "https://api.trustauthority.intel.com", "https://portal.trustauthority.intel.com"),
        ("us", "https://api.trustauthority.intel.com", "https://portal.trustauthority.intel.com"),
        ("eu", "https://api.eu.trustauthority.intel.com", "https://portal.eu.trustauthority.intel.com"),
        ("pilot", "https://api.pilot.trustauthority.intel.com", "https://portal.pilot.trustauthority.intel.com"),
    ] {
        let region: Region = serde_json::from_value(name.into()).unwrap();
        assert_eq!((region.api_url(), region.base_url()), (api, base));
    }
    assert!(serde_json::from_value::<Region>("mars".into()).is_err());
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
    for text in [
        "",
        "{}",
        "[]",
        r#"{"val":"AA==","iat":"AA=="}"#,
        r#"{"val":"!","iat":"AA==","signature":"AA=="}"#,
        r#"{"token":""}"#,
        r#"{"val":"AA==","iat":"AA==","signature":"AA==","more":1}"#,
        r#"{"token":"a.b.c","more":1}"#,
        r#"{"token":"a.b.c","token":"a.b.c"}"#,
    ] {
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
