//! What the bus counts: messages sent, messages handled, and how long either took. Labels are subject templates and classes
//! of failure: never a td_id.

use std::time::Duration;

use keyferry_telemetry::names;

const SYSTEM: (names::Attribute, &str) = (names::MESSAGING_SYSTEM, "nats");

/// One publish, with its class of failure; empty = stored.
pub(crate) fn sent(template: &str, failure: &str, took: Duration) {
    let labels = [SYSTEM, (names::MESSAGING_OPERATION, "publish"), (names::MESSAGING_TEMPLATE, template), (names::ERROR_TYPE, failure)];
    let labels = if failure.is_empty() { &labels[..3] } else { &labels[..] };
    names::MESSAGES_SENT.add(1, labels);
    names::MESSAGING_DURATION.record(took.as_secs_f64(), labels);
}

/// One delivery, with what became of it; empty = done.
pub(crate) fn handled(template: &str, failure: &str, took: Duration) {
    let labels = [SYSTEM, (names::MESSAGING_TEMPLATE, template), (names::ERROR_TYPE, failure)];
    let labels = if failure.is_empty() { &labels[..2] } else { &labels[..] };
    names::MESSAGES_CONSUMED.add(1, &[labels, &[(names::MESSAGING_OPERATION, "process")]].concat());
    names::MESSAGING_PROCESS_DURATION.record(took.as_secs_f64(), labels);
}
