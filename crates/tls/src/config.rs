//! rustls configurations for clients and servers.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, ConfigBuilder, RootCertStore, ServerConfig, SupportedProtocolVersion, WantsVerifier,
    client::WantsClientCert,
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::{IssuedCertificate, TlsError, provider};

/// What a gRPC listener or client offers: HTTP/2 only.
pub const ALPN_GRPC: &[&str] = &["h2"];
/// What a listener for REST and gRPC offers, and what an HTTP client asks for.
pub const ALPN_HTTP: &[&str] = &["h2", "http/1.1"];

const TLS13_ONLY: &[&SupportedProtocolVersion] = &[&TLS13];
const TLS13_THEN_12: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

/// Whom a client trusts: these roots and no others.
#[derive(Clone, Debug)]
pub enum RootsConfig {
    /// Every certificate of a PEM file.
    CaFile(PathBuf),
    /// Certificates in DER.
    Ders(Vec<Vec<u8>>),
}

impl RootsConfig {
    fn store(&self) -> Result<RootCertStore, TlsError> {
        let certificates = match self {
            Self::CaFile(path) => read_certificates(path)?,
            Self::Ders(ders) => ders.iter().map(|der| CertificateDer::from(der.clone())).collect(),
        };
        if certificates.is_empty() {
            return Err(TlsError::NoCertificate { origin: "the list of roots".to_owned() });
        }
        let mut store = RootCertStore::empty();
        for certificate in certificates {
            store.add(certificate).map_err(|source| TlsError::Material { what: "a root certificate", source })?;
        }
        Ok(store)
    }
}

/// The certificate chain and key of a listener, as files.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerCertificate {
    /// PEM, the server's own certificate first.
    pub certificate_file: PathBuf,
    /// PEM, the private key of the first certificate. Keep it at mode 0600.
    pub key_file: PathBuf,
}

/// The certificate chain and key with which a client shows who it is, as files.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientCertificate {
    /// PEM, the client's own certificate first.
    pub certificate_file: PathBuf,
    /// PEM, the private key of the first certificate. Keep it at mode 0600.
    pub key_file: PathBuf,
}

/// A client that trusts `roots` and shows no certificate. TLS 1.2 only on request (`tls12`): some key management
/// servers have nothing newer. No ALPN is set; [`crate::grpc_channel`] and [`http_client_config`] set theirs.
pub fn client_config(roots: &RootsConfig, tls12: bool) -> Result<ClientConfig, TlsError> {
    Ok(client_builder(roots, tls12)?.with_no_client_auth())
}

/// A client that trusts `roots` and shows `certificate` when asked.
pub fn mutual_client_config(roots: &RootsConfig, certificate: &ClientCertificate, tls12: bool) -> Result<ClientConfig, TlsError> {
    let (chain, key) = read_pair(&certificate.certificate_file, &certificate.key_file)?;
    client_builder(roots, tls12)?
        .with_client_auth_cert(chain, key)
        .map_err(|source| TlsError::Material { what: "the client's certificate or key", source })
}

/// A TLS 1.3 client for HTTP libraries that take a ready configuration (`reqwest::ClientBuilder::tls_backend_preconfigured`).
pub fn http_client_config(roots: &RootsConfig) -> Result<ClientConfig, TlsError> {
    let mut config = client_config(roots, false)?;
    config.alpn_protocols = alpn_protocols(ALPN_HTTP);
    Ok(config)
}

/// A TLS 1.3 server with the certificate of `files`; `alpn` is [`ALPN_GRPC`] or [`ALPN_HTTP`].
pub fn server_config(files: &ServerCertificate, alpn: &[&str]) -> Result<Arc<ServerConfig>, TlsError> {
    let (chain, key) = read_pair(&files.certificate_file, &files.key_file)?;
    server_from_parts(chain, key, alpn)
}

/// A TLS 1.3 server with a certificate that is still in memory.
pub fn server_config_from_issued(issued: &IssuedCertificate, alpn: &[&str]) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = parse_certificates(issued.certificate_pem().as_bytes(), "the issued certificate")?;
    let key = parse_key(issued.key_pem().as_bytes(), "the issued key")?;
    server_from_parts(chain, key, alpn)
}

/// Every certificate of a PEM file, in its order; at least one.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })?;
    parse_certificates(&pem, &path.display().to_string())
}

pub(crate) fn alpn_protocols(names: &[&str]) -> Vec<Vec<u8>> {
    names.iter().map(|name| name.as_bytes().to_vec()).collect()
}

fn client_builder(roots: &RootsConfig, tls12: bool) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, TlsError> {
    let versions = if tls12 { TLS13_THEN_12 } else { TLS13_ONLY };
    Ok(verifier_stage(ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions))?
        .with_root_certificates(roots.store()?))
}

fn server_from_parts(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    alpn: &[&str],
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = verifier_stage(ServerConfig::builder_with_provider(provider()).with_protocol_versions(TLS13_ONLY))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|source| TlsError::Material { what: "the server's certificate or key", source })?;
    config.alpn_protocols = alpn_protocols(alpn);
    config.max_early_data_size = 0; // early data can be replayed
    Ok(Arc::new(config))
}

fn verifier_stage<Side: rustls::ConfigSide>(
    built: Result<ConfigBuilder<Side, WantsVerifier>, rustls::Error>,
) -> Result<ConfigBuilder<Side, WantsVerifier>, TlsError> {
    built.map_err(|source| TlsError::Material { what: "the choice of protocol versions", source })
}

fn read_pair(certificate: &Path, key: &Path) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let chain = read_certificates(certificate)?;
    let pem = Zeroizing::new(fs::read(key).map_err(|source| TlsError::Read { path: key.to_owned(), source })?);
    Ok((chain, parse_key(&pem, &key.display().to_string())?))
}

fn parse_certificates(pem: &[u8], origin: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    match CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>() {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(TlsError::NoCertificate { origin: origin.to_owned() }),
    }
}

fn parse_key(pem: &[u8], origin: &str) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| TlsError::NoKey { origin: origin.to_owned() })
}
