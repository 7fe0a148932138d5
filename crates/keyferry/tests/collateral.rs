//! `keyferry collateral` from a service to a directory and back.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests: a broken fixture has to fail them")]

use std::{
    path::Path,
    process::{Command, Output},
};

use keyferry_lifecycle::clock;
use keyferry_td_simulator::{CollateralOptions, PlatformOptions, SimulatorRoot};
use keyferry_testkit::Pcs;
use serde_json::Value;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn keyferry(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_keyferry")).args([&["collateral"], arguments].concat()).output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn collateral_goes_from_a_service_through_a_bundle_to_a_directory() {
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    let simulator = SimulatorRoot::generate("collateral commands", clock::now()).unwrap();
    let (root, bundle, directory, copy) = (at("root.der"), at("bundle.json"), at("directory"), at("copy.json"));
    std::fs::write(&root, simulator.certificate_der()).unwrap();
    std::fs::create_dir(&directory).unwrap();
    let pcs = Pcs::start(home.path()).unwrap();
    pcs.serve(&simulator.collateral(&CollateralOptions::default(), clock::now()).unwrap());
    let fmspc = hex::encode(PlatformOptions::FMSPC);
    let fetch = |root: &Path| {
        let service = ["fetch", "--pcs", pcs.url(), "--certificates", pcs.url(), "--ca-file", text(pcs.ca_file())];
        keyferry(&[&service[..], &["--fmspc", &fmspc, "--root", text(root), "--out", text(&bundle)]].concat())
    };
    let other = SimulatorRoot::generate("somebody else", clock::now()).unwrap();
    let other_root = at("other.der");
    std::fs::write(&other_root, other.certificate_der()).unwrap();
    assert_eq!(fetch(&other_root).status.code(), Some(1));
    assert!(!bundle.exists(), "what is refused is not written");
    let fetched = fetch(&root);
    assert!(fetched.status.success(), "{}", String::from_utf8_lossy(&fetched.stderr));

    let import = |root: &Path| keyferry(&["import", "--bundle", text(&bundle), "--directory", text(&directory), "--root", text(root)]);
    assert_eq!(import(&other_root).status.code(), Some(1));
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0, "nothing of it is written");
    assert!(import(&root).status.success());
    let document = directory.join(format!("{fmspc}.json"));
    for file in [&bundle, &document] {
        let shown = keyferry(&["show", text(file), "--root", text(&root), "--json"]);
        assert!(shown.status.success());
        let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
        let family = &shown["families"][0];
        assert_eq!((family["fmspc"].as_str(), family["verdict"].as_str()), (Some(fmspc.as_str()), Some("verified")));
        assert_eq!(family["items"].as_array().unwrap().len(), 4);
    }
    let late = keyferry(&["show", text(&document), "--root", text(&root), "--at", "2099-01-01T00:00:00Z"]);
    assert_eq!(late.status.code(), Some(1), "expired");
    assert!(keyferry(&["export", "--from", text(&directory), "--out", text(&copy), "--root", text(&root)]).status.success());
    assert!(keyferry(&["show", text(&copy), "--root", text(&root)]).status.success());
    assert_eq!(keyferry(&["show", text(&root)]).status.code(), Some(2));
    assert_eq!(keyferry(&["fetch", "--pcs", "http://plain.example", "--fmspc", &fmspc, "--out", text(&copy)]).status.code(), Some(2));
}
