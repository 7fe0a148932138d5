//! A server that cannot start says why in one sentence, and what to do.

use std::fs;

use keyferry_bus::{Deployment, DeploymentOptions};
use keyferry_testkit::nats::{NatsServer, now};

#[tokio::test]
async fn a_port_already_in_use_is_one_sentence_and_a_hint() {
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let options = DeploymentOptions { listen: taken.local_addr().unwrap(), monitor_port: 0, ..DeploymentOptions::default() };
    let deployment = Deployment::init(&directory.path().join("bus"), &options, now()).unwrap();
    let failure = NatsServer::run(deployment).await.unwrap_err();
    assert!(failure.to_string().contains("address already in use"), "{failure}");
    assert_eq!(failure.to_string().lines().count(), 1);
    assert!(failure.hint().contains("another program has that port"), "{}", failure.hint());
}

#[tokio::test]
async fn a_broken_configuration_is_one_sentence_and_names_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let deployment = Deployment::init(&directory.path().join("bus"), &DeploymentOptions::default(), now()).unwrap();
    fs::write(deployment.server_configuration_file(), "no_such_setting: 1\n").unwrap();
    let failure = NatsServer::run(deployment).await.unwrap_err();
    assert!(failure.to_string().contains("no_such_setting"), "{failure}");
    assert!(failure.hint().contains("nats.log"), "{}", failure.hint());
}

#[tokio::test]
async fn a_graceful_stop_ends_with_zero_and_a_restart_keeps_port_and_store() {
    let mut server = NatsServer::start().await.unwrap();
    let url = server.url();
    assert_eq!(server.stop().await, Some(0));
    server.restart().await.unwrap();
    assert_eq!(server.url(), url);
    let admin = server.connect(keyferry_bus::Role::Admin).await.unwrap();
    admin.jetstream().get_stream("AUDIT").await.unwrap();
}
