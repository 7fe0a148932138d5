//! Evidence over a real bus: answered once, refused with the right reason, recorded always.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests: a broken fixture has to fail them")]

mod world;

use futures::StreamExt;
use keyferry_contract::{
    Reason, Stream,
    attestation::v1::{Evidence, EvidenceCollected, TokenIssued, VerifierNonce},
    fleet::v1::{TdRecord, TdState},
    identifiers::{AttestationId, TdId},
    release::v1::AuditDecision,
};
use keyferry_td_simulator::{CollateralOptions, PlatformOptions, SimulatedTd, SimulatorRoot, TdOptions};
use keyferry_tdx_quote::{Quote, TdAttributes};
use keyferry_testkit::nats::now;
use prost::Message;
use serde_json::json;
use world::{Answer, USER_DATA, World, decided, evidence_of};

#[tokio::test(flavor = "multi_thread")]
async fn sound_evidence_gets_a_token_that_says_whose_it_is() {
    let mut world = World::start().await;
    let nonce = world.nonce().await;
    let event = world.event(world.evidence(&nonce));
    let issued = world.token(&event).await;

    let token = world.authenticate(&issued.token).await;
    assert_eq!(token.held_data(), Some(USER_DATA));
    assert_eq!(token.trust_anchor(), world.root.trust_anchor());
    assert_eq!(token.td_id().map(TdId::as_str), Some(world.td_id.as_str()));
    assert_eq!(token.claims().tcb_status.as_deref(), Some("UpToDate"));
    assert_eq!(token.claims().mr_td.as_deref(), Some(hex::encode(world.simulated.options().mr_td).as_str()));
    assert_eq!(issued.token_id, token.token_id().to_string());

    let records = world.audit(1).await;
    let [record] = decided(&records, AuditDecision::TokenIssued)[..] else { panic!("{records:?}") };
    assert_eq!((record.token_id.as_str(), record.td_id.as_str()), (issued.token_id.as_str(), world.td_id.as_str()));
    assert_eq!(record.trust_anchor, world.root.trust_anchor());
    assert!(record.platform_hash.len() == 64 && record.detail.contains("exceptions=none"), "{}", record.detail);
    let printed = format!("{records:?}");
    assert!(!printed.contains(&issued.token), "no token in the audit");

    let fleet = world.admin.bucket(keyferry_bus::Bucket::Fleet);
    let entry = loop {
        if let Some(entry) = fleet.read(world.td_id.as_str()).await.unwrap() {
            break entry;
        }
    };
    let fleet = TdRecord::decode(entry.value).unwrap();
    assert_eq!((fleet.state(), fleet.token_id.as_str()), (TdState::Attested, issued.token_id.as_str()));
    assert!(world.broker.log().contains("SIMULATED HARDWARE IS TRUSTED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_evidence_again_gets_the_identical_token_and_other_evidence_a_refusal() {
    let mut world = World::start().await;
    let nonce = world.nonce().await;
    let event = world.event(world.evidence(&nonce));
    let first = world.token(&event).await;

    // As a redelivery brings it: the same body, not recognised by the stream any more.
    world.publish_raw(event.encode_to_vec(), "another-id").await;
    world.until_evidence_is_gone().await;
    assert_eq!(world.td.latest(&world.td_id).await.unwrap(), Some(first.clone()));
    assert_eq!(decided(&world.audit(1).await, AuditDecision::TokenIssued).len(), 1, "issued once");

    // Crashed after the redemption, before the publish.
    world.broker.kill().await;
    world.broker.restart().await.unwrap();
    world.publish_raw(event.encode_to_vec(), "a-third-id").await;
    world.until_evidence_is_gone().await;
    assert_eq!(world.td.latest(&world.td_id).await.unwrap(), Some(first));

    // A genuine quote of the same TD over the used nonce, with other data, and the same quote for another attestation.
    let other_td = world.simulated.with(|td| td.rtmr3 = [9; 48]);
    let other_quote = world.event(evidence_of(&other_td, &nonce));
    assert_eq!(world.rejection(&other_quote).await, Reason::NonceReplayed);
    let other_attestation = EvidenceCollected { attestation_id: AttestationId::random().to_string(), ..event.clone() };
    assert_eq!(world.rejection(&other_attestation).await, Reason::NonceReplayed);
    // The same quote with one bit of its signature changed: it must not be answered from memory, unverified.
    let mut altered = event.clone();
    if let Some(evidence) = &mut altered.evidence {
        let signature = Quote::parse(&evidence.quote).unwrap().signed_bytes().len() + 4;
        evidence.quote[signature] ^= 1;
    }
    assert_eq!(world.rejection(&altered).await, Reason::NonceReplayed);
    let records = world.audit(4).await;
    assert_eq!(decided(&records, AuditDecision::AttestationRejected).len(), 3);
    assert_eq!(decided(&records, AuditDecision::TokenIssued).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_is_never_written_over_nor_what_may_be_one() {
    let mut world = World::start().await;
    let revoked = TdRecord { td_id: world.td_id.to_string(), state: TdState::Revoked.into(), ..TdRecord::default() }.encode_to_vec();
    let mut last = None;
    for record in [revoked, vec![0xff; 20]] {
        let fleet = world.admin.bucket(keyferry_bus::Bucket::Fleet);
        let revision = match last {
            None => fleet.create(world.td_id.as_str(), record.clone().into()).await,
            Some(revision) => fleet.update(world.td_id.as_str(), record.clone().into(), revision).await,
        };
        last = Some(revision.unwrap());
        let nonce = world.nonce().await;
        assert!(matches!(world.attest(&world.event(world.evidence(&nonce))).await, Answer::Token(_)));
        let mut bad = world.evidence(&nonce);
        bad.quote.truncate(1000);
        assert_eq!(world.rejection(&world.event(bad)).await, Reason::QuoteMalformed);
        let entry = fleet.read(world.td_id.as_str()).await.unwrap().unwrap();
        assert_eq!((entry.value.to_vec(), Some(entry.revision)), (record, last));
    }
}

/// Sixteen different, genuine quotes over one nonce, at once, before two replicas: one of them gets the token.
#[tokio::test(flavor = "multi_thread")]
async fn a_nonce_is_redeemed_once_however_many_ask_at_the_same_time() {
    let mut world = World::start().await;
    let replica = world.replica().await;
    for _ in 0..3 {
        let nonce = world.nonce().await;
        let events: Vec<_> =
            (1..=16).map(|number| world.event(evidence_of(&world.simulated.with(|td| td.rtmr3 = [number; 48]), &nonce))).collect();
        for published in futures::future::join_all(events.iter().map(|event| world.td.publish(&world.td_id, event))).await {
            published.unwrap();
        }
        let mut tokens = 0;
        for _ in &events {
            match world.next_answer().await {
                Answer::Token(_) => tokens += 1,
                Answer::Rejected(rejected) => assert_eq!(rejected.reason(), Reason::NonceReplayed),
            }
        }
        assert_eq!(tokens, 1);
    }
    assert!(replica.log().contains("evidence was rejected"), "the replica took its part");
}

#[tokio::test(flavor = "multi_thread")]
async fn nonces_are_the_verifiers_own_fresh_and_for_this_exchange() {
    let mut world = World::start_with(json!({ "nonce": { "lifetime_seconds": 2 } })).await;
    let (one, two) = (world.nonce().await, world.nonce().await);

    // The quote binds one nonce, another one comes with it.
    let mut evidence = world.evidence(&one);
    evidence.nonce = Some(two.clone());
    assert_eq!(world.rejection(&world.event(evidence)).await, Reason::ReportDataMismatch);
    // The nonce is right, the user data is not what was quoted.
    let mut evidence = world.evidence(&two);
    evidence.user_data = b"another key".to_vec();
    assert_eq!(world.rejection(&world.event(evidence)).await, Reason::ReportDataMismatch);

    let forged = VerifierNonce { signature: vec![0; 48], ..two.clone() };
    assert_eq!(world.rejection(&world.event(world.evidence(&forged))).await, Reason::NonceSignatureInvalid);
    let mut without = world.evidence(&two);
    without.nonce = None;
    assert_eq!(world.rejection(&world.event(without)).await, Reason::NonceMissing);

    let old = world.nonce().await;
    let issued = now();
    while now() <= issued + 3 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(world.rejection(&world.event(world.evidence(&old))).await, Reason::NonceExpired);
}

type Edit = fn(&mut Vec<u8>);

#[tokio::test(flavor = "multi_thread")]
async fn weak_foreign_and_broken_evidence_is_rejected_with_its_reason_and_recorded() {
    let mut world = World::start().await;
    let sept = TdAttributes::SEPT_VE_DISABLE;
    let changed = |td: &SimulatedTd, attributes: TdAttributes| td.with(|td| td.td_attributes = attributes.to_bytes());
    let foreign_root = SimulatorRoot::generate("somebody else", now()).unwrap();
    let foreign = SimulatedTd::new(foreign_root.platform(&PlatformOptions::default(), now()).unwrap(), TdOptions::default());
    let unknown = PlatformOptions { fmspc: *b"unknwn", ..PlatformOptions::default() };
    let unknown = SimulatedTd::new(world.root.platform(&unknown, now()).unwrap(), TdOptions::default());
    let cases = [
        (changed(&world.simulated, sept.with(TdAttributes::DEBUG)), Reason::DebugEnabled),
        (changed(&world.simulated, TdAttributes::PERFMON), Reason::SeptVeDisableMissing),
        (changed(&world.simulated, sept.with(TdAttributes::MIGRATABLE)), Reason::Migratable),
        (changed(&world.simulated, sept.with(TdAttributes::SERVICE_TD_EXTENSION)), Reason::ServiceTd),
        (changed(&world.simulated, sept.with(TdAttributes::from_bits(1 << 40))), Reason::ReservedBitsSet),
        (foreign, Reason::QuoteRootUntrusted),
        (unknown, Reason::CollateralMissing),
    ];
    let mut rejected = 0;
    for (td, reason) in cases {
        let nonce = world.nonce().await;
        assert_eq!(world.rejection(&world.event(evidence_of(&td, &nonce))).await, reason);
        rejected += 1;
    }

    let nonce = world.nonce().await;
    let sound = world.evidence(&nonce);
    let edits: [(Edit, Reason); 5] = [
        (|quote| quote.truncate(1000), Reason::QuoteMalformed),
        (|quote| quote.resize(16 * 1024 + 1, 0), Reason::RequestTooLarge),
        (|quote| quote.push(7), Reason::QuoteMalformed),
        (|quote| quote[54 + 136] ^= 1, Reason::QuoteSignatureInvalid),
        (Vec::clear, Reason::RequestMalformed),
    ];
    for (edit, reason) in edits {
        let mut evidence = sound.clone();
        edit(&mut evidence.quote);
        assert_eq!(world.rejection(&world.event(evidence)).await, reason);
        rejected += 1;
    }
    let mut oversized = sound.clone();
    oversized.user_data = vec![0; 1024 * 1024 + 1];
    assert_eq!(world.rejection(&world.event(oversized)).await, Reason::RequestTooLarge);
    rejected += 1;

    let records = world.audit(rejected).await;
    assert_eq!(decided(&records, AuditDecision::AttestationRejected).len() as u64, rejected);
    assert!(records.iter().all(|record| record.reason() != Reason::Unspecified && !record.detail.is_empty()));
    // The service is as good as before, and the nonce was not used up by what was refused.
    assert!(matches!(world.attest(&world.event(sound)).await, Answer::Token(_)));
}

/// Offsets in a version 5 quote with a 1.5 body: one byte of every part that somebody signs.
const SIGNED_PARTS: [(&str, usize); 11] = [
    ("header", 28),
    ("TEE_TCB_SVN2", 54 + 584),
    ("MRSERVICETD", 54 + 600 + 47),
    ("RTMR3", 54 + 328 + 3 * 48),
    ("report data", 54 + 520),
    ("quote signature", 706),
    ("attestation key", 770),
    ("QE report", 840 + 64),
    ("QE report signature", 1224),
    ("QE authentication data", 1290),
    ("QE report's binding", 840 + 320),
];

#[tokio::test(flavor = "multi_thread")]
async fn one_changed_byte_in_any_signed_part_is_rejected() {
    let mut world = World::start().await;
    let td = world.simulated.with(|td| td.format = keyferry_td_simulator::QuoteFormat::V5Td15);
    let nonce = world.nonce().await;
    let sound = evidence_of(&td, &nonce);
    for (part, offset) in SIGNED_PARTS {
        let mut evidence = sound.clone();
        evidence.quote[offset] ^= 1;
        assert_eq!(world.rejection(&world.event(evidence)).await, Reason::QuoteSignatureInvalid, "{part}");
    }
    // The certificates: the middle of each one's text, changed to another letter.
    let text = String::from_utf8_lossy(&sound.quote).into_owned();
    let begins: Vec<usize> = text.match_indices("-----BEGIN").map(|(at, _)| at).collect();
    let start = sound.quote.windows(10).position(|window| window == b"-----BEGIN").unwrap();
    for (certificate, begin) in begins.iter().enumerate() {
        let mut evidence = sound.clone();
        let at = start + (begin - begins[0]) + 28 + 3 * 65;
        evidence.quote[at] = if evidence.quote[at] == b'A' { b'B' } else { b'A' };
        let reason = world.rejection(&world.event(evidence)).await;
        let wanted = if certificate == 2 { Reason::QuoteRootUntrusted } else { Reason::QuoteSignatureInvalid };
        assert_eq!(reason, wanted, "certificate {certificate}");
    }
    assert!(matches!(world.attest(&world.event(sound)).await, Answer::Token(_)));
}

type Change = fn(&mut EvidenceCollected, &mut VerifierNonce);

#[tokio::test(flavor = "multi_thread")]
async fn truncated_and_oversized_members_are_rejected_and_a_truncated_message_is_no_evidence() {
    let mut world = World::start().await;
    let nonce = world.nonce().await;
    let sound = world.event(world.evidence(&nonce));
    let changes: [(Change, Reason); 9] = [
        (|event, _| event.policy_ids = vec![AttestationId::random().to_string(); 11], Reason::RequestMalformed),
        (|event, _| event.policy_ids = vec!["5f1c7a52".to_owned()], Reason::RequestMalformed),
        (|event, _| event.evidence = None, Reason::RequestMalformed),
        (|_, nonce| nonce.val.truncate(87), Reason::NonceSignatureInvalid),
        (|_, nonce| nonce.val.resize(10_000, b'v'), Reason::NonceSignatureInvalid),
        (|_, nonce| nonce.iat.truncate(28), Reason::NonceSignatureInvalid),
        (|_, nonce| nonce.iat.resize(10_000, b'U'), Reason::NonceSignatureInvalid),
        (|_, nonce| nonce.signature.truncate(47), Reason::NonceSignatureInvalid),
        (|_, nonce| nonce.signature.resize(10_000, 0), Reason::NonceSignatureInvalid),
    ];
    let count = changes.len();
    for (number, (change, reason)) in changes.into_iter().enumerate() {
        let (mut event, mut nonce) =
            (EvidenceCollected { attestation_id: AttestationId::random().to_string(), ..sound.clone() }, nonce.clone());
        change(&mut event, &mut nonce);
        if let Some(evidence) = &mut event.evidence {
            evidence.nonce = Some(nonce);
        }
        assert_eq!(world.rejection(&event).await, reason, "change {number}");
    }
    // Whatever a cut message decodes to, it is not evidence that gets a token.
    let whole = sound.encode_to_vec();
    for percent in [1, 20, 50, 80, 99] {
        world.publish_raw(whole[..whole.len() * percent / 100].to_vec(), &format!("cut at {percent}")).await;
    }
    world.until_evidence_is_gone().await;
    let records = world.audit(count as u64 + 5).await;
    assert_eq!(decided(&records, AuditDecision::AttestationRejected).len(), records.len(), "{records:?}");
    assert!(matches!(world.attest(&sound).await, Answer::Token(_)), "and the nonce was not used up");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_user_data_gets_a_token_that_can_be_used() {
    let mut world = World::start().await;
    let nonce = world.nonce().await;
    let user_data = vec![0xff; keyferry_contract::USER_DATA_BYTES_MAX];
    let report_data = keyferry_tdx_quote::report_data(&nonce.val, &nonce.iat, &user_data);
    let quote = world.simulated.quote(&report_data).unwrap();
    let evidence = Evidence { quote, nonce: Some(nonce), user_data: user_data.clone(), event_log: Vec::new() };
    let issued = world.token(&world.event(evidence)).await;
    assert_eq!(world.authenticate(&issued.token).await.held_data(), Some(user_data.as_slice()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_td_that_is_refused_again_and_again_neither_fills_the_audit_nor_stops_others() {
    let mut world = World::start().await;
    let nonce = world.nonce().await;
    let mut bad = world.evidence(&nonce);
    bad.quote.truncate(1000);
    let mut turned_away = 0;
    for _ in 0..100 {
        match world.rejection(&world.event(bad.clone())).await {
            Reason::RateLimited => turned_away += 1,
            reason => assert_eq!((reason, turned_away), (Reason::QuoteMalformed, 0)),
        }
        if turned_away == 5 {
            break;
        }
    }
    assert_eq!(turned_away, 5, "a budget of refusals has an end");
    let recorded = world.audit(1).await.len();
    // Garbage spends the same budget.
    world.publish_raw(vec![0xff; 64], "garbage").await;
    world.messages(Stream::Dlq, 1).await;
    world.until_evidence_is_gone().await;
    assert!(world.audit(1).await.len() <= recorded + 2, "what was not looked at is not recorded");

    let (other, credentials) = world.nats.enrol("two").unwrap();
    let other = TdId::parse(&other).unwrap();
    let bus = keyferry_bus::Bus::connect(&world.nats.config(credentials), "attester").await.unwrap();
    let event = EvidenceCollected { td_id: other.to_string(), ..world.event(world.evidence(&nonce)) };
    let mut tokens = bus.subscribe::<TokenIssued>(&other).await.unwrap();
    bus.publish(&other, &event).await.unwrap();
    assert_eq!(tokens.next().await.unwrap().attestation_id, event.attestation_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_evidence_of_its_subject_goes_to_the_dead_letters_and_the_audit() {
    let mut world = World::start().await;
    let nonce = world.nonce().await;
    let (other, _) = world.nats.enrol("two").unwrap();
    let foreign = EvidenceCollected { td_id: other, ..world.event(world.evidence(&nonce)) };
    let nameless = EvidenceCollected { attestation_id: "not a uuid".to_owned(), ..world.event(world.evidence(&nonce)) };
    world.publish_raw(foreign.encode_to_vec(), "foreign").await;
    world.publish_raw(vec![0xff; 64], "garbage").await;
    world.publish_raw(nameless.encode_to_vec(), "nameless").await;

    let letters = world.messages(Stream::Dlq, 3).await;
    let mut reasons: Vec<_> = letters.iter().map(|(headers, _)| headers["keyferry-dead-reason"].as_str()).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["request_malformed", "request_malformed", "subject_mismatch"]);
    let records = world.audit(3).await;
    assert!(records.iter().all(|record| record.td_id == world.td_id.as_str()), "under the identity of the subject");
    assert!(records.iter().any(|record| record.reason() == Reason::SubjectMismatch));
    assert!(matches!(world.attest(&world.event(world.evidence(&nonce))).await, Answer::Token(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_td_cannot_fill_the_queue_of_all() {
    let mut world = World::start().await;
    let nonce = world.nonce().await;
    let evidence = world.evidence(&nonce);
    world.broker.stop().await;
    let mut accepted = 0;
    let refused = loop {
        match world.td.publish(&world.td_id, &world.event(evidence.clone())).await {
            Ok(_) if accepted < 1000 => accepted += 1,
            other => break other,
        }
    };
    assert!(matches!(refused, Err(keyferry_bus::PublishError::Full { .. })), "{accepted} accepted, then {refused:?}");
    let (other, credentials) = world.nats.enrol("two").unwrap();
    let other = TdId::parse(&other).unwrap();
    let bus = keyferry_bus::Bus::connect(&world.nats.config(credentials), "attester").await.unwrap();
    bus.publish(&other, &EvidenceCollected { td_id: other.to_string(), ..world.event(evidence) }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_audit_stream_there_is_no_token_and_nothing_is_lost() {
    let mut world = World::start().await;
    world.delete_audit_stream().await;
    let nonce = world.nonce().await;
    let event = world.event(world.evidence(&nonce));
    world.td.publish(&world.td_id, &event).await.unwrap();
    while !world.broker.log().contains("audit_unavailable") {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(world.td.latest::<TokenIssued>(&world.td_id).await.unwrap(), None);
    world.provision().await;
    assert!(matches!(world.answer(&event.attestation_id).await, Answer::Token(_)), "the queue kept the evidence");
    assert_eq!(decided(&world.audit(1).await, AuditDecision::TokenIssued).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_bus_loses_no_evidence() {
    let mut world = World::start().await;
    let nonce = world.nonce().await;
    let event = world.event(world.evidence(&nonce));
    world.broker.stop().await;
    world.td.publish(&world.td_id, &event).await.unwrap();
    world.nats.kill().await;
    world.nats.restart().await.unwrap();
    world.broker.restart().await.unwrap();
    world.until_evidence_is_gone().await;
    let token: TokenIssued = world.td.latest(&world.td_id).await.unwrap().unwrap();
    assert_eq!(token.attestation_id, event.attestation_id);
    assert_eq!(decided(&world.audit(1).await, AuditDecision::TokenIssued).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_and_collateral_are_followed() {
    let directory = tempfile::tempdir().unwrap();
    let strict = directory.path().join("strict.json");
    std::fs::write(&strict, json!({ "reference_values": { "mr_td": ["77".repeat(48)] } }).to_string()).unwrap();
    let base = directory.path().join("base.json");
    std::fs::write(&base, json!({ "tcb_statuses": ["UpToDate"] }).to_string()).unwrap();
    let strict_id = "5f1c7a52-3c0e-4f0b-9f43-5d1d2a6f7b10";
    let evidence = json!({ "policy_file": base, "policies": { strict_id: strict } });
    let mut world = World::start_with(json!({ "evidence": evidence })).await;

    let nonce = world.nonce().await;
    let named = EvidenceCollected { policy_ids: vec![strict_id.to_owned()], ..world.event(world.evidence(&nonce)) };
    assert_eq!(world.rejection(&named).await, Reason::ReferenceValueMismatch);
    let unknown = vec![AttestationId::random().to_string()];
    let unknown = EvidenceCollected { policy_ids: unknown, ..world.event(world.evidence(&nonce)) };
    assert_eq!(world.rejection(&unknown).await, Reason::PolicyNotFound);
    let records = world.audit(2).await;
    let claims = &decided(&records, AuditDecision::AttestationRejected)[0].claims;
    assert_eq!((claims[0].claim.as_str(), claims[0].matched), ("mr_td", false));
    assert!(matches!(world.attest(&world.event(world.evidence(&nonce))).await, Answer::Token(_)));

    // New collateral says that the platform lacks updates; it counts without a restart.
    let options = CollateralOptions::for_platform(world.simulated.platform()).with_evaluation_number(21).with_status("OutOfDate");
    world.replace_collateral(&options);
    while !world.broker.log().contains("collateral was read again") {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let nonce = world.nonce().await;
    assert_eq!(world.rejection(&world.event(world.evidence(&nonce))).await, Reason::TcbStatusNotAllowed);
    // Signed, valid, but older than what was seen.
    let older = CollateralOptions::for_platform(world.simulated.platform()).with_evaluation_number(19);
    world.replace_collateral(&older);
    while world.broker.log().matches("collateral was read again").count() < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(world.rejection(&world.event(world.evidence(&nonce))).await, Reason::CollateralRolledBack);
    // A restart does not forget.
    world.broker.stop().await;
    world.broker.restart().await.unwrap();
    let nonce = world.nonce().await;
    assert_eq!(world.rejection(&world.event(world.evidence(&nonce))).await, Reason::CollateralRolledBack);
    // Nor does a crash right after the first answer.
    let newest = CollateralOptions::for_platform(world.simulated.platform()).with_evaluation_number(22);
    let read = world.broker.log().matches("collateral was read again").count();
    world.replace_collateral(&newest);
    while world.broker.log().matches("collateral was read again").count() <= read {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(matches!(world.attest(&world.event(world.evidence(&nonce))).await, Answer::Token(_)));
    world.broker.kill().await;
    let before = CollateralOptions::for_platform(world.simulated.platform()).with_evaluation_number(21);
    world.replace_collateral(&before);
    world.broker.restart().await.unwrap();
    let nonce = world.nonce().await;
    assert_eq!(world.rejection(&world.event(world.evidence(&nonce))).await, Reason::CollateralRolledBack);
}
