//! A real KMIP server (PyKMIP 0.11) for a test or a demo: its own port, database, certificates and process group.
//!
//! Two profiles, because the server's certificate decides which TLS library can reach it: with an ECDSA certificate it
//! offers AEAD suites and rustls connects; in the configuration that Intel's sample ships (RSA certificate, three CBC
//! suites) only OpenSSL does.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use keyferry_kms::{KmipConfig, KmipKms, KmipTimeouts, Kms, ReleaseRules, TlsLibrary};
use keyferry_tls::ClientCertificate;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize,
};
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

use crate::{StartFailure, private_directory, tools::Toolbox, write_private};

const REQUIREMENTS: &str = include_str!("../pykmip-requirements.txt");
/// From start to the first answer. One or two seconds are usual; a loaded laptop needs more.
const READY_SECONDS_MAX: u64 = 60;
/// Another process may take a port between our look and the server's bind.
const PORT_TRIES: usize = 5;

/// How the server is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// ECDSA P-256 certificates and the server's own list of suites.
    Ecdsa,
    /// Names, RSA-2048 keys and cipher suites of Intel's sample.
    Intel,
}

impl Profile {
    /// The suites of Intel's `server.conf`. With an RSA certificate only the first two can be negotiated.
    const INTEL_SUITES: &str = "TLS_RSA_WITH_AES_128_CBC_SHA256 TLS_RSA_WITH_AES_256_CBC_SHA256 TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA384";

    const fn library(self) -> TlsLibrary {
        match self {
            Self::Ecdsa => TlsLibrary::Rustls,
            Self::Intel => TlsLibrary::OpenSsl,
        }
    }
    fn key(self) -> Result<KeyPair, rcgen::Error> {
        match self {
            Self::Ecdsa => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
            Self::Intel => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
        }
    }
}

/// A running server. Dropping it kills its whole process group.
#[derive(Debug)]
pub struct Pykmip {
    profile: Profile,
    directory: PathBuf,
    program: PathBuf,
    port: u16,
    generation: u32,
    owner: ClientCertificate,
    stranger: ClientCertificate,
    unmarked: ClientCertificate,
    child: Option<Child>,
    // Last: removed after the server is gone.
    temporary: Option<TempDir>,
}

impl Pykmip {
    /// Starts one in a directory of its own, removed with it.
    pub async fn start(profile: Profile) -> Result<Self, StartFailure> {
        let temporary = tempfile::tempdir()
            .map_err(|error| StartFailure::new(format!("cannot make a temporary directory: {error}"), "check TMPDIR and the disk"))?;
        let mut server = Self::start_in(profile, temporary.path()).await?;
        server.temporary = Some(temporary);
        Ok(server)
    }

    /// Starts one in `directory`, which stays.
    pub async fn start_in(profile: Profile, directory: &Path) -> Result<Self, StartFailure> {
        let python = Toolbox::shared()?.python_environment("pykmip", REQUIREMENTS).await?;
        private_directory(directory)?;
        private_directory(&directory.join("policies"))?;
        let [owner, stranger, unmarked] = write_certificates(profile, directory)?;
        let program = python.with_file_name("pykmip-server");
        let directory = directory.to_owned();
        let mut server =
            Self { profile, directory, program, port: 0, generation: 0, owner, stranger, unmarked, child: None, temporary: None };
        server.launch_on_a_free_port().await?;
        Ok(server)
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }
    /// The root that the server's certificate and both clients' chain to.
    pub fn ca_file(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }
    /// The client that makes the keys.
    pub const fn owner(&self) -> &ClientCertificate {
        &self.owner
    }
    /// Another client the server accepts, who owns nothing.
    pub const fn stranger(&self) -> &ClientCertificate {
        &self.stranger
    }
    /// A certificate that is not marked for clients: TLS accepts it, the server does not.
    pub const fn unmarked(&self) -> &ClientCertificate {
        &self.unmarked
    }
    /// The process group's id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }
    /// What the server logged. At level INFO it logs no key.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("server.log")).unwrap_or_default()
    }

    /// Settings for a client of this server, with the TLS library that its profile needs, KMIP 1.4 and strict rules.
    pub fn config(&self, client: &ClientCertificate) -> KmipConfig {
        KmipConfig {
            address: self.address().to_string(),
            server_name: None,
            version: keyferry_kms::Version::V1_4,
            tls: self.profile.library(),
            ca_file: self.ca_file(),
            certificate_file: client.certificate_file.clone(),
            key_file: client.key_file.clone(),
            cipher_list: None,
            username: None,
            password_file: None,
            password: None,
            connections: 3,
            release: ReleaseRules::default(),
            timeouts: KmipTimeouts::default(),
        }
    }

    /// Kills the whole process group at once, as a power cut would.
    pub async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            kill_group(&child);
            let _ = child.wait().await;
        }
    }

    /// Starts it again after [`Self::kill`], on the same port with the same database.
    pub async fn restart(&mut self) -> Result<(), StartFailure> {
        self.kill().await;
        self.launch().await
    }

    /// Starts it again on the same port with an empty database: identifiers begin at 1 again.
    pub async fn rebuild(&mut self) -> Result<(), StartFailure> {
        self.kill().await;
        self.generation += 1;
        self.launch().await
    }

    async fn launch_on_a_free_port(&mut self) -> Result<(), StartFailure> {
        let mut result = Ok(());
        for _ in 0..PORT_TRIES {
            self.port = free_port()?;
            result = self.launch().await;
            if result.is_ok() || !self.log().contains("Address already in use") {
                break;
            }
            let _ = fs::remove_file(self.directory.join("server.log"));
        }
        result
    }

    async fn launch(&mut self) -> Result<(), StartFailure> {
        let io =
            |error: std::io::Error| StartFailure::new(format!("PyKMIP cannot be started: {error}"), "delete target/tools and try again");
        write_private(&self.directory.join("server.conf"), self.server_conf())?;
        let output = fs::OpenOptions::new().create(true).append(true).open(self.directory.join("output.log")).map_err(io)?;
        let mut command = Command::new(&self.program);
        command.arg("-f").arg(self.directory.join("server.conf")).arg("-l").arg(self.directory.join("server.log"));
        command.stdin(Stdio::null()).stdout(output.try_clone().map_err(io)?).stderr(output);
        // The server has helper processes that outlive it: all of them get a group of their own, ended as one.
        command.process_group(0).kill_on_drop(true);
        self.child = Some(command.spawn().map_err(io)?);
        let ready = self.wait_until_ready().await;
        if ready.is_err() {
            self.kill().await;
        }
        ready
    }

    fn server_conf(&self) -> String {
        let path = |name: &str| self.directory.join(name).display().to_string();
        let suites = match self.profile {
            Profile::Ecdsa => String::new(),
            Profile::Intel => format!("tls_cipher_suites={}\n", Profile::INTEL_SUITES),
        };
        format!(
            "[server]\nhostname=127.0.0.1\nport={}\ncertificate_path={}\nkey_path={}\nca_path={}\nauth_suite=TLS1.2\n\
             enable_tls_client_auth=True\nlogging_level=INFO\npolicy_path={}\ndatabase_path={}\n{suites}",
            self.port,
            path("server.pem"),
            path("server.key"),
            path("ca.pem"),
            path("policies"),
            path(&format!("keys-{}.database", self.generation)),
        )
    }

    /// Ready is: it accepts a connection, and answers a Query over TLS to the owner.
    async fn wait_until_ready(&mut self) -> Result<(), StartFailure> {
        let (address, config) = (self.address(), self.config(&self.owner));
        let answers = async {
            loop {
                if TcpStream::connect(address).await.is_ok()
                    && let Ok(kms) = KmipKms::new(&config)
                    && kms.health().await.is_ok()
                {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let hint = || format!("its logs are in {}", self.directory.display());
        let Some(child) = self.child.as_mut() else { return Err(StartFailure::new("PyKMIP was not started", hint())) };
        tokio::select! {
            () = answers => Ok(()),
            _ = child.wait() => Err(StartFailure::new("PyKMIP ended before it answered", hint())),
            () = tokio::time::sleep(Duration::from_secs(READY_SECONDS_MAX)) => {
                Err(StartFailure::new(format!("PyKMIP did not answer within {READY_SECONDS_MAX} s"), hint()))
            }
        }
    }
}

impl Drop for Pykmip {
    fn drop(&mut self) {
        if let Some(child) = &self.child {
            kill_group(child);
        }
    }
}

fn kill_group(child: &Child) {
    if let Some(group) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

fn free_port() -> Result<u16, StartFailure> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    port.map(|address| address.port())
        .map_err(|error| StartFailure::new(format!("no free port on 127.0.0.1: {error}"), "close programs that hold many connections"))
}

/// Makes a root, the server's certificate and three clients', named as Intel's script names them.
fn write_certificates(profile: Profile, directory: &Path) -> Result<[ClientCertificate; 3], StartFailure> {
    let failed = |error: rcgen::Error| StartFailure::new(format!("test certificates cannot be made: {error}"), "report this");
    let mut root = parameters("Root CA", &[]).map_err(failed)?;
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let root_key = profile.key().map_err(failed)?;
    write_private(&directory.join("ca.pem"), root.self_signed(&root_key).map_err(failed)?.pem())?;
    let issuer = Issuer::new(root, root_key);

    let issue =
        |file: &str, common_name: &str, hosts: &[&str], usages: &[ExtendedKeyUsagePurpose]| -> Result<ClientCertificate, StartFailure> {
            let mut leaf = parameters(common_name, hosts).map_err(failed)?;
            leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
            leaf.extended_key_usages = usages.to_vec();
            let key = profile.key().map_err(failed)?;
            let files = ClientCertificate {
                certificate_file: directory.join(format!("{file}.pem")),
                key_file: directory.join(format!("{file}.key")),
            };
            write_private(&files.certificate_file, leaf.signed_by(&key, &issuer).map_err(failed)?.pem())?;
            write_private(&files.key_file, key.serialize_pem())?;
            Ok(files)
        };
    issue("server", "Server Certificate", &["127.0.0.1"], &[ExtendedKeyUsagePurpose::ServerAuth])?;
    let owner = issue("client", "Client Certificate", &[], &[ExtendedKeyUsagePurpose::ClientAuth])?;
    let stranger = issue("stranger", "Stranger", &[], &[ExtendedKeyUsagePurpose::ClientAuth])?;
    let unmarked = issue("unmarked", "Client Certificate", &[], &[])?;
    Ok([owner, stranger, unmarked])
}

fn parameters(common_name: &str, hosts: &[&str]) -> Result<CertificateParams, rcgen::Error> {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut parameters = CertificateParams::new(hosts)?;
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    parameters.distinguished_name.push(DnType::OrganizationName, "ITA Intel");
    parameters.distinguished_name.push(DnType::CountryName, "US");
    Ok(parameters)
}
