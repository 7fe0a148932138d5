//! gRPC channels: over TLS 1.3 to a pinned peer, and over a Unix socket within one machine.
//!
//! tonic's own TLS has no setter for protocol versions and takes the process default provider, so the connector is ours.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};

use crate::{ALPN_GRPC, TlsError, config::alpn_protocols};

/// How long one attempt to connect may take, handshake included. A peer in the same site answers in milliseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// An idle connection is probed this often, so that a peer that vanished is noticed before the next call.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
const PORT_DEFAULT: u16 = 443;

/// A channel to `https://host:port` over TLS 1.3 and HTTP/2. It connects at the first call and again after a loss, so the
/// order in which services start does not matter: until the peer is there, calls fail with `UNAVAILABLE`.
/// Must be called inside a Tokio runtime.
pub fn grpc_channel(url: &str, config: &ClientConfig) -> Result<Channel, TlsError> {
    let bad_url = || TlsError::Url { url: url.to_owned() };
    let uri: Uri = url.parse().map_err(|_| bad_url())?;
    let (Some("https"), Some(host)) = (uri.scheme_str(), uri.host()) else { return Err(bad_url()) };
    let host = host.trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(PORT_DEFAULT);
    let server_name = ServerName::try_from(host.clone()).map_err(|_| bad_url())?;

    let mut config = config.clone();
    config.alpn_protocols = alpn_protocols(ALPN_GRPC);
    let connector = TlsConnector::from(Arc::new(config));
    // The transport address is plain http because this build of tonic has no TLS; the origin the peer sees is https.
    let authority = uri.authority().ok_or_else(bad_url)?;
    let transport = Endpoint::from_shared(format!("http://{authority}")).map_err(|_| bad_url())?;
    let connect = move |_: Uri| dial(connector.clone(), host.clone(), port, server_name.clone());
    Ok(tuned(transport).origin(uri).connect_with_connector_lazy(tower::service_fn(connect)))
}

/// A channel to a gRPC server on the Unix socket at `path`. Connects at the first call, as [`grpc_channel`] does.
/// Must be called inside a Tokio runtime.
pub fn grpc_unix_channel(path: &Path) -> Channel {
    let path = path.to_owned();
    let connect = move |_: Uri| dial_unix(path.clone());
    // The authority is never resolved; RFC 9110 wants one, and `localhost` is what the peer is.
    tuned(Endpoint::from_static("http://localhost")).connect_with_connector_lazy(tower::service_fn(connect))
}

fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
}

async fn dial(connector: TlsConnector, host: String, port: u16, name: ServerName<'static>) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
    let tcp = TcpStream::connect((host, port)).await?;
    tcp.set_nodelay(true)?;
    let tls = connector.connect(name, tcp).await?;
    match tls.get_ref().1.alpn_protocol() {
        Some(b"h2") => Ok(TokioIo::new(tls)),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "the peer does not speak HTTP/2 (ALPN h2)")),
    }
}

async fn dial_unix(path: PathBuf) -> io::Result<TokioIo<UnixStream>> {
    Ok(TokioIo::new(UnixStream::connect(path).await?))
}
