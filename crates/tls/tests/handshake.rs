//! What a peer on the wire can see: versions, groups, roots, and gRPC over both kinds of channel.
#![allow(clippy::unwrap_used, reason = "the helpers below are test code; clippy exempts only functions marked #[test]")]

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{Router, routing::post};
use axum_server::tls_rustls::RustlsConfig;
use keyferry_tls::{
    ALPN_HTTP, CertificateAuthority, ClientCertificate, RootsConfig, ServerCertificate, TlsError, client_config, grpc_channel,
    grpc_unix_channel, http_client_config, mutual_client_config, provider, server_config, server_config_from_issued,
};
use rustls::{ClientConfig, ClientConnection, NamedGroup, ProtocolVersion, ServerConfig, ServerConnection};
use tonic::transport::Channel;
use tower::{Service, ServiceExt};

/// rustls checks validity against the system's clock, so certificates that must be valid need the real time.
#[allow(clippy::disallowed_methods, reason = "a certificate that must be valid during the handshake needs the real time")]
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn authority() -> CertificateAuthority {
    CertificateAuthority::generate("Test Root", now(), 1).unwrap()
}

fn roots(authority: &CertificateAuthority) -> RootsConfig {
    RootsConfig::Ders(vec![authority.certificate_der().to_vec()])
}

fn server(authority: &CertificateAuthority) -> Arc<ServerConfig> {
    server_config_from_issued(&authority.issue_server(&["localhost", "127.0.0.1"], now(), 1).unwrap(), ALPN_HTTP).unwrap()
}

/// Runs a handshake in memory and returns both ends, or the first error of either.
fn handshake(client: ClientConfig, server: Arc<ServerConfig>) -> Result<(ClientConnection, ServerConnection), rustls::Error> {
    let mut client = ClientConnection::new(Arc::new(client), "localhost".try_into().unwrap())?;
    let mut server = ServerConnection::new(server)?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    Ok((client, server))
}

#[test]
fn the_hybrid_group_is_offered_first_and_chosen() {
    assert_eq!(provider().kx_groups.first().unwrap().name(), NamedGroup::X25519MLKEM768);
    let authority = authority();
    let (client, _) = handshake(client_config(&roots(&authority), false).unwrap(), server(&authority)).unwrap();
    assert_eq!(client.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
    assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
}

#[test]
fn a_client_that_stops_at_tls_1_2_is_refused() {
    let authority = authority();
    let mut store = rustls::RootCertStore::empty();
    store.add(authority.certificate_der().to_vec().into()).unwrap();
    let old = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(store)
        .with_no_client_auth();
    let error = handshake(old, server(&authority)).unwrap_err();
    assert!(matches!(error, rustls::Error::PeerIncompatible(_) | rustls::Error::AlertReceived(_)), "{error}");
}

#[test]
fn a_server_of_another_root_is_refused() {
    let error = handshake(client_config(&roots(&authority()), false).unwrap(), server(&authority())).unwrap_err();
    assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{error}");
}

#[test]
fn an_expired_server_certificate_is_refused() {
    let authority = authority();
    let old = authority.issue_server(&["localhost"], now() - 3 * 86_400, 1).unwrap();
    let server = server_config_from_issued(&old, ALPN_HTTP).unwrap();
    let error = handshake(client_config(&roots(&authority), false).unwrap(), server).unwrap_err();
    assert!(error.to_string().contains("expired"), "{error}");
}

#[test]
fn a_client_certificate_is_no_server_certificate() {
    let authority = authority();
    let client = authority.issue_client("localhost", now(), 1).unwrap();
    let server = server_config_from_issued(&client, ALPN_HTTP).unwrap();
    assert!(handshake(client_config(&roots(&authority), false).unwrap(), server).is_err());
}

#[test]
fn an_authority_read_back_from_pem_signs_for_the_same_root() {
    let first = authority();
    let again = CertificateAuthority::from_pem(first.certificate_pem(), first.key_pem()).unwrap();
    assert_eq!(again.certificate_der(), first.certificate_der());
    handshake(client_config(&roots(&first), false).unwrap(), server(&again)).unwrap();
}

#[test]
fn bad_files_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing.pem");
    let error = client_config(&RootsConfig::CaFile(missing.clone()), false).unwrap_err();
    assert!(matches!(&error, TlsError::Read { path, .. } if *path == missing), "{error}");

    let junk = directory.path().join("junk.pem");
    std::fs::write(&junk, "-----BEGIN CERTIFICATE-----\nnot base64!\n-----END CERTIFICATE-----\n").unwrap();
    let error = client_config(&RootsConfig::CaFile(junk.clone()), false).unwrap_err();
    assert!(matches!(error, TlsError::NoCertificate { .. }) && error.to_string().contains("junk.pem"), "{error}");

    let error = client_config(&RootsConfig::Ders(Vec::new()), false).unwrap_err();
    assert!(matches!(error, TlsError::NoCertificate { .. }), "{error}");
    let error = client_config(&RootsConfig::Ders(vec![b"junk".to_vec()]), false).unwrap_err();
    assert!(matches!(error, TlsError::Material { .. }), "{error}");

    let (one, other) = (authority(), authority());
    let a = one.issue_server(&["localhost"], now(), 1).unwrap().write_server(directory.path(), "a").unwrap();
    let b = other.issue_server(&["localhost"], now(), 1).unwrap().write_server(directory.path(), "b").unwrap();
    let mixed = ServerCertificate { certificate_file: a.certificate_file, key_file: b.key_file };
    assert!(matches!(server_config(&mixed, ALPN_HTTP).unwrap_err(), TlsError::Material { .. }));
}

#[test]
fn private_keys_are_written_for_the_owner_only_and_never_printed() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let authority = authority();
    let issued = authority.issue_client("auditor", now(), 1).unwrap();
    let ClientCertificate { certificate_file, key_file } = issued.write_client(directory.path(), "auditor").unwrap();
    assert_eq!(std::fs::metadata(&key_file).unwrap().permissions().mode() & 0o777, 0o600);
    mutual_client_config(&roots(&authority), &ClientCertificate { certificate_file, key_file }, false).unwrap();
    assert!(!format!("{authority:?} {issued:?}").contains("BEGIN"));
}

fn echo() -> Router {
    Router::new().route("/echo", post(|body: String| async move { body }))
}

fn serve_tls(config: Arc<ServerConfig>) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let server = axum_server::from_tcp_rustls(listener, RustlsConfig::from_config(config)).unwrap();
    tokio::spawn(server.serve(echo().into_make_service()));
    address
}

async fn call(mut channel: Channel) -> Result<(http::StatusCode, http::Version), tonic::transport::Error> {
    let request = http::Request::post("/echo").body(tonic::body::Body::new("hello".to_owned())).unwrap();
    let response = channel.ready().await?.call(request).await?;
    Ok((response.status(), response.version()))
}

#[tokio::test]
async fn one_listener_serves_a_grpc_channel_and_an_http_client() {
    let authority = authority();
    let address = serve_tls(server(&authority));
    let url = format!("https://localhost:{}", address.port());

    let channel = grpc_channel(&url, &client_config(&roots(&authority), false).unwrap()).unwrap();
    assert_eq!(call(channel).await.unwrap(), (http::StatusCode::OK, http::Version::HTTP_2));

    let by_address = grpc_channel(&format!("https://{address}"), &client_config(&roots(&authority), false).unwrap()).unwrap();
    assert_eq!(call(by_address).await.unwrap().0, http::StatusCode::OK);

    let http = reqwest::Client::builder().tls_backend_preconfigured(http_client_config(&roots(&authority)).unwrap()).build().unwrap();
    let text = http.post(format!("{url}/echo")).body("hello").send().await.unwrap().text().await.unwrap();
    assert_eq!(text, "hello");
}

#[tokio::test]
async fn a_channel_refuses_a_server_of_another_root() {
    let address = serve_tls(server(&authority()));
    let channel = grpc_channel(&format!("https://{address}"), &client_config(&roots(&authority()), false).unwrap()).unwrap();
    assert!(call(channel).await.is_err());
}

#[tokio::test]
async fn a_channel_address_must_be_https() {
    let config = client_config(&roots(&authority()), false).unwrap();
    for url in ["http://localhost:1", "localhost:1", "https://", "unix:/tmp/x", ""] {
        assert!(matches!(grpc_channel(url, &config), Err(TlsError::Url { .. })), "{url}");
    }
}

#[tokio::test]
async fn a_unix_socket_carries_grpc() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("attester.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move { axum::serve(listener, echo()).await });
    assert_eq!(call(grpc_unix_channel(&path)).await.unwrap(), (http::StatusCode::OK, http::Version::HTTP_2));
}
