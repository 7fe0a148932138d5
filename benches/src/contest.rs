//! Measuring contestants in turns, so that whatever else the machine does slows all of them alike.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

/// One turn.
const TURN: Duration = Duration::from_millis(20);

/// What one contestant does once. Its result is checked: a fast failure is no throughput.
pub(crate) type Contestant<'a> = Box<dyn FnMut() -> Result<()> + 'a>;

/// What was measured.
#[derive(Debug)]
pub(crate) struct Rate {
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// Runs each contestant for `each` in turns, after one turn that does not count.
pub(crate) fn run<const N: usize>(each: Duration, mut contestants: [Contestant<'_>; N]) -> Result<[Rate; N]> {
    let mut times: [Vec<Duration>; N] = std::array::from_fn(|_| Vec::new());
    for contestant in &mut contestants {
        turn(contestant, &mut Vec::new())?;
    }
    while times.iter().map(|times| times.iter().sum::<Duration>()).min().is_some_and(|least| least < each) {
        for (contestant, times) in contestants.iter_mut().zip(&mut times) {
            turn(contestant, times)?;
        }
    }
    ensure!(times.iter().all(|times| !times.is_empty()), "nothing was measured");
    Ok(times.map(rate))
}

fn turn(contestant: &mut Contestant<'_>, times: &mut Vec<Duration>) -> Result<()> {
    let begun = Instant::now();
    let mut last = begun;
    while begun.elapsed() < TURN {
        contestant()?;
        let now = Instant::now();
        times.push(now - last);
        last = now;
    }
    Ok(())
}

/// Rate and percentiles of single times.
pub(crate) fn rate(mut times: Vec<Duration>) -> Rate {
    #[allow(clippy::cast_precision_loss, reason = "a count of iterations is far below 2^52")]
    let count = times.len() as f64;
    let total: Duration = times.iter().sum();
    times.sort_unstable();
    let at = |percent: usize| times.get((times.len() - 1) * percent / 100).map_or(0.0, |time| time.as_secs_f64() * 1000.0);
    Rate { per_second: count / total.as_secs_f64(), p50_ms: at(50), p99_ms: at(99) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slower_one_has_the_lower_rate_and_failures_are_no_throughput() {
        let busy = |length: Duration| -> Contestant<'static> {
            Box::new(move || {
                let begun = Instant::now();
                while begun.elapsed() < length {}
                Ok(())
            })
        };
        let each = Duration::from_millis(30);
        let [fast, slow] = run(each, [busy(Duration::from_micros(100)), busy(Duration::from_micros(400))]).unwrap();
        assert!(fast.per_second > 2.0 * slow.per_second, "{fast:?} {slow:?}");
        assert!(slow.p50_ms >= 0.4 && slow.p50_ms <= slow.p99_ms);
        assert!(run(each, [Box::new(|| anyhow::bail!("no"))]).is_err());
    }
}
