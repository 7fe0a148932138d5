//! `/taa/v1` over real HTTPS: the sample's flow as its script drives it, its header rules, and what is closed that it leaves
//! open.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod support;

use std::net::TcpListener;

use keyferry_contract::Reason;
use serde_json::json;
use support::{KEY_ID, Reply, Stand, peers::Script, sealed_linreg, sealed_onnx};

const README_ROW: &str = r#"{"pregnancies":"3","blood-glucose":"130","blood-pressure":"78","skin-thickness":"23","insulin":"79","bmi":"28.4","dbf":"0.323","age":"34"}"#;
const SCRIPT_ROW: &str = r#"{"pregnancies":"1","blood-glucose":"128","blood-pressure":"88","skin-thickness":"39","insulin":"110","bmi":"36.5","dbf":"1.057","age":"37"}"#;

/// Names and values.
type Headers<'a> = &'a [(&'a str, &'a str)];

async fn key_body(stand: &Stand) -> String {
    let token = stand.get("/taa/v1/token").await;
    assert_eq!(token.status, 200, "{}", token.text);
    let url = format!("{}/kbs/v1/keys/{KEY_ID}/transfer", stand.broker.url());
    json!({ "attestation_token": token.json()["attestation_token"], "key_transfer_url": url }).to_string()
}

async fn wrapped(stand: &Stand) -> Reply {
    let body = key_body(stand).await;
    stand.post("/taa/v1/key", &body).await
}

async fn raw(stand: &Stand, path: &str, headers: Headers<'_>, body: &str) -> Reply {
    let mut request = stand.http.post(stand.url(path)).body(body.to_owned());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Reply::of(request.send().await.unwrap()).await
}

#[tokio::test]
async fn the_samples_flow_ends_well() {
    let stand = Stand::start(&sealed_linreg(1), 1);
    assert_eq!(stand.post("/taa/v1/execute", README_ROW).await.status, 500, "nothing is loaded yet");

    let key = wrapped(&stand).await;
    assert_eq!(key.status, 200, "{}", key.text);
    let members: Vec<String> = key.json().as_object().unwrap().keys().cloned().collect();
    assert_eq!(members, ["wrapped_key", "wrapped_swk"], "the next step takes this reply verbatim");
    assert!(key.json()["wrapped_key"].as_str().unwrap().starts_with("DAAAABAAAAAwAAAA"));

    let decrypt = stand.post("/taa/v1/decrypt", &key.text).await;
    assert_eq!((decrypt.status, decrypt.text.as_str()), (204, ""));
    assert_eq!(stand.post("/taa/v1/execute", README_ROW).await.text, "{\"high-risk\":0}\n");
    assert_eq!(stand.post("/taa/v1/execute", SCRIPT_ROW).await.text, "{\"high-risk\":1}\n");
    assert_eq!(stand.post("/taa/v1/execute", "{}").await.text, "{\"high-risk\":0}\n");

    // The script resets without a body.
    let reset = raw(&stand, "/taa/v1/reset", &[], "").await;
    assert_eq!((reset.status, reset.text.as_str()), (204, ""));
    assert_eq!(stand.post("/taa/v1/execute", README_ROW).await.status, 500);
    assert_eq!(raw(&stand, "/taa/v1/reset", &[], "").await.status, 204, "also when nothing is loaded");
}

#[tokio::test]
async fn the_flow_ends_well_with_a_key_that_the_kms_wrapped() {
    let stand = Stand::start(&sealed_linreg(1), 1);
    stand.broker.script(Script::KmsWrapped);
    let key = wrapped(&stand).await;
    let members: Vec<String> = key.json().as_object().unwrap().keys().cloned().collect();
    assert_eq!((key.status, members), (200, vec!["kms_wrapped_key".to_owned()]), "the next step takes this reply verbatim");
    let both = json!({ "kms_wrapped_key": key.json()["kms_wrapped_key"], "wrapped_key": "AAAA", "wrapped_swk": "AAAA" });
    assert_eq!(stand.post("/taa/v1/decrypt", &both.to_string()).await.status, 500);
    assert_eq!(stand.post("/taa/v1/decrypt", &key.text).await.status, 204);
    assert_eq!(stand.post("/taa/v1/execute", SCRIPT_ROW).await.text, "{\"high-risk\":1}\n");
}

#[tokio::test]
async fn replies_look_like_the_samples() {
    let stand = Stand::start(&sealed_linreg(1), 1);
    let key = wrapped(&stand).await;
    let decrypt = stand.post("/taa/v1/decrypt", &key.text).await;
    let execute = stand.post("/taa/v1/execute", SCRIPT_ROW).await;
    let reset = stand.post("/taa/v1/reset", "").await;
    for reply in [&key, &decrypt, &execute, &reset] {
        assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
        assert_eq!(reply.header("access-control-allow-methods"), Some("POST, GET, OPTIONS, PUT, DELETE"));
        assert!(reply.header("access-control-allow-headers").unwrap().starts_with("Accept, Content-Type"));
        assert_eq!(reply.header("content-type"), Some("application/json; charset=utf-8"));
        assert!(reply.status == 204 || reply.text.ends_with("}\n") && !reply.text.trim_end().contains('\n'));
    }
    let version = stand.get("/taa/v1/version").await;
    assert_eq!(version.json()["name"], "TrustAuthority Demo App");
    assert_eq!(version.header("access-control-allow-origin"), None);
    for path in ["token", "key", "decrypt", "execute", "reset"] {
        let request = stand.http.request(http::Method::OPTIONS, stand.url(&format!("/taa/v1/{path}")));
        let options = Reply::of(request.send().await.unwrap()).await;
        assert_eq!(
            (options.status, options.text.as_str(), options.header("access-control-allow-origin")),
            (200, "{}\n", Some("*")),
            "{path}"
        );
    }
    let failed = stand.post("/taa/v1/execute", SCRIPT_ROW).await;
    assert_eq!((failed.status, failed.header("access-control-allow-origin")), (500, None));
    assert!(failed.text.starts_with("{\"error\":\"") && failed.text.ends_with("}\n"));
}

#[tokio::test]
async fn unknown_paths_and_methods_are_refused_as_the_sample_does() {
    let stand = Stand::start(&sealed_linreg(1), 1);
    for path in ["/", "/taa/v1", "/taa/v1/token/", "//taa/v1/token", "/taa/v1/provision", "/taa/v2/token"] {
        let reply = stand.get(path).await;
        assert_eq!((reply.status, reply.text.as_str()), (404, "404 page not found\n"), "{path}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
    }
    for (method, path) in [("GET", "key"), ("GET", "execute"), ("POST", "token"), ("PUT", "reset"), ("OPTIONS", "version")] {
        let request = stand.http.request(method.parse().unwrap(), stand.url(&format!("/taa/v1/{path}")));
        let reply = Reply::of(request.send().await.unwrap()).await;
        assert_eq!((reply.status, reply.text.as_str()), (405, ""), "{method} {path}");
    }
}

#[tokio::test]
async fn header_rules_are_exact_and_in_the_samples_order() {
    let stand = Stand::start(&sealed_linreg(1), 1);
    let json = ("content-type", "application/json");
    let accept = ("accept", "application/json");
    let cases: [(&str, Headers<'_>, &str, u16); 13] = [
        ("/taa/v1/key", &[json], "{}", 415),
        ("/taa/v1/key", &[json, ("accept", "*/*")], "{}", 415),
        ("/taa/v1/key", &[json, ("accept", "application/json, text/plain")], "{}", 415),
        ("/taa/v1/key", &[accept], "", 415),
        ("/taa/v1/key", &[accept, ("content-type", "application/json; charset=utf-8")], "", 415),
        ("/taa/v1/key", &[accept, ("content-type", "Application/JSON")], "", 415),
        ("/taa/v1/key", &[accept, json], "", 400),
        ("/taa/v1/decrypt", &[], "", 415),
        ("/taa/v1/decrypt", &[json], "", 400),
        ("/taa/v1/decrypt", &[json], "{}", 500),
        ("/taa/v1/execute", &[("content-type", "text/plain")], "{}", 415),
        ("/taa/v1/execute", &[json], "", 400),
        ("/taa/v1/execute", &[json], "{}", 500),
    ];
    for (path, headers, body, wanted) in cases {
        let reply = raw(&stand, path, headers, body).await;
        assert_eq!(reply.status, wanted, "{path} {headers:?} {body:?}: {}", reply.text);
        assert!(reply.text.ends_with("}\n"), "{path}: {:?}", reply.text);
    }
}

#[tokio::test]
async fn bodies_are_read_as_gos_decoder_does_and_bounded() {
    let stand = Stand::start(&sealed_linreg(1), 1);
    let key = wrapped(&stand).await;
    assert_eq!(stand.post("/taa/v1/decrypt", &key.text).await.status, 204);

    let high = "{\"high-risk\":1}\n";
    let upper = SCRIPT_ROW.replace("blood-glucose", "Blood-GLUCOSE");
    let numbers = SCRIPT_ROW.replace("\"128\"", "128").replace("\"36.5\"", "36.5");
    let trailing = format!("{SCRIPT_ROW} and more");
    let with_null = SCRIPT_ROW.replace("\"37\"", "null");
    let last_wins = SCRIPT_ROW.replacen('{', "{\"age\":\"90000\",", 1);
    for body in [SCRIPT_ROW, &upper, &numbers, &trailing, &with_null, &last_wins] {
        let reply = stand.post("/taa/v1/execute", body).await;
        assert_eq!((reply.status, reply.text.as_str()), (200, high), "{body}");
    }
    let bad = [
        "[]",
        "{",
        "nonsense",
        "3",
        r#"{"age":"NaN"}"#,
        r#"{"age":"inf"}"#,
        r#"{"age":"1e39"}"#,
        r#"{"age":1e39}"#,
        r#"{"age":"old"}"#,
        r#"{"age":""}"#,
        r#"{"age":true}"#,
        r#"{"age":["1"]}"#,
        r#"{"weight":"80"}"#,
    ];
    for body in bad {
        let reply = stand.post("/taa/v1/execute", body).await;
        assert_eq!(reply.status, 400, "{body}: {}", reply.text);
    }
    let bad_base64 = r#"{"wrapped_key":"***","wrapped_swk":"AAAA"}"#;
    for body in [bad_base64, r#"{"wrapped_key":1}"#, r#"{"wrapped_key":"AAAA","more":1}"#] {
        assert_eq!(stand.post("/taa/v1/decrypt", body).await.status, 400, "{body}");
    }
    assert_eq!(stand.post("/taa/v1/key", r#"{"attestation_token":5}"#).await.status, 400);
    let huge = format!("{{\"age\":\"{}\"}}", "1".repeat(10 * 1024 * 1024));
    assert_eq!(stand.post("/taa/v1/execute", &huge).await.status, 413);
    let large = format!("{{\"age\":\"{}\"}}", "1".repeat(200 * 1024));
    assert_eq!(stand.post("/taa/v1/execute", &large).await.status, 413, "no request of this API is as long");
    assert_eq!(stand.post("/taa/v1/execute", SCRIPT_ROW).await.text, high, "and it still answers");
}

#[tokio::test]
async fn a_token_is_shown_to_the_configured_broker_only() {
    let stand = Stand::start(&sealed_linreg(1), 1);
    let trap = TcpListener::bind("127.0.0.1:0").unwrap();
    trap.set_nonblocking(true).unwrap();
    let evil = trap.local_addr().unwrap();
    let ours = stand.broker.url();
    let port = ours.rsplit(':').next().unwrap();
    let urls = [
        format!("https://{evil}/kbs/v1/keys/{KEY_ID}/transfer"),
        format!("http://{evil}/kbs/v1/keys/{KEY_ID}/transfer"),
        format!("{ours}@{evil}/kbs/v1/keys/{KEY_ID}/transfer"),
        format!("https://localhost.{evil}/kbs/v1/keys/{KEY_ID}/transfer"),
        format!("http://localhost:{port}/kbs/v1/keys/{KEY_ID}/transfer"),
        format!("https://user:password@localhost:{port}/kbs/v1/keys/{KEY_ID}/transfer"),
        format!("{ours}/kbs/v1/keys/{KEY_ID}/transfer?next=https://{evil}"),
        format!("{ours}/kbs/v1/keys/../keys/{KEY_ID}/other"),
        format!("{ours}/kbs/v1/keys/{KEY_ID}"),
        format!("{ours}/kbs/v1/keys/not-a-key/transfer"),
        "file:///etc/passwd".to_owned(),
        String::new(),
    ];
    for url in urls {
        let body = json!({ "attestation_token": "a.b.c", "key_transfer_url": url }).to_string();
        let reply = stand.post("/taa/v1/key", &body).await;
        assert_eq!(reply.status, 400, "{url}: {}", reply.text);
        assert!(reply.text.contains("key_transfer_url"), "{}", reply.text);
    }
    assert!(stand.broker.transfers().is_empty());
    assert!(trap.accept().is_err(), "nobody connected to the other server");
}

#[tokio::test]
async fn refusals_carry_their_reason_and_leave_the_model_in_service() {
    let stand = Stand::start(&sealed_linreg(1), 1);
    let good = wrapped(&stand).await;
    assert_eq!(stand.post("/taa/v1/decrypt", &good.text).await.status, 204);
    let reason = |reply: &Reply| Reason::from_label(reply.json()["reason"].as_str().unwrap()).unwrap();

    let replayed = stand.post("/taa/v1/decrypt", &good.text).await;
    assert_eq!((replayed.status, reason(&replayed)), (500, Reason::WrappedKeyInvalid), "a pair opens one key");

    stand.broker.script(Script::Refuse(Reason::PolicyMismatch));
    let denied = wrapped(&stand).await;
    assert_eq!((denied.status, reason(&denied)), (500, Reason::PolicyMismatch));
    assert!(!denied.text.contains("text of the peer"));

    for script in [Script::AlteredKey, Script::ForeignKey] {
        stand.broker.script(script);
        let wrapped = wrapped(&stand).await;
        let reply = stand.post("/taa/v1/decrypt", &wrapped.text).await;
        assert_eq!((reply.status, reason(&reply)), (500, Reason::WrappedKeyInvalid), "{script:?}");
    }
    stand.broker.script(Script::Good);
    stand.broker.release_key(2);
    let other = wrapped(&stand).await;
    let reply = stand.post("/taa/v1/decrypt", &other.text).await;
    assert_eq!((reply.status, reason(&reply)), (500, Reason::ModelCorrupt));

    stand.attester.script(Script::Refuse(Reason::TcbStatusNotAllowed));
    let reply = stand.get("/taa/v1/token").await;
    assert_eq!((reply.status, reason(&reply)), (500, Reason::TcbStatusNotAllowed));
    assert_eq!(stand.post("/taa/v1/execute", SCRIPT_ROW).await.text, "{\"high-risk\":1}\n");
}

#[tokio::test]
async fn without_a_token_evidence_is_shown() {
    let stand = Stand::start(&sealed_linreg(1), 1);
    let url = format!("{}/kbs/v1/keys/{KEY_ID}/transfer", stand.broker.url());
    for body in [json!({ "key_transfer_url": url }), json!({ "attestation_token": "", "key_transfer_url": url })] {
        let key = stand.post("/taa/v1/key", &body.to_string()).await;
        assert_eq!(key.status, 200, "{}", key.text);
        assert_eq!(stand.post("/taa/v1/decrypt", &key.text).await.status, 204);
    }
    assert_eq!(stand.broker.transfers().len(), 2);
}

#[tokio::test]
async fn another_model_than_the_samples_is_not_executed() {
    let stand = Stand::start(&sealed_onnx(1), 1);
    stand.runner.load().await.unwrap();
    let reply = stand.post("/taa/v1/execute", SCRIPT_ROW).await;
    assert_eq!(reply.status, 500);
    assert!(reply.text.contains("no linear model"), "{}", reply.text);
}
