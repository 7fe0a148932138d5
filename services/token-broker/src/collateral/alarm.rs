//! Alarms: errors in the log that somebody has to do something about, each once an hour for as long as it holds.

use std::{collections::HashMap, sync::Mutex};

use keyferry_collateral::Document;
use keyferry_lifecycle::clock;

use super::lock;

/// Below this part of its life, collateral should have been renewed long ago: refreshes begin at half of it.
const PERCENT_LEFT_MIN: u64 = 20;
const EVERY_SECONDS: u64 = 3600;
/// Alarms that are remembered. Families and files are bounded; this only keeps a mistake from growing.
const ALARMS_MAX: usize = 4096;

/// When each alarm was last raised.
#[derive(Debug, Default)]
pub(crate) struct Alarms {
    raised: Mutex<HashMap<String, u64>>,
}

impl Alarms {
    /// Collateral was refused, or could not be had: what was in force stays in force.
    pub(super) fn refused(&self, subject: &str, reason: &str, detail: &dyn std::fmt::Display) {
        if self.is_due(format!("{subject} {reason}"), clock::now()) {
            tracing::error!(subject, keyferry.reason = reason, detail = %detail, "collateral was not renewed: what was in force stays in force");
        }
    }

    /// Looks whether the document has ended or is about to.
    pub(super) fn about_to_end(&self, fmspc: [u8; 6], document: &Document, now: u64) {
        let Some(item) = document.items().iter().min_by_key(|item| item.percent_left(now)) else { return };
        let (fmspc, seconds_left) = (hex::encode(fmspc), item.next_update.saturating_sub(now));
        if seconds_left == 0 {
            if self.is_due(format!("{fmspc} ended"), now) {
                tracing::error!(
                    fmspc,
                    item = item.kind.label(),
                    "collateral has expired: every appraisal with it is refused until it is renewed"
                );
            }
        } else if item.percent_left(now) < PERCENT_LEFT_MIN && self.is_due(format!("{fmspc} ends"), now) {
            tracing::error!(fmspc, item = item.kind.label(), seconds_left, "collateral is about to expire: renew it");
        }
    }

    fn is_due(&self, alarm: String, now: u64) -> bool {
        let mut raised = lock(&self.raised);
        if raised.len() >= ALARMS_MAX {
            raised.retain(|_, at| now < at.saturating_add(EVERY_SECONDS));
        }
        let due = raised.get(&alarm).is_none_or(|at| now >= at.saturating_add(EVERY_SECONDS));
        if due && raised.len() < ALARMS_MAX {
            raised.insert(alarm, now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_is_raised_once_an_hour() {
        let alarms = Alarms::default();
        let due = |alarm: &str, now| alarms.is_due(alarm.to_owned(), now);
        assert!(due("a", 1000) && !due("a", 1001) && due("b", 1001));
        assert!(!due("a", 1000 + EVERY_SECONDS - 1) && due("a", 1000 + EVERY_SECONDS));
    }
}
