//! What the interpreter's timer takes for a clock: a nanosecond is a step. The interpreter looks at it once in
//! [`STEPS_BETWEEN_CHECKS`] steps, and works on one thread.

use std::{cell::Cell, num::NonZeroU32, sync::LazyLock, time::Duration};

use regorus::utils::limits::{ExecutionTimerConfig, TimeSource, set_time_source};

use crate::EVALUATION_STEPS_MAX;

const STEPS_BETWEEN_CHECKS: u32 = 16;

struct StepCounter;

thread_local! {
    static STEPS: Cell<u64> = const { Cell::new(0) };
}

impl TimeSource for StepCounter {
    fn now(&self) -> Option<Duration> {
        let steps = STEPS.get().wrapping_add(STEPS_BETWEEN_CHECKS.into());
        STEPS.set(steps);
        Some(Duration::from_nanos(steps))
    }
}

/// Without a clock the interpreter would not stop: this is forced before any module is compiled.
pub(crate) static CLOCK: LazyLock<()> = LazyLock::new(|| {
    // It fails only where a clock is set already.
    let _ = set_time_source(&StepCounter);
});

/// The steps that this thread has counted so far.
pub(crate) fn taken() -> u64 {
    STEPS.get()
}

pub(crate) fn timer() -> ExecutionTimerConfig {
    let check_interval = NonZeroU32::new(STEPS_BETWEEN_CHECKS).unwrap_or(NonZeroU32::MIN);
    ExecutionTimerConfig { limit: Duration::from_nanos(EVALUATION_STEPS_MAX.into()), check_interval }
}
