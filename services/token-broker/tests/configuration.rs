//! The example configuration is accepted as it is, and mistakes are reported together.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests: a broken fixture has to fail them")]

use std::path::Path;

use keyferry_lifecycle::{Layers, load};
use token_broker::{AnchorConfig, Config};

/// The example with its secret files pointed at `directory`.
fn example(directory: &Path) -> Layers {
    let api_key = directory.join("api-key");
    std::fs::write(&api_key, "key").unwrap();
    Layers {
        file: Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("token-broker.example.toml")),
        environment: vec![("KEYFERRY_HTTPS__API_KEY_FILE".to_owned(), api_key.display().to_string())],
        settings: Vec::new(),
    }
}

#[test]
fn the_example_is_a_valid_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let config: Config = load(&example(directory.path())).unwrap();
    assert_eq!(config.evidence.trust_anchor, AnchorConfig::Intel);
    assert_eq!(config.token.lifetime_seconds, 300);
}

/// The example of the page on Intel's service, laid over the shipped one.
#[test]
fn the_documented_upstream_is_a_valid_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let page = include_str!("../../../docs/intel-trust-authority.md");
    let block = page.split("```toml").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let block = block.replace("/etc/keyferry/ita-api-key", &directory.path().join("api-key").display().to_string());
    let mut layers = example(directory.path());
    let mut whole: toml::Table = std::fs::read_to_string(layers.file.unwrap()).unwrap().parse().unwrap();
    whole.extend(block.parse::<toml::Table>().unwrap());
    let file = directory.path().join("token-broker.toml");
    std::fs::write(&file, whole.to_string()).unwrap();
    layers.file = Some(file);
    let config: Config = load(&layers).unwrap();
    let token_broker::VerifierConfig::TrustAuthority(upstream) = config.verifier else { panic!("not the upstream") };
    assert_eq!(upstream.api_url(), "https://api.eu.trustauthority.intel.com");
    assert_eq!((upstream.issuer(), config.nonce.lifetime_seconds), ("https://portal.eu.trustauthority.intel.com".to_owned(), 30));
    assert_eq!(upstream.absent_anchor(), keyferry_attestation_token::AbsentAnchor::Intel);
}

#[test]
fn the_example_policy_is_a_valid_policy() {
    let policy = keyferry_appraisal::AppraisalPolicy::from_json(include_str!("../appraisal-policy.example.json")).unwrap();
    assert_eq!(policy.allowances(), keyferry_appraisal::Allowances::NONE);
    assert!(policy.reference_values().mr_td.is_some());
}

#[test]
fn all_mistakes_are_named_in_one_run() {
    let directory = tempfile::tempdir().unwrap();
    let mut layers = example(directory.path());
    layers.settings = [
        "nonce.lifetime_seconds=3600",
        "token.lifetime_seconds=5",
        "evidence.trust_anchor=simulator",
        "evidence.collateral_files=[]",
        "work.appraisals=0",
        "evidence.policies={ nonsense = \"x\" }",
    ]
    .map(str::to_owned)
    .to_vec();
    let error = load::<Config>(&layers).unwrap_err();
    let text = error.mistakes().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    for setting in [
        "nonce.lifetime_seconds",
        "token.lifetime_seconds",
        "evidence.simulator_root_file",
        "evidence.collateral_files",
        "work.appraisals",
        "evidence.policies",
    ] {
        assert!(text.contains(setting), "{setting} in:\n{text}");
    }
}

#[test]
fn where_collateral_comes_from_has_to_be_said_in_full() {
    let directory = tempfile::tempdir().unwrap();
    let mistakes = |settings: &[&str]| {
        let mut layers = example(directory.path());
        layers.settings = settings.iter().map(|setting| format!("evidence.collateral.{setting}")).collect();
        load::<Config>(&layers).map_err(|error| error.to_string())
    };
    assert!(mistakes(&["pcs_url=https://x", "update=early", "directory=/d"]).is_ok());
    assert!(mistakes(&["pccs_url=https://x", "update=standard", "directory=/d"]).is_ok());
    assert!(mistakes(&["directory=/d"]).is_ok() && mistakes(&["bundle_files=[\"/b\"]"]).is_ok());
    for (settings, setting) in [
        (&["pcs_url=https://x", "pccs_url=https://y", "update=early", "directory=/d"][..], "pccs_url"),
        (&["pcs_url=https://x", "directory=/d"], "update"),
        (&["pcs_url=https://x", "update=early"], "directory"),
        (&["pcs_url=https://x", "update=newest", "directory=/d"], "update"),
        (&["pccs_url=https://x", "certificates_url=https://y", "update=early", "directory=/d"], "certificates_url"),
        (&["update=early"], "pcs_url"),
    ] {
        let text = mistakes(settings).unwrap_err();
        assert!(text.contains(&format!("evidence.collateral.{setting}")), "{settings:?}: {text}");
    }
}

#[test]
fn a_secret_given_twice_or_not_at_all_is_a_mistake() {
    let directory = tempfile::tempdir().unwrap();
    let mut layers = example(directory.path());
    layers.settings = vec!["https.api_key=canary".to_owned()];
    let text = load::<Config>(&layers).unwrap_err().to_string();
    assert!(text.contains("https.api_key") && !text.contains("canary"), "{text}");
}
