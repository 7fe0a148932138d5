//! A real OpenBao server, which speaks Vault's API, for a test or a demo: set up as in production (configuration file,
//! storage on disk, TLS, initialised, sealed and unsealed), on its own ports and in its own directory.
//!
//! What an operator does in it (engines, policies, logins) is in [`administration`](self), with the root token that only
//! this handle has.

mod administration;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use keyferry_tls::{CertificateAuthority, ClientCertificate, RootsConfig, http_client_config};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

pub use self::administration::AppRole;
use crate::{StartFailure, nats::now, private_directory, tools, write_private};

/// From start to the first answer. One or two seconds are usual; a loaded laptop needs more.
const READY_SECONDS_MAX: u64 = 60;
/// Another process may take a port between our look and the server's bind.
const PORT_TRIES: usize = 5;
const CERTIFICATE_DAYS: u32 = 30;

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub struct OpenBao {
    directory: PathBuf,
    program: PathBuf,
    ports: Ports,
    authority: CertificateAuthority,
    http: Client,
    keys: Keys,
    child: Option<Child>,
    // Last: removed after the server is gone.
    temporary: Option<TempDir>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Ports {
    api: u16,
    cluster: u16,
}

/// What `init` gave.
#[derive(Default)]
struct Keys {
    unseal: String,
    root_token: String,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(redacted)")
    }
}

impl OpenBao {
    /// Starts one in a directory of its own, removed with it. It is unsealed, and empty.
    pub async fn start() -> Result<Self, StartFailure> {
        let temporary = tempfile::tempdir()
            .map_err(|error| StartFailure::new(format!("cannot make a temporary directory: {error}"), "check TMPDIR and the disk"))?;
        let mut server = Self::start_in(temporary.path()).await?;
        server.temporary = Some(temporary);
        Ok(server)
    }

    /// Starts one in `directory`, which stays.
    pub async fn start_in(directory: &Path) -> Result<Self, StartFailure> {
        let program = tools::bao().await?;
        private_directory(directory)?;
        private_directory(&directory.join("storage"))?;
        let authority = certificates(directory)?;
        let http = client(&authority)?;
        let directory = directory.to_owned();
        let (ports, keys) = (Ports::default(), Keys::default());
        let mut server = Self { directory, program, ports, authority, http, keys, child: None, temporary: None };
        server.launch_on_free_ports().await?;
        server.initialise().await?;
        server.unseal().await?;
        Ok(server)
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports.api).into()
    }
    /// `https://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("https://{}", self.address())
    }
    /// The root that the server's certificate chains to.
    pub fn ca_file(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }
    /// Its directory: a place for secrets of a test.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
    /// Its process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }
    /// What the server logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("server.log")).unwrap_or_default()
    }
    /// The token that may do everything.
    pub fn root_token(&self) -> &str {
        &self.keys.root_token
    }

    /// A client certificate under the server's root, for `auth/cert`.
    pub fn issue_client(&self, common_name: &str) -> Result<ClientCertificate, StartFailure> {
        let issued = self.authority.issue_client(common_name, now(), CERTIFICATE_DAYS);
        issued.and_then(|issued| issued.write_client(&self.directory, common_name)).map_err(|error| certificate_failure(&error))
    }

    /// A server certificate under the same root, for a test's own stand-in.
    pub fn issue_server(&self, names: &[&str]) -> Result<keyferry_tls::IssuedCertificate, StartFailure> {
        self.authority.issue_server(names, now(), CERTIFICATE_DAYS).map_err(|error| certificate_failure(&error))
    }

    /// Kills it at once, as a power cut would.
    pub async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill().await;
        }
    }

    /// Starts it again after [`Self::kill`], on the same port with the same storage. It is sealed: [`Self::unseal`].
    pub async fn restart(&mut self) -> Result<(), StartFailure> {
        self.kill().await;
        self.launch().await
    }

    /// Seals it: it answers nothing but its health.
    pub async fn seal(&self) -> Result<(), StartFailure> {
        self.call(Method::PUT, "sys/seal", None).await.map(drop)
    }

    /// Unseals it and waits until it serves.
    pub async fn unseal(&self) -> Result<(), StartFailure> {
        self.call(Method::PUT, "sys/unseal", Some(json!({ "key": self.keys.unseal }))).await?;
        self.wait_for_health(200).await
    }

    async fn initialise(&mut self) -> Result<(), StartFailure> {
        let made = self.call(Method::PUT, "sys/init", Some(json!({ "secret_shares": 1, "secret_threshold": 1 }))).await?;
        let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| self.unexpected("its keys"));
        let keys = Keys { unseal: text(&made["keys_base64"][0])?, root_token: text(&made["root_token"])? };
        write_private(&self.directory.join("root-token"), &keys.root_token)?;
        self.keys = keys;
        Ok(())
    }

    async fn launch_on_free_ports(&mut self) -> Result<(), StartFailure> {
        let mut result = Ok(());
        for _ in 0..PORT_TRIES {
            self.ports = free_ports()?;
            result = self.launch().await;
            if result.is_ok() || !self.log().contains("address already in use") {
                break;
            }
            let _ = fs::remove_file(self.directory.join("server.log"));
        }
        result
    }

    async fn launch(&mut self) -> Result<(), StartFailure> {
        let io =
            |error: std::io::Error| StartFailure::new(format!("OpenBao cannot be started: {error}"), "delete target/tools and try again");
        let settings = self.directory.join("server.hcl");
        write_private(&settings, self.hcl())?;
        let log = fs::OpenOptions::new().create(true).append(true).open(self.directory.join("server.log")).map_err(io)?;
        let mut command = Command::new(&self.program);
        command.arg("server").arg("-config").arg(settings);
        // It wants a home it can write to; ours keeps it away from a person's token helper.
        command.env("HOME", &self.directory).stdin(Stdio::null()).stdout(log.try_clone().map_err(io)?).stderr(log);
        command.process_group(0).kill_on_drop(true);
        self.child = Some(command.spawn().map_err(io)?);
        let ready = self.wait_until_it_answers().await;
        if ready.is_err() {
            self.kill().await;
        }
        ready
    }

    fn hcl(&self) -> String {
        let path = |name: &str| self.directory.join(name).display().to_string();
        let Ports { api, cluster } = self.ports;
        format!(
            r#"
            storage "raft" {{
              path    = "{storage}"
              node_id = "keyferry"
              # It is alone: no need to wait long for others to vote.
              performance_multiplier = 1
            }}
            listener "tcp" {{
              address            = "127.0.0.1:{api}"
              cluster_address    = "127.0.0.1:{cluster}"
              tls_cert_file      = "{certificate}"
              tls_key_file       = "{key}"
              tls_client_ca_file = "{ca}"
            }}
            api_addr     = "https://127.0.0.1:{api}"
            cluster_addr = "https://127.0.0.1:{cluster}"
            log_level    = "warn"
            "#,
            storage = path("storage"),
            certificate = path("server.pem"),
            key = path("server.key"),
            ca = path("ca.pem"),
        )
    }

    /// Any status is an answer: a new server is not initialised, a restarted one is sealed.
    async fn wait_until_it_answers(&mut self) -> Result<(), StartFailure> {
        let (url, http) = (format!("{}/v1/sys/health", self.url()), self.http.clone());
        let answers = async {
            while http.get(&url).send().await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let hint = format!("its log is {}", self.directory.join("server.log").display());
        let Some(child) = self.child.as_mut() else { return Err(StartFailure::new("OpenBao was not started", hint)) };
        tokio::select! {
            () = answers => Ok(()),
            _ = child.wait() => Err(StartFailure::new("OpenBao ended before it answered", hint)),
            () = tokio::time::sleep(Duration::from_secs(READY_SECONDS_MAX)) => {
                Err(StartFailure::new(format!("OpenBao did not answer within {READY_SECONDS_MAX} s"), hint))
            }
        }
    }

    async fn wait_for_health(&self, wanted: u16) -> Result<(), StartFailure> {
        let url = format!("{}/v1/sys/health", self.url());
        let healthy = async {
            while self.http.get(&url).send().await.map_or(0, |answer| answer.status().as_u16()) != wanted {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let late = |_| StartFailure::new("OpenBao did not become healthy", format!("its log is in {}", self.directory.display()));
        tokio::time::timeout(Duration::from_secs(READY_SECONDS_MAX), healthy).await.map_err(late)
    }

    fn unexpected(&self, what: &str) -> StartFailure {
        StartFailure::new(format!("OpenBao did not give {what}"), format!("its log is in {}", self.directory.display()))
    }
}

fn free_ports() -> Result<Ports, StartFailure> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    // Both at once, so that they differ.
    let ports = bind().and_then(|api| Ok((api.local_addr()?.port(), bind()?.local_addr()?.port())));
    ports
        .map(|(api, cluster)| Ports { api, cluster })
        .map_err(|error| StartFailure::new(format!("no free port on 127.0.0.1: {error}"), "close programs that hold many connections"))
}

fn certificates(directory: &Path) -> Result<CertificateAuthority, StartFailure> {
    let authority =
        CertificateAuthority::generate("OpenBao test root", now(), CERTIFICATE_DAYS).map_err(|error| certificate_failure(&error))?;
    authority.write_certificate(&directory.join("ca.pem")).map_err(|error| certificate_failure(&error))?;
    let server = authority.issue_server(&["127.0.0.1", "localhost"], now(), CERTIFICATE_DAYS);
    server.and_then(|server| server.write(directory, "server")).map_err(|error| certificate_failure(&error))?;
    Ok(authority)
}

fn client(authority: &CertificateAuthority) -> Result<Client, StartFailure> {
    let tls = http_client_config(&RootsConfig::Ders(vec![authority.certificate_der().to_vec()]));
    let tls = tls.map_err(|error| certificate_failure(&error))?;
    let client = Client::builder().tls_backend_preconfigured(tls).no_proxy().timeout(Duration::from_secs(READY_SECONDS_MAX)).build();
    client.map_err(|error| StartFailure::new(format!("no HTTP client: {error}"), "report this"))
}

fn certificate_failure(error: &keyferry_tls::TlsError) -> StartFailure {
    StartFailure::new(format!("a certificate could not be made: {error}"), "check the directory and the disk")
}
