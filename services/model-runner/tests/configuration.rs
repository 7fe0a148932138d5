//! The example configuration is accepted, and mistakes are all told at once.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::path::PathBuf;

use keyferry_lifecycle::{Layers, load};
use model_runner::{Config, config::Mode, runtime::Quirk};

fn example(settings: &[&str]) -> Layers {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("model-runner.example.toml");
    Layers { file: Some(file), settings: settings.iter().map(|setting| (*setting).to_owned()).collect(), ..Layers::default() }
}

fn mistakes(settings: &[&str]) -> Vec<String> {
    load::<Config>(&example(settings)).unwrap_err().mistakes().iter().map(|mistake| mistake.setting().to_owned()).collect()
}

#[test]
fn the_example_is_accepted_and_says_what_the_defaults_are() {
    let config: Config = load(&example(&[])).unwrap();
    assert_eq!(config.model.name.as_ref().unwrap().as_str(), "diabetes");
    assert_eq!((config.key_broker.mode, config.model.linear_quirk), (Mode::default(), Quirk::default()));
    assert!(config.memory.require_lock && config.model.load_at_start);
    assert_eq!(config.https.listen.port(), 12780);
}

#[test]
fn unknown_names_are_mistakes_in_every_section() {
    for section in ["bus", "attester", "key_broker", "model", "memory", "https", "compute", "runtime", "runtime.health"] {
        let name = format!("{section}.typo");
        assert_eq!(mistakes(&[&format!("{name}=1")]), [name]);
    }
    assert_eq!(mistakes(&["typo=1"]), ["typo"]);
}

#[test]
fn every_mistake_is_told_in_one_run() {
    let settings = [
        "attester.timeout_seconds=0",
        "key_broker.timeout_seconds=301",
        "model.media_type=pickle",
        "compute.workers=0",
        "compute.queue=70000",
    ];
    let wanted: Vec<&str> = settings.iter().map(|setting| setting.split('=').next().unwrap()).collect();
    assert_eq!(mistakes(&settings), wanted);
}

#[test]
fn a_broker_is_an_https_origin_and_nothing_else() {
    let urls = [
        "http://key-release:9443",
        "https://key-release:9443/kbs/v1",
        "https://user@key-release:9443",
        "https://key-release?x=1",
        "unix:/run/broker",
    ];
    for url in urls {
        assert_eq!(mistakes(&[&format!("key_broker.url={url}")]), ["key_broker.url"], "{url}");
    }
    for setting in ["model.key_id=not-a-uuid", "model.name=../etc", "key_broker.mode=any", "model.linear_quirk=other"] {
        assert_eq!(mistakes(&[setting]), [setting.split('=').next().unwrap()]);
    }
}
