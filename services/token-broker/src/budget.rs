//! How often the evidence of one TD may be refused in a row before it is not looked at any more.
//!
//! A refusal costs us more than the TD: it is appraised, and it is an audit record, and a full audit stream ends every
//! release. So each TD has a budget of refusals that comes back with time. Beyond it nothing is decided, hence nothing
//! recorded; the TD is told to come back later. Evidence that is accepted costs nothing of it, so a sound TD never notices.
//! Each replica counts for itself.

use std::{collections::HashMap, sync::Mutex, sync::PoisonError};

use keyferry_contract::Reason;
use keyferry_identifiers::TdId;

use crate::refusal::Refusal;

/// Refusals in a row. More than an attester has attestations under way.
const REFUSALS_MAX: u64 = 64;
/// One of them comes back after this long.
const SECONDS_PER_REFUSAL: u64 = 2;
/// TDs that are remembered; those whose budget is whole again are forgotten first.
const TDS_MAX: usize = 16_384;

/// What is left to each TD.
#[derive(Debug, Default)]
pub(crate) struct RefusalBudget {
    /// The second at which the TD's budget is whole again.
    whole_at: Mutex<HashMap<TdId, u64>>,
}

impl RefusalBudget {
    /// Whether evidence of this TD is looked at.
    pub(crate) fn check(&self, td_id: &TdId, now: u64) -> Result<(), Refusal> {
        let whole_at = self.whole_at.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = whole_at.get(td_id).map_or(0, |whole_at| whole_at.saturating_sub(now));
        if missing < REFUSALS_MAX * SECONDS_PER_REFUSAL {
            return Ok(());
        }
        Err(Refusal::new(Reason::RateLimited, "too much evidence of this TD was refused: what follows is not looked at for a while"))
    }

    /// Evidence of this TD was refused.
    pub(crate) fn spend(&self, td_id: &TdId, now: u64) {
        let mut whole_at = self.whole_at.lock().unwrap_or_else(PoisonError::into_inner);
        if whole_at.len() >= TDS_MAX && !whole_at.contains_key(td_id) {
            whole_at.retain(|_, whole_at| *whole_at > now);
            if whole_at.len() >= TDS_MAX {
                return;
            }
        }
        let entry = whole_at.entry(td_id.clone()).or_insert(now);
        *entry = (*entry).max(now) + SECONDS_PER_REFUSAL;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn td(name: &str) -> TdId {
        TdId::parse(name).unwrap()
    }

    #[test]
    fn a_budget_is_each_tds_own_and_comes_back() {
        let budget = RefusalBudget::default();
        for _ in 0..REFUSALS_MAX {
            assert_eq!(budget.check(&td("bad"), NOW), Ok(()));
            budget.spend(&td("bad"), NOW);
        }
        assert_eq!(budget.check(&td("bad"), NOW).unwrap_err().reason, Reason::RateLimited);
        assert_eq!(budget.check(&td("good"), NOW), Ok(()));
        assert_eq!(budget.check(&td("bad"), NOW + SECONDS_PER_REFUSAL), Ok(()));
        budget.spend(&td("bad"), NOW + SECONDS_PER_REFUSAL);
        assert!(budget.check(&td("bad"), NOW + SECONDS_PER_REFUSAL).is_err());
        assert_eq!(budget.check(&td("bad"), NOW + 1000), Ok(()));
    }

    #[test]
    fn the_memory_is_bounded_and_forgets_the_whole_budgets() {
        let budget = RefusalBudget::default();
        for number in 0..TDS_MAX + 10 {
            budget.spend(&td(&format!("td-{number}")), NOW);
        }
        assert_eq!(budget.whole_at.lock().unwrap().len(), TDS_MAX);
        budget.spend(&td("late"), NOW + 1000);
        assert_eq!(budget.whole_at.lock().unwrap().len(), 1);
    }
}
