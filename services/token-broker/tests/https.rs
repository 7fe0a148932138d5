//! The Trust-Authority-compatible surface over real TLS: the forms clients send, and what they must not get away with.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests: a broken fixture has to fail them")]

mod world;

use base64::{Engine, prelude::BASE64_STANDARD};
use keyferry_attestation_token::{Algorithm, KeySet, RevocationList, TrustedIssuer, authenticate};
use keyferry_contract::{Reason, attestation::v1::VerifierNonce, release::v1::AuditDecision};
use keyferry_testkit::nats::now;
use keyferry_tls::{RootsConfig, http_client_config};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use world::{API_KEY, ISSUER, USER_DATA, World, decided};

struct Caller {
    client: Client,
    base: String,
}

impl Caller {
    fn new(world: &World) -> Self {
        let roots = RootsConfig::Ders(vec![world.authority.certificate_der().to_vec()]);
        let tls = http_client_config(&roots).unwrap();
        let client = Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap();
        Self { client, base: format!("https://{}", world.broker.address("https").unwrap()) }
    }
    async fn get(&self, path: &str) -> Response {
        self.client.get(format!("{}{path}", self.base)).header("x-api-key", API_KEY).send().await.unwrap()
    }
    async fn post(&self, path: &str, body: &Value) -> Response {
        let request = self.client.post(format!("{}{path}", self.base)).header("x-api-key", API_KEY);
        request.header("request-id", "request 1").json(body).send().await.unwrap()
    }
    async fn nonce(&self, path: &str) -> Value {
        let response = self.get(path).await;
        assert_eq!(response.status(), StatusCode::OK);
        response.json().await.unwrap()
    }
}

fn decoded(nonce: &Value) -> VerifierNonce {
    let bytes = |name: &str| BASE64_STANDARD.decode(nonce[name].as_str().unwrap()).unwrap();
    VerifierNonce { val: bytes("val"), iat: bytes("iat"), signature: bytes("signature") }
}

/// The flat evidence members for this nonce.
fn evidence(world: &World, nonce: &Value) -> Value {
    let evidence = world.evidence(&decoded(nonce));
    json!({
        "quote": BASE64_STANDARD.encode(evidence.quote),
        "runtime_data": BASE64_STANDARD.encode(evidence.user_data),
        "verifier_nonce": nonce,
    })
}

async fn refusal(response: Response) -> (StatusCode, String) {
    let status = response.status();
    let body: Value = response.json().await.unwrap();
    assert_eq!(body.as_object().unwrap().len(), 1, "one member: error");
    let text = body["error"].as_str().unwrap();
    (status, text.split(':').next().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_the_request_gets_its_form_of_token() {
    let world = World::start().await;
    let caller = Caller::new(&world);
    let jwks = caller.client.get(format!("{}/certs", caller.base)).send().await.unwrap().bytes().await.unwrap();
    let keys = KeySet::from_jwks(&jwks, &world.trusted_issuer(), now()).unwrap();
    for (nonce_path, attest_path, composite, version) in [
        ("/appraisal/v2/nonce", "/appraisal/v2/attest", true, "2.0.0"),
        ("/appraisal/v2/nonce", "/appraisal/v2/attest/gcp", true, "2.0.0"),
        ("/appraisal/v1/nonce", "/appraisal/v2/attest", false, "2.0.0"),
        ("/appraisal/v2/nonce", "/appraisal/v1/attest", false, "1.0.0"),
    ] {
        let nonce = caller.nonce(nonce_path).await;
        assert_eq!(nonce.as_object().unwrap().len(), 3, "exactly val, iat and signature");
        let flat = evidence(&world, &nonce);
        let body = if composite { json!({ "tdx": flat }) } else { flat };
        let response = caller.post(attest_path, &body).await;
        assert_eq!(response.status(), StatusCode::OK, "{attest_path}");
        assert_eq!(response.headers()["request-id"], "request 1");
        assert!(response.headers().values().all(|value| !value.to_str().unwrap().contains(['"', '\''])));
        let answer: Value = response.json().await.unwrap();
        assert_eq!(answer.as_object().unwrap().len(), 1, "exactly token");
        let jwt = answer["token"].as_str().unwrap();
        let token = authenticate(jwt, std::slice::from_ref(&keys), now()).unwrap();
        assert_eq!(token.held_data(), Some(USER_DATA));
        assert_eq!(token.td_id(), None, "nobody's bus identity was proven");
        let payload = base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(jwt.split('.').nth(1).unwrap()).unwrap();
        let payload: Value = serde_json::from_slice(&payload).unwrap();
        assert_eq!(payload["ver"], version);
        assert_eq!(payload["tdx"].is_object(), version == "2.0.0");

        // A client that retries after a lost answer gets the same token.
        let again: Value = caller.post(attest_path, &body).await.json().await.unwrap();
        assert_eq!(again, answer);
    }
    assert_eq!(decided(&world.audit(4).await, AuditDecision::TokenIssued).len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_api_key_there_is_nothing() {
    let world = World::start().await;
    let caller = Caller::new(&world);
    for key in [None, Some(""), Some("wrong"), Some(&API_KEY[..API_KEY.len() - 1])] {
        for (method, path) in [("GET", "/appraisal/v1/nonce"), ("GET", "/appraisal/v2/nonce"), ("POST", "/appraisal/v2/attest")] {
            let mut request = caller.client.request(method.parse().unwrap(), format!("{}{path}", caller.base));
            if let Some(key) = key {
                request = request.header("x-api-key", key);
            }
            let (status, reason) = refusal(request.send().await.unwrap()).await;
            assert_eq!((status, reason.as_str()), (StatusCode::UNAUTHORIZED, "unauthenticated"), "{path} with {key:?}");
        }
    }
    let (status, _) = refusal(caller.get("/appraisal/v3/nonce").await).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_refused_by_member_and_recorded() {
    let world = World::start().await;
    let caller = Caller::new(&world);
    let nonce = caller.nonce("/appraisal/v2/nonce").await;
    let sound = evidence(&world, &nonce);
    let with = |name: &str, value: Value| {
        let mut body = sound.clone();
        body[name] = value;
        json!({ "tdx": body })
    };
    let mut altered = nonce.clone();
    altered["val"] = BASE64_STANDARD.encode("x").into();
    let huge = BASE64_STANDARD.encode(vec![0; 20_000]);
    let cases = [
        (with("quote", json!("AAAA")), StatusCode::BAD_REQUEST, Reason::QuoteMalformed),
        (with("quote", json!(huge)), StatusCode::PAYLOAD_TOO_LARGE, Reason::RequestTooLarge),
        (with("verifier_nonce", altered), StatusCode::BAD_REQUEST, Reason::NonceSignatureInvalid),
        (with("verifier_nonce", Value::Null), StatusCode::BAD_REQUEST, Reason::ReportDataMismatch),
        (with("runtime_data", json!("AAEC")), StatusCode::BAD_REQUEST, Reason::ReportDataMismatch),
        (json!({ "nvgpu": {} }), StatusCode::BAD_REQUEST, Reason::RequestMalformed),
        (json!("x".repeat(600_000)), StatusCode::PAYLOAD_TOO_LARGE, Reason::RequestTooLarge),
    ];
    let count = cases.len();
    for (body, status, reason) in cases {
        assert_eq!(refusal(caller.post("/appraisal/v2/attest", &body).await).await, (status, reason.label().to_owned()));
    }
    assert_eq!(refusal(caller.post("/appraisal/v2/attest/azure", &json!({})).await).await.0, StatusCode::BAD_REQUEST);
    let records = world.audit(count as u64 + 1).await;
    assert_eq!(decided(&records, AuditDecision::AttestationRejected).len(), count + 1);
    assert_eq!(caller.post("/appraisal/v2/attest", &json!({ "tdx": sound })).await.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_outage_is_told_as_one() {
    let world = World::start().await;
    let caller = Caller::new(&world);
    world.delete_audit_stream().await;
    let nonce = caller.nonce("/appraisal/v2/nonce").await;
    let body = json!({ "tdx": evidence(&world, &nonce) });
    let (status, reason) = refusal(caller.post("/appraisal/v2/attest", &body).await).await;
    assert_eq!((status, reason.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "audit_unavailable"));
    world.provision().await;
    assert_eq!(caller.post("/appraisal/v2/attest", &body).await.status(), StatusCode::OK, "the nonce was not used up");
}

/// A connection that never ends its headers is closed; it needs no API key, so there may be many.
#[tokio::test(flavor = "multi_thread")]
async fn callers_who_say_nothing_are_let_go() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let world = World::start().await;
    let roots = RootsConfig::Ders(vec![world.authority.certificate_der().to_vec()]);
    let address = world.broker.address("https").unwrap();
    let mut silent = Vec::new();
    for said in ["", "GET /certs HTTP/1.1\r\nhost: localhost\r\n"] {
        let mut tls = http_client_config(&roots).unwrap();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(tls));
        let tcp = tokio::net::TcpStream::connect(&address).await.unwrap();
        let mut stream = connector.connect("localhost".try_into().unwrap(), tcp).await.unwrap();
        stream.write_all(said.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        silent.push(stream);
    }
    for mut stream in silent {
        let end = tokio::time::timeout(std::time::Duration::from_secs(30), stream.read_to_end(&mut Vec::new())).await;
        assert!(end.is_ok(), "the connection was kept");
    }
}

/// What relying parties of Intel's kind ask for: both of its algorithms, a chain with lists, and where they are.
#[tokio::test(flavor = "multi_thread")]
async fn intels_clients_find_keys_lists_and_both_algorithms() {
    let world = World::start_with(json!({ "token": { "issuer": ISSUER, "algorithm": "PS384" } })).await;
    let caller = Caller::new(&world);
    let jwks = caller.get("/certs").await.bytes().await.unwrap();
    let set: Value = serde_json::from_slice(&jwks).unwrap();
    let algorithms: Vec<_> = set["keys"].as_array().unwrap().iter().map(|key| key["alg"].as_str().unwrap()).collect();
    assert_eq!(algorithms, ["PS384", "RS256"]);
    assert!(set["keys"].as_array().unwrap().iter().all(|key| key["x5c"].as_array().unwrap().len() == 3 && key["kty"] == "RSA"));
    for name in ["root-ca.der", "signing-ca.der"] {
        let response = caller.client.get(format!("{}/crl/{name}", caller.base)).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let list = RevocationList::from_der(&response.bytes().await.unwrap()).unwrap();
        assert!(list.next_update() > now(), "{name}");
    }
    assert_eq!(caller.get("/crl/ca.key").await.status(), StatusCode::NOT_FOUND);
    let discovery: Value = caller.get("/.well-known/openid-configuration").await.json().await.unwrap();
    assert_eq!(discovery["jwks_uri"], format!("{ISSUER}/certs"));
    assert_eq!(discovery["id_token_signing_alg_values_supported"], json!(["PS384", "RS256"]));
    let issuer = TrustedIssuer { algorithms: vec![Algorithm::Ps384, Algorithm::Rs256], ..world.trusted_issuer() };
    let keys = KeySet::from_jwks(&jwks, &issuer, now()).unwrap();
    for (wanted, signed) in [(Value::Null, "PS384"), (json!("RS256"), "RS256"), (json!("PS384"), "PS384")] {
        let nonce = caller.nonce("/appraisal/v2/nonce").await;
        let body = json!({ "tdx": evidence(&world, &nonce), "token_signing_alg": wanted });
        let answer: Value = caller.post("/appraisal/v2/attest", &body).await.json().await.unwrap();
        let jwt = answer["token"].as_str().unwrap();
        let header = base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(jwt.split('.').next().unwrap()).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&header).unwrap()["alg"], signed);
        assert!(authenticate(jwt, std::slice::from_ref(&keys), now()).is_ok(), "{signed}");
    }
    let unknown = caller.post("/appraisal/v2/attest", &json!({ "tdx": { "quote": "AA==" }, "token_signing_alg": "HS256" })).await;
    assert_eq!(refusal(unknown).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_methods_types_and_too_many_requests_have_their_statuses() {
    let world = World::start_with(json!({ "https": { "requests_per_five_minutes": 4 } })).await;
    let caller = Caller::new(&world);
    let posted = caller.client.post(format!("{}/appraisal/v1/nonce", caller.base)).header("x-api-key", API_KEY);
    assert_eq!(refusal(posted.send().await.unwrap()).await.0, StatusCode::METHOD_NOT_ALLOWED);
    let text = caller.client.post(format!("{}/appraisal/v2/attest", caller.base)).header("x-api-key", API_KEY);
    let text = text.header("content-type", "text/plain").body("{}").send().await.unwrap();
    assert_eq!(refusal(text).await.0, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(caller.get("/appraisal/v2/nonce").await.status());
    }
    assert_eq!((statuses[0], statuses[3]), (StatusCode::OK, StatusCode::TOO_MANY_REQUESTS), "{statuses:?}");
    let throttled = caller.get("/appraisal/v2/nonce").await;
    assert!(throttled.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() > 0);
    assert_eq!(refusal(throttled).await, (StatusCode::TOO_MANY_REQUESTS, "rate_limited".to_owned()));
    assert_eq!(caller.get("/certs").await.status(), StatusCode::OK, "keys cost no request");
}
