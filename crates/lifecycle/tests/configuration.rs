//! What an operator reads when a configuration is wrong: every mistake, each with its name and place, and no secret.
#![allow(clippy::unwrap_used, reason = "the helpers below are test code; clippy exempts only functions marked #[test]")]

use std::{net::SocketAddr, path::PathBuf};

use keyferry_lifecycle::{Foreign, Layers, Mistake, Runtime, Secret, ServiceConfig, Surroundings, load};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    runtime: Runtime,
    grpc: Listener,
    bus: Bus,
    #[serde(default)]
    nonce: Nonce,
    admin_password: Option<Secret>,
    admin_password_file: Option<PathBuf>,
    #[serde(default)]
    issuers: Vec<Issuer>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listener {
    listen: SocketAddr,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bus {
    url: String,
    workers: u16,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Nonce {
    lifetime_seconds: u64,
}
impl Default for Nonce {
    fn default() -> Self {
        Self { lifetime_seconds: 120 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "read only by Debug")]
struct Issuer {
    issuer: String,
    algorithms: Vec<Algorithm>,
}

#[derive(Debug, Deserialize, PartialEq)]
enum Algorithm {
    #[serde(rename = "PS384")]
    Ps384,
    #[serde(rename = "ES384")]
    Es384,
}

impl ServiceConfig for Config {
    const HEALTH_PORT: u16 = 9464;
    fn runtime(&self) -> &Runtime {
        &self.runtime
    }
    fn foreign(surroundings: &Surroundings<'_>) -> Foreign {
        let mut foreign = Foreign::default();
        if let Some(url) = (surroundings.variable)("THEIR_BUS") {
            foreign.settings.push(("bus.url".to_owned(), url, "THEIR_BUS"));
        }
        if let (Some(workers), None) = ((surroundings.variable)("THEIR_WORKERS"), (surroundings.setting)("nonce.lifetime_seconds")) {
            foreign.settings.push(("bus.workers".to_owned(), workers, "THEIR_WORKERS"));
        }
        foreign.mistakes.extend((surroundings.variable)("THEIR_MISTAKE").map(|_| Mistake::new("THEIR_MISTAKE", "is wrong")));
        foreign
    }
    fn adopt(&mut self, variable: &dyn Fn(&str) -> Option<String>) {
        self.admin_password = self.admin_password.take().or_else(|| variable("THEIR_PASSWORD").map(Secret::new));
    }
    fn check(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        if self.nonce.lifetime_seconds > 600 {
            mistakes.push(Mistake::new("nonce.lifetime_seconds", format!("{} is over the maximum of 600", self.nonce.lifetime_seconds)));
        }
        mistakes.extend(Secret::from_twins("admin_password", self.admin_password.as_ref(), self.admin_password_file.as_deref()).err());
        mistakes
    }
}

const GOOD: &str = r#"
[grpc]
listen = "127.0.0.1:9443"
[bus]
url = "tls://localhost:4222"
workers = 4
[[issuers]]
issuer = "https://verifier"
algorithms = ["PS384"]
"#;

struct Case {
    _directory: tempfile::TempDir,
    layers: Layers,
    path: String,
}

fn case(toml: &str) -> Case {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("service.toml");
    std::fs::write(&path, toml).unwrap();
    let layers = Layers { file: Some(path.clone()), ..Layers::default() };
    Case { _directory: directory, layers, path: path.display().to_string() }
}

/// What the operator reads, with the file's path shortened.
fn messages(case: &Case) -> Vec<String> {
    let error = load::<Config>(&case.layers).unwrap_err();
    error.mistakes().iter().map(|mistake| mistake.to_string().replace(&case.path, "service.toml")).collect()
}

fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn later_layers_win_and_texts_become_what_the_setting_needs() {
    let mut case = case(GOOD);
    case.layers.environment = environment(&[
        ("KEYFERRY_BUS__WORKERS", "8"),
        ("KEYFERRY_BUS__URL", "tls://nats:4222"),
        ("KEYFERRY_ISSUERS", r#"[{ issuer = "https://other", algorithms = ["ES384"] }]"#),
        ("KEYFERRY_RUNTIME__HEALTH__LISTEN", "127.0.0.1:0"),
        ("KEYFERRY_RUNTIME__TELEMETRY__ENVIRONMENT", "12"),
        ("PATH", "/usr/bin"),
    ]);
    case.layers.settings = vec!["bus.url=tls://flag:4222".to_owned(), "runtime.drain_seconds=5".to_owned()];
    let config: Config = load(&case.layers).unwrap();
    assert_eq!((config.bus.workers, config.bus.url.as_str()), (8, "tls://flag:4222"));
    assert_eq!(config.issuers[0].algorithms, [Algorithm::Es384]);
    assert_eq!(config.runtime.health.listen, Some("127.0.0.1:0".parse().unwrap()));
    assert_eq!(config.runtime.drain_seconds, 5);
    assert_eq!(config.runtime.telemetry.environment, "12");
    assert_eq!(config.grpc.listen.port(), 9443);
    assert_eq!(config.nonce.lifetime_seconds, 120);
}

#[test]
fn names_of_another_program_win_over_the_file_and_lose_to_ours() {
    let mut case = case(GOOD);
    case.layers.environment = environment(&[("THEIR_BUS", "tls://theirs:1"), ("THEIR_WORKERS", "9"), ("THEIR_PASSWORD", "secret")]);
    let config: Config = load(&case.layers).unwrap();
    assert_eq!((config.bus.url.as_str(), config.bus.workers), ("tls://theirs:1", 9));
    assert_eq!(config.admin_password.unwrap().expose(), "secret");
    case.layers.environment.extend(environment(&[("KEYFERRY_BUS__URL", "tls://ours:1"), ("KEYFERRY_NONCE__LIFETIME_SECONDS", "60")]));
    let config: Config = load(&case.layers).unwrap();
    assert_eq!((config.bus.url.as_str(), config.bus.workers), ("tls://ours:1", 4), "they see what our layers set");
    case.layers.environment = environment(&[("THEIR_WORKERS", "many"), ("THEIR_MISTAKE", "x"), ("THEIR_BUS", "")]);
    let messages = messages(&case);
    assert!(messages.iter().any(|message| message == "THEIR_MISTAKE: is wrong"), "{messages:?}");
    assert!(messages.iter().any(|message| message.starts_with("bus.workers") && message.ends_with("(THEIR_WORKERS)")), "{messages:?}");
}

#[test]
fn an_unknown_name_is_an_error_in_every_layer() {
    let mut case = case(&GOOD.replace("workers", "wrokers = 1\nworkers"));
    case.layers.environment = environment(&[("KEYFERRY_BUS__USER", "x"), ("KEYFERRY_KAFKA__BROKERS", "x")]);
    case.layers.settings = vec!["grpc.port=1".to_owned()];
    let mut found = messages(&case);
    found.sort();
    assert_eq!(
        found,
        [
            "bus.user: is unknown: expected `url` or `workers` (KEYFERRY_BUS__USER)",
            "bus.wrokers: is unknown: expected `url` or `workers` (service.toml)",
            "grpc.port: is unknown: expected `listen` (--set grpc.port)",
            "kafka: is unknown: expected one of `runtime`, `grpc`, `bus`, `nonce`, `admin_password`, `admin_password_file`, `issuers` (KEYFERRY_KAFKA__BROKERS)",
        ]
    );
}

#[test]
fn one_run_reports_all_mistakes() {
    let mut case = case(
        r#"
[grpc]
listen = "nowhere"
[bus]
url = "tls://localhost:4222"
[nonce]
lifetime_seconds = 3600
[[issuers]]
issuer = "https://verifier"
algorithms = ["HS256"]
[[issuers]]
algorithms = ["PS384", 7]
"#,
    );
    case.layers.environment = environment(&[("KEYFERRY_RUNTIME__DRAIN_SECONDS", "soon")]);
    let mut found = messages(&case);
    found.sort();
    assert_eq!(
        found,
        [
            "bus.workers: is missing",
            "grpc.listen: invalid socket address syntax (service.toml)",
            "issuers.0.algorithms.0: has the unknown value \"HS256\" (service.toml)",
            "issuers.1.algorithms.1: has a value of the wrong form: expected one of its names (service.toml)",
            "issuers.1.issuer: is missing",
            "nonce.lifetime_seconds: 3600 is over the maximum of 600",
            "runtime.drain_seconds: is string \"soon\": expected an integer (KEYFERRY_RUNTIME__DRAIN_SECONDS)",
        ]
    );
}

#[test]
fn a_whole_missing_table_is_one_mistake_and_the_rest_is_still_read() {
    let case = case("[grpc]\nlisten = 7\n");
    let mut found = messages(&case);
    found.sort();
    assert_eq!(found[0], "bus: is missing");
    assert!(found.iter().any(|message| message.starts_with("grpc.listen: ")), "{found:?}");
}

#[test]
fn the_file_itself_can_be_wrong() {
    let mut missing = case(GOOD);
    missing.layers.file = Some("/nonexistent/service.toml".into());
    assert_eq!(messages(&missing)[0], "--config: /nonexistent/service.toml is not a file that can be read");

    let broken = case("[grpc\nlisten = 1");
    let message = &messages(&broken)[0];
    assert!(message.starts_with("--config: service.toml is no valid TOML: ") && message.contains("line 1"), "{message}");
}

#[test]
fn settings_without_a_name_or_value_are_named() {
    let mut case = case(GOOD);
    case.layers.settings = vec!["bus.url".to_owned(), "bus..url=x".to_owned()];
    case.layers.environment = environment(&[("KEYFERRY_BUS__", "x")]);
    assert_eq!(
        messages(&case),
        [
            "KEYFERRY_BUS__: names no setting: an empty part between separators",
            "--set: expects name=value, e.g. --set bus.url=tls://localhost:4222",
            "--set bus..url: names no setting: an empty part between separators",
        ]
    );
}

#[test]
fn a_secret_is_never_repeated() {
    let mut case = case(GOOD);
    case.layers.environment = environment(&[("KEYFERRY_ADMIN_PASSWORD", "[1, \"hunter2\"]")]);
    let found = messages(&case);
    assert_eq!(found, ["admin_password: has a value of the wrong form (not shown: it may be a secret) (KEYFERRY_ADMIN_PASSWORD)"]);

    for broken in ["admin_password = \"hunter2\nworkers = 1", "admin_password = hunter2", "admin_password = \"a\" hunter2", "hunter2"] {
        let message = &messages(&self::case(broken))[0];
        assert!(message.contains("TOML") && message.contains("line 1") && !message.contains("hunter2"), "{message}");
    }

    case.layers.environment = environment(&[("KEYFERRY_ADMIN_PASSWORD", "hunter2")]);
    let config: Config = load(&case.layers).unwrap();
    assert_eq!(config.admin_password.as_ref().unwrap().expose(), "hunter2");
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn a_secret_may_come_from_a_file_but_not_from_both() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, "hunter2\n").unwrap();
    let read = |inline: Option<&Secret>, file: Option<&PathBuf>| Secret::from_twins("admin_password", inline, file.map(PathBuf::as_path));
    assert_eq!(read(None, Some(&file)).unwrap().unwrap().expose(), "hunter2");
    assert!(read(None, None).unwrap().is_none());
    let both = read(Some(&Secret::new("x".to_owned())), Some(&file)).unwrap_err();
    assert_eq!(both.to_string(), "admin_password: is given twice, as admin_password and admin_password_file: keep one");
    let empty = read(Some(&Secret::new(String::new())), None).unwrap_err();
    assert_eq!(empty.to_string(), "admin_password: is empty", "what an unset variable becomes is nobody's password");
    std::fs::write(&file, "\n").unwrap();
    assert!(read(None, Some(&file)).unwrap_err().to_string().starts_with("admin_password_file: "));
    let missing = Secret::required_from_twins("admin_password", None, None).unwrap_err();
    assert_eq!(missing.to_string(), "admin_password: is missing: set admin_password, or admin_password_file to a file that holds it");
}

#[test]
fn an_empty_configuration_names_what_is_required() {
    let error = load::<Config>(&Layers::default()).unwrap_err();
    let mut names: Vec<&str> = error.mistakes().iter().map(Mistake::setting).collect();
    names.sort_unstable();
    assert_eq!(names, ["bus", "grpc"]);
}
