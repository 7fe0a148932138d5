//! One connection to the bus: TLS 1.3 from the first byte, credentials read anew at every reconnect, an inbox of its own.

use std::{
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::{Auth, AuthError, Client, ConnectErrorKind, ConnectOptions, Event, ServerError, jetstream};
use serde::Deserialize;
use tokio::sync::{broadcast, watch};

use crate::{Credentials, CredentialsError, permissions};

/// One attempt to connect, TLS handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a publish waits for its acknowledgement, and a request to JetStream for its answer, before it is repeated.
pub(crate) const ACK_TIMEOUT: Duration = Duration::from_secs(2);
/// Messages of one subscription that wait to be looked at. What comes above that is dropped, and read back by those who
/// wait for it; the client's own 65,536 of the largest messages would be 6 GB, at the pleasure of whoever runs the bus.
const SUBSCRIPTION_CAPACITY: usize = 1024;
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// Reconnects are spread up to this long, so that a fleet does not come back in step.
const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(4);
/// Violations are few; whoever is too slow to read them all loses only the diagnosis.
const VIOLATIONS_KEPT: usize = 64;

/// Where the bus is and who we are on it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BusConfig {
    /// `nats://host:port`, or several of one cluster with commas between them. TLS is not optional, whatever the scheme.
    pub url: String,
    /// The root that signed the server's certificate, PEM.
    pub ca_file: PathBuf,
    /// Our credentials file. Read again at every reconnect: renew it by replacing the file.
    pub credentials_file: PathBuf,
    /// How long a start waits for the bus, in seconds.
    #[serde(default = "default_connect_seconds")]
    pub connect_seconds: u64,
}

const fn default_connect_seconds() -> u64 {
    30
}

impl BusConfig {
    /// With the default waiting time.
    pub fn new(url: impl Into<String>, ca_file: impl Into<PathBuf>, credentials_file: impl Into<PathBuf>) -> Self {
        Self {
            url: url.into(),
            ca_file: ca_file.into(),
            credentials_file: credentials_file.into(),
            connect_seconds: default_connect_seconds(),
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The credentials cannot be used.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The address is no address.
    #[error("bus.url: {url:?} is no server address: write nats://host:port")]
    Url {
        /// What was configured.
        url: String,
    },
    /// The root cannot be read.
    #[error("bus.ca_file: {0}")]
    Ca(keyferry_tls::TlsError),
    /// The server refused the credentials.
    #[error("the bus at {url} refuses the credentials in {credentials}: expired, revoked, or of another operator; enrol again")]
    Refused {
        /// Where.
        url: String,
        /// Which file.
        credentials: String,
    },
    /// The TLS handshake failed.
    #[error(
        "the bus at {url} cannot be trusted or does not speak TLS 1.3 first ({detail}): check bus.ca_file and the server's certificate"
    )]
    Tls {
        /// Where.
        url: String,
        /// What the handshake said.
        detail: String,
    },
    /// Nobody answered in time.
    #[error("the bus at {url} did not answer within {seconds} s ({detail}): check that nats-server runs there")]
    Unreachable {
        /// Where.
        url: String,
        /// How long we tried.
        seconds: u64,
        /// The last failure.
        detail: String,
    },
}

/// A connection. Cheap to clone; all clones share it.
#[derive(Clone)]
pub struct Bus {
    pub(crate) client: Client,
    pub(crate) jetstream: jetstream::Context,
    pub(crate) service: &'static str,
    pub(crate) violations: broadcast::Sender<String>,
    identity: Arc<str>,
    connects: watch::Receiver<u64>,
}

impl Bus {
    /// Connects, retrying until `connect_seconds` are over; refused credentials and failed handshakes end it at once.
    /// `service` names us in the server's monitoring, in audit and dead letters.
    pub async fn connect(config: &BusConfig, service: &'static str) -> Result<Self, ConnectError> {
        keyferry_tls::install_provider();
        let credentials = Credentials::read(&config.credentials_file)?;
        let identity: Arc<str> = credentials.public_key().into();
        keyferry_tls::read_certificates(&config.ca_file).map_err(ConnectError::Ca)?;
        let (violations, _) = broadcast::channel(VIOLATIONS_KEPT);
        let (connected, connects) = watch::channel(0);
        let observer = Observer { service, connected: Arc::new(connected), violations: violations.clone() };
        let client = connect_until(config, || options(config, service, &identity, observer.clone())).await?;
        let jetstream = jetstream::context::ContextBuilder::new().timeout(ACK_TIMEOUT).build(client.clone());
        Ok(Self { client, jetstream, service, violations, identity, connects })
    }

    /// Our public nkey: for a TD its td_id.
    pub fn identity(&self) -> &str {
        &self.identity
    }
    /// The name given to [`Self::connect`].
    pub fn service(&self) -> &'static str {
        self.service
    }
    /// Counts connects. After each change, read back what may have been missed: a core subscription does not replay.
    pub fn connects(&self) -> watch::Receiver<u64> {
        self.connects.clone()
    }
    /// Whether the connection is up now.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }
    /// The client underneath, for what this crate does not wrap: provisioning and tools.
    pub fn client(&self) -> &Client {
        &self.client
    }
    /// JetStream underneath, for what this crate does not wrap: provisioning and tools.
    pub fn jetstream(&self) -> &jetstream::Context {
        &self.jetstream
    }
    /// Sends what is still queued and closes; subscriptions end.
    pub async fn drain(&self) {
        if let Err(error) = self.client.drain().await {
            tracing::debug!(%error, "the connection to the bus was already closed");
        }
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bus({} as {})", self.service, self.identity)
    }
}

fn options(config: &BusConfig, service: &str, identity: &str, observer: Observer) -> ConnectOptions {
    let credentials_file = config.credentials_file.clone();
    ConnectOptions::with_auth_callback(move |nonce| authenticate(credentials_file.clone(), nonce))
        .name(service)
        .add_root_certificates(config.ca_file.clone())
        .require_tls(true)
        .tls_first()
        .custom_inbox_prefix(permissions::inbox_prefix(identity))
        .connection_timeout(CONNECT_TIMEOUT)
        .ping_interval(PING_INTERVAL)
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .reconnect_delay_callback(reconnect_delay)
        .event_callback(move |event| {
            let observer = observer.clone();
            async move { observer.observe(&event) }
        })
}

/// Called at every connect and reconnect: whoever replaced the file meanwhile is obeyed.
async fn authenticate(credentials_file: PathBuf, nonce: Vec<u8>) -> Result<Auth, AuthError> {
    let read = tokio::task::spawn_blocking(move || Credentials::read(&credentials_file)).await;
    let credentials = read.map_err(AuthError::new)?.map_err(AuthError::new)?;
    let mut auth = Auth::new();
    auth.signature = credentials.sign(&nonce);
    auth.jwt = Some(credentials.jwt().to_owned());
    Ok(auth)
}

/// Exponential, and anywhere in the upper half: a random part that needs no clock, from a fresh UUID.
fn reconnect_delay(attempts: usize) -> Duration {
    let exponent = u32::try_from(attempts.min(10)).unwrap_or(10);
    jittered(Duration::from_millis(4).saturating_mul(1 << exponent).min(RECONNECT_DELAY_MAX))
}

/// Between half of `delay` and all of it.
pub(crate) fn jittered(delay: Duration) -> Duration {
    let random = f64::from(uuid::Uuid::new_v4().as_fields().0) / f64::from(u32::MAX);
    delay.mul_f64(random.mul_add(0.5, 0.5))
}

async fn connect_until(config: &BusConfig, options: impl Fn() -> ConnectOptions) -> Result<Client, ConnectError> {
    let servers: Vec<String> = config.url.split(',').map(|url| url.trim().to_owned()).collect();
    let limit = Duration::from_secs(config.connect_seconds);
    let started = Instant::now();
    let mut attempts = 0;
    loop {
        let error = match options().connect(&servers[..]).await {
            Ok(client) => return Ok(client),
            Err(error) => error,
        };
        let (url, detail) = (config.url.clone(), error.to_string());
        match error.kind() {
            ConnectErrorKind::ServerParse => return Err(ConnectError::Url { url }),
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                return Err(ConnectError::Refused { url, credentials: config.credentials_file.display().to_string() });
            }
            ConnectErrorKind::Tls => return Err(ConnectError::Tls { url, detail }),
            ConnectErrorKind::Io if is_handshake_failure(&error) => return Err(ConnectError::Tls { url, detail }),
            _ if started.elapsed() >= limit => {
                return Err(ConnectError::Unreachable { url, seconds: config.connect_seconds, detail });
            }
            _ => tokio::time::sleep(jittered(Duration::from_millis(500)).min(limit)).await,
        }
        attempts += 1;
        tracing::debug!(attempts, "the bus is not there yet");
    }
}

/// A certificate that is not trusted arrives as an I/O error with rustls's verdict inside; waiting does not mend it.
fn is_handshake_failure(error: &async_nats::ConnectError) -> bool {
    let io = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    io.and_then(std::io::Error::get_ref).is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>)
}

/// What the connection tells about itself.
#[derive(Clone)]
struct Observer {
    service: &'static str,
    connected: Arc<watch::Sender<u64>>,
    violations: broadcast::Sender<String>,
}

impl Observer {
    fn observe(&self, event: &Event) {
        match event {
            Event::Connected => {
                self.connected.send_modify(|count| *count += 1);
                tracing::info!(service = self.service, "connected to the bus");
            }
            Event::ServerError(ServerError::Other(text)) if text.to_lowercase().contains("permissions violation") => {
                tracing::error!(service = self.service, violation = text, "the bus forbids this: the permissions do not fit the code");
                let _nobody_waits = self.violations.send(text.clone());
            }
            Event::ServerError(_) | Event::ClientError(_) | Event::SlowConsumer(_) => {
                tracing::warn!(service = self.service, %event, "the connection to the bus reports a problem");
            }
            Event::Disconnected => tracing::warn!(service = self.service, "lost the connection to the bus; reconnecting"),
            Event::LameDuckMode | Event::Draining | Event::Closed => tracing::info!(service = self.service, %event, "bus connection"),
        }
    }
}
