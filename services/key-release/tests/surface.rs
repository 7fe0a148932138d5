//! What else the one listener serves: health and reflection, both versions; over TLS 1.3 and HTTP/2 alone.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod harness;

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use harness::Stack;
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

const SERVICES: [&str; 4] = [
    "grpc.health.v1.Health",
    "keyferry.release.v1.KeyAdministration",
    "keyferry.release.v1.KeyBroker",
    "keyferry.release.v1.UserAdministration",
];

#[tokio::test(flavor = "multi_thread")]
async fn health_says_serving_for_every_service() {
    let stack = Stack::start().await;
    let mut health = HealthClient::new(stack.channel.clone());
    for service in &SERVICES[1..] {
        let answer = health.check(HealthCheckRequest { service: (*service).to_owned() }).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving);
    }
}

macro_rules! listed_services {
    ($version:ident, $stack:expr) => {{
        use tonic_reflection::pb::$version::{
            ServerReflectionRequest, server_reflection_client::ServerReflectionClient, server_reflection_request::MessageRequest,
            server_reflection_response::MessageResponse,
        };
        let ask = ServerReflectionRequest { host: String::new(), message_request: Some(MessageRequest::ListServices(String::new())) };
        let mut client = ServerReflectionClient::new($stack.channel.clone());
        let mut answers = client.server_reflection_info(futures::stream::iter([ask])).await.unwrap().into_inner();
        let Some(MessageResponse::ListServicesResponse(list)) = answers.next().await.unwrap().unwrap().message_response else {
            panic!("no list of services")
        };
        list.service.into_iter().map(|service| service.name).collect::<Vec<_>>()
    }};
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_names_the_services_in_both_versions() {
    let stack = Stack::start().await;
    for listed in [listed_services!(v1, stack), listed_services!(v1alpha, stack)] {
        for service in SERVICES {
            assert!(listed.iter().any(|name| name == service), "{service} is not in {listed:?}");
        }
        let others: Vec<_> =
            listed.iter().filter(|name| !SERVICES.contains(&name.as_str()) && !name.starts_with("grpc.reflection.")).collect();
        assert!(others.is_empty(), "{others:?} are not served here");
    }
}

/// A TLS session with the listener, of one protocol version and without ALPN.
async fn session(stack: &Stack, version: &'static SupportedProtocolVersion) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(stack.authority.certificate_der().to_vec().into()).unwrap();
    let config = ClientConfig::builder_with_provider(keyferry_tls::provider()).with_protocol_versions(&[version]).unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(stack.address).await.unwrap();
    TlsConnector::from(Arc::new(config)).connect("127.0.0.1".try_into().unwrap(), stream).await
}

#[tokio::test(flavor = "multi_thread")]
async fn older_protocols_are_not_spoken() {
    let stack = Stack::start().await;
    assert!(session(&stack, &TLS12).await.is_err());
    // REST is there over HTTP/1.1, gRPC is not.
    let mut session = session(&stack, &TLS13).await.unwrap();
    let call = "POST /keyferry.release.v1.KeyBroker/GetNonce HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc\r\n";
    session.write_all(format!("{call}content-length: 5\r\nconnection: close\r\n\r\n\0\0\0\0\0").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // The connection may end without TLS's farewell: what counts is what came before.
    let _ended = tokio::time::timeout(Duration::from_secs(20), session.read_to_end(&mut answer)).await.expect("it closes");
    assert!(answer.starts_with(b"HTTP/1.1 404"), "{}", String::from_utf8_lossy(&answer));
}
