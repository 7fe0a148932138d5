//! `keyferry bus`: makes a bus, lets TDs onto it and off it again, and makes its streams.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Subcommand};
use jiff::{Span, SpanRelativeTo};
use keyferry_bus::{
    Bus, BusConfig, ConnectError, Credentials, CredentialsError, Deployment, DeploymentError, DeploymentOptions, OperatorError,
    ProvisionError, Provisioning, Role, UserKey,
};
use keyferry_lifecycle::clock;

use crate::output::{self, CommandResult, Failure};

/// A JWT of a TD has about 700 characters.
const JWT_BYTES_MAX: u64 = 16 * 1024;

/// The commands about the bus.
#[derive(Debug, Subcommand)]
pub(crate) enum BusCommand {
    /// Make a new bus: operator, accounts, credentials of the services, server configuration and certificate.
    Init(Init),
    /// Let a TD onto the bus: for the key it made itself, or with a new key.
    Enroll(Enroll),
    /// Make the streams, the consumer and the buckets, or bring them up to date.
    Provision(Provision),
    /// Issue new credentials for every service and a new server certificate.
    Renew(Directory),
    /// End everything that was issued to one identity until now.
    Revoke(Revoke),
    /// Inside a TD: make its key.
    Key(Key),
    /// Inside a TD: put the key and the JWT from enrolment into one credentials file.
    Join(Join),
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// The directory to make. It must not exist, or be empty.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// A DNS name or address by which clients reach the server; may be repeated.
    #[arg(long = "server-name", value_name = "NAME", default_values = ["localhost", "127.0.0.1"])]
    server_names: Vec<String>,
    /// Where the server listens; port 0 = any free one.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:4222")]
    listen: SocketAddr,
    /// The port of monitoring: plain HTTP, loopback only; 0 = any free one.
    #[arg(long, value_name = "PORT", default_value_t = 8222)]
    monitor_port: u16,
    /// The most the streams may store, in MiB. They reserve about 4,000.
    #[arg(long, value_name = "MIB", default_value_t = 10 * 1024)]
    store_mib: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Enroll {
    /// The bus, as made by `init`.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The public nkey the TD made itself (`keyferry bus key`); the JWT goes to stdout.
    #[arg(long, value_name = "U...", conflicts_with = "out", required_unless_present = "out")]
    public_nkey: Option<String>,
    /// Make the key here and write the credentials to this file; the td_id goes to stdout. For laptops and tests.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// A name for people: 1 to 64 of [A-Za-z0-9_-]. It decides nothing.
    #[arg(long, value_name = "LABEL")]
    label: String,
    /// How long the TD may use the bus, e.g. 12h or 30d.
    #[arg(long, value_name = "DURATION", default_value = "30d", value_parser = parse_lifetime)]
    ttl: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Provision {
    /// Where the server listens.
    #[arg(long, value_name = "nats://HOST:PORT", default_value = "nats://127.0.0.1:4222")]
    url: String,
    /// The bus, as made by `init`: its root and its admin's credentials.
    #[arg(long, value_name = "DIR", required_unless_present_all = ["ca_file", "credentials_file"])]
    dir: Option<PathBuf>,
    /// The root that signed the server's certificate, instead of the one in DIR.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// The admin's credentials, instead of those in DIR.
    #[arg(long, value_name = "FILE")]
    credentials_file: Option<PathBuf>,
    /// The archivist's credentials, instead of those in DIR: they make the mirror of the audit.
    #[arg(long, value_name = "FILE")]
    archivist_credentials_file: Option<PathBuf>,
    /// Copies of everything: 1 on one server, 3 on a cluster.
    #[arg(long, value_name = "N", default_value_t = 1)]
    replicas: u8,
    /// How long answers to TDs can be read back: the life of a token.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_lifetime)]
    results_age: u64,
    /// How long to wait for the server, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    wait: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Directory {
    /// The bus, as made by `init`, with its offline keys.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Revoke {
    /// The bus, as made by `init`, with its offline keys.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Whom: a td_id, or the public nkey of a service's credentials.
    #[arg(long, value_name = "U...")]
    public_nkey: String,
}

#[derive(Debug, Args)]
pub(crate) struct Key {
    /// The file to make, mode 0600. The td_id goes to stdout.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Join {
    /// The key from `keyferry bus key`.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The JWT from `keyferry bus enroll --public-nkey`.
    #[arg(long, value_name = "FILE")]
    jwt: PathBuf,
    /// The credentials file to write, mode 0600; one that is there is replaced in one step.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(crate) fn run(command: BusCommand) -> CommandResult {
    match command {
        BusCommand::Init(arguments) => init(arguments),
        BusCommand::Enroll(arguments) => enroll(&arguments),
        BusCommand::Provision(arguments) => provision(arguments),
        BusCommand::Renew(arguments) => renew(&arguments.dir),
        BusCommand::Revoke(arguments) => revoke(&arguments),
        BusCommand::Key(arguments) => make_key(&arguments.out),
        BusCommand::Join(arguments) => join(&arguments),
    }
}

fn init(arguments: Init) -> CommandResult {
    let options = DeploymentOptions {
        listen: arguments.listen,
        host_names: arguments.server_names,
        monitor_port: arguments.monitor_port,
        store_bytes_max: arguments.store_mib.saturating_mul(1024 * 1024),
        ..DeploymentOptions::default()
    };
    let deployment = Deployment::init(&arguments.dir, &options, clock::now()).map_err(deployment_failure)?;
    output::talk(format!("made a bus in {}", deployment.directory().display()));
    output::talk(format!("start the server:  nats-server -c {}", deployment.server_configuration_file().display()));
    output::talk(format!("then its streams:  keyferry bus provision --dir {}", deployment.directory().display()));
    output::talk("then move DIR/offline to a medium that is not connected: whoever holds it is the operator".to_owned());
    output::data(deployment.directory().display())?;
    Ok(ExitCode::SUCCESS)
}

fn enroll(arguments: &Enroll) -> CommandResult {
    let enrolment = Deployment::open(&arguments.dir).and_then(|bus| bus.enrolment()).map_err(deployment_failure)?;
    match (&arguments.public_nkey, &arguments.out) {
        (Some(nkey), _) => {
            let jwt = enrolment.enrol(nkey, &arguments.label, clock::now(), arguments.ttl).map_err(|error| operator_failure(&error))?;
            output::data(jwt)?;
        }
        (None, Some(out)) => {
            let credentials = enrolment.enrol_new(&arguments.label, clock::now(), arguments.ttl);
            let credentials = credentials.map_err(|error| operator_failure(&error))?;
            credentials.write(out).map_err(|error| unwritten(out, &error))?;
            output::data(credentials.public_key())?;
        }
        (None, None) => return Err(Failure::usage("neither --public-nkey nor --out was given")),
    }
    Ok(ExitCode::SUCCESS)
}

fn provision(arguments: Provision) -> CommandResult {
    let inside = |name: &str| arguments.dir.as_deref().unwrap_or(Path::new(".")).join(name);
    let ca_file = arguments.ca_file.clone().unwrap_or_else(|| inside("ca.pem"));
    let of = |role: Role| inside(&format!("credentials/{}.creds", role.name()));
    let credentials_file = arguments.credentials_file.clone().unwrap_or_else(|| of(Role::Admin));
    // Whoever gives single files and not this one makes the mirror another time.
    let archivist = arguments.archivist_credentials_file.or_else(|| arguments.dir.is_some().then(|| of(Role::Archivist)));
    let config = BusConfig { connect_seconds: arguments.wait, ..BusConfig::new(arguments.url, ca_file, credentials_file) };
    let archivist = archivist.map(|credentials_file| BusConfig { credentials_file, ..config.clone() });
    let provisioning =
        Provisioning { replicas: arguments.replicas, results_age: Duration::from_secs(arguments.results_age), ..Provisioning::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("no runtime: {error}")))?;
    runtime.block_on(async {
        let bus = Bus::connect(&config, Role::Admin.name()).await.map_err(|error| connect_failure(&error))?;
        let made = bus.provision(&provisioning).await;
        bus.drain().await;
        made.map_err(|error| unprovisioned(&error))?;
        let Some(config) = &archivist else { return Ok(()) };
        let bus = Bus::connect(config, Role::Archivist.name()).await.map_err(|error| connect_failure(&error))?;
        let made = bus.provision_mirror(&provisioning).await;
        bus.drain().await;
        made.map_err(|error| unprovisioned(&error))
    })?;
    if archivist.is_none() {
        output::talk("the audit has no mirror from this run: give --dir or --archivist-credentials-file to make it".to_owned());
    }
    output::talk(format!("streams and buckets are as this version wants them, {} replica(s) each", provisioning.replicas));
    Ok(ExitCode::SUCCESS)
}

fn unprovisioned(error: &ProvisionError) -> Failure {
    Failure::failed(error.to_string()).hint("run it again when the cause is gone: what exists is kept")
}

fn renew(directory: &Path) -> CommandResult {
    let bus = Deployment::open(directory).map_err(deployment_failure)?;
    bus.renew(clock::now()).map_err(deployment_failure)?;
    output::talk(format!(
        "new credentials are in {}; copy them to the services: no restart is needed",
        bus.directory().join("credentials").display()
    ));
    output::talk("a new server certificate is in DIR/server: reload the server".to_owned());
    Ok(ExitCode::SUCCESS)
}

fn revoke(arguments: &Revoke) -> CommandResult {
    let bus = Deployment::open(&arguments.dir).map_err(deployment_failure)?;
    bus.revoke(&arguments.public_nkey, clock::now()).map_err(deployment_failure)?;
    output::talk(format!(
        "{} is revoked once the server has read {} again",
        arguments.public_nkey,
        bus.server_configuration_file().display()
    ));
    output::talk("reload the server:  nats-server --signal reload=PID".to_owned());
    Ok(ExitCode::SUCCESS)
}

fn make_key(out: &Path) -> CommandResult {
    let key = UserKey::generate();
    key.write(out).map_err(|error| unwritten(out, &error))?;
    output::data(key.public_key())?;
    Ok(ExitCode::SUCCESS)
}

fn join(arguments: &Join) -> CommandResult {
    let key = UserKey::read(&arguments.key).map_err(|error| credentials_failure(&error))?;
    let size = fs::metadata(&arguments.jwt).map_err(|error| unread(&arguments.jwt, &error))?.len();
    if size > JWT_BYTES_MAX {
        return Err(Failure::usage(format!("{}: {size} bytes are no JWT (at most {JWT_BYTES_MAX})", arguments.jwt.display())));
    }
    let jwt = fs::read_to_string(&arguments.jwt).map_err(|error| unread(&arguments.jwt, &error))?;
    let credentials = Credentials::join(jwt.trim(), key).map_err(|error| credentials_failure(&error))?;
    credentials.replace(&arguments.out).map_err(|error| unwritten(&arguments.out, &error))?;
    output::data(credentials.public_key())?;
    Ok(ExitCode::SUCCESS)
}

fn parse_lifetime(text: &str) -> Result<u64, String> {
    let wrong = || "not a duration such as 90s, 12h or 30d".to_owned();
    let span: Span = text.parse().map_err(|_| wrong())?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    u64::try_from(duration.as_secs()).map_err(|_| wrong())
}

fn deployment_failure(error: DeploymentError) -> Failure {
    match error {
        DeploymentError::Exists { .. } => {
            Failure::usage(error.to_string()).hint("`keyferry bus renew` issues new credentials for a bus that exists")
        }
        DeploymentError::File { .. } => {
            Failure::failed(error.to_string()).hint("is this a directory made by `keyferry bus init`, with the part this command needs?")
        }
        DeploymentError::Setting { .. } => Failure::usage(error.to_string()),
        DeploymentError::Operator(error) => operator_failure(&error),
        DeploymentError::Certificate(_) => Failure::failed(error.to_string()),
    }
}

fn operator_failure(error: &OperatorError) -> Failure {
    Failure::usage(error.to_string())
}

fn connect_failure(error: &ConnectError) -> Failure {
    let failure = Failure::failed(error.to_string());
    match error {
        ConnectError::Unreachable { .. } => {
            failure.hint("start it with `nats-server -c DIR/server/nats.conf`, or give its address with --url")
        }
        _ => failure,
    }
}

fn credentials_failure(error: &CredentialsError) -> Failure {
    Failure::usage(error.to_string())
}

fn unwritten(path: &Path, error: &std::io::Error) -> Failure {
    let failure = Failure::failed(format!("{}: {error}", path.display()));
    if error.kind() == std::io::ErrorKind::AlreadyExists {
        failure.hint("it was not changed; choose another name, or remove it first")
    } else {
        failure
    }
}

fn unread(path: &Path, error: &std::io::Error) -> Failure {
    Failure::usage(format!("{}: {error}", path.display()))
}
