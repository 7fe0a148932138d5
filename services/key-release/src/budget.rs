//! A bound on how often something may happen per second, for what anybody may cause.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

const WINDOW: Duration = Duration::from_secs(1);

/// At most `per_second` in each second; the rest is refused, not queued.
#[derive(Debug)]
pub(crate) struct Budget {
    per_second: u32,
    window: Mutex<(Instant, u32)>,
}

impl Budget {
    pub(crate) fn new(per_second: u32) -> Self {
        Self { per_second, window: Mutex::new((Instant::now(), 0)) }
    }

    /// Whether one more fits.
    pub(crate) fn take(&self) -> bool {
        let mut window = self.window.lock();
        if window.0.elapsed() >= WINDOW {
            *window = (Instant::now(), 0);
        }
        window.1 = window.1.saturating_add(1);
        window.1 <= self.per_second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_ends() {
        let budget = Budget::new(2);
        assert_eq!((budget.take(), budget.take(), budget.take()), (true, true, false));
    }
}
