//! Facts for whoever reads them later. Published after the answer, as well as possible, counted by the bus; nothing is
//! decided by them.

use keyferry_bus::Bus;
use keyferry_contract::{
    Event,
    release::v1::{KeyDenied, KeyReleased, PolicyChanged},
};
use keyferry_identifiers::TdId;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, Span};

use crate::{Denial, audit, case::Case, records::PolicyRecord, users::Admin};

/// Events on their way at the same time. On a bus that is gone each waits some seconds; more are dropped, with a warning.
const UNDER_WAY_MAX: usize = 256;
/// The identity of an event about a TD that nobody named.
const UNKNOWN: &str = "unknown";

/// Publishes in the background; a drain waits for what is under way.
pub(crate) struct Events {
    bus: Bus,
    tasks: TaskTracker,
}

impl Events {
    pub(crate) fn new(bus: Bus) -> Self {
        Self { bus, tasks: TaskTracker::new() }
    }

    pub(crate) fn released(&self, case: &Case) {
        self.publish(KeyReleased {
            release_id: case.release_id.to_string(),
            key_id: case.key_id.to_string(),
            td_id: td_id(case),
            token_id: case.token_id.clone(),
            policy_id: case.policy_id.clone(),
            policy_version: case.policy_version,
            released_at: Some(audit::now()),
        });
    }

    pub(crate) fn denied(&self, case: &Case, denial: &Denial) {
        self.publish(KeyDenied {
            release_id: case.release_id.to_string(),
            key_id: case.key_id.to_string(),
            td_id: td_id(case),
            token_id: case.token_id.clone(),
            reason: denial.reason().into(),
            denied_at: Some(audit::now()),
        });
    }

    pub(crate) fn policy_changed(&self, policy: &PolicyRecord, admin: &Admin) {
        self.publish(PolicyChanged {
            policy_id: policy.policy_id.to_string(),
            version: policy.version,
            actor: admin.name().to_owned(),
            changed_at: Some(audit::now()),
        });
    }

    fn publish<E: Event + 'static>(&self, event: E) {
        if self.tasks.len() >= UNDER_WAY_MAX {
            tracing::warn!(event = E::KIND.schema, "too many events under way: this one is dropped");
            return;
        }
        let bus = self.bus.clone();
        let publish = async move {
            let Ok(identity) = TdId::parse(event.identity()) else { return };
            if let Err(error) = bus.publish(&identity, &event).await {
                tracing::warn!(event = E::KIND.schema, %error, "an event was not published");
            }
        };
        self.tasks.spawn(publish.instrument(Span::current()));
    }

    /// Waits for what is under way.
    pub(crate) async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn td_id(case: &Case) -> String {
    case.td_id.as_ref().map_or(UNKNOWN, TdId::as_str).to_owned()
}
