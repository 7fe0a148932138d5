//! Policies by id, event logs and reference values over real TLS: what matches, what does not, and what refuses.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests: a broken fixture has to fail them")]

mod world;

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use keyferry_reference_value::{Action, History};
use keyferry_td_simulator::SimulatedTd;
use keyferry_tdx_quote::report_data;
use keyferry_tls::{RootsConfig, http_client_config};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha384};
use world::{API_KEY, USER_DATA, World};

const MATCHING: &str = "5f1c7a52-3c0e-4f0b-9f43-5d1d2a6f7b10";
const OTHER: &str = "5f1c7a52-3c0e-4f0b-9f43-5d1d2a6f7b11";
const FAILING: &str = "5f1c7a52-3c0e-4f0b-9f43-5d1d2a6f7b12";
const REFERENCES: &str = "5f1c7a52-3c0e-4f0b-9f43-5d1d2a6f7b13";
const LOGGED: &str = "5f1c7a52-3c0e-4f0b-9f43-5d1d2a6f7b14";

/// The world with these files as policies, and the directory of reference values.
async fn start(directory: &tempfile::TempDir) -> World {
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    std::fs::create_dir(directory.path().join("references")).unwrap();
    let matching = "import rego.v1\ndefault match := false\nmatch if {\n input.tdx.attester_tcb_status == \"UpToDate\"\n \
                    time.now_ns() > time.parse_rfc3339_ns(input.tdx.attester_tcb_date)\n}\n\
                    export_on_match := {\"seam\": input.tdx.tdx_seamsvn}";
    let other = "default matches_tdx_policy = false\nmatches_tdx_policy = true {\n input.tdx_mrtd == \"00\"\n}";
    let failing = "matches { time.parse_rfc3339_ns(\"never\") > 0 }";
    let logged = "import rego.v1\nmatch if {\n some event in input.tdx.uefi_event_logs\n event.index == 1\n \
                  event.details.string == \"measured\"\n}";
    let references = json!({ "reference_value_ids": ["build-1"] }).to_string();
    World::start_with(json!({ "evidence": {
        "policies": {
            MATCHING: write("matching.rego", matching),
            OTHER: write("other.rego", other),
            FAILING: write("failing.rego", failing),
            LOGGED: write("logged.rego", logged),
            REFERENCES: write("references.json", &references),
        },
        "reference_values": { "directory": directory.path().join("references"), "trust_unsigned": true },
    } }))
    .await
}

async fn attest(world: &World, td: &SimulatedTd, ids: &[&str], must_match: bool, event_log: &[u8]) -> (StatusCode, Value) {
    let roots = RootsConfig::Ders(vec![world.authority.certificate_der().to_vec()]);
    let client = Client::builder().tls_backend_preconfigured(http_client_config(&roots).unwrap()).no_proxy().build().unwrap();
    let base = format!("https://{}", world.broker.address("https").unwrap());
    let nonce: Value =
        client.get(format!("{base}/appraisal/v2/nonce")).header("x-api-key", API_KEY).send().await.unwrap().json().await.unwrap();
    let bytes = |name: &str| BASE64_STANDARD.decode(nonce[name].as_str().unwrap()).unwrap();
    let quote = td.quote(&report_data(&bytes("val"), &bytes("iat"), USER_DATA)).unwrap();
    let mut tdx =
        json!({ "quote": BASE64_STANDARD.encode(quote), "verifier_nonce": nonce, "runtime_data": BASE64_STANDARD.encode(USER_DATA) });
    if !event_log.is_empty() {
        tdx["event_log"] = Value::from(BASE64_STANDARD.encode(event_log));
    }
    let body = json!({ "tdx": tdx, "policy_ids": ids, "policy_must_match": must_match });
    let answer = client.post(format!("{base}/appraisal/v2/attest")).header("x-api-key", API_KEY).json(&body).send().await.unwrap();
    let status = answer.status();
    let body: Value = answer.json().await.unwrap();
    let payload = body["token"].as_str().map(|token| {
        let payload = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
        serde_json::from_slice(&payload).unwrap()
    });
    (status, payload.unwrap_or(body))
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_match_or_not_and_only_must_match_refuses() {
    let directory = tempfile::tempdir().unwrap();
    let world = start(&directory).await;
    let td = &world.simulated;
    let (status, token) = attest(&world, td, &[MATCHING, OTHER], false, &[]).await;
    assert_eq!(status, StatusCode::OK, "{token}");
    assert_eq!((&token["policy_ids_matched"][0]["id"], &token["policy_ids_unmatched"][0]["id"]), (&json!(MATCHING), &json!(OTHER)));
    let text = std::fs::read(directory.path().join("other.rego")).unwrap();
    let hash = BASE64_STANDARD.encode(BASE64_STANDARD.encode(Sha384::digest(text)));
    assert_eq!(token["policy_ids_unmatched"][0]["hash"], json!(hash));
    assert_eq!(token["policy_defined_claims"], json!({ "seam": token["tdx"]["tdx_seamsvn"] }));

    let (status, _) = attest(&world, td, &[MATCHING], true, &[]).await;
    assert_eq!(status, StatusCode::OK);
    for (ids, must_match) in [(vec![MATCHING, OTHER], true), (vec![FAILING], false), (vec!["5f1c7a52-3c0e-4f0b-9f43-5d1d2a6f7bff"], false)]
    {
        let (status, body) = attest(&world, td, &ids, must_match, &[]).await;
        assert_ne!(status, StatusCode::OK, "{ids:?}: {body}");
    }
}

fn log(data: &[u8]) -> (Vec<u8>, [u8; 48]) {
    let mut specification = b"Spec ID Event03\0".to_vec();
    specification.extend([0, 0, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0, 0x0c, 0, 48, 0, 0]);
    let mut log = [1_u32.to_le_bytes(), 3_u32.to_le_bytes()].concat();
    log.extend([0; 20]);
    log.extend(u32::try_from(specification.len()).unwrap().to_le_bytes());
    log.extend(specification);
    let digest: [u8; 48] = Sha384::digest(data).into();
    log.extend([1_u32.to_le_bytes(), 0x8000_0007_u32.to_le_bytes(), 1_u32.to_le_bytes()].concat());
    log.extend([0x0c, 0]);
    log.extend(digest);
    log.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
    log.extend(data);
    log.extend([0xff; 64]);
    (log, Sha384::digest([[0; 48], digest].concat()).into())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_log_has_to_be_the_quotes() {
    let directory = tempfile::tempdir().unwrap();
    let world = start(&directory).await;
    let (log, rtmr0) = log(b"measured");
    let td = world.simulated.with(|td| (td.rtmr0, td.rtmr1, td.rtmr2) = (rtmr0, [0; 48], [0; 48]));
    let (status, body) = attest(&world, &td, &[LOGGED], true, &log).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(body["policy_ids_matched"][0]["id"], json!(LOGGED));
    let (status, body) = attest(&world, &td, &[LOGGED], false, &[]).await;
    assert_eq!((status, &body["policy_ids_unmatched"][0]["id"]), (StatusCode::OK, &json!(LOGGED)), "without the log nothing is known");
    let (status, body) = attest(&world, &world.simulated, &[], false, &log).await;
    assert_ne!(status, StatusCode::OK, "{body}");
    let (status, body) = attest(&world, &td, &[], false, &log[..100]).await;
    assert_ne!(status, StatusCode::OK, "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_counts_in_a_running_broker() {
    let directory = tempfile::tempdir().unwrap();
    let world = start(&directory).await;
    let (references, td) = (directory.path().join("references"), &world.simulated);
    let unmatched = attest(&world, td, &[REFERENCES], true, &[]).await;
    assert_ne!(unmatched.0, StatusCode::OK, "{}", unmatched.1);

    let mr_td = hex::encode(td.options.mr_td);
    let document = json!({ "id": "build-1", "source": "a test", "values": { "mr_td": mr_td } }).to_string();
    std::fs::write(references.join("build-1.json"), &document).unwrap();
    let at = "2026-01-02T03:04:05Z".parse().unwrap();
    let digest = History::file_digest(document.as_bytes());
    let added = History::default().next_line(at, Action::Add, "build-1", &digest, "alice", "first") + "\n";
    std::fs::write(references.join("history.jsonl"), &added).unwrap();
    let (status, token) = attest(&world, td, &[REFERENCES], true, &[]).await;
    assert_eq!(status, StatusCode::OK, "{token}");

    let revoked = History::parse(&added).unwrap().next_line(at, Action::Revoke, "build-1", "", "bob", "a bug in it");
    std::fs::write(references.join("history.jsonl"), format!("{added}{revoked}\n")).unwrap();
    let (status, body) = attest(&world, td, &[REFERENCES], true, &[]).await;
    assert_ne!(status, StatusCode::OK, "{body}");
}
