//! What an upstream may answer and must not be believed, and what its refusals mean.

use base64::{Engine, prelude::BASE64_STANDARD};
use keyferry_attestation_token::{Algorithm, MatchedPolicy, Shape, TdxClaims};
use keyferry_contract::{Reason, attestation::v1::Evidence, release::v1::AuditDecision};
use keyferry_testkit::nats::now;
use keyferry_tls::{RootsConfig, http_client_config};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

use crate::{
    upstream::{Recorded, Signer, Upstream, claims, nonce, parts, token},
    world::{API_KEY, USER_DATA, World, decided, evidence_of},
};

/// The front over HTTPS, where every answer is told at once.
struct Caller {
    client: Client,
    base: String,
}

impl Caller {
    fn new(world: &World) -> Self {
        let roots = RootsConfig::Ders(vec![world.authority.certificate_der().to_vec()]);
        let client = Client::builder().tls_backend_preconfigured(http_client_config(&roots).unwrap()).no_proxy().build().unwrap();
        Self { client, base: format!("https://{}", world.broker.address("https").unwrap()) }
    }

    /// Status, and the token or the reason.
    async fn attest(&self, version: &str, evidence: &Evidence, policies: &[&str]) -> (StatusCode, String) {
        let text = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
        let nonce = evidence.nonce.as_ref().unwrap();
        let nonce = json!({ "val": text(&nonce.val), "iat": text(&nonce.iat), "signature": text(&nonce.signature) });
        let tdx = json!({ "quote": text(&evidence.quote), "runtime_data": text(&evidence.user_data), "verifier_nonce": nonce });
        let mut body = if version == "v1" { tdx } else { json!({ "tdx": tdx }) };
        body["policy_ids"] = json!(policies);
        body["policy_must_match"] = json!(!policies.is_empty());
        let request = self.client.post(format!("{}/appraisal/{version}/attest", self.base)).header("x-api-key", API_KEY);
        let response = request.json(&body).send().await.unwrap();
        let status = response.status();
        let answer: Value = response.json().await.unwrap();
        let said = answer["token"].as_str().or_else(|| answer["error"].as_str().and_then(|text| text.split(':').next()));
        (status, said.unwrap().to_owned())
    }
}

fn refusal(status: u16, reason: Reason) -> (StatusCode, String) {
    (StatusCode::from_u16(status).unwrap(), reason.label().to_owned())
}

/// Recorded answers with status 200 that are not the truth about this evidence, by what is wrong with them.
fn untrue(upstream: &Upstream, evidence: &Evidence, other: &Evidence) -> Vec<(&'static str, Recorded)> {
    let signer = &upstream.signer;
    let good = token(signer, &claims(evidence), Shape::V2Nested, now());
    let (header, payload) = parts(&good);
    let foreign = Signer::new(Algorithm::Es256, 300);
    let edited = |edit: fn(&mut Value)| {
        let mut payload = payload.clone();
        edit(&mut payload);
        Recorded::token(&signer.sign(&header, &payload))
    };
    let relabelled = |signer: &Signer, name: &str, value: Value| {
        let mut header = header.clone();
        header[name] = value;
        Recorded::token(&signer.sign(&header, &payload))
    };
    let mut forged = good.clone().into_bytes();
    let middle = good.rfind('.').unwrap() + 10;
    forged[middle] = if forged[middle] == b'A' { b'B' } else { b'A' };
    let stale = signer.with_lifetime(3600);
    vec![
        ("forged signature", Recorded::token(std::str::from_utf8(&forged).unwrap())),
        ("foreign key", Recorded::token(&token(&foreign, &claims(evidence), Shape::V2Nested, now()))),
        ("foreign key under our kid", relabelled(&foreign, "kid", header["kid"].clone())),
        ("foreign key with its own jku", relabelled(&foreign, "jku", json!(format!("{}/elsewhere", upstream.url)))),
        ("algorithm none", relabelled(signer, "alg", json!("none"))),
        ("algorithm HS256", relabelled(signer, "alg", json!("HS256"))),
        ("another algorithm of ours", relabelled(signer, "alg", json!("ES384"))),
        ("critical header", relabelled(signer, "crit", json!(["b64"]))),
        ("other evidence", Recorded::token(&token(signer, &claims(other), Shape::V2Nested, now()))),
        ("expired", Recorded::token(&token(signer, &claims(evidence), Shape::V2Nested, now() - 301))),
        ("stale", Recorded::token(&token(&stale, &claims(evidence), Shape::V2Nested, now() - 150))),
        ("from the future", edited(|payload| payload["iat"] = json!(now() + 120))),
        ("other issuer", edited(|payload| payload["iss"] = json!("https://portal.trustauthority.intel.com"))),
        ("no expiry", edited(|payload| drop(payload.as_object_mut().unwrap().remove("exp")))),
        ("other held data", edited(|payload| payload["tdx"]["attester_held_data"] = json!("AAEC"))),
        ("no held data", edited(|payload| drop(payload["tdx"].as_object_mut().unwrap().remove("attester_held_data")))),
        ("held data as JSON", edited(|payload| payload["tdx"]["attester_runtime_data"] = json!({}))),
        ("no report data", edited(|payload| drop(payload["tdx"].as_object_mut().unwrap().remove("tdx_report_data")))),
        ("other MRTD", edited(|payload| payload["tdx"]["tdx_mrtd"] = json!("00".repeat(48)))),
        ("other RTMR3", edited(|payload| payload["tdx"]["tdx_rtmr3"] = json!("77".repeat(48)))),
        ("other quote", edited(|payload| payload["tdx"]["tdx_collateral"]["quotehash"] = json!("00".repeat(32)))),
        ("an enclave", edited(|payload| payload["sgx"] = json!({ "sgx_mrenclave": "00".repeat(32) }))),
        ("another TD of ours", edited(|payload| payload["keyferry.td_id"] = json!("UABC"))),
        ("a simulator's word", edited(|payload| payload["keyferry.trust_anchor"] = json!(format!("simulator:{}", "a".repeat(64))))),
        ("more members", Recorded(200, json!({ "token": good, "more": 1 }).to_string().into_bytes())),
        ("no token", Recorded(200, b"{}".to_vec())),
        ("oversized", Recorded(200, vec![b' '; 4 * 1024 * 1024])),
        ("empty", Recorded(200, Vec::new())),
        ("created", Recorded(201, json!({ "token": good }).to_string().into_bytes())),
        ("no content", Recorded(204, Vec::new())),
        ("redirect", Recorded(307, Vec::new())),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_the_truth_about_this_evidence_is_an_outage_and_the_truth_is_handed_on() {
    let upstream = Upstream::start();
    let world = upstream.front().await;
    let caller = Caller::new(&world);
    let evidence = evidence_of(&world.simulated, &nonce(1));
    let other = evidence_of(&world.simulated.with(|td| td.rtmr3 = [9; 48]), &nonce(2));
    for (what, answer) in untrue(&upstream, &evidence, &other) {
        upstream.attests([answer]);
        assert_eq!(caller.attest("v2", &evidence, &[]).await, refusal(503, Reason::VerifierUnavailable), "{what}");
    }
    assert!(upstream.asked().iter().all(|path| !path.contains("elsewhere")), "a jku is never followed");
    assert!(world.broker.log().contains("THE TRUST AUTHORITY'S ANSWER IS NOT BELIEVED"));
    let mut other_nonce = claims(&evidence);
    other_nonce.nonce = claims(&other).nonce;
    upstream.attests([Recorded::token(&token(&upstream.signer, &other_nonce, Shape::V1Flat, now()))]);
    assert_eq!(caller.attest("v1", &evidence, &[]).await, refusal(503, Reason::VerifierUnavailable), "other nonce");

    // The token of a chain that is believed, wherever its header points.
    let good = token(&upstream.signer, &claims(&evidence), Shape::V2Nested, now());
    upstream.attests([Recorded::token(&good)]);
    assert_eq!(caller.attest("v2", &evidence, &[]).await, (StatusCode::OK, good.clone()));
    let asked = upstream.attestations();
    assert_eq!(caller.attest("v2", &evidence, &[]).await, (StatusCode::OK, good), "the same evidence, the same token");
    let replayed = evidence_of(&world.simulated.with(|td| td.rtmr3 = [8; 48]), evidence.nonce.as_ref().unwrap());
    assert_eq!(caller.attest("v2", &replayed, &[]).await, refusal(400, Reason::NonceReplayed));
    assert_eq!(upstream.attestations(), asked, "and nobody was asked again");
    let records = world.audit(2).await;
    let [issued] = decided(&records, AuditDecision::TokenIssued)[..] else { panic!("{records:?}") };
    assert!(issued.detail.contains("verifier=trust-authority"), "{}", issued.detail);
    assert_eq!(issued.trust_anchor, "intel-sgx-root", "what Intel's tokens mean that do not say it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_the_upstream_is_a_denial_and_trouble_with_us_an_outage() {
    let upstream = Upstream::start();
    let world = upstream.front().await;
    let caller = Caller::new(&world);
    let evidence = evidence_of(&world.simulated, &nonce(1));
    let cases = [
        (400, "debug_enabled: TDATTRIBUTES.DEBUG is set", 400, Reason::DebugEnabled),
        (400, "Verifier nonce expired", 400, Reason::NonceExpired),
        (400, "Quote verification failed: canary-7c1f", 400, Reason::QuoteSignatureInvalid),
        (400, "no", 400, Reason::RequestMalformed),
        (413, "", 413, Reason::RequestTooLarge),
        (401, "", 503, Reason::VerifierUnavailable),
        (403, "", 503, Reason::VerifierUnavailable),
        (404, "", 503, Reason::VerifierUnavailable),
        (429, "", 503, Reason::Overloaded),
        (500, "", 503, Reason::VerifierUnavailable),
        (502, "", 503, Reason::VerifierUnavailable),
    ];
    let mut denied = 0;
    for (status, text, told, reason) in cases {
        upstream.attests([Recorded::error(status, text)]);
        let before = upstream.attestations();
        assert_eq!(caller.attest("v2", &evidence, &[]).await, refusal(told, reason), "{status} {text}");
        let calls = if status == 500 { 3 } else { 1 };
        assert_eq!(upstream.attestations() - before, calls, "{status} {text}");
        denied += usize::from(told < 500);
    }
    let log = world.broker.log();
    assert!(log.contains("THE TRUST AUTHORITY REFUSES OUR API KEY") && !log.contains("an-api-key") && !log.contains("canary-7c1f"));
    let good = token(&upstream.signer, &claims(&evidence), Shape::V2Nested, now());
    upstream.attests([Recorded::error(503, ""), Recorded::error(504, ""), Recorded::token(&good)]);
    assert_eq!(caller.attest("v2", &evidence, &[]).await, (StatusCode::OK, good), "on the third attempt");
    let records = world.audit(denied as u64 + 1).await;
    assert_eq!(decided(&records, AuditDecision::AttestationRejected).len(), denied, "an outage decides nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_true_token_says_can_be_a_denial() {
    const POLICY: &str = "5f1c7a52-3c0e-4f0b-9f43-5d1d2a6f7b10";
    let upstream = Upstream::start();
    let world = upstream.front().await;
    let caller = Caller::new(&world);
    let evidence = evidence_of(&world.simulated, &nonce(1));
    let matched = |id: &str| vec![MatchedPolicy { id: id.parse().unwrap(), version: 1, hash: None }];
    let cases: [(TdxClaims, Result<(), Reason>); 5] = [
        (TdxClaims { tcb_status: "Revoked".to_owned(), ..claims(&evidence) }, Err(Reason::PlatformRevoked)),
        (TdxClaims { tcb_status: "Fine".to_owned(), ..claims(&evidence) }, Err(Reason::TcbUnknown)),
        (claims(&evidence), Err(Reason::PolicyMismatch)),
        (
            TdxClaims {
                policies_matched: matched("00000000-0000-0000-0000-000000000001"),
                policies_unmatched: matched(POLICY),
                ..claims(&evidence)
            },
            Err(Reason::PolicyMismatch),
        ),
        (TdxClaims { policies_matched: matched(POLICY), ..claims(&evidence) }, Ok(())),
    ];
    for (claims, wanted) in cases {
        let jwt = token(&upstream.signer, &claims, Shape::V2Nested, now());
        upstream.attests([Recorded::token(&jwt)]);
        let wanted = wanted.map_or_else(|reason| refusal(400, reason), |()| (StatusCode::OK, jwt));
        // The status is looked at after the policies, so those cases name none.
        let policies: &[&str] = if matches!(claims.tcb_status.as_str(), "Revoked" | "Fine") { &[] } else { &[POLICY] };
        assert_eq!(caller.attest("v2", &evidence, policies).await, wanted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nonce_that_is_none_is_not_handed_out() {
    let upstream = Upstream::start();
    let world = upstream.front().await;
    let caller = Caller::new(&world);
    let text = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
    let good = nonce(3);
    let json = |val: &[u8], iat: &[u8]| json!({ "val": text(val), "iat": text(iat), "signature": text(&good.signature) });
    let longer = [&good.iat[..], USER_DATA].concat();
    let mut more = json(&good.val, &good.iat);
    more["more"] = json!(1);
    for bad in [json(&good.val, &longer), json(b"a nonce", &good.iat), json(&good.val, b"now"), more, json!({})] {
        upstream.nonces([Recorded(200, bad.to_string().into_bytes())]);
        let response = caller.client.get(format!("{}/appraisal/v2/nonce", caller.base)).header("x-api-key", API_KEY);
        assert_eq!(response.send().await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE, "{bad}");
    }
    upstream.nonces([Recorded(200, json(&good.val, &good.iat).to_string().into_bytes())]);
    assert_eq!(world.nonce().await, good, "and a good one goes to the TD as it is");
}
