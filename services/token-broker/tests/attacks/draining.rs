//! What is under way when the service is told to stop.

use keyferry_attestation_token::Shape;
use keyferry_testkit::nats::now;
use keyferry_tls::{RootsConfig, http_client_config};
use reqwest::Client;

use crate::{
    upstream::{Recorded, Upstream, claims, nonce, token},
    world::{Answer, evidence_of},
};

/// SIGTERM comes while the upstream is thinking: the answer is still awaited, published and acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn an_attestation_that_was_begun_is_finished_before_the_service_ends() {
    let upstream = Upstream::start();
    let mut world = upstream.front().await;
    // A key set that was not fetched yet would not be fetched any more.
    let certs = format!("https://{}/certs", world.broker.address("https").unwrap());
    let roots = RootsConfig::Ders(vec![world.authority.certificate_der().to_vec()]);
    let client = Client::builder().tls_backend_preconfigured(http_client_config(&roots).unwrap()).no_proxy().build().unwrap();
    while !client.get(&certs).send().await.is_ok_and(|response| response.status().is_success()) {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let evidence = evidence_of(&world.simulated, &nonce(1));
    let jwt = token(&upstream.signer, &claims(&evidence), Shape::V2Nested, now());
    upstream.attests([Recorded::token(&jwt)]);
    let gate = upstream.hold();
    let event = world.event(evidence);
    world.td.publish(&world.td_id, &event).await.unwrap();
    while upstream.attestations() == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let ready = format!("http://{}/health/ready", world.broker.address("health").unwrap());
    let let_through = async {
        // Not ready any more: the signal has arrived.
        while reqwest::get(&ready).await.is_ok_and(|response| response.status().is_success()) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        gate.notify_one();
    };
    let (code, ()) = tokio::join!(world.broker.stop(), let_through);
    assert_eq!(code, Some(0), "{}", world.broker.log());
    let Answer::Token(issued) = world.answer(&event.attestation_id).await else { panic!("rejected") };
    assert_eq!(issued.token, jwt);
    world.until_evidence_is_gone().await;
    assert_eq!(upstream.attestations(), 1, "and nothing was left to be done again");
}
