//! Connections to a KMIP server: TCP, then mutual TLS by one of two libraries.

use std::{io, path::Path, pin::Pin, sync::Arc, time::Duration};

use keyferry_kmip::{HEADER_BYTES, frame_length};
use keyferry_tls::{ClientCertificate, RootsConfig, mutual_client_config};
use openssl::ssl::{SslConnector, SslFiletype, SslMethod, SslVerifyMode, SslVersion};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_openssl::SslStream;
use zeroize::Zeroizing;

use crate::{KmipConfig, KmipTimeouts, KmsError, Stage, TlsLibrary};

/// TLS 1.2 suites for OpenSSL, best first: AEAD with forward secrecy, CBC with forward secrecy, and last what an unmodified
/// sample server of Intel's offers (CBC with RSA key exchange). Named, because hardened distributions drop the last ones
/// from their default list. TLS 1.3 suites are OpenSSL's own.
const CIPHER_LIST: &str = "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:\
    ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:\
    ECDHE-ECDSA-AES256-SHA384:ECDHE-RSA-AES256-SHA384:ECDHE-RSA-AES128-SHA256:\
    AES256-SHA256:AES128-SHA256";

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// How a session begins: with our certificate, by one of two libraries.
pub(crate) enum Tls {
    Rustls { connector: tokio_rustls::TlsConnector, name: ServerName<'static> },
    OpenSsl { connector: SslConnector, host: String },
}

impl Tls {
    /// Reads roots, certificate and private key.
    pub(crate) fn new(config: &KmipConfig) -> Result<Self, KmsError> {
        let host = host(&config.address)?;
        let host = config.server_name.clone().unwrap_or(host);
        match config.tls {
            TlsLibrary::Rustls if config.cipher_list.is_some() => {
                Err(configuration("cipher_list", "only `tls = \"openssl\"` takes a cipher list"))
            }
            TlsLibrary::Rustls => rustls_connector(config, &host),
            TlsLibrary::OpenSsl => Ok(Self::OpenSsl { connector: openssl_connector(config)?, host }),
        }
    }

    /// A new connection to `address`.
    pub(crate) async fn connect(&self, address: &str, timeouts: &KmipTimeouts) -> Result<Connection, KmsError> {
        let tcp = timeout(timeouts.connect, TcpStream::connect(address)).await;
        let tcp = tcp.map_err(|_| KmsError::Timeout(Stage::Connect))?.map_err(|error| KmsError::Unreachable(error.kind()))?;
        let _ = tcp.set_nodelay(true); // a hint; without it requests are only slower
        let handshake = timeout(timeouts.handshake, self.handshake(tcp)).await;
        handshake.map_err(|_| KmsError::Timeout(Stage::Handshake))?
    }

    async fn handshake(&self, tcp: TcpStream) -> Result<Connection, KmsError> {
        match self {
            Self::Rustls { connector, name } => {
                let stream = connector.connect(name.clone(), tcp).await.map_err(|error| io_error(&error))?;
                let (_, session) = stream.get_ref();
                let suite = session.negotiated_cipher_suite().map(|suite| suite.suite());
                tracing::info!(?suite, version = ?session.protocol_version(), "connected to the KMIP server (rustls)");
                Ok(Connection { stream: Box::new(stream) })
            }
            Self::OpenSsl { connector, host } => {
                let ssl = connector.configure().and_then(|configured| configured.into_ssl(host));
                let stream = ssl.and_then(|ssl| SslStream::new(ssl, tcp));
                let mut stream = stream.map_err(|_| KmsError::Tls("OpenSSL could not start a session"))?;
                Pin::new(&mut stream).connect().await.map_err(|error| openssl_error(&stream, &error))?;
                let suite = stream.ssl().current_cipher().map(openssl::ssl::SslCipherRef::name);
                tracing::info!(suite, version = stream.ssl().version_str(), "connected to the KMIP server (OpenSSL)");
                Ok(Connection { stream: Box::new(stream) })
            }
        }
    }
}

fn host(address: &str) -> Result<String, KmsError> {
    match address.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
            Ok(host.trim_start_matches('[').trim_end_matches(']').to_owned())
        }
        _ => Err(configuration("address", "expected host:port")),
    }
}

pub(crate) fn configuration(field: &'static str, what: impl Into<String>) -> KmsError {
    KmsError::Configuration { field, what: what.into() }
}

fn rustls_connector(config: &KmipConfig, host: &str) -> Result<Tls, KmsError> {
    let certificate = ClientCertificate { certificate_file: config.certificate_file.clone(), key_file: config.key_file.clone() };
    let roots = RootsConfig::CaFile(config.ca_file.clone());
    let client = mutual_client_config(&roots, &certificate, true).map_err(|error| configuration("kmip", error.to_string()))?;
    let name =
        ServerName::try_from(host.to_owned()).map_err(|_| configuration("address", "the host is neither a DNS name nor an IP address"))?;
    Ok(Tls::Rustls { connector: tokio_rustls::TlsConnector::from(Arc::new(client)), name })
}

fn openssl_connector(config: &KmipConfig) -> Result<SslConnector, KmsError> {
    let unusable = |field: &'static str, path: &Path| configuration(field, format!("{}: OpenSSL cannot use this file", path.display()));
    let library = |_| configuration("tls", "OpenSSL could not be set up");
    let mut builder = SslConnector::builder(SslMethod::tls_client()).map_err(library)?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_2)).map_err(library)?;
    let ciphers = config.cipher_list.as_deref().unwrap_or(CIPHER_LIST);
    builder.set_cipher_list(ciphers).map_err(|_| configuration("cipher_list", "OpenSSL knows none of these suites"))?;
    // A fresh store: the builder's own trusts the system's roots.
    let store = openssl::x509::store::X509StoreBuilder::new().map_err(library)?.build();
    builder.set_cert_store(store);
    builder.set_ca_file(&config.ca_file).map_err(|_| unusable("ca_file", &config.ca_file))?;
    let certificate = &config.certificate_file;
    builder.set_certificate_chain_file(certificate).map_err(|_| unusable("certificate_file", certificate))?;
    builder.set_private_key_file(&config.key_file, SslFiletype::PEM).map_err(|_| unusable("key_file", &config.key_file))?;
    builder.check_private_key().map_err(|_| configuration("key_file", "the private key does not belong to the certificate"))?;
    builder.set_verify(SslVerifyMode::PEER);
    Ok(builder.build())
}

/// The peer's own words (an alert's text, a certificate's names) stay behind.
fn openssl_error(stream: &SslStream<TcpStream>, error: &openssl::ssl::Error) -> KmsError {
    if stream.ssl().verify_result() != openssl::x509::X509VerifyResult::OK {
        return KmsError::Tls(SERVER_NOT_TRUSTED);
    }
    match error.io_error() {
        Some(error) => KmsError::Unreachable(error.kind()),
        None if error.ssl_error().is_none() => KmsError::Unreachable(io::ErrorKind::UnexpectedEof),
        None => KmsError::Tls(HANDSHAKE_REFUSED),
    }
}

const SERVER_NOT_TRUSTED: &str =
    "the server's certificate is expired, for another host or not from ca_file: check address, ca_file and the certificate";
const HANDSHAKE_REFUSED: &str = "the server refused the handshake: it may not trust our certificate, or share no cipher suite with us \
    (a server with an RSA certificate may need tls = \"openssl\")";

fn io_error(error: &io::Error) -> KmsError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(_)) => KmsError::Tls(SERVER_NOT_TRUSTED),
        Some(_) => KmsError::Tls(HANDSHAKE_REFUSED),
        None => KmsError::Unreachable(error.kind()),
    }
}

/// An open connection. One request at a time; whoever gets an error must drop it.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
}

impl Connection {
    /// Sends a frame and reads the answer within `limit`. Dropping the future half way leaves the stream out of step: drop
    /// it too.
    pub(crate) async fn exchange(&mut self, frame: &[u8], limit: Duration) -> Result<Zeroizing<Vec<u8>>, KmsError> {
        let answer = timeout(limit, self.send_and_receive(frame)).await;
        answer.map_err(|_| KmsError::Timeout(Stage::Request))?
    }

    async fn send_and_receive(&mut self, frame: &[u8]) -> Result<Zeroizing<Vec<u8>>, KmsError> {
        self.stream.write_all(frame).await.map_err(|error| io_error(&error))?;
        self.stream.flush().await.map_err(|error| io_error(&error))?;
        let mut header = [0; HEADER_BYTES];
        self.stream.read_exact(&mut header).await.map_err(|error| io_error(&error))?;
        let mut answer = Zeroizing::new(vec![0; HEADER_BYTES + frame_length(header)?]);
        let (start, rest) = answer.split_at_mut(HEADER_BYTES);
        start.copy_from_slice(&header);
        self.stream.read_exact(rest).await.map_err(|error| io_error(&error))?;
        Ok(answer)
    }
}
