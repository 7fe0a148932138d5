//! The environment of Intel's key broker: every name with good and bad values, and a start with nothing else.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails the test")]

mod harness;

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use harness::{PASSWORD, TD, admin, basic, refusal, refused, verifier::Verifier, with_credential};
use key_release::Config;
use keyferry_attestation_token::Algorithm;
use keyferry_bus::Role;
use keyferry_contract::release::v1::{
    CreateKeyRequest, CreatePolicyRequest, KeyAlgorithm, ListKeysRequest, TransferKeyRequest,
    key_administration_client::KeyAdministrationClient, key_broker_client::KeyBrokerClient, transfer_key_request::Credential,
};
use keyferry_key_wrap::WrappedKey;
use keyferry_kms::{KmsConfig, TlsLibrary, VaultAuth, VaultEngine, Version};
use keyferry_lifecycle::{Layers, clock, load};
use keyferry_testkit::{
    intel_broker,
    nats::NatsServer,
    process::{Service, ServiceSpec},
    pykmip::{Profile, Pykmip},
};
use keyferry_tls::{CertificateAuthority, RootsConfig, client_config, grpc_channel, read_certificates};
use serde_json::json;
use tempfile::TempDir;
use tonic::Code;

/// Files that the environment names, and the native configuration beside it: what Intel has no word for.
struct Site {
    directory: TempDir,
}

impl Site {
    fn new() -> Self {
        let this = Self { directory: tempfile::tempdir().unwrap() };
        for name in ["root.pem", "client.pem", "client.key", "roots.pem"] {
            fs::write(this.path(name), "a file").unwrap();
        }
        let native = format!(
            "store_key_file = {:?}\n[bus]\nurl = \"tls://127.0.0.1:1\"\nca_file = \"ca\"\ncredentials_file = \"creds\"\n",
            this.text("state/store.key")
        );
        fs::write(this.path("native.toml"), native).unwrap();
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Intel's sample, with paths of this machine.
    fn kmip(&self) -> Vec<(String, String)> {
        self.variables(&[
            ("LOG_LEVEL", "info"),
            ("KEY_MANAGER", "KMIP"),
            ("ADMIN_USERNAME", "kbsadmin"),
            ("ADMIN_PASSWORD", "kbsAdminPassword"),
            ("KMIP_VERSION", "2.0"),
            ("KMIP_SERVER_IP", "192.0.2.7"),
            ("KMIP_SERVER_PORT", "5696"),
            ("KMIP_HOSTNAME", "kmip.example"),
            ("KMIP_CLIENT_CERT_PATH", &self.text("client.pem")),
            ("KMIP_CLIENT_KEY_PATH", &self.text("client.key")),
            ("KMIP_ROOT_CERT_PATH", &self.text("root.pem")),
        ])
    }

    fn vault(&self) -> Vec<(String, String)> {
        self.variables(&[
            ("KEY_MANAGER", "Vault"),
            ("ADMIN_USERNAME", "kbsadmin"),
            ("ADMIN_PASSWORD", "kbsAdminPassword"),
            ("VAULT_SERVER_IP", "192.0.2.8"),
            ("VAULT_CLIENT_TOKEN", "hvs.canary"),
        ])
    }

    fn variables(&self, more: &[(&str, &str)]) -> Vec<(String, String)> {
        let roots = self.text("roots.pem");
        let common = [
            ("TRUSTAUTHORITY_BASE_URL", "https://portal.trustauthority.intel.com/"),
            ("TRUSTAUTHORITY_API_URL", "https://api.trustauthority.intel.com"),
            ("TRUSTAUTHORITY_API_KEY", "a2V5Y2FuYXJ5-_8="),
            ("SSL_CERT_FILE", &roots),
        ];
        common.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// With the native file, or the names of what is wrong.
    fn load(&self, environment: &[(String, String)], settings: &[&str]) -> Result<Config, BTreeSet<String>> {
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let layers = Layers { file: Some(self.path("native.toml")), environment: environment.to_vec(), settings };
        load(&layers).map_err(|error| {
            assert!(!error.to_string().contains("canary"), "{error}");
            error.mistakes().iter().map(|mistake| mistake.setting().to_owned()).collect()
        })
    }
}

fn with(environment: &[(String, String)], name: &str, value: &str) -> Vec<(String, String)> {
    let mut changed: Vec<_> = environment.iter().filter(|(known, _)| known != name).cloned().collect();
    changed.push((name.to_owned(), value.to_owned()));
    changed
}

fn kmip_of(config: &Config) -> &keyferry_kms::KmipConfig {
    match &config.kms {
        KmsConfig::Kmip(kmip) => kmip,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_sample_of_a_kmip_deployment_becomes_our_settings() {
    let site = Site::new();
    let config = site.load(&site.kmip(), &[]).unwrap();
    assert_eq!(config.listen.to_string(), "0.0.0.0:9443");
    let kmip = kmip_of(&config);
    assert_eq!((kmip.address.as_str(), kmip.server_name.as_deref()), ("192.0.2.7:5696", Some("kmip.example")));
    assert_eq!((kmip.version, kmip.tls, kmip.release.accept_pre_active), (Version::V2_0, TlsLibrary::OpenSsl, true));
    assert_eq!(kmip.ca_file, site.path("root.pem"));
    let issuer = &config.issuers[0];
    assert_eq!(issuer.issuer, "https://portal.trustauthority.intel.com");
    assert_eq!(issuer.jwks_url, "https://portal.trustauthority.intel.com/certs");
    assert_eq!((issuer.pin_on_first_use, issuer.root_file.clone()), (true, site.path("state/trust-authority-root.pem")));
    assert_eq!(issuer.jwks_ca_file, site.path("roots.pem"));
    let verifier = config.verifier.as_ref().unwrap();
    assert_eq!(verifier.api_url, "https://api.trustauthority.intel.com");
    assert_eq!(verifier.api_key.as_ref().unwrap().expose(), "a2V5Y2FuYXJ5-_8=");
    assert_eq!((config.users.token_validity_minutes, config.users.attempts_max), (5, 5));
    assert_eq!((config.users.attempt_interval_minutes, config.users.lockout_minutes), (5, 15));
    assert_eq!(config.self_signed_names, ["127.0.0.1", "localhost"]);
    assert_eq!(config.tls.certificate_file, site.path("state/tls.crt"));
    assert!(!format!("{config:?}").contains("a2V5"));
}

#[test]
fn the_sample_of_a_vault_deployment_becomes_our_settings() {
    let site = Site::new();
    let config = site.load(&site.vault(), &[]).unwrap();
    let KmsConfig::Vault(vault) = &config.kms else { panic!("{:?}", config.kms) };
    assert_eq!((vault.url.as_str(), vault.engine, vault.allow_plain_http), ("http://192.0.2.8:8200", VaultEngine::Kv1, true));
    assert!(matches!(&vault.auth, VaultAuth::Token(token) if token.as_str() == "hvs.canary"));
    assert!(!format!("{config:?}").contains("hvs."));
    let without_manager: Vec<_> = site.vault().into_iter().filter(|(name, _)| name != "KEY_MANAGER").collect();
    assert!(matches!(site.load(&without_manager, &[]).unwrap().kms, KmsConfig::Vault(_)), "Intel's default");
}

#[test]
fn every_name_takes_its_good_values_and_refuses_its_bad_ones() {
    let site = Site::new();
    let (kmip, vault) = (site.kmip(), site.vault());
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("SERVICE_PORT", &["1024", "9443", "65535", ""], &["1023", "65536", "x", "-1", "0"]),
        ("LOG_LEVEL", &["INFO", "warning", "panic", "Trace", ""], &["loud"]),
        ("LOG_CALLER", &["true", "FALSE", ""], &["perhaps"]),
        ("TRUSTAUTHORITY_BASE_URL", &["https://a.example"], &["", "http://a.example", "a.example", "https://", "https://user@a.example"]),
        ("TRUSTAUTHORITY_API_URL", &["https://a.example:444"], &["", "http://a.example", "::"]),
        ("TRUSTAUTHORITY_API_KEY", &["YWJj", "YWI=", "-_8=", "+/8="], &["", "not base64!", "YWI"]),
        ("KEY_MANAGER", &["kmip", "KMIP", "Kmip"], &["pkcs11"]),
        ("ADMIN_USERNAME", &["admin", "user@example.com"], &["", "a", "#####", "a b"]),
        ("ADMIN_PASSWORD", &["ninechars"], &["", "eight888"]),
        ("SAN_LIST", &["10.0.0.1, kbs.example", "::1", "", "*.kbs.example"], &[",", "a b", "kbs..example"]),
        ("BEARER_TOKEN_VALIDITY_IN_MINUTES", &["1", "30", ""], &["0", "31", "five"]),
        ("HTTP_READ_HEADER_TIMEOUT", &["10", ""], &["0", "soon"]),
        ("AUTHENTICATION_DEFEND_MAX_ATTEMPTS", &["1", "5", ""], &["0", "-1"]),
        ("AUTHENTICATION_DEFEND_INTERVAL_MINUTES", &["1", "5", ""], &["0", "x"]),
        ("AUTHENTICATION_DEFEND_LOCKOUT_MINUTES", &["1", "15", ""], &["0", "1.5"]),
        ("KMIP_VERSION", &["1.4", "2.0"], &["", "1.2", "2.1", "two"]),
        ("KMIP_SERVER_IP", &["127.0.0.1", "kmip.example", "::1"], &[""]),
        ("KMIP_SERVER_PORT", &["5696"], &["", "0", "65536"]),
        ("KMIP_HOSTNAME", &["", "kmip.example"], &[]),
        ("KMIP_CLIENT_KEY_PATH", &[], &["", "/nonexistent/key"]),
        ("KMIP_CLIENT_CERT_PATH", &[], &["", "/nonexistent/certificate"]),
        ("KMIP_ROOT_CERT_PATH", &[], &["", "/nonexistent/root"]),
        ("SSL_CERT_FILE", &[], &["/nonexistent/roots"]),
        ("HTTPS_PROXY", &["http://proxy.example:3128", "proxy.example:3128", ""], &[]),
        ("NO_PROXY", &["10.0.0.0/8,.example", ""], &[]),
    ];
    for (name, good, bad) in cases {
        for value in *good {
            assert_eq!(site.load(&with(&kmip, name, value), &[]).err(), None, "{name}={value}");
        }
        for value in *bad {
            let mistakes = site.load(&with(&kmip, name, value), &[]).unwrap_err();
            assert!(mistakes.contains(*name), "{name}={value}: {mistakes:?}");
        }
    }
    for (name, bad) in [("VAULT_SERVER_IP", ""), ("VAULT_CLIENT_TOKEN", ""), ("VAULT_SERVER_PORT", "port")] {
        assert!(site.load(&with(&vault, name, bad), &[]).unwrap_err().contains(name), "{name}");
    }
    assert!(site.load(&with(&vault, "VAULT_SERVER_PORT", "8300"), &[]).is_ok());
}

#[test]
fn every_mistake_is_reported_in_one_start() {
    let site = Site::new();
    let environment: Vec<_> =
        [("KEY_MANAGER", "kmip"), ("SERVICE_PORT", "80"), ("LOG_LEVEL", "loud"), ("BEARER_TOKEN_VALIDITY_IN_MINUTES", "31")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec();
    let mistakes = site.load(&environment, &[]).unwrap_err();
    for name in [
        "SERVICE_PORT",
        "LOG_LEVEL",
        "BEARER_TOKEN_VALIDITY_IN_MINUTES",
        "TRUSTAUTHORITY_BASE_URL",
        "TRUSTAUTHORITY_API_URL",
        "TRUSTAUTHORITY_API_KEY",
        "ADMIN_USERNAME",
        "ADMIN_PASSWORD",
        "KMIP_VERSION",
        "KMIP_SERVER_IP",
        "KMIP_SERVER_PORT",
        "KMIP_CLIENT_KEY_PATH",
        "KMIP_CLIENT_CERT_PATH",
        "KMIP_ROOT_CERT_PATH",
    ] {
        assert!(mistakes.contains(name), "{name} is not in {mistakes:?}");
    }
}

#[test]
fn the_file_loses_to_intels_names_and_they_lose_to_ours() {
    let site = Site::new();
    let native = fs::read_to_string(site.path("native.toml")).unwrap();
    let sections = "[kms.dev]\nfile = \"keys\"\nkey_file = \"key\"\n[users]\nlockout_minutes = 7\nattempts_max = 8\n";
    fs::write(site.path("native.toml"), format!("listen = \"127.0.0.1:1\"\n{native}{sections}")).unwrap();
    let environment = with(&with(&site.kmip(), "SERVICE_PORT", "9500"), "AUTHENTICATION_DEFEND_LOCKOUT_MINUTES", "20");
    let config = site.load(&environment, &[]).unwrap();
    assert_eq!((config.listen.port(), config.users.lockout_minutes, config.users.attempts_max), (9500, 20, 8));
    assert_eq!(kmip_of(&config).version, Version::V2_0);

    let ours = with(&with(&environment, "KEYFERRY_LISTEN", "127.0.0.1:9600"), "KEYFERRY_KMS__KMIP__VERSION", "1.4");
    let config = site.load(&ours, &["users.lockout_minutes=30"]).unwrap();
    assert_eq!((config.listen.port(), config.users.lockout_minutes), (9600, 30));
    assert_eq!(kmip_of(&config).version, Version::V1_4);
}

#[test]
fn what_the_native_configuration_pins_stays() {
    let site = Site::new();
    let native = fs::read_to_string(site.path("native.toml")).unwrap();
    let sections = "[tls]\ncertificate_file = \"c\"\nkey_file = \"k\"\n[[issuers]]\nissuer = \"i\"\nroot_file = \"r\"\n\
        jwks_url = \"https://i\"\njwks_ca_file = \"c\"\nalgorithms = [\"PS384\"]\n\
        [verifier]\napi_url = \"https://v\"\nca_file = \"c\"\napi_key_file = \"k\"\n";
    fs::write(site.path("native.toml"), native + sections).unwrap();
    let config = site.load(&site.kmip(), &[]).unwrap();
    assert_eq!((config.issuers.len(), config.issuers[0].root_file.to_str()), (1, Some("r")));
    assert!(!config.issuers[0].pin_on_first_use && config.self_signed_names.is_empty());
    let verifier = config.verifier.unwrap();
    assert!(verifier.api_key.is_none() && verifier.api_url == "https://v");
}

#[test]
fn without_intels_names_nothing_of_theirs_is_read() {
    let site = Site::new();
    let generic = [("LOG_LEVEL", "loud"), ("SERVICE_PORT", "80"), ("HTTPS_PROXY", "x"), ("SSL_CERT_FILE", "/nonexistent")];
    let environment: Vec<_> = generic.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let mistakes = site.load(&environment, &[]).unwrap_err();
    assert!(mistakes.iter().all(|name| name.chars().all(|c| !c.is_ascii_uppercase())), "{mistakes:?}");
}

#[test]
fn the_password_and_proxy_reach_those_they_are_for() {
    let site = Site::new();
    let environment = with(&with(&site.kmip(), "KMIP_USERNAME", "broker"), "KMIP_PASSWORD", "canary-password");
    let config = site.load(&with(&environment, "HTTPS_PROXY", "http://proxy.example:3128"), &[]).unwrap();
    let kmip = kmip_of(&config);
    assert_eq!((kmip.username.as_deref(), kmip.password.as_ref().unwrap().as_str()), (Some("broker"), "canary-password"));
    assert_eq!(config.issuers[0].proxy.as_ref().unwrap().url, "http://proxy.example:3128");
    assert!(config.verifier.as_ref().unwrap().proxy.is_some());
    assert!(!format!("{config:?}").contains("canary"));
    let alone = site.load(&with(&site.kmip(), "KMIP_USERNAME", "broker"), &[]).unwrap();
    assert_eq!(kmip_of(&alone).username, None, "used only if both are set");
}

/// What a deployment has: Intel's environment as it is, a KMIP server as its sample sets it up, and our bus beside it.
struct Deployment {
    site: Site,
    authority: CertificateAuthority,
    verifier: Verifier,
    nats: NatsServer,
    pykmip: Pykmip,
}

impl Deployment {
    async fn start() -> Self {
        let site = Site::new();
        let authority = CertificateAuthority::generate("test root", clock::now(), 30).unwrap();
        authority.write_certificate(&site.path("roots.pem")).unwrap();
        let verifier = Verifier::start_as(&authority, Algorithm::Ps384, str::to_owned);
        verifier.publish();
        let nats = NatsServer::start().await.unwrap();
        let pykmip = match Pykmip::start(Profile::Intel).await {
            Ok(server) => server,
            Err(failure) => panic!("{failure}; {}", failure.hint()),
        };
        fs::create_dir(site.path("state")).unwrap();
        Self { site, authority, verifier, nats, pykmip }
    }

    fn environment(&self) -> Vec<(String, String)> {
        let owner = self.pykmip.owner();
        let port = self.pykmip.address().port().to_string();
        let changes = [
            ("TRUSTAUTHORITY_BASE_URL", self.verifier.url.clone()),
            ("TRUSTAUTHORITY_API_URL", self.verifier.url.clone()),
            ("ADMIN_USERNAME", "admin".to_owned()),
            ("ADMIN_PASSWORD", PASSWORD.to_owned()),
            ("SAN_LIST", "127.0.0.1,localhost".to_owned()),
            ("KMIP_SERVER_IP", "127.0.0.1".to_owned()),
            ("KMIP_SERVER_PORT", port),
            ("KMIP_HOSTNAME", "127.0.0.1".to_owned()),
            ("KMIP_CLIENT_CERT_PATH", owner.certificate_file.display().to_string()),
            ("KMIP_CLIENT_KEY_PATH", owner.key_file.display().to_string()),
            ("KMIP_ROOT_CERT_PATH", self.pykmip.ca_file().display().to_string()),
            // Only so that tests beside each other do not meet.
            ("KEYFERRY_LISTEN", "127.0.0.1:0".to_owned()),
        ];
        changes.iter().fold(self.site.kmip(), |environment, (name, value)| with(&environment, name, value))
    }

    fn spec(&self) -> ServiceSpec {
        let (nats, state) = (&self.nats, self.site.path("state"));
        let config = json!({
            "store_key_file": state.join("store.key"),
            "bus": { "url": nats.url(), "ca_file": nats.ca_file(), "credentials_file": nats.credentials_file(Role::KeyRelease) },
            "runtime": { "health": { "listen": "127.0.0.1:0" } }
        });
        ServiceSpec { name: "key-release", instance: "key-release".to_owned(), config, environment: self.environment() }
    }

    fn certificate(&self) -> Vec<u8> {
        read_certificates(&self.site.path("state/tls.crt")).unwrap()[0].to_vec()
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn intels_environment_alone_starts_a_broker_that_releases_intels_keys() {
    let deployment = Deployment::start().await;
    let reference = intel_broker::create_key(&deployment.pykmip, Version::V2_0).await.unwrap();
    let mut service = Service::begin(deployment.spec(), deployment.site.directory.path()).unwrap();
    tokio::time::timeout(Duration::from_mins(1), service.until_healthy()).await.unwrap().unwrap();

    let made = ["tls.crt", "tls.key", "trust-authority-root.pem"].map(|name| deployment.site.path("state").join(name));
    assert_eq!(made.each_ref().map(|file| mode(file)), [0o600; 3]);
    assert_eq!(fs::read_to_string(&made[2]).unwrap().trim().lines().next(), Some("-----BEGIN CERTIFICATE-----"));

    // The client pins the certificate, as Intel's clients do.
    let roots = RootsConfig::Ders(vec![deployment.certificate()]);
    let address = format!("https://{}", service.address("grpc").unwrap());
    let channel = grpc_channel(&address, &client_config(&roots, false).unwrap()).unwrap();
    let mut administration = KeyAdministrationClient::new(channel.clone());
    let document = json!({ "attestation_type": "TDX", "tdx": { "attributes": { "mrtd": ["aa".repeat(48)] } } }).to_string();
    let policy_id = administration.create_policy(admin(CreatePolicyRequest { document })).await.unwrap().into_inner().policy_id;
    let request = CreateKeyRequest {
        algorithm: KeyAlgorithm::Aes.into(),
        length_bits: 256,
        policy_id,
        kms_key_ref: reference,
        ..CreateKeyRequest::default()
    };
    let key_id = administration.create_key(admin(request)).await.unwrap().into_inner().key_id;
    let transfer = |token: String| {
        let request = TransferKeyRequest { key_id: key_id.clone(), credential: Some(Credential::Token(token)) };
        let channel = channel.clone();
        async move { KeyBrokerClient::new(channel).transfer_key(request).await }
    };
    let token = deployment.verifier.token(|claims| claims.trust_anchor = "intel-sgx-root".to_owned());
    let released = transfer(token).await.unwrap().into_inner();
    assert_eq!(TD.unwrap_key(&WrappedKey::from_parts(released.wrapped_key, released.wrapped_swk)).unwrap().bits(), 256);
    let other = deployment.verifier.token(|claims| {
        claims.trust_anchor = "intel-sgx-root".to_owned();
        claims.measurements.mr_td = [0xab; 48];
    });
    assert_eq!(refusal(transfer(other).await).0, Code::PermissionDenied);
    service.stop().await;
    let log = service.log();
    assert!(log.contains("PINNED THE ROOT") && !log.contains(PASSWORD) && !log.contains("a2V5Y2FuYXJ5"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_changes_after_it_was_pinned_is_refused() {
    let deployment = Deployment::start().await;
    let root = deployment.site.path("state/trust-authority-root.pem");
    let other = Verifier::start_as(&deployment.authority, Algorithm::Ps384, str::to_owned);
    fs::write(&root, &other.root_pem).unwrap();
    let mut service = Service::begin(deployment.spec(), deployment.site.directory.path()).unwrap();
    service.until_ready().await.unwrap();
    let roots = RootsConfig::Ders(vec![deployment.certificate()]);
    let address = format!("https://{}", service.address("grpc").unwrap());
    let channel = grpc_channel(&address, &client_config(&roots, false).unwrap()).unwrap();
    let document = json!({ "attestation_type": "TDX", "tdx": { "attributes": {} } }).to_string();
    let mut administration = KeyAdministrationClient::new(channel.clone());
    let policy_id = administration.create_policy(admin(CreatePolicyRequest { document })).await.unwrap().into_inner().policy_id;
    let request = CreateKeyRequest { algorithm: KeyAlgorithm::Aes.into(), length_bits: 256, policy_id, ..CreateKeyRequest::default() };
    let key_id = administration.create_key(admin(request)).await.unwrap().into_inner().key_id;
    let token = deployment.verifier.token(|claims| claims.trust_anchor = "intel-sgx-root".to_owned());
    let request = TransferKeyRequest { key_id, credential: Some(Credential::Token(token)) };
    let refusal = refusal(KeyBrokerClient::new(channel).transfer_key(request).await);
    assert_eq!(refusal, refused(Code::Unavailable, "jwks_unavailable"));
    assert_eq!(fs::read_to_string(&root).unwrap(), other.root_pem, "what is pinned stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_administrators_of_both_configurations_get_in() {
    let deployment = Deployment::start().await;
    let mut spec = deployment.spec();
    spec.config["admin"] = json!({ "username": "native", "password": "another long password" });
    let mut service = Service::begin(spec, deployment.site.directory.path()).unwrap();
    service.until_ready().await.unwrap();
    let roots = RootsConfig::Ders(vec![deployment.certificate()]);
    let address = format!("https://{}", service.address("grpc").unwrap());
    let channel = grpc_channel(&address, &client_config(&roots, false).unwrap()).unwrap();
    let mut administration = KeyAdministrationClient::new(channel);
    for (name, password, gets_in) in [("admin", PASSWORD, true), ("native", "another long password", true), ("native", PASSWORD, false)] {
        let request = with_credential(ListKeysRequest::default(), &basic(name, password));
        assert_eq!(administration.list_keys(request).await.is_ok(), gets_in, "{name}");
    }
}
