//! The kept key set against a real TLS server: what is fetched and how often, what stays, what ends, and whom a list's
//! address may name.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails the test")]

mod server;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{http::StatusCode, response::IntoResponse};
use keyferry_attestation_token::{
    Algorithm, CollateralDigests, JWKS_BYTES_MAX, Revocation, RevocationCheck, Shape, SigningKey, TdMeasurements, TdxClaims, TokenDenial,
    TokenIssuer, TrustedIssuer, jwks,
};
use keyferry_tls::RootsConfig;
use keyferry_trust_authority::{JwksSource, KeySetCache, KeySetSettings, KeySetUnavailable, Unbelieved};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CrlDistributionPoint, DnType, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use server::Server;

/// 2026-09-21; lists are good from the first of September to the first of October.
const NOW: u64 = 1_790_000_000;
const OCTOBER: u64 = 1_790_812_800;
const ISSUER: &str = "https://issuer.test";
const LEAF: u64 = 7;

/// What the issuer serves, by path; anything else is 404.
type Served = Arc<Mutex<Vec<(&'static str, Vec<u8>)>>>;

struct Authority {
    params: CertificateParams,
    key: KeyPair,
}

impl Authority {
    fn new(name: &str, list: Option<&str>) -> Self {
        let mut params = params(name, list);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Self { params, key: KeyPair::generate().unwrap() }
    }
    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }
    /// A list from this day of September to the first of October.
    fn list(&self, day: u8, revoked: &[u64]) -> Vec<u8> {
        let revoked = revoked.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2026, 8, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 9, day),
            next_update: date_time_ymd(2026, 10, 1),
            crl_number: SerialNumber::from(u64::from(day)),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer()).unwrap().der().to_vec()
    }
}

fn params(name: &str, list: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2028, 1, 1);
    params.crl_distribution_points = list.iter().map(|url| CrlDistributionPoint { uris: vec![(*url).to_owned()] }).collect();
    params
}

/// An issuer whose chain names lists at somebody else's host.
struct World {
    root: Authority,
    middle: Authority,
    root_der: Vec<u8>,
    server: Server,
    served: Served,
    reports: Arc<Mutex<Vec<String>>>,
}

impl World {
    fn new() -> Self {
        let root = Authority::new("Cache Root CA", None);
        let middle = Authority::new("Cache Signing CA", Some("https://elsewhere.test/crl/root.der"));
        let root_der = root.params.self_signed(&root.key).unwrap().der().to_vec();
        let documents = Served::default();
        let content = Arc::clone(&documents);
        let server = server::start(move |_, uri| {
            let found = content.lock().unwrap().iter().find(|(path, _)| *path == uri.path()).map(|(_, body)| body.clone());
            found.map_or_else(|| StatusCode::NOT_FOUND.into_response(), IntoResponse::into_response)
        });
        let world = Self { root, middle, root_der, server, served: documents, reports: Arc::default() };
        world.serve("/crl/root.der", world.root.list(1, &[]));
        world.serve("/crl/ats.der", world.middle.list(1, &[]));
        world
    }
    fn serve(&self, path: &'static str, body: Vec<u8>) {
        let mut served = self.served.lock().unwrap();
        served.retain(|(served, _)| *served != path);
        served.push((path, body));
    }
    fn withdraw(&self, path: &str) {
        self.served.lock().unwrap().retain(|(served, _)| *served != path);
    }
    /// A new signing key under the same authorities.
    fn issuer(&self, serial: u64) -> TokenIssuer {
        let pkcs8 = SigningKey::generate(Algorithm::Es256).unwrap().to_pkcs8().unwrap().to_vec();
        let mut leaf = params("Cache Token Signing", Some("http://169.254.169.254/crl/ats.der"));
        leaf.serial_number = Some(SerialNumber::from(serial));
        let leaf = leaf.signed_by(&KeyPair::try_from(pkcs8.as_slice()).unwrap(), &self.middle.issuer()).unwrap();
        let middle = self.middle.params.signed_by(&self.middle.key, &self.root.issuer()).unwrap();
        let chain = vec![leaf.der().to_vec(), middle.der().to_vec(), self.root_der.clone()];
        TokenIssuer::new(ISSUER, SigningKey::from_pkcs8(Algorithm::Es256, &pkcs8, chain).unwrap(), 300)
    }
    fn serve_keys(&self, issuers: &[&TokenIssuer]) {
        self.serve("/certs", jwks(issuers.iter().map(|issuer| issuer.key())).into_bytes());
    }
    fn cache(&self, check: RevocationCheck) -> KeySetCache {
        let roots = RootsConfig::Ders(vec![self.server.root.clone()]);
        let source = JwksSource::new(&format!("{}/certs", self.server.url), &roots, Duration::from_millis(5)).unwrap();
        let reports = Arc::clone(&self.reports);
        KeySetCache::new(KeySetSettings {
            trusted: TrustedIssuer::new(ISSUER, self.root_der.clone(), vec![Algorithm::Es256]),
            source,
            revocation: Revocation { check, grace_seconds: 60 },
            report: Some(Arc::new(move |_: &str, error: &KeySetUnavailable| reports.lock().unwrap().push(error.to_string()))),
        })
    }
    fn calls(&self, path: &str) -> usize {
        self.server.seen.lock().unwrap().iter().filter(|(uri, ..)| uri.path() == path).count()
    }
}

fn token(issuer: &TokenIssuer, now: u64) -> String {
    let claims = TdxClaims {
        tcb_status: "UpToDate".to_owned(),
        tcb_date: "2025-05-14T00:00:00Z".to_owned(),
        advisory_ids: Vec::new(),
        held_data: b"held".to_vec(),
        azure_runtime: None,
        measurements: TdMeasurements {
            mr_td: [1; 48],
            mr_seam: [2; 48],
            mr_signer_seam: [0; 48],
            mr_config_id: [0; 48],
            mr_owner: [0; 48],
            mr_owner_config: [0; 48],
            rtmrs: [[3; 48]; 4],
            report_data: [4; 64],
            tee_tcb_svn: [5; 16],
            td_attributes: [0; 8],
            xfam: [6; 8],
            seam_attributes: [0; 8],
        },
        collateral: CollateralDigests {
            fmspc: [7; 6],
            tcb_evaluation_data_number: 19,
            qe_identity_certificates: [0; 32],
            qe_identity_crl: [0; 32],
            qe_identity: [0; 32],
            quote: [0; 32],
            tcb_info_certificates: [0; 32],
            tcb_info_crl: [0; 32],
            tcb_info: [0; 32],
        },
        pce_svn: 13,
        sgx_tcb_components: [0; 16],
        nonce: None,
        trust_anchor: "intel-sgx-root".to_owned(),
        td_id: None,
        attestation_id: None,
        policies_matched: Vec::new(),
        policies_unmatched: Vec::new(),
    };
    issuer.issue(&claims, Shape::V2Nested, now).unwrap().jwt
}

#[tokio::test]
async fn the_first_token_fetches_and_the_next_ones_do_not() {
    let world = World::new();
    let issuer = world.issuer(LEAF);
    world.serve_keys(&[&issuer]);
    let cache = world.cache(RevocationCheck::Required);
    let jwt = token(&issuer, NOW);
    for _ in 0..5 {
        assert_eq!(cache.authenticate(&jwt, NOW).await.unwrap().held_data(), Some(&b"held"[..]));
    }
    assert_eq!((world.calls("/certs"), world.calls("/crl/root.der"), world.calls("/crl/ats.der")), (1, 1, 1), "at the key set's own host");
    assert_eq!(cache.document().as_deref(), Some(jwks([issuer.key()]).as_bytes()));
    cache.refresh(NOW).await.unwrap();
    assert_eq!((world.calls("/certs"), world.calls("/crl/root.der")), (2, 1), "a list is kept");
}

#[tokio::test]
async fn an_unknown_key_is_fetched_once_however_many_ask_and_not_again_soon() {
    let world = World::new();
    let (old, new) = (world.issuer(LEAF), world.issuer(LEAF + 1));
    world.serve_keys(&[&old]);
    let cache = world.cache(RevocationCheck::Required);
    let jwt = token(&new, NOW);
    let asked = futures::future::join_all((0..20).map(|_| cache.authenticate(&jwt, NOW))).await;
    assert!(asked.iter().all(|answer| matches!(answer, Err(Unbelieved::Denied(TokenDenial::KeyUnknown { .. })))));
    assert_eq!(world.calls("/certs"), 1);
    world.serve_keys(&[&old, &new]);
    assert!(cache.authenticate(&jwt, NOW).await.is_err(), "the rate holds");
    cache.refresh(NOW).await.unwrap();
    cache.authenticate(&jwt, NOW).await.unwrap();
    cache.authenticate(&token(&old, NOW), NOW).await.unwrap();
}

#[tokio::test]
async fn the_last_good_set_stays_while_the_issuer_is_away_or_serves_something_else() {
    let world = World::new();
    let issuer = world.issuer(LEAF);
    world.serve_keys(&[&issuer]);
    let cache = world.cache(RevocationCheck::Required);
    cache.refresh(NOW).await.unwrap();
    let foreign = World::new();
    let other = foreign.issuer(LEAF);
    let bad: [Vec<u8>; 4] =
        [jwks([other.key()]).into_bytes(), b"{}".to_vec(), vec![b' '; JWKS_BYTES_MAX + 1], br#"{"keys":[],"keys":[]}"#.to_vec()];
    for document in bad {
        world.serve("/certs", document);
        assert!(cache.refresh(NOW).await.is_err());
        cache.authenticate(&token(&issuer, NOW), NOW).await.unwrap();
    }
    world.withdraw("/certs");
    assert!(matches!(cache.refresh(NOW).await, Err(KeySetUnavailable::Fetch(_))));
    cache.authenticate(&token(&issuer, NOW), NOW).await.unwrap();
    assert_eq!(world.reports.lock().unwrap().len(), 5, "and every failure is told");
    assert!(matches!(cache.authenticate(&token(&other, NOW), NOW).await, Err(Unbelieved::Denied(TokenDenial::KeyUnknown { .. }))));
}

#[tokio::test]
async fn a_withdrawn_key_is_not_believed_and_an_older_list_does_not_bring_it_back() {
    let world = World::new();
    let (issuer, successor) = (world.issuer(LEAF), world.issuer(LEAF + 1));
    world.serve_keys(&[&issuer, &successor]);
    world.serve("/crl/ats.der", world.middle.list(2, &[LEAF]));
    let cache = world.cache(RevocationCheck::IfNamed);
    cache.refresh(NOW).await.unwrap();
    assert!(matches!(cache.authenticate(&token(&issuer, NOW), NOW).await, Err(Unbelieved::Denied(TokenDenial::KeyUnknown { .. }))));
    cache.authenticate(&token(&successor, NOW), NOW).await.unwrap();
    // Overdue, so that it is asked for again; the server answers with an older one.
    world.serve("/crl/ats.der", world.middle.list(1, &[]));
    cache.refresh(OCTOBER + 60).await.unwrap();
    assert_eq!(world.calls("/crl/ats.der"), 2);
    let later = OCTOBER + 60;
    assert!(cache.authenticate(&token(&issuer, later), later).await.is_err());
    cache.authenticate(&token(&successor, later), later).await.unwrap();
    assert!(matches!(cache.refresh(OCTOBER + 61).await, Err(KeySetUnavailable::KeySet(_))), "past the grace");
    assert!(matches!(cache.authenticate(&token(&successor, later), later).await, Err(Unbelieved::NoKeySet { .. })));
}

#[tokio::test]
async fn without_its_lists_a_key_set_counts_only_where_they_are_not_looked_at() {
    let world = World::new();
    let issuer = world.issuer(LEAF);
    world.serve_keys(&[&issuer]);
    let bad: [&dyn Fn(); 3] = [&|| world.withdraw("/crl/ats.der"), &|| world.serve("/crl/ats.der", b"no list".to_vec()), &|| {
        world.serve("/crl/ats.der", World::new().middle.list(1, &[]));
    }];
    for break_it in bad {
        break_it();
        for check in [RevocationCheck::Required, RevocationCheck::IfNamed] {
            let cache = world.cache(check);
            assert!(cache.refresh(NOW).await.is_err());
            assert!(matches!(cache.authenticate(&token(&issuer, NOW), NOW).await, Err(Unbelieved::NoKeySet { .. })));
        }
        let cache = world.cache(RevocationCheck::Off);
        cache.authenticate(&token(&issuer, NOW), NOW).await.unwrap();
    }
}
