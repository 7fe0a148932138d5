//! `cargo xtask tidy`: the map's arrows and names, and what else the compiler cannot check.
//!
//! The map below is the one of README.md. A folder is a promise: who reads its name can say what is inside, and an arrow
//! that runs against the map fails here, before anybody gets used to it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    path::{Path, PathBuf},
};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};
use keyferry_testkit::StartFailure;
use regex::Regex;

use crate::run;

/// For each crate, what it may depend on; transitively, arrows only point up this list.
const MAP: [(&str, &[&str]); 19] = [
    ("identifiers", &[]),
    ("contract", &["identifiers"]),
    ("tdx-quote", &[]),
    ("dcap", &["tdx-quote"]),
    ("appraisal", &["dcap", "tdx-quote"]),
    ("attestation-token", &["identifiers"]),
    ("key-transfer-policy", &["attestation-token", "identifiers"]),
    ("key-wrap", &[]),
    ("model-envelope", &["key-wrap"]),
    ("kmip", &[]),
    ("telemetry", &[]),
    ("tls", &[]),
    ("lifecycle", &["telemetry"]),
    ("bus", &["contract", "identifiers", "telemetry", "tls"]),
    ("sealed-store", &["bus"]),
    ("kms", &["kmip", "key-wrap", "tls"]),
    ("trust-authority", &["attestation-token", "tls"]),
    ("td-simulator", &["tdx-quote"]),
    ("testkit", ANYTHING_BUT_SERVICES),
];
/// `testkit`, `keyferry`, `xtask`, benches and tests may use every library.
const ANYTHING_BUT_SERVICES: &[&str] = &["*"];
const SERVICES: [&str; 4] = ["attester", "token-broker", "key-release", "model-runner"];
const TOOLS: [&str; 4] = ["keyferry", "integration-tests", "benches", "xtask"];
/// Bytes, policy and a time go in, a value or a reason comes out: none of these may reach the outside world.
const DECISIONS: [&str; 8] =
    ["tdx-quote", "dcap", "appraisal", "attestation-token", "key-transfer-policy", "key-wrap", "model-envelope", "kmip"];
const OUTSIDE_WORLD: [&str; 5] = ["tokio", "tonic", "async-nats", "reqwest", "opentelemetry"];
const NAMES_WITHOUT_MEANING: [&str; 7] = ["common", "util", "utils", "helper", "helpers", "manager", "misc"];
/// Lines of one file that can still be read in a sitting.
const LINES_MAX: usize = 700;

pub(crate) fn run() -> Result<(), StartFailure> {
    let metadata = MetadataCommand::new()
        .manifest_path(run::root().join("Cargo.toml"))
        .exec()
        .map_err(|error| StartFailure::new(format!("cargo metadata failed: {error}"), "check Cargo.toml"))?;
    let mut findings = arrows(&metadata);
    findings.extend(decisions(&metadata));
    findings.extend(sources(&run::root()));
    if findings.is_empty() {
        return Ok(());
    }
    for finding in &findings {
        eprintln!("tidy: {finding}");
    }
    Err(StartFailure::new(format!("{} findings", findings.len()), "mend them, or change the map and say why in the same commit"))
}

/// `keyferry-bus` -> `bus`: the folder's bare word.
fn word(package: &str) -> &str {
    if package == "keyferry" { package } else { package.strip_prefix("keyferry-").unwrap_or(package) }
}

fn arrows(metadata: &Metadata) -> Vec<String> {
    let members: BTreeSet<&str> = metadata.workspace_packages().iter().map(|package| word(&package.name)).collect();
    let map: BTreeMap<&str, &[&str]> = MAP.into_iter().collect();
    let mut findings = Vec::new();
    for package in metadata.workspace_packages() {
        let name = word(&package.name);
        let allowed = match map.get(name) {
            Some(allowed) => *allowed,
            None if SERVICES.contains(&name) || TOOLS.contains(&name) => ANYTHING_BUT_SERVICES,
            None => {
                findings.push(format!("the crate {name} is not on the map"));
                continue;
            }
        };
        findings.extend(arrows_of(package, name, allowed, &members));
    }
    findings
}

fn arrows_of(package: &Package, name: &str, allowed: &[&str], members: &BTreeSet<&str>) -> Vec<String> {
    let mut findings = Vec::new();
    for dependency in package.dependencies.iter().filter(|dependency| members.contains(word(&dependency.name))) {
        let target = word(&dependency.name);
        let in_tests_only = dependency.kind == DependencyKind::Development;
        if SERVICES.contains(&target) {
            findings.push(format!("{name} imports the service {target}: services share the contract, nothing else"));
        } else if !in_tests_only && target == "testkit" && name != "xtask" {
            findings.push(format!("{name} depends on testkit outside its tests"));
        } else if !in_tests_only && !allowed.contains(&target) && allowed != ANYTHING_BUT_SERVICES {
            findings.push(format!("the arrow {name} -> {target} runs against the map (allowed: {})", allowed.join(", ")));
        }
    }
    findings
}

/// Walks normal and build dependencies: a decision crate that reaches the network is one refactoring away from using it.
fn decisions(metadata: &Metadata) -> Vec<String> {
    let Some(resolve) = &metadata.resolve else { return vec!["cargo metadata has no dependency graph".to_owned()] };
    let nodes: BTreeMap<_, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let names: BTreeMap<_, _> = metadata.packages.iter().map(|package| (&package.id, package.name.as_str())).collect();
    let mut findings = Vec::new();
    for package in metadata.workspace_packages().into_iter().filter(|package| DECISIONS.contains(&word(&package.name))) {
        let (mut queue, mut seen) = (VecDeque::from([&package.id]), BTreeSet::new());
        while let Some(id) = queue.pop_front() {
            if !seen.insert(id) {
                continue;
            }
            if OUTSIDE_WORLD.contains(&names[id]) {
                findings.push(format!("the decision crate {} reaches {}", word(&package.name), names[id]));
            }
            let dependencies = nodes.get(id).map(|node| node.deps.as_slice()).unwrap_or_default();
            let normal =
                dependencies.iter().filter(|dependency| dependency.dep_kinds.iter().any(|kind| kind.kind != DependencyKind::Development));
            queue.extend(normal.map(|dependency| &dependency.pkg));
        }
    }
    findings
}

fn sources(root: &Path) -> Vec<String> {
    let mut findings = Vec::new();
    for file in rust_files(root) {
        let shown = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        let Ok(text) = fs::read_to_string(&file) else { continue };
        findings.extend(names(&shown));
        findings.extend(contents(&shown, &text));
    }
    for manifest in ["crates", "services"].iter().flat_map(|layer| fs::read_dir(root.join(layer)).into_iter().flatten().flatten()) {
        let path = manifest.path().join("Cargo.toml");
        if fs::read_to_string(&path).is_ok_and(|text| !text.contains("[lints]\nworkspace = true")) {
            findings.push(format!("{} does not inherit the lint table", path.strip_prefix(root).unwrap_or(&path).display()));
        }
    }
    findings
}

fn names(file: &str) -> Vec<String> {
    file.split(['/', '.'])
        .filter(|part| NAMES_WITHOUT_MEANING.contains(part))
        .map(|part| format!("{file}: the name {part:?} promises nothing; say what is inside"))
        .collect()
}

fn contents(file: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let lines = text.lines().count();
    if lines > LINES_MAX {
        findings.push(format!("{file} has {lines} lines: at most {LINES_MAX} can be read in a sitting"));
    }
    let is_root = file.ends_with("src/lib.rs") || file.ends_with("src/main.rs");
    if is_root && !text.starts_with("//!") {
        findings.push(format!("{file} does not open with a `//!` page"));
    }
    let in_telemetry = file.starts_with("crates/telemetry/") || file.starts_with("xtask/");
    let patterns = [
        (r"#\[(tracing::)?instrument(\]|\((?:[^)]*)\))", "instrument without skip_all records every argument"),
        (r"\.(u64|f64|i64)_(counter|histogram|gauge|up_down_counter)\(", "a metric outside telemetry::names"),
        (r"(TODO|FIXME|XXX)\b", "a note to come back is not a plan"),
    ];
    for (pattern, complaint) in patterns {
        let Ok(pattern) = Regex::new(pattern) else { continue };
        for found in pattern.find_iter(text).filter(|_| !in_telemetry) {
            if !found.as_str().contains("skip_all") {
                let line = text[..found.start()].lines().count().max(1);
                findings.push(format!("{file}:{line}: {complaint}"));
            }
        }
    }
    findings
}

fn rust_files(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> = ["crates", "services", "xtask", "integration-tests", "benches"].map(|folder| root.join(folder)).into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(edit: impl Fn(String) -> String) -> Metadata {
        let manifest = run::root().join("Cargo.toml");
        let output = run::cargo(&["metadata", "--format-version", "1", "--offline", "--manifest-path"]).arg(manifest).output().unwrap();
        serde_json::from_str(&edit(String::from_utf8(output.stdout).unwrap())).unwrap()
    }

    #[test]
    fn this_repository_is_tidy() {
        let metadata = metadata(|text| text);
        assert_eq!(arrows(&metadata), Vec::<String>::new());
        assert_eq!(decisions(&metadata), Vec::<String>::new());
        assert_eq!(sources(&run::root()), Vec::<String>::new());
    }

    #[test]
    fn an_arrow_against_the_map_and_an_import_of_a_service_are_found() {
        // The same graph, with one dependency of `dcap` renamed to what it must not know.
        let against = metadata(|text| text.replace("\"name\":\"dcap-qvl\",\"source\"", "\"name\":\"keyferry-bus\",\"source\""));
        assert!(arrows(&against).iter().any(|finding| finding.contains("dcap -> bus")), "{:?}", arrows(&against));
        let service = metadata(|text| text.replace("\"name\":\"dcap-qvl\",\"source\"", "\"name\":\"key-release\",\"source\""));
        assert!(arrows(&service).iter().any(|finding| finding.contains("imports the service key-release")));
    }

    #[test]
    fn a_decision_crate_that_reaches_the_network_is_found() {
        let reached = metadata(|text| text.replace("\"name\":\"sha2\",\"version\"", "\"name\":\"tokio\",\"version\""));
        assert!(decisions(&reached).iter().any(|finding| finding.contains("reaches tokio")));
    }

    #[test]
    fn bad_names_long_files_and_stray_notes_are_found() {
        assert_eq!(names("crates/bus/src/utils.rs").len(), 1);
        assert!(names("crates/bus/src/publish.rs").is_empty());
        assert_eq!(contents("crates/x/src/a.rs", &"\n".repeat(LINES_MAX + 1)).len(), 1);
        assert_eq!(contents("crates/x/src/lib.rs", "pub fn f() {}\n").len(), 1);
        let note = format!("//! page\n// {}: later\n", concat!("TO", "DO"));
        assert_eq!(contents("crates/x/src/a.rs", &note).len(), 1);
        assert_eq!(contents("crates/x/src/a.rs", "#[instrument]\nfn f() {}\n#[instrument(skip_all)]\nfn g() {}\n").len(), 1);
    }
}
