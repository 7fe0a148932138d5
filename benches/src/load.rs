//! Load on a server: clients that each ask again as soon as they have their answer, and what the server's process spent
//! on them.

use std::{
    fs,
    pin::Pin,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;

use crate::contest::{Rate, rate};

/// One client: what it does once. Its result is checked: a fast refusal is no throughput.
pub(crate) type Client = Box<dyn FnMut() -> Pin<Box<dyn Future<Output = Result<()>> + Send>> + Send>;

/// What came of it.
pub(crate) struct Load {
    /// By the clock on the wall; the times are those of single calls.
    pub(crate) rate: Rate,
    /// Calls answered.
    pub(crate) calls: f64,
    /// What the server's process used meanwhile.
    pub(crate) cpu_seconds: f64,
}

/// Lets the clients run for a quarter of `each` and forgets it, then for `each`.
pub(crate) async fn run(each: Duration, clients: Vec<Client>, server: u32) -> Result<Load> {
    let (clients, _) = turn(each / 4, clients).await?;
    let (before, begun) = (cpu_seconds(server)?, Instant::now());
    let (_, times) = turn(each, clients).await?;
    let (cpu_seconds, lasted) = (cpu_seconds(server)? - before, begun.elapsed());
    ensure!(!times.is_empty() && cpu_seconds > 0.0, "nothing was measured");
    #[allow(clippy::cast_precision_loss, reason = "a count of calls is far below 2^52")]
    let calls = times.len() as f64;
    Ok(Load { rate: Rate { per_second: calls / lasted.as_secs_f64(), ..rate(times) }, calls, cpu_seconds })
}

async fn turn(each: Duration, clients: Vec<Client>) -> Result<(Vec<Client>, Vec<Duration>)> {
    let until = Instant::now() + each;
    let mut running = JoinSet::new();
    for mut client in clients {
        running.spawn(async move {
            let mut times = Vec::new();
            let mut last = Instant::now();
            while last < until {
                client().await?;
                let now = Instant::now();
                times.push(now - last);
                last = now;
            }
            anyhow::Ok((client, times))
        });
    }
    let (mut clients, mut all) = (Vec::new(), Vec::new());
    while let Some(ended) = running.join_next().await {
        let (client, times) = ended??;
        clients.push(client);
        all.extend(times);
    }
    Ok((clients, all))
}

/// What the threads of a process have used so far, in seconds: nanoseconds on a core, from the scheduler's own account.
pub(crate) fn cpu_seconds(process: u32) -> Result<f64> {
    let mut nanoseconds = 0.0;
    for task in fs::read_dir(format!("/proc/{process}/task")).context("the server is gone")? {
        // A thread that ended since it was listed has no account any more.
        let Ok(account) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        nanoseconds += account.split(' ').next().and_then(|text| text.parse::<f64>().ok()).context("/proc has no schedstat")?;
    }
    Ok(nanoseconds / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn calls_are_counted_and_a_refusal_is_no_throughput() {
        let good = || -> Vec<Client> {
            (0..2)
                .map(|_| -> Client {
                    Box::new(|| {
                        Box::pin(async {
                            std::thread::sleep(Duration::from_millis(1));
                            Ok(())
                        })
                    })
                })
                .collect()
        };
        let load = run(Duration::from_millis(50), good(), std::process::id()).await.unwrap();
        assert!(load.calls >= 2.0 && load.rate.p50_ms >= 1.0 && load.cpu_seconds > 0.0);
        let refused: Vec<Client> = vec![Box::new(|| Box::pin(async { anyhow::bail!("no") }))];
        assert!(run(Duration::from_millis(50), refused, std::process::id()).await.is_err());
    }
}
