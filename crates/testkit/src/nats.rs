//! A real NATS server with our accounts, TLS and permissions, on ports of its own choice.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use keyferry_bus::{Bus, BusConfig, Credentials, Deployment, DeploymentOptions, LIFETIME_SECONDS_DEFAULT, Provisioning, Role};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{StartFailure, tools};

/// How long a server may take to listen; an empty one takes 0.1 s on an idle machine.
const READY_SECONDS_MAX: u64 = 30;
const STOP_SECONDS_MAX: u64 = 15;

/// A running server over a [`Deployment`]. Dropping it kills the server; [`Self::start`]'s directory goes with it.
#[derive(Debug)]
pub struct NatsServer {
    deployment: Deployment,
    child: Child,
    ports: Ports,
    log_file: PathBuf,
    scratch: Option<TempDir>,
}

/// What the server wrote when it was ready.
#[derive(Clone, Debug, Deserialize)]
struct Ports {
    nats: Vec<String>,
    #[serde(default)]
    monitoring: Vec<String>,
}

impl NatsServer {
    /// A new bus in a directory that ends with the server: operator, accounts, credentials, streams and buckets.
    pub async fn start() -> Result<Self, StartFailure> {
        let scratch = tempfile::tempdir().map_err(|error| trouble("cannot make a temporary directory", &error))?;
        let mut server = Self::start_in(&scratch.path().join("bus")).await?;
        server.scratch = Some(scratch);
        Ok(server)
    }

    /// As [`Self::start`], in a directory that stays. It is made if it is not there.
    pub async fn start_in(directory: &Path) -> Result<Self, StartFailure> {
        let server = Self::start_empty(directory).await?;
        let admin = server.connect(Role::Admin).await?;
        admin.provision(&Provisioning::default()).await.map_err(|error| trouble("the bus could not be provisioned", &error))?;
        admin.drain().await;
        let archivist = server.connect(Role::Archivist).await?;
        let mirrored = archivist.provision_mirror(&Provisioning::default()).await;
        mirrored.map_err(|error| trouble("the mirror of the audit could not be made", &error))?;
        archivist.drain().await;
        Ok(server)
    }

    /// A server without streams.
    pub async fn start_empty(directory: &Path) -> Result<Self, StartFailure> {
        let deployment = if directory.join("ca.pem").exists() {
            Deployment::open(directory)
        } else {
            let any = DeploymentOptions { listen: ([127, 0, 0, 1], 0).into(), monitor_port: 0, ..DeploymentOptions::default() };
            Deployment::init(directory, &any, now())
        };
        let deployment = deployment.map_err(|error| trouble("the bus could not be set up", &error))?;
        Self::run(deployment).await
    }

    /// Runs a server on a bus that was made by `keyferry bus init`.
    pub async fn run(deployment: Deployment) -> Result<Self, StartFailure> {
        let log_file = deployment.directory().join("server/nats.log");
        let (child, ports) = launch(&deployment, &log_file).await?;
        Ok(Self { deployment, child, ports, log_file, scratch: None })
    }

    /// The bus on disk.
    pub fn deployment(&self) -> &Deployment {
        &self.deployment
    }
    /// Where clients connect.
    pub fn url(&self) -> String {
        self.ports.nats.first().map(|url| url.replace("tls://", "nats://")).unwrap_or_default()
    }
    /// Monitoring over plain HTTP.
    pub fn monitor_url(&self) -> String {
        self.ports.monitoring.first().cloned().unwrap_or_default()
    }
    /// The root that signed the server's certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.deployment.ca_file()
    }
    /// The credentials of a service or person.
    pub fn credentials_file(&self, role: Role) -> PathBuf {
        self.deployment.credentials_file(role)
    }
    /// The server's process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }
    /// What the server wrote.
    pub fn log_file(&self) -> &Path {
        &self.log_file
    }

    /// Settings for a client with these credentials.
    pub fn config(&self, credentials_file: impl Into<PathBuf>) -> BusConfig {
        BusConfig::new(self.url(), self.ca_file(), credentials_file)
    }

    /// A connection as one of the services or people.
    pub async fn connect(&self, role: Role) -> Result<Bus, StartFailure> {
        let connected = Bus::connect(&self.config(self.credentials_file(role)), role.name()).await;
        connected.map_err(|error| trouble("cannot connect to the bus", &error))
    }

    /// Enrols a TD and writes its credentials beside the others. Returns its td_id and the file.
    pub fn enrol(&self, label: &str) -> Result<(String, PathBuf), StartFailure> {
        let credentials = self.deployment.enrolment().map_err(|error| trouble("no enrolment key", &error))?;
        let credentials = credentials.enrol_new(label, now(), LIFETIME_SECONDS_DEFAULT);
        let credentials: Credentials = credentials.map_err(|error| trouble("the TD could not be enrolled", &error))?;
        let path = self.deployment.directory().join("credentials").join(format!("td-{label}.creds"));
        credentials.replace(&path).map_err(|error| trouble("the TD's credentials could not be written", &error))?;
        Ok((credentials.public_key(), path))
    }

    /// Ends it as a power cut of the process would: SIGKILL.
    pub async fn kill(&mut self) {
        let _ = self.child.kill().await;
    }

    /// Asks it to stop and waits; returns its exit code.
    pub async fn stop(&mut self) -> Option<i32> {
        if let Some(pid) = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        if let Ok(Ok(status)) = tokio::time::timeout(Duration::from_secs(STOP_SECONDS_MAX), self.child.wait()).await {
            return status.code();
        }
        self.kill().await;
        None
    }

    /// Lets it read its configuration again, as `nats-server --signal reload` does. It says in its log when it has.
    pub fn reload(&self) {
        if let Some(pid) = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::HUP);
        }
    }

    /// Starts it again after [`Self::kill`] or [`Self::stop`]: same store, same port, configuration read anew.
    pub async fn restart(&mut self) -> Result<(), StartFailure> {
        let port = self.ports.nats.first().and_then(|url| url.rsplit(':').next()).unwrap_or("-1").to_owned();
        (self.child, self.ports) = launch_on(&self.deployment, &self.log_file, Some(&port)).await?;
        Ok(())
    }
}

async fn launch(deployment: &Deployment, log_file: &Path) -> Result<(Child, Ports), StartFailure> {
    launch_on(deployment, log_file, None).await
}

async fn launch_on(deployment: &Deployment, log_file: &Path, port: Option<&str>) -> Result<(Child, Ports), StartFailure> {
    let program = tools::nats_server().await?;
    let configuration = deployment.server_configuration_file();
    let log = fs::OpenOptions::new().create(true).append(true).open(log_file);
    let log = log.map_err(|error| trouble("the server's log cannot be written", &error))?;
    let errors = log.try_clone().map_err(|error| trouble("the server's log cannot be written", &error))?;
    let mut command = Command::new(&program);
    command.arg("-c").arg(&configuration).arg("--ports_file_dir").arg(deployment.ports_directory());
    if let Some(port) = port {
        command.args(["-p", port]);
    }
    command.stdin(Stdio::null()).stdout(log).stderr(errors).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| trouble("nats-server cannot be run", &error))?;
    let ports = wait_until_ready(&mut child, &deployment.ports_directory(), log_file).await?;
    Ok((child, ports))
}

async fn wait_until_ready(child: &mut Child, ports_directory: &Path, log_file: &Path) -> Result<Ports, StartFailure> {
    let suffix = format!("_{}.ports", child.id().unwrap_or_default());
    let ready = async {
        loop {
            if let Some(ports) = read_ports(ports_directory, &suffix) {
                return ports;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let failed = |what: String| {
        let log = fs::read_to_string(log_file).unwrap_or_default();
        let mut said = log.lines().rev().filter(|line| !line.trim().is_empty());
        let last = said.clone().find(|line| line.contains("[FTL]") || line.contains("[ERR]")).or_else(|| said.next());
        let hint = if log.contains("address already in use") {
            "another program has that port: stop it, or choose another one".to_owned()
        } else {
            format!("its log is {}", log_file.display())
        };
        Err(StartFailure::new(format!("nats-server {what}: {}", last.unwrap_or("it wrote nothing")), hint))
    };
    tokio::select! {
        ports = ready => Ok(ports),
        status = child.wait() => failed(format!("ended before it was ready ({})", status.map_or_else(|error| error.to_string(), |status| status.to_string()))),
        () = tokio::time::sleep(Duration::from_secs(READY_SECONDS_MAX)) => failed(format!("was not ready after {READY_SECONDS_MAX} s")),
    }
}

/// The file is named after program and process; it is complete once it parses.
fn read_ports(directory: &Path, suffix: &str) -> Option<Ports> {
    let entries = fs::read_dir(directory).ok()?;
    let path = entries.filter_map(|entry| Some(entry.ok()?.path())).find(|path| path.to_string_lossy().ends_with(suffix))?;
    let ports: Ports = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    (!ports.nats.is_empty()).then_some(ports)
}

/// A real server checks real validity, so certificates and JWTs begin now, in unix seconds.
pub fn now() -> u64 {
    keyferry_lifecycle::clock::now()
}

fn trouble(what: &str, error: &dyn std::error::Error) -> StartFailure {
    StartFailure::new(format!("{what}: {error}"), "the sentence above names the cause; see docs/bus.md")
}
