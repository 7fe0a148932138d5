//! Which crate may know which: read from `cargo metadata`, compared with the map.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
};

use cargo_metadata::{DependencyKind, Metadata, Package};

/// For each library, whom it may know. Dependencies of tests are free, except that nobody may know a service.
const MAP: [(&str, &[&str]); 24] = [
    ("identifiers", &[]),
    ("contract", &["identifiers"]),
    ("tdx-quote", &[]),
    ("dcap", &["tdx-quote"]),
    ("event-log", &[]),
    ("rego", &[]),
    ("reference-value", &[]),
    ("appraisal", &["dcap", "event-log", "reference-value", "rego", "tdx-quote"]),
    ("attestation-token", &["identifiers"]),
    ("key-transfer-policy", &["attestation-token", "identifiers", "rego"]),
    ("key-wrap", &[]),
    ("model-envelope", &["key-wrap"]),
    ("kmip", &[]),
    ("telemetry", &[]),
    ("tls", &[]),
    ("lifecycle", &["telemetry"]),
    ("bus", &["contract", "identifiers", "telemetry", "tls"]),
    ("sealed-store", &["bus"]),
    ("verifier-keys", &["attestation-token", "sealed-store"]),
    ("kms", &["kmip", "key-wrap", "tls"]),
    ("collateral", &["dcap", "tls"]),
    ("trust-authority", &["attestation-token", "tls"]),
    ("td-simulator", &["tdx-quote"]),
    ("testkit", ANYTHING_BUT_SERVICES),
];
/// `testkit`, the tools and the services may use every library.
const ANYTHING_BUT_SERVICES: &[&str] = &["*"];
const SERVICES: [&str; 4] = ["attester", "token-broker", "key-release", "model-runner"];
/// The tools and where they are.
const TOOLS: [(&str, &str); 4] =
    [("keyferry", "crates/keyferry"), ("integration-tests", "integration-tests"), ("benches", "benches"), ("xtask", "xtask")];
/// Bytes, policy and a time go in, a value or a reason comes out: none of these may reach the outside world.
pub(super) const DECISIONS: [&str; 11] = [
    "tdx-quote",
    "dcap",
    "event-log",
    "rego",
    "reference-value",
    "appraisal",
    "attestation-token",
    "key-transfer-policy",
    "key-wrap",
    "model-envelope",
    "kmip",
];
const OUTSIDE_WORLD: [&str; 5] = ["tokio", "tonic", "async-nats", "reqwest", "opentelemetry"];

/// `keyferry-bus` -> `bus`: the folder's bare word.
fn word(package: &str) -> &str {
    package.strip_prefix("keyferry-").unwrap_or(package)
}

/// The folder that the map gives a package, or `None` for a package that is not on it. Services and tools that are no
/// library keep the bare name, which is their binary.
fn place(package: &str) -> Option<String> {
    let name = word(package);
    let prefixed = package != name;
    if SERVICES.contains(&package) {
        return Some(format!("services/{package}"));
    }
    if let Some((_, folder)) = TOOLS.iter().find(|(tool, _)| *tool == name) {
        return Some((*folder).to_owned());
    }
    (prefixed && MAP.iter().any(|(library, _)| *library == name)).then(|| format!("crates/{name}"))
}

/// Every package is where the map says, every folder under `crates/` and `services/` is a package of the map, and every
/// package inherits the lint table.
pub(super) fn places(metadata: &Metadata) -> Vec<String> {
    let root = metadata.workspace_root.as_std_path();
    let mut findings = Vec::new();
    let mut folders = BTreeSet::new();
    for package in metadata.workspace_packages() {
        let folder = package.manifest_path.as_std_path().parent().unwrap_or(root);
        let folder = folder.strip_prefix(root).unwrap_or(folder).display().to_string();
        match place(&package.name) {
            None => findings.push(format!("the package {} ({folder}) is not on the map", package.name)),
            Some(place) if place != folder => findings.push(format!("the package {} is in {folder}: the map says {place}", package.name)),
            Some(_) => {}
        }
        if !inherits_lints(package) {
            findings.push(format!("{folder}/Cargo.toml does not inherit the lint table ([lints] workspace = true)"));
        }
        folders.insert(folder);
    }
    for layer in ["crates", "services"] {
        for entry in fs::read_dir(root.join(layer)).into_iter().flatten().flatten() {
            let folder = format!("{layer}/{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() && !folders.contains(&folder) {
                findings.push(format!("the folder {folder} is no package of the workspace"));
            }
        }
    }
    findings
}

fn inherits_lints(package: &Package) -> bool {
    let manifest = fs::read_to_string(&package.manifest_path).ok().and_then(|text| text.parse::<toml::Table>().ok());
    manifest.is_some_and(|manifest| manifest.get("lints").and_then(|lints| lints.get("workspace")) == Some(&toml::Value::Boolean(true)))
}

pub(super) fn arrows(metadata: &Metadata) -> Vec<String> {
    let members: BTreeSet<&str> = metadata.workspace_packages().iter().map(|package| word(&package.name)).collect();
    let map: BTreeMap<&str, &[&str]> = MAP.into_iter().collect();
    let packages = metadata.workspace_packages().into_iter();
    packages
        .flat_map(|package| arrows_of(package, map.get(word(&package.name)).copied().unwrap_or(ANYTHING_BUT_SERVICES), &members))
        .collect()
}

fn arrows_of(package: &Package, allowed: &[&str], members: &BTreeSet<&str>) -> Vec<String> {
    let name = word(&package.name);
    let mut findings = Vec::new();
    for dependency in package.dependencies.iter().filter(|dependency| members.contains(word(&dependency.name))) {
        let target = word(&dependency.name);
        let in_tests_only = dependency.kind == DependencyKind::Development;
        if SERVICES.contains(&target) {
            findings.push(format!("{name} imports the service {target}: services share the contract, nothing else"));
        } else if in_tests_only {
        } else if target == "testkit" && !matches!(name, "xtask" | "integration-tests" | "benches") {
            findings.push(format!("{name} depends on testkit outside its tests"));
        } else if !allowed.contains(&target) && allowed != ANYTHING_BUT_SERVICES {
            let allowed = if allowed.is_empty() { "none of ours".to_owned() } else { allowed.join(", ") };
            findings.push(format!("the arrow {name} -> {target} runs against the map (allowed: {allowed})"));
        }
    }
    findings
}

/// Walks normal and build dependencies: a decision crate that reaches the network is one refactoring away from using it.
pub(super) fn decisions(metadata: &Metadata) -> Vec<String> {
    let Some(resolve) = &metadata.resolve else { return vec!["cargo metadata has no dependency graph".to_owned()] };
    let nodes: BTreeMap<_, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let names: BTreeMap<_, _> = metadata.packages.iter().map(|package| (&package.id, package.name.as_str())).collect();
    let mut findings = Vec::new();
    for package in metadata.workspace_packages().into_iter().filter(|package| DECISIONS.contains(&word(&package.name))) {
        // Each crate with the chain of names that led to it.
        let mut queue = VecDeque::from([(&package.id, word(&package.name).to_owned())]);
        let mut seen = BTreeSet::new();
        while let Some((id, chain)) = queue.pop_front() {
            if !seen.insert(id) {
                continue;
            }
            let dependencies = nodes.get(id).map(|node| node.deps.as_slice()).unwrap_or_default();
            for dependency in
                dependencies.iter().filter(|found| found.dep_kinds.iter().any(|kind| kind.kind != DependencyKind::Development))
            {
                let name = names.get(&dependency.pkg).copied().unwrap_or_default();
                let chain = format!("{chain} -> {name}");
                if OUTSIDE_WORLD.contains(&name) && !seen.contains(&dependency.pkg) {
                    findings.push(format!("the decision crate {} reaches {name}: {chain}", word(&package.name)));
                }
                queue.push_back((&dependency.pkg, chain));
            }
        }
    }
    findings.sort();
    findings.dedup();
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run;

    /// The repository's own graph, after an edit of its JSON.
    fn metadata(edit: impl Fn(String) -> String) -> Metadata {
        let manifest = run::root().join("Cargo.toml");
        let output = run::cargo(&["metadata", "--format-version", "1", "--offline", "--manifest-path"]).arg(manifest).output().unwrap();
        serde_json::from_str(&edit(String::from_utf8(output.stdout).unwrap())).unwrap()
    }

    fn has(findings: &[String], words: &str) -> bool {
        findings.iter().any(|finding| finding.contains(words))
    }

    #[test]
    fn this_repository_is_as_the_map_says() {
        let metadata = metadata(|text| text);
        assert_eq!(places(&metadata), Vec::<String>::new());
        assert_eq!(arrows(&metadata), Vec::<String>::new());
        assert_eq!(decisions(&metadata), Vec::<String>::new());
    }

    #[test]
    fn an_arrow_against_the_map_and_an_import_of_a_service_are_found() {
        // The same graph, with one dependency of `dcap` renamed to what it must not know.
        let against = metadata(|text| text.replace("\"name\":\"dcap-qvl\",\"source\"", "\"name\":\"keyferry-bus\",\"source\""));
        assert!(has(&arrows(&against), "the arrow dcap -> bus runs against the map"), "{:?}", arrows(&against));
        let service = metadata(|text| text.replace("\"name\":\"dcap-qvl\",\"source\"", "\"name\":\"key-release\",\"source\""));
        assert!(has(&arrows(&service), "dcap imports the service key-release"), "{:?}", arrows(&service));
        let harness = metadata(|text| text.replace("\"name\":\"dcap-qvl\",\"source\"", "\"name\":\"keyferry-testkit\",\"source\""));
        assert!(has(&arrows(&harness), "dcap depends on testkit outside its tests"), "{:?}", arrows(&harness));
    }

    #[test]
    fn a_package_that_is_not_on_the_map_or_not_in_its_place_is_found() {
        let stranger = metadata(|text| text.replace("\"name\":\"keyferry-kmip\",\"version\"", "\"name\":\"keyferry-common\",\"version\""));
        assert!(has(&places(&stranger), "the package keyferry-common (crates/kmip) is not on the map"), "{:?}", places(&stranger));
        let moved = metadata(|text| text.replace("\"name\":\"keyferry-kmip\",\"version\"", "\"name\":\"keyferry-kms\",\"version\""));
        assert!(has(&places(&moved), "the package keyferry-kms is in crates/kmip: the map says crates/kms"), "{:?}", places(&moved));
        assert_eq!(place("bus"), None, "a library without the prefix would be taken for the registry's");
    }

    #[test]
    fn a_decision_crate_that_reaches_the_network_is_found_with_the_way_there() {
        let reached = metadata(|text| text.replace("\"name\":\"sha2\",\"version\"", "\"name\":\"tokio\",\"version\""));
        assert!(has(&decisions(&reached), "the decision crate tdx-quote reaches tokio: tdx-quote -> tokio"), "{:?}", decisions(&reached));
    }
}
