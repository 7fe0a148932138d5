//! What Intel's scripts and clients do, step by step, and what they read of the answers.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod harness;

use axum::http::{Method, StatusCode};
use base64::{Engine, prelude::BASE64_STANDARD};
use harness::{
    PASSWORD, Stack, TD,
    rest::{Answer, JSON, sent},
    verifier::ANCHOR,
};
use keyferry_contract::{Reason, release::v1::AuditDecision};
use keyferry_key_wrap::{ExportKeyPair, WrappedKey};
use serde_json::{Value, json};

const MISSING: &str = "5f1c7a52-3c0e-4f0b-9f43-5d1d2a6f7b10";

fn decoded(json: &Value, member: &str) -> Vec<u8> {
    BASE64_STANDARD.decode(json[member].as_str().unwrap()).unwrap()
}

impl Stack {
    /// A transfer as Intel's Go client sends it.
    async fn rest_transfer(&self, key: &str, attestation_type: Option<&str>, body: &str) -> Answer {
        let mut request = self.http1().post(self.url(&format!("/kbs/v1/keys/{key}/transfer"))).header("accept", JSON);
        if !body.is_empty() {
            request = request.header("content-type", JSON).body(body.to_owned());
        }
        if let Some(kind) = attestation_type {
            request = request.header("attestation-type", kind);
        }
        sent(request).await
    }

    async fn export(&self, token: &str, key: &str, pem: &str) -> Answer {
        let request = self.http1().post(self.url(&format!("/kbs/v1/keys/{key}"))).bearer_auth(token).header("accept", JSON);
        sent(request.header("content-type", "application/x-pem-file").body(pem.to_owned())).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn intels_script_and_clients_find_what_they_look_for() {
    let stack = Stack::start().await;
    let login = stack.rest_login("admin", PASSWORD).await;
    assert_eq!(login.header("strict-transport-security"), Some("max-age=63072000; includeSubDomains"));
    assert!(login.text.split('.').count() == 3 && login.text.trim() == login.text, "the bare token");
    let token = login.text;

    let document = json!({ "attestation_type": "TDX", "tdx": { "attributes": { "enforce_tcb_upto_date": false } } });
    let policy = stack.call(&token, Method::POST, "/kbs/v1/key-transfer-policies", Some(document.clone())).await;
    assert_eq!(policy.status, 201, "{policy:?}");
    let policy = policy.json();
    assert_eq!((&policy["attestation_type"], &policy["tdx"]), (&json!("TDX"), &document["tdx"]));
    assert!(policy["created_at"].as_str().unwrap().ends_with('Z') && policy.get("sgx").is_none());

    let wanted = json!({ "key_information": { "algorithm": "AES", "key_length": 256 }, "transfer_policy_id": policy["id"] });
    let key = stack.call(&token, Method::POST, "/kbs/v1/keys", Some(wanted)).await;
    assert_eq!(key.status, 201, "{key:?}");
    let key = key.json();
    let id = key["id"].as_str().unwrap();
    assert_eq!(key["key_info"], json!({ "algorithm": "AES", "key_length": 256 }));
    assert_eq!((&key["transfer_policy_id"], &key["transfer_link"]), (&policy["id"], &json!(format!("/kbs/v1/keys/{id}/transfer"))));
    assert!(key.get("key_information").is_none());

    let pair = ExportKeyPair::generate(2048).unwrap();
    let pem = pair.public_pem();
    let exported = stack.export(&token, id, pem.trim_end()).await;
    assert_eq!(exported.status, 200, "{exported:?}");
    let exported = exported.json();
    assert!(exported.get("wrapped_swk").is_none());
    assert_eq!(pair.open(&decoded(&exported, "wrapped_key")).unwrap().bits(), 256);
    let with_junk = stack.export(&token, id, &format!("# my key\n{pem}")).await;
    assert_eq!(with_junk.status, 200, "{with_junk:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_transferred_in_passport_mode_with_an_empty_header() {
    let stack = Stack::start().await;
    let key = stack.simulator_key().await;
    let body = json!({ "attestation_token": stack.verifier.token(|_| {}) }).to_string();
    for header in [None, Some("")] {
        let answer = stack.rest_transfer(&key, header, &body).await;
        assert_eq!((answer.status, answer.header("attestation-type")), (200, Some("")), "{answer:?}");
        let json = answer.json();
        assert!(json["wrapped_key"].as_str().unwrap().starts_with("DAAAABAAAAAwAAAA"));
        let wrapped = WrappedKey::from_parts(decoded(&json, "wrapped_key"), decoded(&json, "wrapped_swk"));
        assert_eq!(TD.unwrap_key(&wrapped).unwrap().bits(), 256);
    }
    let record = stack.audit().await.pop().unwrap();
    assert_eq!((record.decision(), record.mode.as_str()), (AuditDecision::Released, "passport"));
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_is_challenged_and_checked_in_both_shapes() {
    let stack = Stack::start().await;
    let key = stack.simulator_key().await;
    let challenge = stack.rest_transfer(&key, None, "").await;
    assert_eq!((challenge.status, challenge.header("attestation-type")), (200, Some("TDX")), "{challenge:?}");
    let nonce = challenge.json();
    assert_eq!(nonce["val"], BASE64_STANDARD.encode("val"), "bit for bit what the verifier gave");

    let (quote, user_data) = (BASE64_STANDARD.encode(vec![4; 5000]), BASE64_STANDARD.encode(TD.held_data()));
    let flat = json!({ "quote": quote, "user_data": user_data, "nonce": nonce });
    let ignored = json!({ "quote": quote, "user_data": user_data, "nonce": nonce, "attestation_token": "ignored", "event_log": "" });
    let nested = json!({ "tdx": { "quote": quote, "runtime_data": user_data, "verifier_nonce": nonce } });
    for (header, body) in [(Some("TDX"), &flat), (Some("TDX"), &ignored), (Some("TDX"), &nested), (None, &nested)] {
        let answer = stack.rest_transfer(&key, header, &body.to_string()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let json = answer.json();
        TD.unwrap_key(&WrappedKey::from_parts(decoded(&json, "wrapped_key"), decoded(&json, "wrapped_swk"))).unwrap();
    }

    let sgx = stack.rest_transfer(&key, Some("SGX"), &flat.to_string()).await;
    assert_eq!((sgx.status, &sgx.json()["reason"]), (401, &json!("policy_mismatch")), "another type than the policy's");
    assert_eq!(stack.rest_transfer(&key, Some("SGX"), "").await.status, 401);
    assert_eq!(stack.rest_transfer(&key, Some("TDX"), "").await.status, 502, "evidence without a quote");
    assert_eq!(stack.rest_transfer(&key, Some("tdx"), &flat.to_string()).await.status, 400);
    assert_eq!(stack.rest_transfer(&key, Some("TDX"), &json!({ "quote": quote }).to_string()).await.status, 400, "no nonce");
    let twice = json!({ "quote": quote, "tdx": { "quote": quote } });
    assert_eq!(stack.rest_transfer(&key, Some("TDX"), &twice.to_string()).await.status, 400);
    assert_eq!(stack.rest_transfer(&key, Some("TDX"), &json!({ "quote": "%" }).to_string()).await.status, 400);

    *stack.verifier.answer.lock().unwrap() = Err((StatusCode::INTERNAL_SERVER_ERROR, "{}"));
    assert_eq!(stack.rest_transfer(&key, Some("TDX"), &flat.to_string()).await.status, 502, "the verifier failed");
    *stack.verifier.answer.lock().unwrap() = Err((StatusCode::BAD_REQUEST, r#"{"error":"debug_enabled: x"}"#));
    assert_eq!(stack.rest_transfer(&key, Some("TDX"), &flat.to_string()).await.status, 502, "the verifier refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_is_refused_has_intels_status_and_a_reason() {
    let stack = Stack::start().await;
    let key = stack.simulator_key().await;
    let bare = stack.key("").await;
    let good = stack.verifier.token(|_| {});
    let outsider = stack.verifier.token(|claims| claims.measurements.mr_td = [0x99; 48]);
    let unsound = |held_data: &[u8]| {
        let held_data = held_data.to_vec();
        stack.verifier.token(move |claims| claims.held_data = held_data)
    };
    let token = |token: &str| json!({ "attestation_token": token }).to_string();
    let cases = [
        (MISSING, token("rubbish"), 404, "key_not_found"),
        (MISSING, token(&good), 404, "key_not_found"),
        (bare.as_str(), token(&good), 500, "policy_not_found"),
        (key.as_str(), token("rubbish"), 401, "token_malformed"),
        (key.as_str(), token(&outsider), 401, "policy_mismatch"),
        (key.as_str(), token(""), 400, "request_malformed"),
        (key.as_str(), "{}".to_owned(), 400, "request_malformed"),
        (key.as_str(), token(&unsound(&[])), 500, "held_data_invalid"),
        (key.as_str(), token(&unsound(&[1])), 500, "held_data_invalid"),
        (key.as_str(), token(&unsound(&[1, 0, 1, 0, 7])), 500, "held_data_invalid"),
        (key.as_str(), token(&unsound(&[&[1, 0, 1, 0][..], &[0xc7; 256]].concat())), 500, "held_data_invalid"),
        (key.as_str(), token(&unsound(&[&[1, 0, 1, 0][..], &[0xc7; 2048]].concat())), 500, "held_data_invalid"),
        (key.as_str(), token(&unsound(&[&[2, 0, 0, 0][..], &[0xc7; 384]].concat())), 500, "held_data_invalid"),
    ];
    for (key, body, status, reason) in cases {
        let answer = stack.rest_transfer(key, None, &body).await;
        assert_eq!((answer.status, &answer.json()["reason"]), (status, &json!(reason)), "{body:.60} {answer:?}");
        let code = format!("{status}: ");
        assert_eq!(answer.json()["error"].as_str().unwrap().starts_with(&code), status != 400, "{answer:?}");
        assert!(!answer.text.contains("9999") && !answer.text.contains("mrtd"), "{answer:?}");
    }
    assert_eq!(stack.rest_transfer(MISSING, None, "").await.status, 404, "no nonce for a key that is not there");
    assert_eq!(stack.rest_transfer(&bare, None, "").await.status, 500);
    stack.kms.go_down();
    let down = stack.rest_transfer(&key, None, &token(&good)).await;
    assert_eq!((down.status, &down.json()["reason"]), (500, &json!("kms_unreachable")));
    let record = stack.audit().await.pop().unwrap();
    assert_eq!((record.decision(), record.reason()), (AuditDecision::Denied, Reason::KmsUnreachable));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_create_does_not_release_keys_and_a_small_or_foreign_key_gets_none() {
    let stack = Stack::start().await;
    let key = stack.simulator_key().await;
    let (_, creator) = stack.rest_user("creator", &["keys:create", "keys:search", "keys:update", "keys:delete"]).await;
    let (_, carrier) = stack.rest_user("carrier", &["keys:transfer"]).await;
    let pem = ExportKeyPair::generate(2048).unwrap().public_pem();
    assert_eq!(stack.export(&creator, &key, &pem).await.status, 401);
    assert_eq!(stack.export(&carrier, &key, &pem).await.status, 200);
    let record = stack.audit().await.pop().unwrap();
    assert_eq!((record.decision(), record.actor.as_str()), (AuditDecision::Exported, "carrier"));

    let elliptic = rcgen::KeyPair::generate().unwrap().public_key_pem();
    let short = include_str!("../testdata/rsa-1024-public.pem");
    let labelled = pem.replace("PUBLIC KEY", "RSA PUBLIC KEY");
    for refused in [elliptic.as_str(), short, labelled.as_str(), "x", "-----BEGIN PUBLIC KEY-----\n!\n-----END PUBLIC KEY-----\n"] {
        let answer = stack.export(&carrier, &key, refused).await;
        assert_eq!(answer.status, 400, "{refused:.60} {answer:?}");
    }
    assert_eq!(stack.export(&carrier, MISSING, &pem).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_as_intels() {
    let stack = Stack::start().await;
    let token = stack.rest_bearer().await;
    // Both spellings are granted, and mean the same; with Intel nobody can be given this one.
    let (id, policies) = stack.rest_user("policies", &["key-transfer-policies:create", "key_transfer_policies:search"]).await;
    let document = json!({ "attestation_type": "TDX", "tdx": { "attributes": {} } });
    assert_eq!(stack.call(&policies, Method::POST, "/kbs/v1/key-transfer-policies", Some(document)).await.status, 201);
    assert_eq!(stack.call(&policies, Method::GET, "/kbs/v1/key-transfer-policies", None).await.status, 200);

    let one = stack.call(&token, Method::GET, &format!("/kbs/v1/users/{id}"), None).await.json();
    assert_eq!(one["updated_at"], "0001-01-01T00:00:00Z");
    assert_eq!(one["permissions"], json!(["key_transfer_policies:create", "key_transfer_policies:search"]));
    assert!(one.get("password").is_none());
    let path = format!("/kbs/v1/users/{id}");
    let changed = stack.call(&token, Method::PUT, &path, Some(json!({ "Permissions": ["keys:create"] }))).await;
    assert_eq!(changed.status, 201, "{changed:?}");
    assert_ne!(changed.json()["updated_at"], "0001-01-01T00:00:00Z");
    assert_eq!(stack.call(&policies, Method::GET, "/kbs/v1/key-transfer-policies", None).await.status, 401, "demoted at once");

    let found = |query: &'static str| {
        let (stack, token) = (&stack, &token);
        async move { stack.call(token, Method::GET, &format!("/kbs/v1/users{query}"), None).await }
    };
    assert_eq!(found("?username=policies").await.json().as_array().unwrap().len(), 1);
    assert_eq!(found("?username=nobody").await.json(), json!([]));
    assert_eq!(found("?username=").await.json().as_array().unwrap().len(), 2);
    for query in ["", "?other=1", "?username=a&other=1", "?username=%23%23%23%23%23", "?username=%27%20OR%201%3D1"] {
        assert_eq!(found(query).await.status, 400, "{query}");
    }
    let user =
        |name: &str, password: &str, permissions: Value| json!({ "username": name, "password": password, "permissions": permissions });
    let some = json!(["keys:create"]);
    for bad in [
        user("policies", PASSWORD, some.clone()),
        user("#####", PASSWORD, some.clone()),
        user("fine", "12345678", some.clone()),
        user("fine", PASSWORD, json!([])),
        user("fine", PASSWORD, json!(["keys:everything"])),
        json!({ "username": "fine" }),
    ] {
        assert_eq!(stack.call(&token, Method::POST, "/kbs/v1/users", Some(bad.clone())).await.status, 400, "{bad}");
    }
    let missing = format!("/kbs/v1/users/{MISSING}");
    assert_eq!(stack.call(&token, Method::GET, &missing, None).await.status, 404);
    assert_eq!(stack.call(&token, Method::DELETE, &missing, None).await.status, 404);
    assert_eq!(stack.call(&token, Method::PUT, &missing, Some(json!({}))).await.status, 400, "Intel's own");
    let deleted = stack.call(&token, Method::DELETE, &path, None).await;
    assert_eq!((deleted.status, deleted.text.as_str()), (204, ""));
    assert_eq!(stack.rest_login("policies", PASSWORD).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_name_and_a_wrong_password_look_the_same() {
    let stack = Stack::start().await;
    let (nobody, wrong) = (stack.rest_login("nobody", PASSWORD).await, stack.rest_login("admin", "not the password").await);
    assert_eq!((nobody.status, &nobody.text), (401, &wrong.text));
    assert_eq!(wrong.status, 401);
    assert_eq!(stack.rest_login("", PASSWORD).await.status, 400);
    assert_eq!(stack.rest_login("admin", "").await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_are_as_intels() {
    let stack = Stack::start().await;
    let token = stack.rest_bearer().await;
    let root = "/kbs/v1/key-transfer-policies";
    assert_eq!(stack.call(&token, Method::GET, root, None).await.json(), json!([]));
    let upper = json!({ "id": MISSING, "Attestation_Type": "TDX", "tdx": { "attributes": { "mrtd": ["AA".repeat(48)], "rtmr0": null } }, "sgx": null });
    let created = stack.call(&token, Method::POST, root, Some(upper)).await;
    assert_eq!(created.status, 201, "{created:?}");
    let policy = created.json();
    assert_ne!(policy["id"], MISSING, "an id of ours");
    assert_eq!(policy["tdx"]["attributes"]["mrtd"], json!(["AA".repeat(48)]), "as it was given");
    assert!(policy.get("sgx").is_none());
    let path = format!("{root}/{}", policy["id"].as_str().unwrap());
    assert_eq!(stack.call(&token, Method::GET, &path, None).await.json(), policy);
    assert_eq!(stack.call(&token, Method::PUT, &path, Some(json!({}))).await.status, 405);
    for bad in [
        json!({}),
        json!({ "attestation_type": "tdx", "tdx": { "attributes": {} } }),
        json!({ "attestation_type": "TDX" }),
        json!({ "attestation_type": "SGX" }),
        json!({ "attestation_type": "TDX", "tdx": { "attributes": { "mrtd": ["00"] } } }),
        json!({ "attestation_type": "TDX", "tdx": { "attributes": { "seamsvn": "3" } } }),
        json!({ "attestation_type": "TDX", "tdx": { "attributes": { "other": 3 } } }),
    ] {
        assert_eq!(stack.call(&token, Method::POST, root, Some(bad.clone())).await.status, 400, "{bad}");
    }
    let key = stack.key(policy["id"].as_str().unwrap()).await;
    assert_eq!(stack.call(&token, Method::DELETE, &path, None).await.status, 400, "a key is under it");
    assert_eq!(stack.call(&token, Method::DELETE, &format!("/kbs/v1/keys/{key}"), None).await.status, 204);
    assert_eq!(stack.call(&token, Method::DELETE, &path, None).await.status, 204);
    assert_eq!(stack.call(&token, Method::DELETE, &path, None).await.status, 404);
    assert_eq!(stack.call(&token, Method::GET, &path, None).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_as_intels() {
    let stack = Stack::start().await;
    let token = stack.rest_bearer().await;
    let policy = stack.policy(json!({ "trust_anchor": ANCHOR })).await;
    let make = |information: Value, policy: Value| {
        let (stack, token) = (&stack, &token);
        async move {
            let body = json!({ "key_information": information, "transfer_policy_id": policy });
            stack.call(token, Method::POST, "/kbs/v1/keys", Some(body)).await
        }
    };
    let simple = policy.replace('-', "");
    for (information, policy, expected) in [
        (json!({ "algorithm": "aes", "key_length": 128 }), Value::Null, json!({ "algorithm": "AES", "key_length": 128 })),
        (json!({ "algorithm": "AES", "key_length": 192 }), json!(policy), json!({ "algorithm": "AES", "key_length": 192 })),
        (
            json!({ "algorithm": "AES", "key_length": 256 }),
            json!(format!("urn:uuid:{policy}")),
            json!({ "algorithm": "AES", "key_length": 256 }),
        ),
        (
            json!({ "algorithm": "AES", "key_length": 256 }),
            json!(format!("{{{policy}}}")),
            json!({ "algorithm": "AES", "key_length": 256 }),
        ),
        (json!({ "algorithm": "AES", "key_length": 256 }), json!(simple), json!({ "algorithm": "AES", "key_length": 256 })),
        (
            json!({ "algorithm": "AES", "key_length": 256, "key_data": BASE64_STANDARD.encode([7; 16]) }),
            Value::Null,
            json!({ "algorithm": "AES", "key_length": 128 }),
        ),
    ] {
        let created = make(information.clone(), policy.clone()).await;
        assert_eq!((created.status, &created.json()["key_info"]), (201, &expected), "{information} {created:?}");
        let nil = "00000000-0000-0000-0000-000000000000";
        assert_eq!(created.json()["transfer_policy_id"] == nil, policy.is_null());
    }
    for (information, policy) in [
        (Value::Null, Value::Null),
        (json!({ "algorithm": "DES", "key_length": 128 }), Value::Null),
        (json!({ "algorithm": "AES", "key_length": 129 }), Value::Null),
        (json!({ "algorithm": "AES", "key_length": "256" }), Value::Null),
        (json!({ "algorithm": "RSA", "key_length": 1024 }), Value::Null),
        (json!({ "algorithm": "EC", "key_length": 2048 }), Value::Null),
        (json!({ "algorithm": "EC", "curve_type": "secp256k1" }), Value::Null),
        (json!({ "algorithm": "AES", "key_data": "AAAA" }), Value::Null),
        (json!({ "algorithm": "AES", "key_data": "%" }), Value::Null),
        (json!({ "algorithm": "AES", "key_length": 256, "kmip_key_id": "a'b" }), Value::Null),
        (json!({ "algorithm": "AES", "key_length": 256 }), json!(MISSING)),
        (json!({ "algorithm": "AES", "key_length": 256 }), json!("x")),
    ] {
        let refused = make(information.clone(), policy).await;
        assert_eq!(refused.status, 400, "{information} {refused:?}");
    }
    let find = |query: String| {
        let (stack, token) = (&stack, &token);
        async move { stack.call(token, Method::GET, &format!("/kbs/v1/keys{query}"), None).await }
    };
    let count = |answer: Answer| answer.json().as_array().unwrap().len();
    assert_eq!(count(find("?algorithm=".to_owned()).await), 6);
    assert_eq!(count(find("?algorithm=AES&keyLength=256".to_owned()).await), 3);
    assert_eq!(count(find(format!("?transferPolicyId={policy}")).await), 4);
    assert_eq!(count(find("?curveType=secp384r1".to_owned()).await), 0);
    let page = find("?algorithm=&pageSize=4".to_owned()).await.json();
    let last = page[3]["id"].as_str().unwrap();
    assert_eq!(count(find(format!("?pageSize=4&after={last}")).await), 2);
    for query in ["", "?algorithm=DES", "?keyLength=x", "?transferPolicyId=x", "?other=1", "?curveType=x", "?key_length=256"] {
        assert_eq!(find(query.to_owned()).await.status, 400, "{query}");
    }
    let id = page[0]["id"].as_str().unwrap();
    let path = format!("/kbs/v1/keys/{id}");
    assert_eq!(stack.call(&token, Method::GET, &path, None).await.json(), page[0]);
    let moved = stack.call(&token, Method::PUT, &path, Some(json!({ "transfer_policy_id": policy }))).await;
    assert_eq!((moved.status, &moved.json()["transfer_policy_id"]), (201, &json!(policy)));
    for (path, body, status) in [
        (&path, json!({}), 400),
        (&path, json!({ "transfer_policy_id": "00000000-0000-0000-0000-000000000000" }), 400),
        (&path, json!({ "transfer_policy_id": MISSING }), 400),
        (&format!("/kbs/v1/keys/{MISSING}"), json!({ "transfer_policy_id": MISSING }), 400),
        (&format!("/kbs/v1/keys/{MISSING}"), json!({ "transfer_policy_id": policy }), 404),
    ] {
        assert_eq!(stack.call(&token, Method::PUT, path, Some(body.clone())).await.status, status, "{path} {body}");
    }
    assert_eq!(stack.call(&token, Method::DELETE, &path, None).await.status, 204);
    assert_eq!(stack.call(&token, Method::GET, &path, None).await.status, 404);
    assert_eq!(stack.call(&token, Method::DELETE, &path, None).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_name_the_request_and_the_document_names_the_routes() {
    let stack = Stack::start().await;
    for client in [stack.client(), stack.http1()] {
        let version = sent(client.get(stack.url("/kbs/v1/version")).header("request-id", "my id/1")).await;
        assert_eq!((version.status, version.header("request-id")), (200, Some("my id/1")));
        assert_eq!(version.json()["name"], "Key Broker Service");
        let other = sent(client.get(stack.url("/kbs/v1/version")).header("request-id", "a\"b")).await;
        assert_eq!(other.header("request-id").unwrap().len(), 36, "one of ours instead");
    }
    let document = sent(stack.client().get(stack.url("/kbs/v1/openapi.json"))).await.json();
    for route in key_release::rest::ROUTES.iter() {
        assert!(document["paths"][route.path][route.method.as_str().to_lowercase()].is_object(), "{} {}", route.method, route.path);
    }
    assert_eq!(sent(stack.client().get(stack.url("/"))).await.status, 404);
}
