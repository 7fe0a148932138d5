//! Configuration in layers: defaults in code, then a file, then foreign names of the environment, then our own, then flags.
//! Later layers win.
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
/// How often a configuration is read to find them all; each mistake takes a few readings.
const ATTEMPTS_MAX: usize = 1000;
/// A setting with one of these in its name may hold a secret: its value is not repeated.
const SECRET_NAMES: [&str; 7] = ["secret", "password", "token", "key", "credential", "seed", "pin"];

/// The configuration of a service.
pub trait ServiceConfig: DeserializeOwned + Debug + Send + 'static {
    /// The port of the health listener where none is configured; each service has its own.
    const HEALTH_PORT: u16;
    /// What every service has.
    fn runtime(&self) -> &Runtime;
    /// Settings that the environment gives under the names of another program, for services that take another's place. They
    /// win over the file and lose to the service's own names.
    fn foreign(_surroundings: &Surroundings<'_>) -> Foreign {
        Foreign::default()
    }
    /// Takes secrets that the environment holds under such names: they never become settings, which error texts may show.
    fn adopt(&mut self, _variable: &dyn Fn(&str) -> Option<String>) {}
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

/// What [`ServiceConfig::foreign`] may look at.
pub struct Surroundings<'a> {
    /// An environment variable; `None` also for an empty one.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// A setting of any other layer by its dotted name: its text, or the empty text for a list or table.
    pub setting: &'a dyn Fn(&str) -> Option<String>,
}

/// Settings under foreign names.
#[derive(Clone, Debug, Default)]
pub struct Foreign {
    /// Each with its dotted name, its text (lists and tables as inline TOML) and the variable it comes from.
    pub settings: Vec<(String, String, &'static str)>,
    /// What is wrong with the variables.
    pub mistakes: Vec<Mistake>,
}

/// Reads a configuration from its layers, or says everything that is wrong with it.
pub fn load<C: ServiceConfig>(layers: &Layers) -> Result<C, ConfigError> {
    let mut mistakes = Vec::new();
    let settings = collect(layers, C::foreign, &mut mistakes);
    let mut config = read::<C>(settings, &mut mistakes);
    if let Some(config) = &mut config {
        config.adopt(&|name| variable(layers, name));
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

fn variable(layers: &Layers, name: &str) -> Option<String> {
    layers.environment.iter().find(|(known, value)| known == name && !value.is_empty()).map(|(_, value)| value.clone())
}

fn collect(layers: &Layers, foreign: impl Fn(&Surroundings<'_>) -> Foreign, mistakes: &mut Vec<Mistake>) -> Settings {
    let mut root = Map::new();
    if let Some(path) = &layers.file {
        match read_file(path) {
            Ok(table) => root = table,
            Err(problem) => mistakes.push(Mistake::new("--config", problem)),
        }
    }
    // The other layers are laid over the file once to be looked at, and once more over what is made of that.
    let mut seen = root.clone();
    put_ours(layers, &mut seen, &mut Origins::new(), &mut Vec::new());
    let foreign = foreign(&Surroundings { variable: &|name| variable(layers, name), setting: &|name| text_at(&seen, name) });
    mistakes.extend(foreign.mistakes);
    let mut origins = Origins::new();
    for (name, text, variable) in &foreign.settings {
        let path: Vec<String> = name.split('.').map(str::to_owned).collect();
        put(&mut root, &mut origins, &path, text, variable, mistakes);
    }
    put_ours(layers, &mut root, &mut origins, mistakes);
    Settings { root, origins, file: layers.file.as_ref().map(|path| path.display().to_string()) }
}

fn text_at(root: &Map<String, Value>, name: &str) -> Option<String> {
    let path: Vec<String> = name.split('.').map(str::to_owned).collect();
    get(root, &path).map(|value| value.clone().into_string().unwrap_or_default())
}

fn put_ours(layers: &Layers, root: &mut Map<String, Value>, origins: &mut Origins, mistakes: &mut Vec<Mistake>) {
    for (name, value) in &layers.environment {
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let path: Vec<String> = rest.split(NESTING).map(str::to_lowercase).collect();
        put(root, origins, &path, value, name, mistakes);
    }
    for setting in &layers.settings {
        match setting.split_once('=') {
            Some((name, value)) => {
                let path: Vec<String> = name.trim().split('.').map(str::to_owned).collect();
                put(root, origins, &path, value, &format!("--set {}", name.trim()), mistakes);
            }
            None => mistakes.push(Mistake::new("--set", "expects name=value, e.g. --set bus.url=tls://localhost:4222")),
        }
    }
}

fn read_file(path: &Path) -> Result<Map<String, Value>, String> {
    if !path.is_file() {
        return Err(format!("{} is not a file that can be read", path.display()));
    }
    let source = File::from(path).format(FileFormat::Toml);
    let root = Layered::builder().add_source(source).build().map_err(|error| match error {
        LayerError::FileParse { cause, .. } => format!("{} is no valid TOML: {}", path.display(), without_excerpt(&cause.to_string())),
        other => format!("{} cannot be read ({other})", path.display()),
    })?;
    match root.try_deserialize::<Value>().map(|value| value.kind) {
        Ok(ValueKind::Table(table)) => Ok(table),
        _ => Err(format!("{} is no TOML table", path.display())),
    }
}

/// The parser's text without the lines of the file that it shows: they may hold a secret.
fn without_excerpt(text: &str) -> String {
    let is_excerpt = |line: &&str| line.trim_start().trim_start_matches(|c: char| c.is_ascii_digit()).trim_start().starts_with('|');
    text.lines().filter(|line| !is_excerpt(line)).collect::<Vec<_>>().join(": ")
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
    let mut repair = Repair::default();
    for _ in 0..ATTEMPTS_MAX {
        let value = Value::new(None, ValueKind::Table(settings.root.clone()));
        let failure = match serde_path_to_error::deserialize::<_, C>(value) {
            Ok(config) => return Some(config),
            Err(error) => Failure::new(&error, &settings.root),
        };
        if !repair.is_consequence(&failure) {
            mistakes.push(settings.mistake(&failure));
        }
        if mistakes.len() >= MISTAKES_MAX || !repair.repair(&failure, &mut settings.root) {
            return None;
        }
    }
    None
}

impl Settings {
    /// Where a setting comes from, or the first one inside it: of `bogus.x` only `bogus` is complained about.
    fn origin(&self, name: &str) -> Option<String> {
        let inside = format!("{name}.");
        self.origins
            .get(name)
            .or_else(|| self.origins.iter().find(|(known, _)| known.starts_with(&inside)).map(|(_, origin)| origin))
            .cloned()
    }

    fn mistake(&self, failure: &Failure) -> Mistake {
        let name = failure.path.join(".");
        let origin = self.origin(&name).or_else(|| self.file.clone().filter(|_| failure.present));
        Mistake::new(name, failure.problem.clone()).at(origin)
    }
}

/// One complaint of serde, tied to a setting.
struct Failure {
    path: Vec<String>,
    problem: String,
    unknown: bool,
    present: bool,
}

impl Failure {
    fn new(error: &serde_path_to_error::Error<LayerError>, root: &Map<String, Value>) -> Self {
        let mut path: Vec<String> = error.path().iter().filter_map(segment).collect();
        let message = innermost(error.inner());
        let (unknown, missing) = (field(&message, "unknown field `"), field(&message, "missing field `"));
        let problem = if let Some((name, expected)) = unknown {
            extend(&mut path, name);
            format!("is unknown{}", expected.replace(", expected", ": expected"))
        } else if let Some((name, _)) = missing {
            extend(&mut path, name);
            "is missing".to_owned()
        } else if is_secret(&path) {
            "has a value of the wrong form (not shown: it may be a secret)".to_owned()
        } else {
            message.clone()
        };
        let present = get(root, &path).is_some();
        Self { path, problem, unknown: unknown.is_some(), present }
    }
}

/// The name between back ticks after `prefix`, and the rest of the message.
fn field<'a>(message: &'a str, prefix: &str) -> Option<(&'a str, &'a str)> {
    message.strip_prefix(prefix)?.split_once('`')
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
        LayerError::NotFound(name) => format!("missing field `{}`", name.rsplit(['.', ']']).next().unwrap_or(name)),
        other => plain(other.to_string()),
    }
}

/// Texts about enums name Rust types; an operator knows only the setting.
fn plain(text: String) -> String {
    if text.starts_with("value of enum ") {
        return "has a value of the wrong form: expected one of its names".to_owned();
    }
    match text.split_once(" does not have variant constructor ") {
        Some((_, value)) => format!("has the unknown value \"{value}\""),
        None => text,
    }
}

fn is_secret(path: &[String]) -> bool {
    path.last().is_some_and(|last| !last.ends_with("_file") && SECRET_NAMES.iter().any(|name| last.contains(name)))
}

/// What may stand in for a setting that is missing or wrong, so that the rest can be read: nothing at all first (the
/// setting may have a default), then one value of each kind.
const STAND_INS: usize = 8;

fn stand_in(index: usize) -> Option<Value> {
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

/// Which settings are being stood in for, and by which stand-in.
#[derive(Default)]
struct Repair(Vec<(Vec<String>, usize)>);

impl Repair {
    /// Whether a complaint is about a stand-in, or about something inside one, and so none of the operator's mistakes.
    fn is_consequence(&self, failure: &Failure) -> bool {
        self.0.iter().any(|(path, _)| failure.path.starts_with(path))
    }

    /// Changes the settings so that this complaint ends; false when nothing can.
    fn repair(&mut self, failure: &Failure, root: &mut Map<String, Value>) -> bool {
        if failure.unknown {
            return set(root, &failure.path, None);
        }
        let mut path = failure.path.clone();
        while !path.is_empty() {
            let index = self.next(&path, failure.present);
            if index < STAND_INS {
                return set(root, &path, stand_in(index)) || self.repair(failure, root);
            }
            // Nothing fits here: the table or list around it is stood in for instead.
            self.0.retain(|(known, _)| !known.starts_with(&path));
            path.pop();
        }
        false
    }

    fn next(&mut self, path: &[String], present: bool) -> usize {
        if let Some((_, index)) = self.0.iter_mut().find(|(known, _)| known == path) {
            *index += 1;
            return *index;
        }
        let first = usize::from(!present);
        self.0.push((path.to_vec(), first));
        first
    }
}

fn get<'a>(root: &'a Map<String, Value>, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let mut value = root.get(first)?;
    for part in rest {
        value = match &value.kind {
            ValueKind::Table(table) => table.get(part)?,
            ValueKind::Array(list) => list.get(part.parse::<usize>().ok()?)?,
            _ => return None,
        };
    }
    Some(value)
}

/// Sets the value at `path`, or removes it. False when there is no such place; an element of a list is not removed.
fn set(root: &mut Map<String, Value>, path: &[String], value: Option<Value>) -> bool {
    let Some((first, rest)) = path.split_first() else { return false };
    if rest.is_empty() {
        match value {
            Some(value) => root.insert(first.clone(), value),
            None => root.remove(first),
        };
        return true;
    }
    root.get_mut(first).is_some_and(|inner| set_inside(inner, rest, value))
}

fn set_inside(container: &mut Value, path: &[String], value: Option<Value>) -> bool {
    match &mut container.kind {
        ValueKind::Table(table) => set(table, path, value),
        ValueKind::Array(list) => {
            let Some((first, rest)) = path.split_first() else { return false };
            let Some(element) = first.parse::<usize>().ok().and_then(|index| list.get_mut(index)) else { return false };
            match (rest.is_empty(), value) {
                (true, Some(value)) => *element = value,
                (true, None) => return false,
                (false, value) => return set_inside(element, rest, value),
            }
            true
        }
        _ => false,
    }
}
