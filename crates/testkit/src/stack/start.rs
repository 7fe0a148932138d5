//! The order of a start: bus, KMS, verifier, key broker, confidential VMs, model.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use keyferry_bus::{Deployment, Role};
use keyferry_key_wrap::KeyMaterial;
use keyferry_model_envelope::{ChunkSize, EnvelopeError, Header, MediaType, ModelName, one_shot};
use keyferry_tls::{CertificateAuthority, RootsConfig, ServerCertificate};
use tokio::process::Command;
use uuid::Uuid;

use super::{
    Administrator, BusFiles, ModelKind, Simulation, Stack, StackDescription, StackOptions, Steps, TdDescription, configuration, kms::Kms,
};
use crate::{
    StartFailure,
    nats::{NatsServer, now},
    private_directory,
    process::{Service, ServiceSpec, binary},
    write_private,
};

/// The key broker's administrator in a stack.
pub(super) const ADMINISTRATOR: &str = "admin";
/// Certificates of a stack live this long.
const CERTIFICATE_DAYS: u32 = 30;
/// The root of our services' listeners.
const SERVICES_ROOT: &str = "services-ca.pem";
/// Names the listeners are reached by; the dotted one is for clients that refuse single-label hosts.
const HOST_NAMES: [&str; 3] = ["127.0.0.1", "localhost", "keyferry.internal"];

/// Files and addresses that later steps need of earlier ones.
pub(super) struct Site<'a> {
    pub(super) directory: &'a Path,
    pub(super) ca_file: PathBuf,
    pub(super) bus_url: String,
    pub(super) bus_ca_file: PathBuf,
    pub(super) otlp_url: Option<&'a str>,
    /// The root that this stack's TDs are simulated under: the only one its verifier speaks for.
    pub(super) trust_anchor: String,
}

pub(super) async fn start(options: StackOptions, steps: &mut Steps) -> Result<Stack, StartFailure> {
    let directory = std::path::absolute(&options.directory).map_err(|error| {
        StartFailure::new(format!("{} cannot be used: {error}", options.directory.display()), "choose another directory")
    })?;
    let _ = fs::remove_dir_all(&directory);
    private_directory(&directory)?;
    let nats = steps.time("start_bus", start_bus(&directory)).await?;
    let simulation = Simulation::new(&directory.join("simulation"))?;
    let authority = authority(&directory)?;
    let site = Site {
        directory: &directory,
        ca_file: directory.join(SERVICES_ROOT),
        bus_url: nats.url(),
        bus_ca_file: nats.ca_file(),
        otlp_url: options.otlp_url.as_deref(),
        trust_anchor: simulation.trust_anchor(),
    };
    let kms = steps.time("start_kms", Kms::start(&directory, options.kms)).await?;
    let broker = steps.time("start_token_broker", token_broker(&site, &nats, &simulation, &authority, &options)).await?;
    let ita_url = format!("https://{}", broker.address("https")?);
    let release = steps.time("start_key_release", key_release(&site, &nats, &authority, &options, &kms, &ita_url)).await?;
    let grpc_url = format!("https://{}", release.address("grpc")?);
    let key_id = steps.time("create_key_and_seal_model", prepare_model(&site, &grpc_url, &simulation, &options)).await?;
    let description = StackDescription {
        nats_url: nats.url().replace("nats://", "tls://"),
        nats_monitor_url: nats.monitor_url(),
        ca_file: every_root(&directory, &[&site.ca_file, &site.bus_ca_file])?,
        bus: BusFiles { admin_credentials: nats.credentials_file(Role::Admin), auditor_credentials: nats.credentials_file(Role::Auditor) },
        services: std::collections::BTreeMap::new(),
        kbs_url: format!("{grpc_url}/kbs/v1"),
        grpc_url,
        ita_url,
        workload_url: String::new(),
        admin_username: ADMINISTRATOR.to_owned(),
        admin_password_file: directory.join("admin-password"),
        ita_api_key_file: directory.join("ita-api-key"),
        tds: Vec::new(),
        key_id,
        kms: kms.description,
        otlp_url: options.otlp_url.clone(),
        trust_anchor: simulation.trust_anchor(),
    };
    let services = [broker, release].into_iter().map(|service| (service.instance.clone(), service)).collect();
    let mut stack = Stack { nats, kms: kms.server, services, description, simulation, authority, directory: directory.clone(), options };
    for td in 0..stack.options.tds {
        steps.time(&format!("start_td_{td}"), attester(&mut stack, td)).await?;
    }
    if stack.options.load_models {
        for td in 0..stack.options.tds {
            steps.time(&format!("load_model_{td}"), stack.load_model(td)).await?;
        }
    }
    stack.describe_services();
    Ok(stack)
}

/// Exactly what an operator does: `keyferry bus init`, a server on the result, `keyferry bus provision`.
async fn start_bus(directory: &Path) -> Result<NatsServer, StartFailure> {
    let bus = directory.join("bus");
    keyferry(&["bus", "init", "--dir", &text(&bus), "--listen", "127.0.0.1:0", "--monitor-port", "0"]).await?;
    let deployment = Deployment::open(&bus).map_err(|error| StartFailure::new(error.to_string(), "report this"))?;
    let nats = NatsServer::run(deployment).await?;
    keyferry(&["bus", "provision", "--dir", &text(&bus), "--url", &nats.url()]).await?;
    Ok(nats)
}

/// Runs the operators' command line; what it prints on standard error is the reason of a failure.
async fn keyferry(arguments: &[&str]) -> Result<String, StartFailure> {
    let run = Command::new(binary("keyferry")?).args(arguments).stdin(Stdio::null()).output().await;
    let output = run
        .map_err(|error| StartFailure::new(format!("keyferry cannot be run: {error}"), "build it with `cargo build --workspace --bins`"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(StartFailure::new(format!("`keyferry {}` failed: {said}", arguments.join(" ")), "the sentence above names the cause"))
}

fn authority(directory: &Path) -> Result<CertificateAuthority, StartFailure> {
    let authority = CertificateAuthority::generate("Keyferry stack root", now(), CERTIFICATE_DAYS).map_err(|error| tls(&error))?;
    authority.write_certificate(&directory.join(SERVICES_ROOT)).map_err(|error| tls(&error))?;
    Ok(authority)
}

/// One file for people, with every root a listener of the stack chains to. The services keep to the one they need.
fn every_root(directory: &Path, roots: &[&Path]) -> Result<PathBuf, StartFailure> {
    let read = |root: &&Path| {
        fs::read_to_string(root).map_err(|error| StartFailure::new(format!("{} cannot be read: {error}", root.display()), "report this"))
    };
    let texts = roots.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let file = directory.join("ca.pem");
    write_private(&file, texts.iter().map(|text| text.trim_end()).collect::<Vec<_>>().join("\n") + "\n")?;
    Ok(file)
}

fn certificate(authority: &CertificateAuthority, directory: &Path, name: &str) -> Result<ServerCertificate, StartFailure> {
    authority
        .issue_server(&HOST_NAMES, now(), CERTIFICATE_DAYS)
        .and_then(|issued| issued.write_server(directory, name))
        .map_err(|error| tls(&error))
}

fn tls(error: &keyferry_tls::TlsError) -> StartFailure {
    StartFailure::new(format!("a certificate could not be made: {error}"), "check the directory and the disk")
}

async fn token_broker(
    site: &Site<'_>,
    nats: &NatsServer,
    simulation: &Simulation,
    authority: &CertificateAuthority,
    options: &StackOptions,
) -> Result<Service, StartFailure> {
    let certificate = certificate(authority, site.directory, "token-broker")?;
    write_private(&site.directory.join("ita-api-key"), random_text()?)?;
    let config = configuration::token_broker(site, &nats.credentials_file(Role::TokenBroker), simulation, &certificate);
    launch(site, options, "token-broker", "token-broker".to_owned(), config).await
}

async fn key_release(
    site: &Site<'_>,
    nats: &NatsServer,
    authority: &CertificateAuthority,
    options: &StackOptions,
    kms: &Kms,
    ita_url: &str,
) -> Result<Service, StartFailure> {
    let certificate = certificate(authority, site.directory, "key-release")?;
    write_private(&site.directory.join("admin-password"), random_text()?)?;
    let config = configuration::key_release(site, &nats.credentials_file(Role::KeyRelease), &certificate, &kms.settings, ita_url);
    launch(site, options, "key-release", "key-release".to_owned(), config).await
}

/// Enrols a TD, gives it a simulated CPU and starts its attester.
async fn attester(stack: &mut Stack, td: usize) -> Result<(), StartFailure> {
    let label = format!("td-{td}");
    let directory = stack.directory.join(&label);
    private_directory(&directory)?;
    let credentials = directory.join("bus.creds");
    let bus = stack.nats.deployment().directory().to_owned();
    keyferry(&["bus", "enroll", "--dir", &text(&bus), "--label", &label, "--out", &text(&credentials)]).await?;
    let platform = directory.join("platform.json");
    stack.simulation.td(stack.options.td.clone(), &platform)?;
    let socket = socket_path(&directory)?;
    let site = site(stack);
    let config = configuration::attester(&site, &credentials, &platform, &socket);
    let service = launch(&site, &stack.options, "attester", instance("attester", td), config).await?;
    let id = td_id(&credentials)?;
    stack.description.tds.push(TdDescription { id, label, credentials, attester_socket: socket });
    stack.services.insert(service.instance.clone(), service);
    Ok(())
}

/// The name of a TD's instance of a service: the service's own for the first TD, numbered for the others.
pub(super) fn instance(service: &str, td: usize) -> String {
    if td == 0 { service.to_owned() } else { format!("{service}-{td}") }
}

/// Starts the model-runner of a TD beside its attester, without waiting for its model.
pub(super) fn model_runner(stack: &Stack, td: usize) -> Result<Service, StartFailure> {
    let missing = || StartFailure::new(format!("the stack has no TD {td}"), "ask for more TDs");
    let description = stack.description.tds.get(td).ok_or_else(missing)?;
    let site = site(stack);
    let certificate = certificate(&stack.authority, &stack.directory.join(&description.label), "model-runner")?;
    let config = configuration::model_runner(&site, description, &certificate, &stack.description, stack.options.model);
    let spec = spec(&site, &stack.options, "model-runner", instance("model-runner", td), config);
    Service::begin(spec, &stack.directory)
}

fn site(stack: &Stack) -> Site<'_> {
    Site {
        directory: &stack.directory,
        ca_file: stack.directory.join(SERVICES_ROOT),
        bus_url: stack.nats.url(),
        bus_ca_file: stack.nats.ca_file(),
        otlp_url: stack.options.otlp_url.as_deref(),
        trust_anchor: stack.simulation.trust_anchor(),
    }
}

async fn launch(
    site: &Site<'_>,
    options: &StackOptions,
    name: &'static str,
    instance: String,
    config: serde_json::Value,
) -> Result<Service, StartFailure> {
    Service::start(spec(site, options, name, instance, config), site.directory).await
}

fn spec(site: &Site<'_>, options: &StackOptions, name: &'static str, instance: String, config: serde_json::Value) -> ServiceSpec {
    let mut environment = options.environment.clone();
    if let Some(url) = site.otlp_url {
        // Spans of a short job should not wait for a batch to fill.
        environment
            .extend([("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), url.to_owned()), ("OTEL_BSP_SCHEDULE_DELAY".to_owned(), "200".to_owned())]);
    }
    ServiceSpec { name, instance, config, environment }
}

/// A policy for the simulated TD, a key under it, and the model sealed with that key.
async fn prepare_model(site: &Site<'_>, grpc_url: &str, simulation: &Simulation, options: &StackOptions) -> Result<String, StartFailure> {
    let password = fs::read_to_string(site.directory.join("admin-password"))
        .map_err(|error| StartFailure::new(format!("the administrator's password cannot be read: {error}"), "report this"))?;
    let roots = RootsConfig::CaFile(site.ca_file.clone());
    let mut administrator = Administrator::new(grpc_url, &roots, ADMINISTRATOR, password.trim())?;
    let policy = administrator.create_policy(&configuration::policy(&simulation.trust_anchor())).await?;
    let key_id = administrator.create_key(&policy).await?;
    let key = administrator.export_key(&key_id).await?;
    write_private(&site.directory.join("model.sealed"), seal(options.model, &key, &key_id)?)?;
    Ok(key_id)
}

/// The models of the repository, in the format each is usually kept in.
fn seal(model: ModelKind, key: &KeyMaterial, key_id: &str) -> Result<Vec<u8>, StartFailure> {
    let sealed = match model {
        ModelKind::Linreg => one_shot::seal(key, LINREG),
        ModelKind::Onnx => onnx_header(key_id).and_then(|header| keyferry_model_envelope::seal(key, &header, ChunkSize::DEFAULT, ONNX)),
    };
    sealed.map_err(|error| StartFailure::new(format!("the model could not be sealed: {error}"), "report this"))
}

fn onnx_header(key_id: &str) -> Result<Header, EnvelopeError> {
    Ok(Header::new(Uuid::parse_str(key_id).unwrap_or_default(), MediaType::parse("onnx")?, ModelName::parse(ModelKind::Onnx.served_as())?))
}

const LINREG: &[u8] = include_bytes!("../../../../models/diabetes-linreg.model");
const ONNX: &[u8] = include_bytes!("../../../../models/breast-cancer.onnx");

fn random_text() -> Result<String, StartFailure> {
    let mut bytes = [0_u8; 32];
    keyferry_tls::provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| StartFailure::new("the system gives no random bytes", "report this"))?;
    Ok(hex::encode(bytes))
}

fn td_id(credentials: &Path) -> Result<String, StartFailure> {
    let read = keyferry_bus::Credentials::read(credentials);
    read.map(|credentials| credentials.public_key()).map_err(|error| StartFailure::new(error.to_string(), "enrol the TD again"))
}

/// A Unix socket's path has at most 107 bytes; a deep directory gets its sockets in a short one beside the temporary files.
fn socket_path(directory: &Path) -> Result<PathBuf, StartFailure> {
    let beside = directory.join("attester.sock");
    if beside.as_os_str().len() <= 100 {
        return Ok(beside);
    }
    let short = tempfile::Builder::new().prefix("keyferry-").tempdir();
    let short = short.map_err(|error| StartFailure::new(format!("cannot make a directory for the socket: {error}"), "check TMPDIR"))?;
    Ok(short.keep().join("attester.sock"))
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
