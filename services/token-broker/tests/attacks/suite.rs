//! Evidence that must not get a token, whoever judges it.

use keyferry_attestation_token::{KeySet, authenticate};
use keyferry_contract::{
    Reason, Rpc, USER_DATA_BYTES_MAX,
    attestation::v1::{Evidence, EvidenceCollected, GetJwksRequest, GetJwksResponse, VerifierNonce},
    identifiers::AttestationId,
    release::v1::AuditDecision,
};
use keyferry_td_simulator::{CollateralOptions, PlatformOptions, SimulatedTd, SimulatorRoot, TdOptions};
use keyferry_tdx_quote::TdAttributes;
use keyferry_testkit::nats::now;
use serde_json::json;

use crate::world::{API_KEY, Answer, ISSUER, USER_DATA, World, decided, evidence_of};

/// What is attacked, and who judges.
struct Attacked {
    front: World,
    upstream: Option<World>,
}

impl Attacked {
    /// The built-in verifier.
    async fn dcap(nonce_seconds: u64) -> Self {
        Self { front: World::start_with(json!({ "nonce": { "lifetime_seconds": nonce_seconds } })).await, upstream: None }
    }

    /// A token-broker before a token-broker.
    async fn trust_authority(nonce_seconds: u64) -> Self {
        let nonce = json!({ "lifetime_seconds": nonce_seconds });
        let mut upstream = World::start_with(json!({ "nonce": nonce })).await;
        let url = format!("https://{}", upstream.broker.address("https").unwrap());
        let ca_file = upstream.path("ca.pem");
        upstream.authority.write_certificate(&ca_file).unwrap();
        let verifier = json!({
            "kind": "trust-authority",
            "api_url": url,
            "base_url": url,
            "issuer": ISSUER,
            "api_key_file": upstream.path("api-key"),
            "root_file": upstream.path("keys/root.pem"),
            "ca_file": ca_file,
            "algorithms": ["ES256"],
            "trust_anchors": [upstream.root.trust_anchor()],
            // The upstream's name in its certificates is not its address here; its lists have a test of their own.
            "revocation": { "check": "off" },
            "retry_pause_milliseconds": 10,
        });
        let mut front = World::start_with(json!({ "nonce": nonce, "verifier": verifier })).await;
        // The evidence is of the upstream's platform.
        std::mem::swap(&mut front.simulated, &mut upstream.simulated);
        Self { front, upstream: Some(upstream) }
    }

    /// Whoever has the collateral and the root.
    fn judge(&self) -> &World {
        self.upstream.as_ref().unwrap_or(&self.front)
    }

    const fn name(&self) -> &'static str {
        if self.upstream.is_some() { "trust-authority" } else { "dcap" }
    }

    async fn rejection(&mut self, evidence: Evidence) -> Reason {
        let event = self.front.event(evidence);
        self.front.rejection(&event).await
    }

    /// Good evidence gets a token that verifies under the judge's pinned root, with the key set that the front serves.
    async fn assert_good_evidence_passes(&mut self) {
        let nonce = self.front.nonce().await;
        let event = self.front.event(self.front.evidence(&nonce));
        let issued = self.front.token(&event).await;
        let answer: GetJwksResponse =
            self.front.td.request(Rpc::TokenBrokerJwks, &GetJwksRequest {}, std::time::Duration::from_secs(10)).await.unwrap();
        let keys = KeySet::from_jwks(&answer.jwks, &self.judge().trusted_issuer(), now()).unwrap();
        let token = authenticate(&issued.token, &[keys], now()).unwrap();
        assert_eq!(token.held_data(), Some(USER_DATA));
        assert_eq!((issued.token_id.as_str(), issued.td_id.as_str()), (token.token_id(), self.front.td_id.as_str()));
    }

    async fn until_collateral_is_read(&self, options: &CollateralOptions) {
        let judge = self.judge();
        let read = judge.broker.log().matches("collateral was read again").count();
        let collateral = judge.root.collateral(options, now()).unwrap();
        keyferry_testkit::write_private(&judge.path("collateral.new"), collateral).unwrap();
        std::fs::rename(judge.path("collateral.new"), judge.path("collateral.json")).unwrap();
        while judge.broker.log().matches("collateral was read again").count() <= read {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}

type Edit = fn(&mut Evidence);

async fn altered_and_foreign_quotes(attacked: &mut Attacked) -> u64 {
    let foreign_root = SimulatorRoot::generate("somebody else", now()).unwrap();
    let foreign = SimulatedTd::new(foreign_root.platform(&PlatformOptions::default(), now()).unwrap(), TdOptions::default());
    let debug = TdAttributes::SEPT_VE_DISABLE.with(TdAttributes::DEBUG);
    let debug = attacked.front.simulated.with(|td| td.td_attributes = debug.to_bytes());
    let no_sept_ve = attacked.front.simulated.with(|td| td.td_attributes = TdAttributes::PERFMON.to_bytes());
    for (td, reason) in [(foreign, Reason::QuoteRootUntrusted), (debug, Reason::DebugEnabled), (no_sept_ve, Reason::SeptVeDisableMissing)] {
        let nonce = attacked.front.nonce().await;
        assert_eq!(attacked.rejection(evidence_of(&td, &nonce)).await, reason, "{}", attacked.name());
    }
    let nonce = attacked.front.nonce().await;
    let sound = attacked.front.evidence(&nonce);
    let edits: [(Edit, Reason); 8] = [
        (|evidence| evidence.quote[54 + 136] ^= 1, Reason::QuoteSignatureInvalid),
        // In the signature: whoever looks at attributes first sees nothing.
        (|evidence| evidence.quote[720] ^= 1, Reason::QuoteSignatureInvalid),
        (|evidence| evidence.quote.truncate(1000), Reason::QuoteMalformed),
        (|evidence| evidence.quote.fill(0xa5), Reason::QuoteMalformed),
        (|evidence| evidence.quote.resize(16 * 1024 + 1, 0), Reason::RequestTooLarge),
        (|evidence| evidence.quote.clear(), Reason::RequestMalformed),
        (|evidence| evidence.user_data = vec![0; USER_DATA_BYTES_MAX + 1], Reason::RequestTooLarge),
        (|evidence| evidence.user_data.push(0), Reason::ReportDataMismatch),
    ];
    for (number, (edit, reason)) in edits.into_iter().enumerate() {
        let mut evidence = sound.clone();
        edit(&mut evidence);
        assert_eq!(attacked.rejection(evidence).await, reason, "{}: edit {number}", attacked.name());
    }
    11
}

async fn nonces_of_others(attacked: &mut Attacked) -> u64 {
    let (one, two) = (attacked.front.nonce().await, attacked.front.nonce().await);
    let mut swapped = attacked.front.evidence(&one);
    swapped.nonce = Some(two.clone());
    assert_eq!(attacked.rejection(swapped).await, Reason::ReportDataMismatch);
    let forged = VerifierNonce { signature: vec![0; 48], ..two.clone() };
    assert_eq!(attacked.rejection(attacked.front.evidence(&forged)).await, Reason::NonceSignatureInvalid);
    let mut foreign = two.clone();
    foreign.val[0] = if foreign.val[0] == b'A' { b'B' } else { b'A' };
    assert_eq!(attacked.rejection(attacked.front.evidence(&foreign)).await, Reason::NonceSignatureInvalid);
    let mut without = attacked.front.evidence(&two);
    without.nonce = None;
    assert_eq!(attacked.rejection(without).await, Reason::NonceMissing);
    4
}

/// A used nonce answers its own evidence for ever, and no other.
async fn replayed_nonces(attacked: &mut Attacked) -> u64 {
    let nonce = attacked.front.nonce().await;
    let event = attacked.front.event(attacked.front.evidence(&nonce));
    let first = attacked.front.token(&event).await;
    attacked.front.publish_raw(prost::Message::encode_to_vec(&event), "another delivery").await;
    attacked.front.until_evidence_is_gone().await;
    assert_eq!(attacked.front.td.latest(&attacked.front.td_id).await.unwrap(), Some(first), "the same token");
    let other = evidence_of(&attacked.front.simulated.with(|td| td.rtmr3 = [9; 48]), &nonce);
    assert_eq!(attacked.rejection(other).await, Reason::NonceReplayed);
    let again = EvidenceCollected { attestation_id: AttestationId::random().to_string(), ..event };
    assert_eq!(attacked.front.rejection(&again).await, Reason::NonceReplayed);
    2
}

async fn policies_and_platforms(attacked: &mut Attacked) -> u64 {
    let nonce = attacked.front.nonce().await;
    let unknown = vec![AttestationId::random().to_string()];
    let unknown = EvidenceCollected { policy_ids: unknown, ..attacked.front.event(attacked.front.evidence(&nonce)) };
    assert_eq!(attacked.front.rejection(&unknown).await, Reason::PolicyNotFound);
    let platform = attacked.front.simulated.platform();
    let revoked = CollateralOptions::for_platform(platform).with_evaluation_number(21).with_status("Revoked");
    attacked.until_collateral_is_read(&revoked).await;
    let nonce = attacked.front.nonce().await;
    assert_eq!(attacked.rejection(attacked.front.evidence(&nonce)).await, Reason::PlatformRevoked);
    2
}

async fn run(mut attacked: Attacked) {
    attacked.assert_good_evidence_passes().await;
    let mut rejected = altered_and_foreign_quotes(&mut attacked).await;
    rejected += nonces_of_others(&mut attacked).await;
    rejected += replayed_nonces(&mut attacked).await;
    attacked.assert_good_evidence_passes().await;
    rejected += policies_and_platforms(&mut attacked).await;

    let records = attacked.front.audit(rejected + 3).await;
    assert_eq!(decided(&records, AuditDecision::AttestationRejected).len() as u64, rejected, "every denial is on record");
    let issued = decided(&records, AuditDecision::TokenIssued);
    assert_eq!(issued.len(), 3);
    let verifier = format!("verifier={}", attacked.name());
    assert!(issued.iter().all(|record| record.detail.contains(&verifier)), "{issued:?}");
    let health = attacked.front.broker.address("health").unwrap();
    let metrics = reqwest::get(format!("http://{health}/metrics")).await.unwrap().text().await.unwrap();
    let labelled = format!("keyferry_verifier=\"{}\"", attacked.name());
    assert!(metrics.contains(&labelled), "{metrics}");
    assert!(!attacked.front.broker.log().contains(API_KEY));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_built_in_verifier_stands() {
    Box::pin(run(Attacked::dcap(120).await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_before_a_broker_stands() {
    Box::pin(run(Attacked::trust_authority(120).await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_nonce_is_no_nonce_whoever_issued_it() {
    for mut attacked in [Attacked::dcap(2).await, Attacked::trust_authority(2).await] {
        let nonce = attacked.front.nonce().await;
        let issued = now();
        while now() <= issued + 3 {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        assert_eq!(attacked.rejection(attacked.front.evidence(&nonce)).await, Reason::NonceExpired, "{}", attacked.name());
    }
}

/// One piece of evidence, delivered many times to two replicas at once: whoever answers, the answer is the same token.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_get_the_same_evidence_give_the_same_token() {
    for mut attacked in [Attacked::dcap(120).await, Attacked::trust_authority(120).await] {
        let world = &mut attacked.front;
        let replica = world.replica().await;
        for round in 0..3 {
            let nonce = world.nonce().await;
            let event = world.event(world.evidence(&nonce));
            let body = prost::Message::encode_to_vec(&event);
            let ids: Vec<_> = (0..16).map(|number| format!("delivery {round}.{number}")).collect();
            futures::future::join_all(ids.iter().map(|id| world.publish_raw(body.clone(), id))).await;
            let Answer::Token(first) = world.next_answer().await else { panic!("rejected") };
            for _ in 1..16 {
                let Answer::Token(again) = world.next_answer().await else { panic!("rejected") };
                assert_eq!(again, first, "one evidence, one token");
            }
        }
        assert!(replica.log().contains("token-broker"), "the replica was there");
    }
}
