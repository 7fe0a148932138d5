//! What must not be released is refused by the whole, with a reason in the audit, and everything keeps running.

use keyferry_contract::{Reason, Stream, release::v1::AuditDecision};
use keyferry_integration_tests::{Story, told};

/// Bit 0 of TDATTRIBUTES, in memory order: the host may read the TD's memory.
const DEBUG: [u8; 8] = [0x01, 0, 0, 0x10, 0, 0, 0, 0];
/// Everything but SEPT_VE_DISABLE as it should be.
const WITHOUT_SEPT_VE_DISABLE: [u8; 8] = [0; 8];

async fn refused(td_attributes: [u8; 8], reason: Reason) {
    let mut story = Story::begin(|options| {
        options.td.td_attributes = td_attributes;
        options.load_models = false;
    })
    .await;
    told(story.stack.begin_model(0));
    let record = story.audited(AuditDecision::AttestationRejected, reason).await;
    assert_eq!(record.td_id, story.stack.description.tds[0].id);
    assert!(story.audit(AuditDecision::Released).await.is_empty(), "nothing was released");
    assert!(story.audit(AuditDecision::TokenIssued).await.is_empty(), "no token was issued");
    assert!(story.raw(Stream::Dlq).await.is_empty(), "a refusal is an answer, not a dead letter");
    story.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_debug_td_gets_no_key() {
    refused(DEBUG, Reason::DebugEnabled).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_td_without_sept_ve_disable_gets_no_key() {
    refused(WITHOUT_SEPT_VE_DISABLE, Reason::SeptVeDisableMissing).await;
}

/// The verifier vouches for another image; the relying party's policy does not want it.
#[tokio::test(flavor = "multi_thread")]
async fn another_image_is_vouched_for_and_still_gets_no_key() {
    let mut story = Story::begin(|options| {
        options.td.mr_td[0] ^= 1;
        options.load_models = false;
    })
    .await;
    told(story.stack.begin_model(0));
    let record = story.audited(AuditDecision::Denied, Reason::PolicyMismatch).await;
    let mrtd = record.claims.iter().find(|claim| claim.claim.contains("mrtd"));
    assert!(mrtd.is_some_and(|claim| !claim.matched && claim.wanted != claim.got), "wanted and got are in the audit: {record:?}");
    assert!(story.audit(AuditDecision::Released).await.is_empty(), "nothing was released");
    story.end().await;
}
