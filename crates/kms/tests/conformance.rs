//! Every back end passes the same suite, against a real server or a real file.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking; the exemption covers helpers only inside #[test]")]

mod support;

use keyferry_kms::{
    DevConfig, DevKms, KmipKms, Version,
    conformance::{self, Capabilities, Pairs},
};
use keyferry_testkit::pykmip::{Profile, Pykmip};
use support::start;

async fn check(server: &Pykmip, version: Version) {
    let mut config = server.config(server.owner());
    config.version = version;
    let kms = KmipKms::new(&config).unwrap();
    // It keeps elliptic curve keys, but makes none.
    let capabilities = Capabilities { ec: Pairs::Registered, ..Capabilities::ALL };
    if let Err(deviation) = conformance::run_within(&kms, &format!("{version}"), capabilities).await {
        panic!("KMIP {version}: {deviation}\n{}", server.log());
    }
}

#[tokio::test]
async fn the_development_store_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let config = DevConfig { file: directory.path().join("keys.store"), key_file: directory.path().join("keys.key") };
    let kms = DevKms::open(&config).await.unwrap();
    conformance::run(&kms, "dev").await.unwrap();
}

#[tokio::test]
async fn kmip_over_rustls_conforms_in_every_version() {
    let server = start(Profile::Ecdsa).await;
    for version in [Version::V1_2, Version::V1_3, Version::V1_4, Version::V2_0] {
        check(&server, version).await;
    }
}

#[tokio::test]
async fn kmip_over_openssl_conforms_with_intels_own_configuration() {
    let server = start(Profile::Intel).await;
    for version in [Version::V1_4, Version::V2_0] {
        check(&server, version).await;
    }
}
