//! A bus on disk: what `keyferry bus init` makes, and what enrolment, renewal and revocation work on.
//!
//! ```text
//! DIR/ca.pem                         the root clients trust
//! DIR/offline/                       operator and account keys, the root's key: belongs on removable media
//! DIR/enrolment/                     the one key that mints TDs
//! DIR/server/                        nats.conf, certificate and key of the server, store/
//! DIR/credentials/                   one .creds file per service and person
//! ```

use std::{
    collections::BTreeMap,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use keyferry_tls::CertificateAuthority;
use zeroize::Zeroizing;

use crate::{Enrolment, Operator, OperatorError, Role, ServerSettings, files};

/// How long credentials of services and the server's certificate are valid, unless asked otherwise: a year.
pub const LIFETIME_SECONDS_DEFAULT: u64 = 365 * 24 * 3600;
const ROOT_DAYS: u32 = 10 * 365;
const SERVER_CERTIFICATE_DAYS: u32 = 365;
const OFFLINE_KEYS: [&str; 5] = ["operator.nk", "app.nk", "tds.nk", "sys.nk", "mirror.nk"];

/// Why a bus was not made or not read.
#[derive(Debug, thiserror::Error)]
pub enum DeploymentError {
    /// The directory has something in it.
    #[error("{} exists already: nothing in it was changed; choose another directory, or remove it first", path.display())]
    Exists {
        /// The directory.
        path: PathBuf,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A setting is not usable.
    #[error("{name}: {problem}")]
    Setting {
        /// Which.
        name: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// Nothing was signed.
    #[error(transparent)]
    Operator(#[from] OperatorError),
    /// A certificate was not made.
    #[error(transparent)]
    Certificate(#[from] keyferry_tls::TlsError),
}

/// What a new bus is to be.
#[derive(Clone, Debug)]
pub struct DeploymentOptions {
    /// The server's name in logs.
    pub server_name: String,
    /// Where the server listens; port 0 = any free one.
    pub listen: SocketAddr,
    /// DNS names and addresses clients reach the server by; they go into its certificate.
    pub host_names: Vec<String>,
    /// Monitoring (plain HTTP, loopback only); port 0 = any free one.
    pub monitor_port: u16,
    /// The most JetStream may store, bytes.
    pub store_bytes_max: u64,
}

impl Default for DeploymentOptions {
    fn default() -> Self {
        Self {
            server_name: "keyferry".to_owned(),
            listen: SocketAddr::from(([127, 0, 0, 1], 4222)),
            host_names: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
            monitor_port: 8222,
            store_bytes_max: 10 * 1024 * 1024 * 1024,
        }
    }
}

/// A bus on disk.
#[derive(Clone, Debug)]
pub struct Deployment {
    directory: PathBuf,
}

impl Deployment {
    /// Makes a new bus in `directory`, which must not exist or be empty. All of it appears at once, or nothing does.
    pub fn init(directory: &Path, options: &DeploymentOptions, now: u64) -> Result<Self, DeploymentError> {
        check(options)?;
        let directory = std::path::absolute(directory).map_err(|source| file(directory, source))?;
        if fs::read_dir(&directory).is_ok_and(|mut entries| entries.next().is_some()) || directory.is_file() {
            return Err(DeploymentError::Exists { path: directory });
        }
        let mut name = directory.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.new", std::process::id()));
        let scratch = Self { directory: directory.with_file_name(name) };
        let made = scratch.fill(&directory, options, now).and_then(|()| {
            // Over an empty directory a rename succeeds, over anything else it fails.
            fs::rename(&scratch.directory, &directory).map_err(|source| file(&directory, source))
        });
        if made.is_err() {
            let _ = fs::remove_dir_all(&scratch.directory);
        }
        made.map(|()| Self { directory })
    }

    /// A bus made earlier.
    pub fn open(directory: &Path) -> Result<Self, DeploymentError> {
        let directory = std::path::absolute(directory).map_err(|source| file(directory, source))?;
        let deployment = Self { directory };
        let root = deployment.ca_file();
        fs::metadata(&root).map_err(|source| file(&root, source))?;
        Ok(deployment)
    }

    fn fill(&self, home: &Path, options: &DeploymentOptions, now: u64) -> Result<(), DeploymentError> {
        for part in ["", "offline", "enrolment", "server/store", "credentials"] {
            let path = self.directory.join(part);
            files::private_directory(&path).map_err(|source| file(&path, source))?;
        }
        let (operator, enrolment) = Operator::generate();
        let keys = [&operator.root, &operator.app, &operator.tds, &operator.sys, &operator.mirror];
        for (name, key) in OFFLINE_KEYS.into_iter().zip(keys) {
            self.write_seed(&format!("offline/{name}"), key)?;
        }
        self.write_seed("enrolment/td-signing.nk", &enrolment.signing)?;
        self.write("enrolment/account", enrolment.account().as_bytes())?;
        let root = CertificateAuthority::generate("Keyferry bus root", now, ROOT_DAYS)?;
        root.write_certificate(&self.ca_file())?;
        self.write("offline/ca.key", root.key_pem().as_bytes())?;
        let settings = settings(home, options);
        let kept = Kept { server: settings.clone(), host_names: options.host_names.clone(), made_at: now };
        self.write("offline/settings.json", &serde_json::to_vec_pretty(&kept).unwrap_or_default())?;
        self.issue_server_certificate(&root, &options.host_names, now)?;
        self.write("server/nats.conf", operator.server_configuration(&settings, now)?.as_bytes())?;
        for role in Role::ALL {
            let credentials = operator.service_credentials(role, now, LIFETIME_SECONDS_DEFAULT)?;
            let path = self.credentials_file(role);
            credentials.write(&path).map_err(|source| file(&path, source))?;
        }
        let path = self.directory.join("credentials/monitor.creds");
        let monitor = operator.monitor_credentials(now, LIFETIME_SECONDS_DEFAULT)?;
        monitor.write(&path).map_err(|source| file(&path, source))
    }

    /// New credentials for every service and person and a new server certificate; the old ones stay valid until they
    /// end or are revoked. Needs the offline keys.
    pub fn renew(&self, now: u64) -> Result<(), DeploymentError> {
        let operator = self.operator()?;
        for role in Role::ALL {
            let path = self.credentials_file(role);
            let credentials = operator.service_credentials(role, now, LIFETIME_SECONDS_DEFAULT)?;
            credentials.replace(&path).map_err(|source| file(&path, source))?;
        }
        let path = self.directory.join("credentials/monitor.creds");
        let monitor = operator.monitor_credentials(now, LIFETIME_SECONDS_DEFAULT)?;
        monitor.replace(&path).map_err(|source| file(&path, source))?;
        let key = self.read("offline/ca.key")?;
        let root = CertificateAuthority::from_pem(&self.read("ca.pem")?, &key)?;
        self.issue_server_certificate(&root, &self.kept()?.host_names, now)
    }

    /// Ends the validity of everything issued to `nkey` until `now`, and rewrites `server/nats.conf`. The server obeys
    /// after a reload. Needs the offline keys.
    pub fn revoke(&self, nkey: &str, now: u64) -> Result<(), DeploymentError> {
        let mut operator = self.operator()?;
        operator.revoke(nkey, now)?;
        let revoked = serde_json::json!(operator.revoked()).to_string();
        self.replace("offline/revoked.json", revoked.as_bytes())?;
        let kept = self.kept()?;
        self.replace("server/nats.conf", operator.server_configuration(&kept.server, kept.made_at)?.as_bytes())
    }

    /// The key that mints TDs.
    pub fn enrolment(&self) -> Result<Enrolment, DeploymentError> {
        let account = self.read("enrolment/account")?;
        Ok(Enrolment::from_seed(account.trim().to_owned(), &self.read("enrolment/td-signing.nk")?)?)
    }

    /// The operator with all its keys.
    pub fn operator(&self) -> Result<Operator, DeploymentError> {
        let mut seeds = Vec::with_capacity(OFFLINE_KEYS.len());
        for name in OFFLINE_KEYS {
            seeds.push(self.read(&format!("offline/{name}"))?);
        }
        let revoked = self.directory.join("offline/revoked.json");
        let revoked: BTreeMap<String, u64> = match fs::read(&revoked) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| file(&revoked, error.into()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => return Err(file(&revoked, source)),
        };
        let seeds = [&*seeds[0], &*seeds[1], &*seeds[2], &*seeds[3], &*seeds[4]].map(String::as_str);
        Ok(Operator::from_seeds(seeds, self.enrolment()?.signing.public_key(), revoked)?)
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
    /// The root clients trust.
    pub fn ca_file(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }
    /// The server's configuration.
    pub fn server_configuration_file(&self) -> PathBuf {
        self.directory.join("server/nats.conf")
    }
    /// Where a server with port 0 writes the ports it chose.
    pub fn ports_directory(&self) -> PathBuf {
        self.directory.join("server")
    }
    /// The credentials of a service or person.
    pub fn credentials_file(&self, role: Role) -> PathBuf {
        self.directory.join("credentials").join(format!("{}.creds", role.name()))
    }

    fn issue_server_certificate(&self, root: &CertificateAuthority, names: &[String], now: u64) -> Result<(), DeploymentError> {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        root.issue_server(&names, now, SERVER_CERTIFICATE_DAYS)?.write(&self.directory.join("server"), "server")?;
        Ok(())
    }

    fn kept(&self) -> Result<Kept, DeploymentError> {
        let path = self.directory.join("offline/settings.json");
        let text = fs::read(&path).map_err(|source| file(&path, source))?;
        serde_json::from_slice(&text).map_err(|error| file(&path, error.into()))
    }

    fn write_seed(&self, name: &str, key: &nkeys::KeyPair) -> Result<(), DeploymentError> {
        let seed = Zeroizing::new(key.seed().map_err(|_| OperatorError::Signing)?);
        self.write(name, seed.as_bytes())
    }
    fn write(&self, name: &str, contents: &[u8]) -> Result<(), DeploymentError> {
        let path = self.directory.join(name);
        files::create_private(&path, contents).map_err(|source| file(&path, source))
    }
    fn replace(&self, name: &str, contents: &[u8]) -> Result<(), DeploymentError> {
        let path = self.directory.join(name);
        files::replace_private(&path, contents).map_err(|source| file(&path, source))
    }
    fn read(&self, name: &str) -> Result<Zeroizing<String>, DeploymentError> {
        let path = self.directory.join(name);
        fs::read_to_string(&path).map(Zeroizing::new).map_err(|source| file(&path, source))
    }
}

/// What renewal and revocation need to know again.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    server: ServerSettings,
    host_names: Vec<String>,
    /// Unix seconds. Every later configuration carries the same operator JWT: a server refuses to reload another one.
    made_at: u64,
}

fn settings(home: &Path, options: &DeploymentOptions) -> ServerSettings {
    let server = home.join("server");
    let inside = |name: &str| server.join(name).display().to_string();
    let port = |port: u16| if port == 0 { "-1".to_owned() } else { port.to_string() };
    let any_port = options.listen.port() == 0 || options.monitor_port == 0;
    ServerSettings {
        name: options.server_name.clone(),
        listen: match options.listen {
            SocketAddr::V4(address) => format!("{}:{}", address.ip(), port(address.port())),
            SocketAddr::V6(address) => format!("[{}]:{}", address.ip(), port(address.port())),
        },
        monitor: format!("127.0.0.1:{}", port(options.monitor_port)),
        store_directory: inside("store"),
        certificate_file: inside("server.pem"),
        key_file: inside("server.key"),
        store_bytes_max: options.store_bytes_max,
        ports_directory: any_port.then(|| server.display().to_string()),
    }
}

fn check(options: &DeploymentOptions) -> Result<(), DeploymentError> {
    let setting = |name, problem: &str| Err(DeploymentError::Setting { name, problem: problem.to_owned() });
    let plain = |text: &str| !text.is_empty() && text.len() <= 253 && text.chars().all(|c| c.is_ascii_alphanumeric() || ".-_:".contains(c));
    if !plain(&options.server_name) {
        return setting("server name", "1 to 253 characters of [A-Za-z0-9._-] are allowed");
    }
    if options.host_names.is_empty() || !options.host_names.iter().all(|name| plain(name)) {
        return setting("host names", "at least one DNS name or address is needed, of [A-Za-z0-9._:-] only");
    }
    Ok(())
}

fn file(path: &Path, source: io::Error) -> DeploymentError {
    DeploymentError::File { path: path.to_owned(), source }
}
