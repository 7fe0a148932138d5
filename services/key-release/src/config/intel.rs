//! The environment of Intel's key broker, under its own names and with its own start checks.
//!
//! It counts as present when one of [`MARKERS`] is set; then every name of it is read, what it requires is required, and
//! every mistake is reported at once. Its names win over the configuration file and lose to `KEYFERRY_` names and `--set`.
//! What it has no word for (the bus, the store key) comes from the native configuration, and so does what it cannot say
//! safely: where the native configuration names issuers, a verifier or the listener's certificate, those stay.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE},
};
use keyferry_kms::VaultConfig;
use keyferry_lifecycle::{Foreign, Mistake, Surroundings};
use toml::{Table, Value};
use url::Url;
use zeroize::Zeroizing;

use crate::users::{check_password, check_username};

/// No other program sets these; one is enough.
const MARKERS: [&str; 4] = ["KEY_MANAGER", "TRUSTAUTHORITY_BASE_URL", "TRUSTAUTHORITY_API_URL", "TRUSTAUTHORITY_API_KEY"];
/// Intel's ports and names.
const SERVICE_PORT_DEFAULT: &str = "9443";
const VAULT_PORT_DEFAULT: &str = "8200";
const SAN_LIST_DEFAULT: &str = "127.0.0.1,localhost";
/// Where distributions keep the system's roots. The environment names none, and its clients trust these.
const SYSTEM_ROOTS: [&str; 3] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
/// Stands where the token will be, which is no setting: see [`super::Config`].
pub(super) const VAULT_TOKEN_STANDS_HERE: &str = "VAULT_CLIENT_TOKEN";
/// What is written of other libraries, whatever the level of our own lines.
const LIBRARIES: &str = "async_nats=warn,h2=warn,hyper=warn,rustls=warn,tower=warn";

/// Which key manager the environment names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyManager {
    Vault,
    Kmip,
}

type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Whether this is Intel's environment.
pub(super) fn present(variable: Lookup<'_>) -> bool {
    MARKERS.iter().any(|name| variable(name).is_some())
}

/// The key manager; Intel's default is Vault. `None` for a name it does not know.
pub(super) fn key_manager(variable: Lookup<'_>) -> Option<KeyManager> {
    match variable("KEY_MANAGER").map(|name| name.to_ascii_lowercase()).as_deref() {
        None | Some("vault") => Some(KeyManager::Vault),
        Some("kmip") => Some(KeyManager::Kmip),
        Some(_) => None,
    }
}

/// The Vault of the environment, its token included.
pub(super) fn vault(variable: Lookup<'_>) -> Option<VaultConfig> {
    let port = variable("VAULT_SERVER_PORT").unwrap_or_else(|| VAULT_PORT_DEFAULT.to_owned());
    let token = Zeroizing::new(variable("VAULT_CLIENT_TOKEN")?);
    Some(VaultConfig::of_intels_kbs(&variable("VAULT_SERVER_IP")?, port.parse().ok()?, token))
}

/// Reads the whole environment. Secrets stay where they are; see [`super::Config`] for how they are taken.
pub(super) fn read(surroundings: &Surroundings<'_>) -> Foreign {
    let mut reader = Reader { surroundings, foreign: Foreign::default() };
    if present(surroundings.variable) {
        reader.listener();
        reader.log();
        reader.users();
        reader.administrator();
        reader.trust_authority();
        reader.keys();
    }
    reader.foreign
}

struct Reader<'a> {
    surroundings: &'a Surroundings<'a>,
    foreign: Foreign,
}

impl Reader<'_> {
    fn variable(&self, name: &str) -> Option<String> {
        (self.surroundings.variable)(name)
    }

    fn configured(&self, setting: &str) -> bool {
        (self.surroundings.setting)(setting).is_some()
    }

    fn set(&mut self, setting: &str, value: impl Into<Value>, variable: &'static str) {
        let text = match value.into() {
            Value::String(text) => text,
            other => other.to_string(),
        };
        self.foreign.settings.push((setting.to_owned(), text, variable));
    }

    fn wrong(&mut self, variable: &str, problem: impl Into<String>) {
        self.foreign.mistakes.push(Mistake::new(variable, problem));
    }

    fn required(&mut self, variable: &'static str, what: &str) -> Option<String> {
        let value = self.variable(variable);
        if value.is_none() {
            self.wrong(variable, format!("is missing: {what}"));
        }
        value
    }

    fn number(&mut self, variable: &'static str, default: Option<&str>, least: u32, most: u32) -> Option<u32> {
        let text = self.variable(variable).or_else(|| default.map(str::to_owned))?;
        let number = text.trim().parse().ok().filter(|number| (least..=most).contains(number));
        if number.is_none() {
            self.wrong(variable, format!("must be a number from {least} to {most}"));
        }
        number
    }

    /// What is made at the first start lies beside the store key.
    fn state_file(&self, name: &str) -> PathBuf {
        let store_key = (self.surroundings.setting)("store_key_file").unwrap_or_default();
        Path::new(&store_key).with_file_name(name)
    }

    fn listener(&mut self) {
        if let Some(port) = self.number("SERVICE_PORT", Some(SERVICE_PORT_DEFAULT), 1024, 65_535) {
            self.set("listen", format!("{}:{port}", Ipv4Addr::UNSPECIFIED), "SERVICE_PORT");
        }
        // Only checked: our own bounds on slow requests hold in any case.
        let _seconds = self.number("HTTP_READ_HEADER_TIMEOUT", None, 1, 3600);
        if self.configured("tls") {
            return;
        }
        let names = self.variable("SAN_LIST").unwrap_or_else(|| SAN_LIST_DEFAULT.to_owned());
        let names: Vec<String> = names.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect();
        if names.is_empty() || !names.iter().all(|name| is_host(name)) {
            return self.wrong("SAN_LIST", "must be a comma-separated list of IP addresses and DNS names");
        }
        let pair = Table::from_iter([
            ("certificate_file".to_owned(), path_value(&self.state_file("tls.crt"))),
            ("key_file".to_owned(), path_value(&self.state_file("tls.key"))),
        ]);
        self.set("tls", pair, "SAN_LIST");
        self.set("self_signed_names", names, "SAN_LIST");
    }

    fn log(&mut self) {
        if let Some(caller) = self.variable("LOG_CALLER")
            && !matches!(caller.to_ascii_lowercase().as_str(), "true" | "false" | "t" | "f" | "1" | "0")
        {
            self.wrong("LOG_CALLER", "must be true or false; every line names the module that wrote it in any case");
        }
        let Some(level) = self.variable("LOG_LEVEL") else { return };
        let ours = match level.to_ascii_lowercase().as_str() {
            "panic" | "fatal" | "error" => "error",
            "warn" | "warning" => "warn",
            "info" => "info",
            "debug" => "debug",
            "trace" => "trace",
            _ => return self.wrong("LOG_LEVEL", "must be panic, fatal, error, warn, info, debug or trace"),
        };
        self.set("runtime.telemetry.log", format!("{ours},{LIBRARIES}"), "LOG_LEVEL");
    }

    fn users(&mut self) {
        let settings = [
            ("BEARER_TOKEN_VALIDITY_IN_MINUTES", "users.token_validity_minutes", 30),
            ("AUTHENTICATION_DEFEND_MAX_ATTEMPTS", "users.attempts_max", super::COUNT_MAX),
            ("AUTHENTICATION_DEFEND_INTERVAL_MINUTES", "users.attempt_interval_minutes", super::COUNT_MAX),
            ("AUTHENTICATION_DEFEND_LOCKOUT_MINUTES", "users.lockout_minutes", super::COUNT_MAX),
        ];
        for (variable, setting, most) in settings {
            if let Some(number) = self.number(variable, None, 1, most) {
                self.set(setting, number.to_string(), variable);
            }
        }
    }

    fn administrator(&mut self) {
        if self.configured("admin.username") && (self.configured("admin.password_file") || self.configured("admin.password")) {
            return;
        }
        if let Some(name) = self.required("ADMIN_USERNAME", "the first administrator's name")
            && let Err(denial) = check_username(&name)
        {
            self.wrong("ADMIN_USERNAME", denial.to_string());
        }
        if self.variable("ADMIN_PASSWORD_FILE").is_some() {
            return;
        }
        if let Some(password) = self.required("ADMIN_PASSWORD", "the first administrator's password").map(Zeroizing::new)
            && let Err(denial) = check_password(&password)
        {
            self.wrong("ADMIN_PASSWORD", denial.to_string());
        }
    }

    fn trust_authority(&mut self) {
        let base = self.https_url("TRUSTAUTHORITY_BASE_URL", "where the verifier publishes its keys, https://host");
        let api = self.https_url("TRUSTAUTHORITY_API_URL", "the verifier's API, https://host");
        if let Some(key) = self.required("TRUSTAUTHORITY_API_KEY", "the API key of the verifier").map(Zeroizing::new)
            && BASE64_URL_SAFE.decode(key.as_bytes()).is_err()
            && BASE64_STANDARD.decode(key.as_bytes()).is_err()
        {
            self.wrong("TRUSTAUTHORITY_API_KEY", "must be base64 with padding (not shown: it is a secret)");
        }
        let (Some(base), Some(api)) = (base, api) else { return };
        if self.configured("issuers") && self.configured("verifier") {
            return;
        }
        let Some(roots) = self.roots() else { return };
        if !self.configured("issuers") {
            let issuer = Table::from_iter([
                ("issuer".to_owned(), Value::from(base.clone())),
                ("jwks_url".to_owned(), Value::from(format!("{base}/certs"))),
                ("jwks_ca_file".to_owned(), path_value(&roots)),
                ("root_file".to_owned(), path_value(&self.state_file("trust-authority-root.pem"))),
                ("pin_on_first_use".to_owned(), Value::from(true)),
                ("algorithms".to_owned(), Value::from(vec!["PS384"])),
                ("absent_anchor".to_owned(), Value::from("intel")),
            ]);
            self.set("issuers", vec![self.through_proxy(issuer)], "TRUSTAUTHORITY_BASE_URL");
        }
        if !self.configured("verifier") {
            let verifier = Table::from_iter([("api_url".to_owned(), Value::from(api)), ("ca_file".to_owned(), path_value(&roots))]);
            self.set("verifier", self.through_proxy(verifier), "TRUSTAUTHORITY_API_URL");
        }
    }

    /// Both peers are reached over https, so HTTP_PROXY has nothing to say.
    fn through_proxy(&self, mut peer: Table) -> Table {
        let either = |upper: &str, lower: &str| self.variable(upper).or_else(|| self.variable(lower));
        if let Some(proxy) = either("HTTPS_PROXY", "https_proxy") {
            let except = either("NO_PROXY", "no_proxy").unwrap_or_default();
            let proxy = Table::from_iter([("url".to_owned(), Value::from(proxy)), ("except".to_owned(), Value::from(except))]);
            peer.insert("proxy".to_owned(), Value::from(proxy));
        }
        peer
    }

    fn https_url(&mut self, variable: &'static str, what: &str) -> Option<String> {
        let text = self.required(variable, what)?;
        let usable = Url::parse(&text).is_ok_and(|url| url.scheme() == "https" && url.host_str().is_some() && url.username().is_empty());
        if !usable {
            self.wrong(variable, "must be an https:// address");
            return None;
        }
        Some(text.trim_end_matches('/').to_owned())
    }

    fn roots(&mut self) -> Option<PathBuf> {
        if let Some(file) = self.variable("SSL_CERT_FILE").map(PathBuf::from) {
            if file.is_file() {
                return Some(file);
            }
            self.wrong("SSL_CERT_FILE", "names no file that can be read");
            return None;
        }
        let found = SYSTEM_ROOTS.iter().map(PathBuf::from).find(|file| file.is_file());
        if found.is_none() {
            self.wrong("SSL_CERT_FILE", "is missing, and this system has no list of roots: name a PEM file of whom to trust");
        }
        found
    }

    fn keys(&mut self) {
        match key_manager(self.surroundings.variable) {
            Some(KeyManager::Vault) => self.vault(),
            Some(KeyManager::Kmip) => self.kmip(),
            None => self.wrong("KEY_MANAGER", "must be vault or kmip"),
        }
    }

    fn vault(&mut self) {
        let host = self.required("VAULT_SERVER_IP", "the Vault server's address");
        let token = self.required("VAULT_CLIENT_TOKEN", "the token for the Vault server").map(Zeroizing::new);
        let port = self.number("VAULT_SERVER_PORT", Some(VAULT_PORT_DEFAULT), 1, 65_535);
        if let (Some(host), Some(_), Some(port)) = (host, token, port) {
            let auth = Table::from_iter([("token_file".to_owned(), Value::from(VAULT_TOKEN_STANDS_HERE))]);
            let vault = Table::from_iter([
                ("url".to_owned(), Value::from(format!("http://{host}:{port}"))),
                ("allow_plain_http".to_owned(), Value::from(true)),
                ("engine".to_owned(), Value::from("kv1")),
                ("auth".to_owned(), Value::from(auth)),
            ]);
            self.set("kms", Table::from_iter([("vault".to_owned(), Value::from(vault))]), "KEY_MANAGER");
        }
    }

    fn kmip(&mut self) {
        let version = self.required("KMIP_VERSION", "1.4 or 2.0");
        if version.as_deref().is_some_and(|version| !matches!(version, "1.4" | "2.0")) {
            self.wrong("KMIP_VERSION", "must be 1.4 or 2.0");
        }
        let host = self.required("KMIP_SERVER_IP", "the KMIP server's address");
        let _ = self.required("KMIP_SERVER_PORT", "the KMIP server's port, usually 5696");
        let port = self.number("KMIP_SERVER_PORT", None, 1, 65_535);
        let mut kmip = Table::new();
        for (variable, setting) in
            [("KMIP_ROOT_CERT_PATH", "ca_file"), ("KMIP_CLIENT_CERT_PATH", "certificate_file"), ("KMIP_CLIENT_KEY_PATH", "key_file")]
        {
            if let Some(file) = self.required(variable, "a PEM file") {
                if !Path::new(&file).is_file() {
                    self.wrong(variable, "names no file that can be read");
                }
                kmip.insert(setting.to_owned(), Value::from(file));
            }
        }
        let (Some(version), Some(host), Some(port)) = (version, host, port) else { return };
        let address =
            if host.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        kmip.insert("address".to_owned(), Value::from(address));
        kmip.insert("version".to_owned(), Value::from(version));
        // Its sample server offers nothing that the other library has, and its broker activates no key.
        kmip.insert("tls".to_owned(), Value::from("openssl"));
        kmip.insert("release".to_owned(), Value::from(Table::from_iter([("accept_pre_active".to_owned(), Value::from(true))])));
        if let Some(name) = self.variable("KMIP_HOSTNAME") {
            kmip.insert("server_name".to_owned(), Value::from(name));
        }
        self.set("kms", Table::from_iter([("kmip".to_owned(), Value::from(kmip))]), "KEY_MANAGER");
    }
}

fn path_value(path: &Path) -> Value {
    Value::from(path.display().to_string())
}

fn is_host(name: &str) -> bool {
    let label =
        |label: &str| !label.is_empty() && label.len() <= 63 && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    name.parse::<IpAddr>().is_ok() || (name.len() <= 253 && name.strip_prefix("*.").unwrap_or(name).split('.').all(label))
}
