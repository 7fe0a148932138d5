//! Configuration in layers: defaults in code, then a file, then the environment, then flags. Later layers win.
//!
//! serde stops at the first mistake; an operator wants all of them. So a mistake is noted, the setting is taken out or
//! replaced by something harmless, and the rest is read again, until nothing is left to note.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use config::{Config as Layered, ConfigError as LayerError, File, FileFormat, Map, Value, ValueKind};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{ConfigError, Mistake};

/// Names of the environment begin with this; `__` nests: `KEYFERRY_BUS__URL` is `bus.url`.
const PREFIX: &str = "KEYFERRY_";
const NESTING: &str = "__";
/// A configuration with more mistakes than this is the wrong file.
const MISTAKES_MAX: usize = 50;
/// A setting with one of these in its name may hold a secret: its value is not repeated.
const SECRET_NAMES: [&str; 7] = ["secret", "password", "token", "key", "credential", "seed", "pin"];

/// The configuration of a service.
pub trait ServiceConfig: DeserializeOwned + Debug + Send + 'static {
    /// The port of the health listener where none is configured; each service has its own.
    const HEALTH_PORT: u16;
    /// What every service has.
    fn runtime(&self) -> &Runtime;
    /// Mistakes that only show when settings are seen together, or when a file is opened. Reported with all others.
    fn check(&self) -> Vec<Mistake> {
        Vec::new()
    }
}

/// The settings that every service has, usually under `runtime`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Runtime {
    /// The health listener.
    pub health: Health,
    /// Logs, traces and metrics.
    pub telemetry: keyferry_telemetry::Config,
    /// Where to write the bound addresses as JSON once ready, for whoever started the service with port 0.
    pub addresses_file: Option<PathBuf>,
    /// How long running work may take to finish after SIGTERM, in seconds. Longer than the slowest call; shorter than the
    /// 30 s after which orchestrators kill.
    pub drain_seconds: u64,
}

impl Default for Runtime {
    fn default() -> Self {
        Self { health: Health::default(), telemetry: keyferry_telemetry::Config::default(), addresses_file: None, drain_seconds: 20 }
    }
}

/// The health listener: plain HTTP, meant for loopback or a pod's own network.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Health {
    /// Where it listens; absent: the service's own port on 127.0.0.1.
    pub listen: Option<SocketAddr>,
}

/// What the layers are made of, so that tests can give their own.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// A TOML file.
    pub file: Option<PathBuf>,
    /// Environment variables; those without the prefix are ignored.
    pub environment: Vec<(String, String)>,
    /// `a.b=c` settings of the command line.
    pub settings: Vec<String>,
}

/// Reads a configuration from its layers, or says everything that is wrong with it.
pub fn load<C: ServiceConfig>(layers: &Layers) -> Result<C, ConfigError> {
    let mut mistakes = Vec::new();
    let settings = collect(layers, &mut mistakes);
    let config = read::<C>(settings, &mut mistakes);
    if let Some(config) = &config {
        mistakes.extend(config.check());
    }
    match config {
        Some(config) if mistakes.is_empty() => Ok(config),
        _ => Err(ConfigError::new(mistakes)),
    }
}

/// Where one setting comes from, by its dotted name.
type Origins = BTreeMap<String, String>;

struct Settings {
    root: Map<String, Value>,
    origins: Origins,
    file: Option<String>,
}

fn collect(layers: &Layers, mistakes: &mut Vec<Mistake>) -> Settings {
    let mut root = Map::new();
    if let Some(path) = &layers.file {
        match read_file(path) {
            Ok(table) => root = table,
            Err(problem) => mistakes.push(Mistake::new("--config", problem)),
        }
    }
    let mut origins = Origins::new();
    for (name, value) in &layers.environment {
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let path: Vec<String> = rest.split(NESTING).map(str::to_lowercase).collect();
        put(&mut root, &mut origins, &path, value, name, mistakes);
    }
    for setting in &layers.settings {
        match setting.split_once('=') {
            Some((name, value)) => {
                let path: Vec<String> = name.trim().split('.').map(str::to_owned).collect();
                put(&mut root, &mut origins, &path, value, &format!("--set {}", name.trim()), mistakes);
            }
            None => mistakes.push(Mistake::new("--set", "expects name=value, e.g. --set bus.url=tls://localhost:4222")),
        }
    }
    Settings { root, origins, file: layers.file.as_ref().map(|path| path.display().to_string()) }
}

fn read_file(path: &Path) -> Result<Map<String, Value>, String> {
    if !path.is_file() {
        return Err(format!("{} is not a file that can be read", path.display()));
    }
    let source = File::from(path).format(FileFormat::Toml);
    let root = Layered::builder().add_source(source).build().map_err(|error| match error {
        LayerError::FileParse { cause, .. } => format!("{} is no valid TOML: {}", path.display(), cause.to_string().trim_end()),
        other => format!("{} cannot be read ({other})", path.display()),
    })?;
    match root.try_deserialize::<Value>().map(|value| value.kind) {
        Ok(ValueKind::Table(table)) => Ok(table),
        _ => Err(format!("{} is no TOML table", path.display())),
    }
}

fn put(root: &mut Map<String, Value>, origins: &mut Origins, path: &[String], text: &str, origin: &str, mistakes: &mut Vec<Mistake>) {
    let Some((last, parents)) = path.split_last().filter(|_| path.iter().all(|part| !part.is_empty())) else {
        mistakes.push(Mistake::new(origin, "names no setting: an empty part between separators"));
        return;
    };
    let mut table = root;
    for part in parents {
        let entry = table.entry(part.clone()).or_insert_with(|| Value::new(None, ValueKind::Table(Map::new())));
        if !matches!(entry.kind, ValueKind::Table(_)) {
            entry.kind = ValueKind::Table(Map::new());
        }
        let ValueKind::Table(inner) = &mut entry.kind else { return };
        table = inner;
    }
    table.insert(last.clone(), parse_text(text));
    origins.insert(path.join("."), origin.to_owned());
}

/// Text that begins like a list or table is read as TOML; all other text stays text and becomes what the setting needs.
fn parse_text(text: &str) -> Value {
    let structured = text.starts_with('[') || text.starts_with('{');
    let parsed = structured.then(|| Layered::builder().add_source(File::from_str(&format!("value = {text}"), FileFormat::Toml)).build());
    match parsed.map(|built| built.and_then(|built| built.get::<Value>("value"))) {
        Some(Ok(value)) => value,
        _ => Value::new(None, ValueKind::String(text.to_owned())),
    }
}

fn read<C: ServiceConfig>(mut settings: Settings, mistakes: &mut Vec<Mistake>) -> Option<C> {
    let mut placeholders = Placeholders::default();
    let mut attempts = 0;
    loop {
        let value = Value::new(None, ValueKind::Table(settings.root.clone()));
        let failure = match serde_path_to_error::deserialize::<_, C>(value) {
            Ok(config) => return Some(config),
            Err(failure) => failure,
        };
        attempts += 1;
        if attempts > MISTAKES_MAX * PLACEHOLDERS {
            return None;
        }
        let failure = Failure::new(&failure, &settings.root);
        let progressed = placeholders.again(&failure, &mut settings.root) || note(&failure, &mut settings, &mut placeholders, mistakes);
        if !progressed || mistakes.len() >= MISTAKES_MAX {
            return None;
        }
    }
}

/// Notes a mistake and makes the settings readable without it. False when that cannot be done.
fn note(failure: &Failure, settings: &mut Settings, placeholders: &mut Placeholders, mistakes: &mut Vec<Mistake>) -> bool {
    let name = failure.path.join(".");
    let origin = settings.origins.get(&name).cloned().or_else(|| settings.file.clone().filter(|_| failure.present));
    mistakes.push(Mistake::new(name, failure.problem.clone()).at(origin));
    if failure.unknown {
        return remove(&mut settings.root, &failure.path);
    }
    remove(&mut settings.root, &failure.path);
    placeholders.begin(failure, &mut settings.root)
}

/// One complaint of serde, tied to a setting.
struct Failure {
    path: Vec<String>,
    problem: String,
    unknown: bool,
    missing: bool,
    present: bool,
}

impl Failure {
    fn new(error: &serde_path_to_error::Error<LayerError>, root: &Map<String, Value>) -> Self {
        let mut path: Vec<String> = error.path().iter().filter_map(segment).collect();
        let message = innermost(error.inner());
        let (mut unknown, mut missing) = (false, false);
        let mut problem = message.clone();
        if let Some(rest) = message.strip_prefix("unknown field `") {
            let (name, expected) = rest.split_once('`').unwrap_or((rest, ""));
            extend(&mut path, name);
            unknown = true;
            problem = format!("is unknown{}", expected.replace(", expected", ": expected"));
        } else if let Some(rest) = message.strip_prefix("missing field `") {
            extend(&mut path, rest.trim_end_matches('`'));
            missing = true;
            "is missing".clone_into(&mut problem);
        }
        let present = lookup(root, &path).is_some();
        if !unknown && !missing && is_secret(&path) {
            "has a value of the wrong form (not shown: it may be a secret)".clone_into(&mut problem);
        }
        Self { path, problem, unknown, missing, present }
    }
}

fn extend(path: &mut Vec<String>, name: &str) {
    if path.last().is_none_or(|last| last != name) {
        path.push(name.to_owned());
    }
}

fn segment(segment: &serde_path_to_error::Segment) -> Option<String> {
    match segment {
        serde_path_to_error::Segment::Map { key } => Some(key.clone()),
        serde_path_to_error::Segment::Seq { index } => Some(index.to_string()),
        serde_path_to_error::Segment::Enum { .. } | serde_path_to_error::Segment::Unknown => None,
    }
}

fn innermost(error: &LayerError) -> String {
    match error {
        LayerError::Type { unexpected, expected, .. } => format!("is {unexpected}: expected {expected}"),
        LayerError::At { error, .. } => innermost(error),
        LayerError::NotFound(name) => format!("missing field `{}`", name.rsplit('.').next().unwrap_or(name)),
        other => other.to_string(),
    }
}

fn is_secret(path: &[String]) -> bool {
    path.last().is_some_and(|last| !last.ends_with("_file") && SECRET_NAMES.iter().any(|name| last.contains(name)))
}

fn lookup<'a>(root: &'a Map<String, Value>, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let value = root.get(first)?;
    match (&value.kind, rest.is_empty()) {
        (_, true) => Some(value),
        (ValueKind::Table(inner), false) => lookup(inner, rest),
        _ => None,
    }
}

/// Takes out the setting at `path`; inside a list, the whole list.
fn remove(root: &mut Map<String, Value>, path: &[String]) -> bool {
    let Some((first, rest)) = path.split_first() else { return false };
    match root.get_mut(first).map(|value| &mut value.kind) {
        None => false,
        Some(ValueKind::Table(inner)) if !rest.is_empty() => remove(inner, rest),
        Some(_) => root.remove(first).is_some(),
    }
}

/// What may stand in for a required setting that is missing or wrong, so that the rest can be read: nothing at all first
/// (the setting may have a default), then one value of each kind.
const PLACEHOLDERS: usize = 8;

fn placeholder(index: usize) -> Option<Value> {
    let kind = match index {
        0 => return None,
        1 => ValueKind::Table(Map::new()),
        2 => ValueKind::String("127.0.0.1:0".to_owned()),
        3 => ValueKind::I64(1),
        4 => ValueKind::Array(Vec::new()),
        5 => ValueKind::Boolean(false),
        6 => ValueKind::String("1s".to_owned()),
        _ => ValueKind::String("00000000-0000-4000-8000-000000000000".to_owned()),
    };
    Some(Value::new(None, kind))
}

/// Which settings are being stood in for, and by which attempt.
#[derive(Default)]
struct Placeholders(Vec<(Vec<String>, usize)>);

impl Placeholders {
    fn begin(&mut self, failure: &Failure, root: &mut Map<String, Value>) -> bool {
        let first = usize::from(failure.missing);
        self.0.push((failure.path.clone(), first));
        insert(root, &failure.path, placeholder(first))
    }

    /// When the complaint is about a stand-in, tries the next one; about anything below it too.
    fn again(&mut self, failure: &Failure, root: &mut Map<String, Value>) -> bool {
        let Some((path, index)) = self.0.iter_mut().find(|(path, _)| failure.path.starts_with(path)) else { return false };
        *index += 1;
        if *index < PLACEHOLDERS {
            return insert(root, path, placeholder(*index));
        }
        // Nothing fits: the table around it is stood in for instead, or the reading ends here.
        remove(root, path);
        path.pop();
        *index = 0;
        !path.is_empty() && remove(root, path)
    }
}

fn insert(root: &mut Map<String, Value>, path: &[String], value: Option<Value>) -> bool {
    let Some((first, rest)) = path.split_first() else { return false };
    if rest.is_empty() {
        match value {
            Some(value) => root.insert(first.clone(), value),
            None => root.remove(first),
        };
        return true;
    }
    let entry = root.entry(first.clone()).or_insert_with(|| Value::new(None, ValueKind::Table(Map::new())));
    match &mut entry.kind {
        ValueKind::Table(inner) => insert(inner, rest, value),
        _ => false,
    }
}
