//! Which families the service is asked for on demand. Families come out of certificates under the pinned root, so nobody
//! can invent them; still, whoever sends evidence chooses among them, and an answer of no must not be asked for again and
//! again.

use std::collections::HashMap;

/// Requests in a row for families that nobody has seen before.
const REQUESTS_MAX: u64 = 16;
/// One of them comes back after this long.
const SECONDS_PER_REQUEST: u64 = 15;
/// Refusals that are remembered; those that are over are forgotten first.
const REFUSALS_MAX: usize = 1024;

/// What was refused lately, and how many requests are left.
#[derive(Debug, Default)]
pub(super) struct Demand {
    refused: HashMap<[u8; 6], Refusal>,
    /// The second at which the budget is whole again.
    whole_at: u64,
}

#[derive(Debug)]
struct Refusal {
    until: u64,
    why: String,
}

impl Demand {
    /// Whether the service may be asked for this family now; if so, that is one request less.
    pub(super) fn admit(&mut self, fmspc: [u8; 6], now: u64) -> Result<(), String> {
        if let Some(refusal) = self.refused.get(&fmspc).filter(|refusal| now < refusal.until) {
            return Err(refusal.why.clone());
        }
        self.whole_at = self.whole_at.max(now);
        if self.whole_at - now >= REQUESTS_MAX * SECONDS_PER_REQUEST {
            return Err("too many families were asked for lately".to_owned());
        }
        self.whole_at += SECONDS_PER_REQUEST;
        Ok(())
    }

    /// The service did not give it: it is not asked again before `until`.
    pub(super) fn refuse(&mut self, fmspc: [u8; 6], until: u64, why: String, now: u64) {
        if self.refused.len() >= REFUSALS_MAX {
            self.refused.retain(|_, refusal| now < refusal.until);
        }
        // Where the memory is full, the budget alone counts.
        if self.refused.len() < REFUSALS_MAX || self.refused.contains_key(&fmspc) {
            self.refused.insert(fmspc, Refusal { until, why });
        }
    }

    /// It came.
    pub(super) fn forget(&mut self, fmspc: [u8; 6]) {
        self.refused.remove(&fmspc);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    #[test]
    fn a_no_is_remembered_for_its_time() {
        let mut demand = Demand::default();
        demand.admit([1; 6], NOW).unwrap();
        demand.refuse([1; 6], NOW + 30, "unknown".to_owned(), NOW);
        assert_eq!(demand.admit([1; 6], NOW + 29).unwrap_err(), "unknown");
        demand.admit([2; 6], NOW).unwrap();
        demand.admit([1; 6], NOW + 30).unwrap();
        demand.refuse([1; 6], NOW + 60, "unknown".to_owned(), NOW + 30);
        demand.forget([1; 6]);
        demand.admit([1; 6], NOW + 31).unwrap();
    }

    #[test]
    fn the_budget_is_bounded_and_comes_back() {
        let mut demand = Demand::default();
        let family = |number: u64| <[u8; 6]>::try_from(&number.to_be_bytes()[2..]).unwrap();
        for number in 0..REQUESTS_MAX {
            demand.admit(family(number), NOW).unwrap();
        }
        assert!(demand.admit(family(99), NOW).unwrap_err().contains("too many"));
        demand.admit(family(99), NOW + SECONDS_PER_REQUEST).unwrap();
        assert!(demand.admit(family(100), NOW + SECONDS_PER_REQUEST).is_err());
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut demand = Demand::default();
        for number in 0..REFUSALS_MAX as u64 + 10 {
            let fmspc = <[u8; 6]>::try_from(&number.to_be_bytes()[2..]).unwrap();
            demand.refuse(fmspc, NOW + 10, String::new(), NOW);
        }
        assert_eq!(demand.refused.len(), REFUSALS_MAX);
        demand.refuse([9; 6], NOW + 100, String::new(), NOW + 10);
        assert_eq!(demand.refused.len(), 1, "what is over is forgotten");
    }
}
