//! What is not believed, and why: forged, stale, foreign and malformed tokens; key sets that prove nothing.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod verifier;

use aws_lc_rs::hmac;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use keyferry_attestation_token::{
    AbsentAnchor, Algorithm, KeySet, KeySetError, Shape, TOKEN_CHARACTERS_MAX, TokenDenial, TrustedIssuer, authenticate, jwks, peek,
};
use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, date_time_ymd};
use serde_json::{Value, json};
use verifier::{ANCHOR, ES256, ES384, ISSUER, NOW, PS384, Verifier, claims, encoded, payload};

fn token() -> String {
    ES256.issuer.issue(&claims(), Shape::V2Nested, NOW).unwrap().jwt
}

fn judged(jwt: &str) -> TokenDenial {
    authenticate(jwt, &[ES256.key_set()], NOW).unwrap_err()
}

/// The real payload under a header of the attacker's choice.
fn with_header(header: &Value, signature: &str) -> String {
    format!("{}.{}.{signature}", encoded(header), token().split('.').nth(1).unwrap())
}

fn with_claim(name: &str, value: Option<Value>) -> String {
    let mut body = payload(&token());
    match value {
        Some(value) => body[name] = value,
        None => drop(body.as_object_mut().unwrap().remove(name)),
    }
    ES256.sign(&body)
}

#[test]
fn alg_none_is_refused() {
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let jwt = with_header(&json!({ "alg": alg, "kid": ES256.issuer.key().kid() }), "");
        assert!(matches!(judged(&jwt), TokenDenial::AlgorithmNotAllowed { .. }), "{alg}");
    }
}

#[test]
fn hs256_with_the_public_key_as_secret_is_refused() {
    for secret in [PS384.issuer.key().public_key_der(), ES256.issuer.key().public_key_der(), ES256.jwks.as_bytes()] {
        let message = with_header(&json!({ "alg": "HS256", "kid": ES256.issuer.key().kid() }), "");
        let message = message.trim_end_matches('.');
        let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
        let jwt = format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature));
        let allowed = "PS384, ES384, ES256, RS256".to_owned();
        assert_eq!(judged(&jwt), TokenDenial::AlgorithmNotAllowed { found: "HS256".to_owned(), allowed });
    }
}

#[test]
fn an_algorithm_that_the_issuer_may_not_use_is_refused_before_any_key_is_looked_at() {
    let jwt = with_header(&json!({ "alg": "RS256", "kid": "no such key" }), "AAAA");
    assert!(matches!(judged(&jwt), TokenDenial::AlgorithmNotAllowed { found, .. } if found == "RS256"));
    let jwt = with_header(&json!({ "alg": "PS384", "kid": "no such key" }), "AAAA");
    assert_eq!(judged(&jwt), TokenDenial::AlgorithmNotAllowed { found: "PS384".to_owned(), allowed: "ES256".to_owned() });
}

#[test]
fn the_algorithm_is_the_keys_not_the_headers() {
    // Both algorithms are allowed for the issuer; the header names the other key's.
    let both = jwks([ES256.issuer.key(), ES384.issuer.key()]);
    let mut trusted = ES256.trusted();
    trusted.algorithms = vec![Algorithm::Es256, Algorithm::Es384];
    let error = KeySet::from_jwks(both.as_bytes(), &trusted, NOW).unwrap_err();
    assert!(matches!(error, KeySetError::Untrusted { index: 1, .. }), "the other root: {error:?}");
    let set = KeySet::from_jwks(ES256.jwks.as_bytes(), &trusted, NOW).unwrap();
    let jwt = with_header(&json!({ "alg": "ES384", "kid": ES256.issuer.key().kid() }), "AAAA");
    assert_eq!(
        authenticate(&jwt, &[set], NOW).unwrap_err(),
        TokenDenial::AlgorithmNotAllowed { found: "ES384".to_owned(), allowed: "ES256".to_owned() }
    );
}

#[test]
fn an_unknown_issuer_or_key_is_refused() {
    let foreign = Verifier::new(Algorithm::Es256, (2026, 2028));
    let jwt = foreign.issuer.issue(&claims(), Shape::V2Nested, NOW).unwrap().jwt;
    assert_eq!(judged(&jwt), TokenDenial::KeyUnknown { issuer: ISSUER.to_owned(), kid: foreign.issuer.key().kid().to_owned() });
    let jwt = with_claim("iss", Some(json!("https://evil.test\u{7}")));
    assert_eq!(judged(&jwt), TokenDenial::IssuerUnknown { found: "https://evil.test?".to_owned() });
    assert_eq!(judged(&with_claim("iss", None)), TokenDenial::ClaimMissing { claim: "iss" });
}

#[test]
fn a_token_signed_with_another_key_under_a_known_kid_is_refused() {
    let foreign = Verifier::new(Algorithm::Es256, (2026, 2028));
    let body = payload(&token());
    let header = json!({ "alg": "ES256", "kid": ES256.issuer.key().kid(), "typ": "JWT" });
    let forged = foreign.sign(&body);
    let jwt = format!("{}.{}", encoded(&header), forged.split_once('.').unwrap().1);
    assert_eq!(judged(&jwt), TokenDenial::SignatureInvalid);
}

#[test]
fn jku_is_never_followed() {
    let jwt = with_header(&json!({ "alg": "ES256", "kid": "k", "jku": "https://evil.test/certs" }), "AAAA");
    assert_eq!(judged(&jwt), TokenDenial::KeyUnknown { issuer: ISSUER.to_owned(), kid: "k".to_owned() });
}

#[test]
fn times_are_judged_against_the_argument() {
    let at = |now| authenticate(&token(), &[ES256.key_set()], now);
    assert!(at(NOW + 299).is_ok());
    assert_eq!(at(NOW + 300).unwrap_err(), TokenDenial::Expired { at: NOW + 300 });
    // iat and nbf are 60 s before NOW; clocks may differ by 30 s.
    assert!(at(NOW - 90).is_ok());
    assert_eq!(at(NOW - 91).unwrap_err(), TokenDenial::NotYetValid { from: NOW - 60 });
    let long_lived = with_claim("exp", Some(json!(NOW + 1_000_000)));
    assert!(authenticate(&long_lived, &[ES256.key_set()], NOW - 60 + 3599).is_ok());
    let stale = authenticate(&long_lived, &[ES256.key_set()], NOW - 60 + 3600).unwrap_err();
    assert_eq!(stale, TokenDenial::Expired { at: NOW - 60 + 3600 });
    assert_eq!(judged(&with_claim("nbf", Some(json!(NOW + 31)))), TokenDenial::NotYetValid { from: NOW + 31 });
    assert_eq!(judged(&with_claim("exp", None)), TokenDenial::ClaimMissing { claim: "exp" });
    assert_eq!(judged(&with_claim("iat", None)), TokenDenial::ClaimMissing { claim: "iat" });
    assert!(matches!(judged(&with_claim("exp", Some(json!(-1)))), TokenDenial::Malformed { .. }));
}

#[test]
fn malformed_claims_are_refused_by_name() {
    for (claim, value) in [
        ("jti", json!("a b")),
        ("jti", json!("x".repeat(129))),
        ("keyferry.trust_anchor", json!("anything")),
        ("keyferry.trust_anchor", json!("simulator:XYZ")),
        ("keyferry.td_id", json!("a.b")),
        ("keyferry.attestation_id", json!("1")),
    ] {
        assert_eq!(judged(&with_claim(claim, Some(value))), TokenDenial::ClaimMalformed { claim });
    }
    assert_eq!(judged(&with_claim("jti", None)), TokenDenial::ClaimMissing { claim: "jti" });
    let mut body = payload(&token());
    body["tdx"]["attester_held_data"] = json!("not base64!");
    assert_eq!(judged(&ES256.sign(&body)), TokenDenial::ClaimMalformed { claim: "attester_held_data" });
    let mut body = payload(&token());
    body["tdx"]["tdx_mrtd"] = json!("b7");
    assert_eq!(judged(&ES256.sign(&body)), TokenDenial::ClaimMalformed { claim: "tdx_mrtd" });
}

#[test]
fn what_is_no_compact_jws_is_malformed() {
    let good = token();
    let critical = with_header(&json!({ "alg": "ES256", "kid": "k", "crit": ["exp"] }), "AAAA");
    let no_kid = with_header(&json!({ "alg": "ES256" }), "AAAA");
    let twice =
        format!("{}.{}", BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","alg":"none","kid":"k"}"#), good.split_once('.').unwrap().1);
    for jwt in ["", ".", "..", "...", "a.b", "a.b.c", &format!("{good}.x"), &good[1..], &format!(" {good}"), &critical, &no_kid, &twice] {
        assert!(matches!(judged(jwt), TokenDenial::Malformed { .. }), "{jwt:.60} {:?}", judged(jwt));
    }
    let huge = "a".repeat(TOKEN_CHARACTERS_MAX + 1);
    assert_eq!(judged(&huge), TokenDenial::TooLarge { characters: TOKEN_CHARACTERS_MAX + 1, max: TOKEN_CHARACTERS_MAX });
}

fn set(json: &str, trusted: &TrustedIssuer) -> KeySetError {
    KeySet::from_jwks(json.as_bytes(), trusted, NOW).unwrap_err()
}

fn edited(edit: impl FnOnce(&mut Value)) -> String {
    let mut document: Value = serde_json::from_str(&ES256.jwks).unwrap();
    edit(&mut document);
    document.to_string()
}

#[test]
fn a_key_set_of_another_root_is_refused_though_it_carries_that_root() {
    for (ours, theirs) in [(&*ES256, &*ES384), (&*ES384, &*PS384), (&*PS384, &*ES256)] {
        let mut trusted = theirs.trusted();
        trusted.root_der.clone_from(&ours.root_der);
        assert!(matches!(set(&theirs.jwks, &trusted), KeySetError::Untrusted { index: 0, .. }));
    }
}

#[test]
fn a_key_that_is_not_its_leafs_is_refused() {
    let foreign = Verifier::new(Algorithm::Es256, (2026, 2028));
    let theirs: Value = serde_json::from_str(&foreign.jwks).unwrap();
    // The attacker's key under our real chain: Intel's clients take it.
    let swapped = edited(|document| {
        for member in ["x", "y"] {
            document["keys"][0][member] = theirs["keys"][0][member].clone();
        }
    });
    assert_eq!(set(&swapped, &ES256.trusted()), KeySetError::NotTheLeafsKey { index: 0 });
}

#[test]
fn a_key_without_its_chain_is_refused() {
    assert_eq!(set(&edited(|d| d["keys"][0]["x5c"] = json!([])), &ES256.trusted()), KeySetError::Key { index: 0, field: "x5c" });
    assert_eq!(set(&edited(|d| d["keys"][0]["x5c"] = json!(["!"])), &ES256.trusted()), KeySetError::Key { index: 0, field: "x5c" });
    let without_intermediate = edited(|d| drop(d["keys"][0]["x5c"].as_array_mut().unwrap().remove(1)));
    assert!(matches!(set(&without_intermediate, &ES256.trusted()), KeySetError::Untrusted { .. }));
    let any_order = edited(|d| d["keys"][0]["x5c"].as_array_mut().unwrap().reverse());
    assert!(KeySet::from_jwks(any_order.as_bytes(), &ES256.trusted(), NOW).is_ok(), "the order is free");
}

#[test]
fn expired_certificates_are_refused() {
    let old = Verifier::new(Algorithm::Es256, (2020, 2026));
    assert!(matches!(set(&old.jwks, &old.trusted()), KeySetError::Untrusted { .. }));
    let future = Verifier::new(Algorithm::Es256, (2030, 2040));
    assert!(matches!(set(&future.jwks, &future.trusted()), KeySetError::Untrusted { .. }));
    // The same certificates, judged at other times: the argument counts, not a clock.
    let years = 2 * 366 * 86_400;
    for now in [NOW - years, NOW + years] {
        let error = KeySet::from_jwks(ES256.jwks.as_bytes(), &ES256.trusted(), now).unwrap_err();
        assert!(matches!(error, KeySetError::Untrusted { .. }));
    }
}

#[test]
fn a_certificate_that_may_not_do_its_part_is_refused() {
    type Change = fn(&mut CertificateParams, &mut CertificateParams);
    let years = (2026, 2028);
    assert!(KeySet::from_jwks(ES256.jwks.as_bytes(), &ES256.trusted(), NOW).is_ok());
    let changes: [(&str, Change); 6] = [
        ("a leaf that signs no data", |_, leaf| leaf.key_usages = vec![KeyUsagePurpose::KeyEncipherment]),
        ("a leaf for another protocol", |_, leaf| leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection]),
        ("a leaf that is an authority", |_, leaf| leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ("an intermediate that is no authority", |middle, _| middle.is_ca = IsCa::ExplicitNoCa),
        ("an intermediate that signs no certificates", |middle, _| middle.key_usages = vec![KeyUsagePurpose::CrlSign]),
        ("an intermediate of the future", |middle, _| middle.not_before = date_time_ymd(2027, 1, 1)),
    ];
    for (what, change) in changes {
        let verifier = Verifier::shaped(Algorithm::Es256, years, change);
        assert!(matches!(set(&verifier.jwks, &verifier.trusted()), KeySetError::Untrusted { index: 0, .. }), "{what}");
    }
    let unrestricted = Verifier::shaped(Algorithm::Es256, years, |middle, leaf| {
        middle.key_usages.clear();
        leaf.key_usages.clear();
        leaf.extended_key_usages.clear();
    });
    assert!(KeySet::from_jwks(unrestricted.jwks.as_bytes(), &unrestricted.trusted(), NOW).is_ok(), "as Intel's leaf is");
}

#[test]
fn a_key_is_not_believed_after_its_certificates_end_though_the_set_was_fetched_before() {
    // 2027-01-01: when the shorter-lived of the two certificates ends.
    let end = 1_798_761_600;
    let changes: [fn(&mut CertificateParams, &mut CertificateParams); 2] =
        [|middle, _| middle.not_after = date_time_ymd(2027, 1, 1), |_, leaf| leaf.not_after = date_time_ymd(2027, 1, 1)];
    for change in changes {
        let verifier = Verifier::shaped(Algorithm::Es256, (2026, 2028), change);
        let keys = [verifier.key_set()];
        let at = |now| authenticate(&verifier.issuer.issue(&claims(), Shape::V2Nested, now).unwrap().jwt, &keys, now);
        assert!(at(end).is_ok());
        assert!(matches!(at(end + 1).unwrap_err(), TokenDenial::KeyUnknown { .. }));
    }
}

#[test]
fn an_issuer_speaks_only_for_the_trust_anchors_it_was_configured_for() {
    let judged = |allowed: &[&str], absent, jwt: &str| {
        let mut trusted = ES256.trusted();
        trusted.trust_anchors = Some(allowed.iter().map(|&anchor| anchor.to_owned()).collect());
        trusted.absent_anchor = absent;
        authenticate(jwt, &[KeySet::from_jwks(ES256.jwks.as_bytes(), &trusted, NOW).unwrap()], NOW)
    };
    let (intel, simulator) = (with_claim("keyferry.trust_anchor", Some(json!("intel-sgx-root"))), token());
    let refused = |found: &str| TokenDenial::TrustAnchorNotAllowed { issuer: ISSUER.to_owned(), found: found.to_owned() };
    // A simulator's verifier that claims Intel's root, and Intel's that names a simulator.
    assert_eq!(judged(&[ANCHOR], AbsentAnchor::Unknown, &intel).unwrap_err(), refused("intel-sgx-root"));
    assert_eq!(judged(&["intel-sgx-root"], AbsentAnchor::Intel, &simulator).unwrap_err(), refused(ANCHOR));
    assert_eq!(judged(&[], AbsentAnchor::Intel, &simulator).unwrap_err(), refused(ANCHOR));
    assert_eq!(judged(&[ANCHOR], AbsentAnchor::Unknown, &simulator).unwrap().trust_anchor(), ANCHOR);
    assert_eq!(judged(&["intel-sgx-root", ANCHOR], AbsentAnchor::Unknown, &intel).unwrap().trust_anchor(), "intel-sgx-root");
    let silent = with_claim("keyferry.trust_anchor", None);
    assert_eq!(judged(&[ANCHOR], AbsentAnchor::Unknown, &silent).unwrap().trust_anchor(), "unknown");
    assert_eq!(judged(&[ANCHOR], AbsentAnchor::Intel, &silent).unwrap_err(), refused("intel-sgx-root"));
}

#[test]
fn duplicate_kids_and_useless_sets_are_refused() {
    let twice = edited(|document| {
        let key = document["keys"][0].clone();
        document["keys"].as_array_mut().unwrap().push(key);
    });
    assert_eq!(set(&twice, &ES256.trusted()), KeySetError::DuplicateKid);
    let mut other = ES256.trusted();
    other.algorithms = vec![Algorithm::Ps384];
    assert_eq!(set(&ES256.jwks, &other), KeySetError::NoKey);
    assert_eq!(set(&edited(|d| d["keys"][0]["alg"] = json!("ES384")), &ES256.trusted()), KeySetError::NoKey);
    assert_eq!(set(&edited(|d| d["keys"][0]["kid"] = json!("")), &ES256.trusted()), KeySetError::Key { index: 0, field: "kid" });
    for text in ["", "[]", "{}", r#"{"keys":{}}"#] {
        assert_eq!(set(text, &ES256.trusted()), KeySetError::Malformed);
    }
    assert_eq!(set(&" ".repeat(300_000), &ES256.trusted()), KeySetError::TooLarge { bytes: 300_000 });
    let rootless = TrustedIssuer::new(ISSUER, vec![1, 2, 3], vec![Algorithm::Es256]);
    assert_eq!(set(&ES256.jwks, &rootless), KeySetError::Root { issuer: ISSUER.to_owned() });
}

#[test]
fn intels_double_listing_is_read_by_the_allowed_algorithm_alone() {
    // Intel lists the same RSA key once as PS384 and once as RS256.
    let mut document: Value = serde_json::from_str(&PS384.jwks).unwrap();
    let mut as_rs256 = document["keys"][0].clone();
    as_rs256["alg"] = json!("RS256");
    document["keys"].as_array_mut().unwrap().insert(0, as_rs256);
    let set = KeySet::from_jwks(document.to_string().as_bytes(), &PS384.trusted(), NOW).unwrap();
    let jwt = PS384.issuer.issue(&claims(), Shape::V1Flat, NOW).unwrap().jwt;
    assert!(authenticate(&jwt, &[set], NOW).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn one_changed_character_anywhere_is_refused(position in 0_usize..10_000, replacement in "[A-Za-z0-9_-]") {
        let good = token();
        let position = position % good.len();
        let replacement = replacement.as_bytes()[0];
        let mut bytes = good.clone().into_bytes();
        prop_assume!(bytes[position] != b'.' && bytes[position] != replacement);
        bytes[position] = replacement;
        let changed = String::from_utf8(bytes).unwrap();
        prop_assert!(authenticate(&changed, &[ES256.key_set()], NOW).is_err());
    }

    #[test]
    fn arbitrary_text_is_refused_not_feared(text in ".{0,200}", json in "\\PC{0,200}") {
        prop_assert!(peek(&text).is_err() || text.matches('.').count() == 2);
        prop_assert!(authenticate(&text, &[ES256.key_set()], NOW).is_err());
        prop_assert!(KeySet::from_jwks(json.as_bytes(), &ES256.trusted(), NOW).is_err());
    }
}
