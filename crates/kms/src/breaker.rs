//! A circuit breaker: a KMS that fails again and again is left alone for a while, and callers learn it at once.

use std::{sync::Mutex, sync::PoisonError, time::Duration};

use tokio::time::Instant;

/// Failures in a row that open the circuit.
const FAILURES_MAX: u32 = 5;
/// How long it stays open the first time; each failed probe doubles it.
const OPEN_MIN: Duration = Duration::from_secs(2);
/// The longest it stays open.
const OPEN_MAX: Duration = Duration::from_secs(30);

/// Counts failures in a row. Time is the caller's.
#[derive(Debug, Default)]
pub(crate) struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    closed_until_probe: Option<Instant>,
}

impl Breaker {
    /// Whether a call may be made. After the pause exactly one caller in each further pause is let through as a probe;
    /// if it never reports (its caller gave up), the next pause lets another through.
    pub(crate) fn permits(&self, now: Instant) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state.closed_until_probe {
            Some(until) if now < until => false,
            Some(_) => {
                state.closed_until_probe = Some(now + pause(state.failures));
                true
            }
            None => true,
        }
    }

    /// A call was answered.
    pub(crate) fn succeeded(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = State::default();
    }

    /// A call got no answer.
    pub(crate) fn failed(&self, now: Instant) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.failures = state.failures.saturating_add(1);
        if state.failures >= FAILURES_MAX {
            state.closed_until_probe = Some(now + pause(state.failures));
        }
    }
}

/// Doubles with each failure over the limit, minus up to a quarter at random, so that many brokers do not probe together.
fn pause(failures: u32) -> Duration {
    let doubled = OPEN_MIN.saturating_mul(1 << failures.saturating_sub(FAILURES_MAX).min(4)).min(OPEN_MAX);
    let mut random = [0; 1];
    // No random byte means no jitter, which is harmless.
    let _ = aws_lc_rs::rand::fill(&mut random);
    doubled.mul_f64(1.0 - f64::from(random[0]) / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_failures_open_it_and_one_answer_closes_it() {
        let (breaker, start) = (Breaker::default(), Instant::now());
        for _ in 0..4 {
            breaker.failed(start);
        }
        assert!(breaker.permits(start));
        breaker.failed(start);
        assert!(!breaker.permits(start));
        assert!(!breaker.permits(start + Duration::from_secs(1)));
        let later = start + OPEN_MIN;
        assert!(breaker.permits(later), "one probe");
        assert!(!breaker.permits(later), "and only one");
        breaker.succeeded();
        assert!(breaker.permits(later));
    }

    #[test]
    fn a_pause_is_never_over_half_a_minute() {
        for failures in 5..200 {
            assert!(pause(failures) <= OPEN_MAX);
            assert!(pause(failures) >= OPEN_MIN.mul_f64(0.75));
        }
    }
}
