//! One of our services as a separate process: started from a configuration file, found by the addresses it reports,
//! ended by its own handle.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::process::{Child, Command};

use crate::{StartFailure, private_directory};

/// How long a service may take from start to ready. Generous: a cold laptop generates RSA keys meanwhile.
const READY_SECONDS_MAX: u64 = 90;
/// Where a service reports its addresses, below its directory.
const ADDRESSES: &str = "addresses.json";
/// How long a service may drain before it is killed.
const DRAIN_SECONDS_MAX: u64 = 15;

/// What to start.
#[derive(Debug)]
pub struct ServiceSpec {
    /// The binary's name.
    pub name: &'static str,
    /// The name of this instance: of its directory, its log and its entry in `stack.json`.
    pub instance: String,
    /// The configuration, a table; `runtime.addresses_file` is added to it.
    pub config: serde_json::Value,
    /// Additional environment.
    pub environment: Vec<(String, String)>,
}

/// A running service.
#[derive(Debug)]
pub struct Service {
    /// The binary's name.
    pub name: &'static str,
    /// The instance's name.
    pub instance: String,
    /// Everything it wrote to standard error.
    pub log_file: PathBuf,
    /// Listener name -> `ip:port` or socket path, as reported when it became ready.
    pub addresses: BTreeMap<String, String>,
    child: Child,
    directory: PathBuf,
    spec: ServiceSpec,
}

/// The directory our binaries are in: beside the running one, or one up from `deps/`.
pub fn binary(name: &str) -> Result<PathBuf, StartFailure> {
    let me =
        std::env::current_exe().map_err(|error| StartFailure::new(format!("cannot tell where this program is: {error}"), "report this"))?;
    let mut directory = me.parent();
    while let Some(candidate) = directory {
        let path = candidate.join(name);
        if path.is_file() {
            return Ok(path);
        }
        directory = candidate.parent().filter(|_| candidate.ends_with("deps"));
    }
    Err(StartFailure::new(format!("the program {name} is not built"), "run `cargo build --workspace --bins` first"))
}

impl Service {
    /// Starts it and waits until it is ready.
    pub async fn start(spec: ServiceSpec, directory: &Path) -> Result<Self, StartFailure> {
        let mut service = Self::begin(spec, directory)?;
        service.until_ready().await?;
        Ok(service)
    }

    /// Starts it and does not wait: [`Self::until_ready`] does.
    pub fn begin(spec: ServiceSpec, directory: &Path) -> Result<Self, StartFailure> {
        let directory = directory.join(&spec.instance);
        private_directory(&directory)?;
        let log_file = directory.join("log.jsonl");
        let child = launch(&spec, &directory, &log_file)?;
        Ok(Self { name: spec.name, instance: spec.instance.clone(), log_file, addresses: BTreeMap::new(), child, directory, spec })
    }

    /// Waits until it reports its addresses, which it does when it is ready.
    pub async fn until_ready(&mut self) -> Result<(), StartFailure> {
        self.addresses = wait_until_ready(&mut self.child, &self.spec, &self.directory.join(ADDRESSES), &self.log_file).await?;
        Ok(())
    }

    /// Waits until its health listener says that it can do its work, which may be later than that it listens.
    pub async fn until_healthy(&mut self) -> Result<(), StartFailure> {
        self.until_ready().await?;
        let url = format!("http://{}/health/ready", self.address("health")?);
        keyferry_tls::install_provider();
        let client = reqwest::Client::builder().no_proxy().build();
        let client = client.map_err(|error| StartFailure::new(format!("no HTTP client: {error}"), "report this"))?;
        let healthy = async {
            loop {
                let answer = client.get(&url).send().await;
                if answer.is_ok_and(|answer| answer.status().is_success()) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let failed = |what: String, log_file: &Path| {
            let last = last_error(&fs::read_to_string(log_file).unwrap_or_default());
            Err(StartFailure::new(format!("{what}: {last}"), format!("its log is {}", log_file.display())))
        };
        tokio::select! {
            () = healthy => Ok(()),
            _ = self.child.wait() => failed(format!("{} ended before it could do its work", self.instance), &self.log_file),
            () = tokio::time::sleep(Duration::from_secs(READY_SECONDS_MAX)) => {
                failed(format!("{} could not do its work after {READY_SECONDS_MAX} s", self.instance), &self.log_file)
            }
        }
    }

    /// The address of a TCP listener; an error names those there are.
    pub fn address(&self, listener: &str) -> Result<SocketAddr, StartFailure> {
        let reported = self.addresses.get(listener).and_then(|address| address.parse::<SocketAddr>().ok());
        // Whoever listens everywhere is found on loopback.
        let reachable =
            reported.map(|address| if address.ip().is_unspecified() { (Ipv4Addr::LOCALHOST, address.port()).into() } else { address });
        reachable.ok_or_else(|| {
            let known: Vec<_> = self.addresses.keys().collect();
            StartFailure::new(format!("{} reports no listener {listener:?} (it has {known:?})", self.instance), "report this")
        })
    }

    /// The process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Asks it to drain and waits; kills it if it does not.
    pub async fn stop(&mut self) -> Option<i32> {
        if let Some(pid) = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        if let Ok(Ok(status)) = tokio::time::timeout(Duration::from_secs(DRAIN_SECONDS_MAX), self.child.wait()).await {
            return status.code();
        }
        self.kill().await;
        None
    }

    /// Ends it at once, as a crash would.
    pub async fn kill(&mut self) {
        let _ = self.child.kill().await;
    }

    /// Starts it again with the same configuration, after `stop` or `kill`.
    pub async fn restart(&mut self) -> Result<(), StartFailure> {
        self.child = launch(&self.spec, &self.directory, &self.log_file)?;
        self.until_ready().await
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log_file).unwrap_or_default()
    }
}

fn launch(spec: &ServiceSpec, directory: &Path, log_file: &Path) -> Result<Child, StartFailure> {
    let addresses_file = directory.join(ADDRESSES);
    let config_file = directory.join("config.toml");
    let io = |error: std::io::Error| {
        StartFailure::new(format!("cannot prepare {}: {error}", directory.display()), "check the directory and the disk")
    };
    let _ = fs::remove_file(&addresses_file);
    crate::write_private(&config_file, configuration(spec, &addresses_file)?)?;
    let log = fs::OpenOptions::new().create(true).append(true).open(log_file).map_err(io)?;
    let mut command = Command::new(binary(spec.name)?);
    command.arg("--config").arg(&config_file).envs(spec.environment.iter().cloned());
    command.stdin(Stdio::null()).stdout(log.try_clone().map_err(io)?).stderr(log).kill_on_drop(true);
    // Its own process group: a Ctrl-C in the terminal reaches the one who started it, who ends things in order.
    command.process_group(0);
    command.spawn().map_err(io)
}

/// The configuration as TOML, which is what an operator writes.
fn configuration(spec: &ServiceSpec, addresses_file: &Path) -> Result<String, StartFailure> {
    let mut config = spec.config.clone();
    config["runtime"]["addresses_file"] = addresses_file.display().to_string().into();
    toml::to_string(&config)
        .map_err(|error| StartFailure::new(format!("the configuration of {} is no TOML: {error}", spec.instance), "report this"))
}

async fn wait_until_ready(
    child: &mut Child,
    spec: &ServiceSpec,
    addresses_file: &Path,
    log_file: &Path,
) -> Result<BTreeMap<String, String>, StartFailure> {
    let ready = async {
        loop {
            if let Some(addresses) = fs::read(addresses_file).ok().and_then(|text| serde_json::from_slice(&text).ok()) {
                return addresses;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let last_words = || last_error(&fs::read_to_string(log_file).unwrap_or_default());
    tokio::select! {
        addresses = ready => Ok(addresses),
        status = child.wait() => Err(StartFailure::new(
            format!("{} ended before it was ready ({}): {}", spec.instance, status.map_or_else(|error| error.to_string(), |status| status.to_string()), last_words()),
            format!("its log is {}", log_file.display()),
        )),
        () = tokio::time::sleep(Duration::from_secs(READY_SECONDS_MAX)) => Err(StartFailure::new(
            format!("{} was not ready after {READY_SECONDS_MAX} s: {}", spec.instance, last_words()),
            format!("its log is {}", log_file.display()),
        )),
    }
}

/// The last line of a log that says what went wrong, in plain words.
fn last_error(log: &str) -> String {
    log.lines()
        .rev()
        .take(40)
        .find(|line| line.contains("error:") || line.contains("ERROR"))
        .or_else(|| log.lines().last())
        .unwrap_or("it wrote nothing")
        .to_owned()
}
