//! Bytes that are no proper HTTP, and peers who are slow, greedy or silent: an answer or a closed connection, in bounded
//! time, and the others are served.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod harness;

use futures::future::join_all;
use harness::{
    Stack, listen_within,
    rest::{JSON, ended, exchanged, sent},
};
use key_release::rest::ClientLimits;
use reqwest::Version;
use serde_json::json;
use tokio::io::AsyncWriteExt;

const MISSING: &str = "5f1c7a52-3c0e-4f0b-9f43-5d1d2a6f7b10";

fn transfer(headers: &str) -> String {
    format!("POST /kbs/v1/keys/{MISSING}/transfer HTTP/1.1\r\nhost: x\r\naccept: {JSON}\r\ncontent-type: {JSON}\r\n{headers}\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_of_http_are_served_by_alpn() {
    let stack = Stack::start().await;
    for (client, version) in [(stack.client(), Version::HTTP_2), (stack.http1(), Version::HTTP_11)] {
        let response = client.get(stack.url("/kbs/v1/version")).send().await.unwrap();
        assert_eq!((response.status().as_u16(), response.version()), (200, version));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_do_not_end_or_are_too_large_end_the_connection() {
    let stack = Stack::start().await;
    let slow = async {
        let mut session = stack.raw().await;
        session.write_all(transfer("content-length: 100\r\n").as_bytes()).await.unwrap();
        session.write_all(b"{\"attestation").await.unwrap();
        ended(&mut session).await
    };
    let slow_chunks = async {
        let mut session = stack.raw().await;
        session.write_all(transfer("transfer-encoding: chunked\r\n").as_bytes()).await.unwrap();
        session.write_all(b"3\r\n{\"a\r\n").await.unwrap();
        ended(&mut session).await
    };
    let announced = async { exchanged(&mut stack.raw().await, transfer("content-length: 99999999999\r\n").as_bytes()).await };
    let chunked = async {
        let chunk = format!("fa00\r\n{}\r\n", " ".repeat(64_000));
        exchanged(&mut stack.raw().await, format!("{}{}", transfer("transfer-encoding: chunked\r\n"), chunk.repeat(35)).as_bytes()).await
    };
    let (slow, slow_chunks, announced, chunked) = tokio::join!(slow, slow_chunks, announced, chunked);
    for (answer, status) in [(slow, "408"), (slow_chunks, "408"), (announced, "413"), (chunked, "413")] {
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains("connection: close") && answer.contains("\"error\""), "{answer}");
    }
    lives(&stack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_http_is_refused() {
    let stack = Stack::start().await;
    let many = "x: y\r\n".repeat(200);
    let long = format!("x: {}\r\n", "y".repeat(64 * 1024));
    let get = "GET /kbs/v1/version HTTP/1.1\r\nhost: x\r\n";
    let refused = [
        ("GET /kbs/v1/version\r\n\r\n".to_owned(), "400"),
        ("GET /kbs/v1/version HTTP/9.9\r\n\r\n".to_owned(), "400"),
        ("\0\0\0\0 / HTTP/1.1\r\n\r\n".to_owned(), "400"),
        (format!("{get}no colon\r\n\r\n"), "400"),
        (format!("{get}{many}\r\n"), "431"),
        (format!("{get}{long}\r\n"), "431"),
        (transfer("content-length: -1\r\n"), "400"),
        (transfer("content-length: 1\r\ncontent-length: 2\r\n"), "400"),
        (transfer("transfer-encoding: chunked, gzip\r\n"), "400"),
        (format!("{}zz\r\n{{}}\r\n0\r\n\r\n", transfer("transfer-encoding: chunked\r\n")), "400"),
    ];
    for (bytes, status) in refused {
        let answer = exchanged(&mut stack.raw().await, bytes.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{bytes:.120}\n{answer}");
    }
    lives(&stack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_says_nothing_or_half_of_it_is_closed() {
    let stack = Stack::start().await;
    let silent = async { ended(&mut stack.raw().await).await };
    let half = async { exchanged(&mut stack.raw().await, b"GET /kbs/v1/version HTTP/1.1\r\nhost: x\r\n").await };
    let idle = async { exchanged(&mut stack.raw().await, b"GET /kbs/v1/version HTTP/1.1\r\nhost: x\r\n\r\n").await };
    let half_a_preface = async { exchanged(&mut stack.raw().await, b"PRI * HTTP/2.0\r\n").await };
    let (silent, half, idle, preface) = tokio::join!(silent, half, idle, half_a_preface);
    assert_eq!((silent.as_str(), preface.as_str()), ("", ""));
    assert!(!half.starts_with("HTTP/1.1 200"), "{half}");
    assert!(idle.starts_with("HTTP/1.1 200"), "served, and closed after it fell idle: {idle}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_only_causes_refusals_is_told_to_wait_and_releases_cost_nothing() {
    let stack = Stack::start().await;
    let key = stack.simulator_key().await;
    let client = stack.client();
    let ask = async |key: &str, body: &serde_json::Value| {
        let request = client.post(stack.url(&format!("/kbs/v1/keys/{key}/transfer"))).header("accept", JSON);
        sent(request.header("content-type", JSON).body(body.to_string())).await.status
    };
    let good = json!({ "attestation_token": stack.verifier.token(|_| {}) });
    assert_eq!(ask(&key, &good).await, 200, "and the issuer's key set is there");
    let released = join_all((0..40).map(|_| ask(&key, &good))).await;
    assert!(released.iter().all(|status| *status == 200), "{released:?}");
    let bad = json!({ "attestation_token": "rubbish" });
    let mut statuses = Vec::new();
    while !statuses.contains(&429) && statuses.len() < 5000 {
        statuses.extend(join_all((0..100).map(|_| ask(MISSING, &bad))).await);
    }
    let refused = statuses.iter().filter(|status| **status == 404).count();
    assert!(refused >= 500 && statuses.contains(&429), "{refused} of {} were looked at", statuses.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn challenges_are_few_for_each_client() {
    let stack = Stack::start().await;
    let key = stack.simulator_key().await;
    let limits = ClientLimits { challenges_per_second: 1, ..ClientLimits::default() };
    let (address, _) = listen_within(limits, &stack.release, &stack.users, &stack.authority).await;
    let url = format!("https://{address}/kbs/v1/keys/{key}/transfer");
    let (client, neighbour) = (stack.client(), stack.client_at([127, 0, 0, 2]));
    let ask = |client: &reqwest::Client| sent(client.post(&url).header("accept", JSON));
    let mut limited = None;
    // Ten at once and one a second, and no more than all clients together may have.
    for _ in 0..30 {
        let answer = ask(&client).await;
        assert!(matches!(answer.status, 200 | 429), "{answer:?}");
        if answer.status == 429 {
            limited = Some(answer);
            break;
        }
    }
    let limited = limited.unwrap();
    assert_eq!(limited.json()["reason"], "rate_limited");
    assert!(limited.header("retry-after").is_some());
    assert_eq!(ask(&neighbour).await.status, 200, "another client has a budget of its own");
}

async fn lives(stack: &Stack) {
    assert_eq!(sent(stack.http1().get(stack.url("/kbs/v1/version"))).await.status, 200);
}
