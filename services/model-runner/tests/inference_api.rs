//! `/v2`, the Open Inference Protocol, over real HTTPS.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod support;

use keyferry_tls::RootsConfig;
use serde_json::{Value, json};
use support::{Stand, sealed_linreg, sealed_onnx};

const ANSWERS: &str = include_str!("../../../models/breast-cancer.answers.json");
const INFER: &str = "/v2/models/breast-cancer/infer";

fn answers() -> Vec<Value> {
    serde_json::from_str(ANSWERS).unwrap()
}

async fn loaded() -> Stand {
    let stand = Stand::start(&sealed_onnx(1), 1);
    stand.runner.load().await.unwrap();
    stand
}

#[tokio::test]
async fn readiness_follows_the_model() {
    let stand = Stand::start(&sealed_onnx(1), 1);
    assert_eq!(stand.get("/v2/health/live").await.status, 200);
    for path in ["/v2/health/ready", "/v2/models/breast-cancer/ready"] {
        assert_eq!(stand.get(path).await.status, 503, "{path}");
    }
    assert_eq!(stand.get("/v2/models/breast-cancer").await.status, 404);
    stand.runner.load().await.unwrap();
    for path in ["/v2/health/ready", "/v2/models/breast-cancer/ready"] {
        let reply = stand.get(path).await;
        assert_eq!((reply.status, reply.json()["ready"].as_bool()), (200, Some(true)), "{path}");
    }
    assert_eq!(stand.get("/v2/models/other/ready").await.status, 503);
    stand.post("/taa/v1/reset", "").await;
    assert_eq!(stand.get("/v2/health/ready").await.status, 503);
}

#[tokio::test]
async fn metadata_tells_what_goes_in_and_out() {
    let stand = loaded().await;
    let metadata = stand.get("/v2/models/breast-cancer").await.json();
    let wanted = json!({
        "name": "breast-cancer",
        "versions": [],
        "platform": "keyferry_onnx",
        "inputs": [{ "name": "features", "datatype": "FP32", "shape": [-1, 30] }],
        "outputs": [
            { "name": "probability", "datatype": "FP32", "shape": [-1, 1] },
            { "name": "label", "datatype": "FP32", "shape": [-1, 1] },
        ],
    });
    assert_eq!(metadata, wanted);
    assert_eq!(stand.get("/v2").await.json()["name"], "keyferry-model-runner");
}

#[tokio::test]
async fn predictions_are_scikit_learns() {
    let stand = loaded().await;
    let answers = answers();
    let rows: Vec<&Value> = answers.iter().map(|answer| &answer["features"]).collect();
    let flat: Vec<&Value> = rows.iter().flat_map(|row| row.as_array().unwrap()).collect();
    for data in [json!(rows), json!(flat)] {
        let input = json!({ "name": "features", "datatype": "FP32", "shape": [answers.len(), 30], "data": data });
        let reply = stand.post(INFER, &json!({ "id": "r-1", "inputs": [input] }).to_string()).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        let body = reply.json();
        assert_eq!((&body["model_name"], &body["id"]), (&json!("breast-cancer"), &json!("r-1")));
        let output = &body["outputs"][0];
        assert_eq!((&output["name"], &output["shape"]), (&json!("probability"), &json!([answers.len(), 1])));
        for (got, answer) in output["data"].as_array().unwrap().iter().zip(&answers) {
            assert!((got.as_f64().unwrap() - answer["probability"].as_f64().unwrap()).abs() < 2e-6);
        }
    }
}

#[tokio::test]
async fn only_the_outputs_asked_for_are_sent() {
    let stand = loaded().await;
    let row = &answers()[0]["features"];
    let input = json!({ "name": "features", "datatype": "FP32", "shape": [1, 30], "data": row, "parameters": { "hint": 1 } });
    let wanted = json!([{ "name": "label", "parameters": {} }]);
    let reply = stand.post(INFER, &json!({ "inputs": [input], "outputs": wanted, "parameters": {} }).to_string()).await;
    let outputs = reply.json()["outputs"].clone();
    assert_eq!(outputs.as_array().unwrap().len(), 1);
    assert_eq!(outputs[0]["name"], "label");
}

#[tokio::test]
async fn the_linear_model_is_served_here_too() {
    let stand = Stand::start(&sealed_linreg(1), 1);
    stand.runner.load().await.unwrap();
    let rows = [[3.0, 130.0, 78.0, 23.0, 79.0, 28.4, 0.323, 34.0], [1.0, 128.0, 88.0, 39.0, 110.0, 36.5, 1.057, 37.0]];
    let input = json!({ "name": "features", "datatype": "FP32", "shape": [2, 8], "data": rows });
    let reply = stand.post("/v2/models/diabetes/infer", &json!({ "inputs": [input] }).to_string()).await;
    assert_eq!(reply.json()["outputs"], json!([{ "name": "high-risk", "shape": [2], "datatype": "INT64", "data": [0, 1] }]));
}

#[tokio::test]
async fn what_does_not_fit_is_refused_with_its_field() {
    let stand = loaded().await;
    let good = json!({ "name": "features", "datatype": "FP32", "shape": [1, 30], "data": vec![1.0; 30] });
    let with = |member: &str, value: Value| {
        let mut input = good.clone();
        input[member] = value;
        json!({ "inputs": [input] }).to_string()
    };
    let cases = [
        (String::new(), "no JSON"),
        ("{".to_owned(), "no JSON"),
        ("[]".to_owned(), "member"),
        (json!({}).to_string(), "member"),
        (json!({ "inputs": [] }).to_string(), "features"),
        (json!({ "inputs": [good, good] }).to_string(), "twice"),
        (json!({ "inputs": [good], "canary": 1 }).to_string(), "unknown"),
        (with("canary", json!(1)), "unknown"),
        (with("name", json!("other")), "other"),
        (with("datatype", json!("FP16")), "datatype"),
        (with("datatype", json!("BYTES")), "datatype"),
        (with("datatype", json!("INT64")), "features"),
        (with("shape", json!([30])), "shape"),
        (with("shape", json!([1, 29])), "shape"),
        (with("shape", json!([-1, 30])), "member"),
        (with("shape", json!([0, 30])), "shape"),
        (with("shape", json!([18_446_744_073_709_551_615_u64, 30])), "shape"),
        (with("shape", json!([2, 30])), "values"),
        (with("data", json!(vec![1.0; 29])), "values"),
        (with("data", json!(1.0)), "features"),
        (with("data", json!(vec!["1"; 30])), "features"),
        (with("data", json!(vec![1e39; 30])), "finite"),
        (json!({ "inputs": [good], "outputs": [{ "name": "logit" }] }).to_string(), "outputs"),
        (format!("{{\"inputs\":{}", "[".repeat(100_000)), "body"),
    ];
    for (body, wanted) in cases {
        let reply = stand.post(INFER, &body).await;
        let shown: String = body.chars().take(200).collect();
        assert_eq!(reply.status, 400, "{shown}: {}", reply.text);
        assert!(reply.json()["error"].as_str().unwrap().contains(wanted), "{shown}: {} should say {wanted}", reply.text);
        assert!(!reply.text.contains("canary"), "{}", reply.text);
    }
    assert_eq!(stand.post("/v2/models/other/infer", &with("name", json!("features"))).await.status, 404);
    assert_eq!(stand.post(INFER, &" ".repeat(10 * 1024 * 1024)).await.status, 413);
    assert_eq!(stand.post(INFER, &json!({ "inputs": [good] }).to_string()).await.status, 200, "and it still answers");
}

#[tokio::test]
async fn the_listener_speaks_tls_1_3_and_nothing_older() {
    let stand = loaded().await;
    let roots = RootsConfig::CaFile(stand.directory.path().join("ca.pem"));
    let mut tls = keyferry_tls::client_config(&roots, true).unwrap();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let builder = || reqwest::Client::builder().no_proxy().tls_backend_preconfigured(tls.clone());
    let response = builder().build().unwrap().get(stand.url("/v2/health/live")).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.version()), (200, http::Version::HTTP_11));
    assert_eq!(stand.http.get(stand.url("/v2/health/live")).send().await.unwrap().version(), http::Version::HTTP_2);

    let old = rustls::ClientConfig::builder_with_provider(keyferry_tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let client = reqwest::Client::builder().no_proxy().tls_backend_preconfigured(old).build().unwrap();
    assert!(client.get(stand.url("/v2/health/live")).send().await.is_err());
    let plain = format!("http://localhost:{}/v2/health/live", stand.https.port());
    assert!(stand.http.get(plain).send().await.is_err());
}
