//! The bus dies in the middle of the job: nothing is lost, and everything is done once.

use keyferry_contract::{Stream, release::v1::AuditDecision};
use keyferry_integration_tests::{PATIENCE, Story, told};

/// When the bus is killed.
#[derive(Clone, Copy)]
enum Moment {
    /// As soon as the evidence is in its queue, or already appraised.
    EvidencePublished,
    /// As soon as the token is issued: the key is about to be released, or just was.
    TokenIssued,
}

impl Moment {
    async fn has_come(self, story: &Story) -> bool {
        let issued = !story.audit(AuditDecision::TokenIssued).await.is_empty();
        match self {
            Self::EvidencePublished => issued || !story.raw(Stream::Evidence).await.is_empty(),
            Self::TokenIssued => issued,
        }
    }
}

async fn killed_at(moment: Moment) {
    let mut story = Story::begin(|options| options.load_models = false).await;
    told(story.stack.begin_model(0));
    let waiting = async { while !moment.has_come(&story).await {} };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "the job never came that far");
    story.stack.nats.kill().await;
    told(story.stack.nats.restart().await);

    told(story.stack.until_loaded(0).await);
    assert!(told(story.stack.predict(0).await).is_right());
    // An acknowledgement that died with the server brings its message back after the consumer's patience: the same answer is
    // given again, and nothing is decided again.
    let emptied = async {
        while !story.raw(Stream::Evidence).await.is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, emptied).await.is_ok(), "the queue never emptied");
    let (issued, released) = (story.audit(AuditDecision::TokenIssued).await, story.audit(AuditDecision::Released).await);
    assert_eq!(released.len(), 1, "released once: {released:?}");
    assert_eq!(issued.len(), 1, "issued once: {issued:?}");
    assert_eq!(released[0].token_id, issued[0].token_id);
    assert!(story.raw(Stream::Dlq).await.is_empty(), "nothing was given up");
    story.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn evidence_survives_a_killed_bus_and_is_appraised_once() {
    killed_at(Moment::EvidencePublished).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_survives_a_killed_bus_and_happens_once() {
    killed_at(Moment::TokenIssued).await;
}
