//! Quotes off the runtime: one blocking call at a time, and what comes back is looked at before it is used.

use std::sync::Arc;
use std::time::Instant;

use keyferry_tdx_quote::Quote;
use keyferry_telemetry::{names, spans};
use tokio::sync::Semaphore;
use tracing::Instrument;

use crate::{Platform, PlatformError};

/// The platform behind a queue.
pub(crate) struct Quoting {
    platform: Arc<dyn Platform>,
    one_at_a_time: Arc<Semaphore>,
}

impl Quoting {
    pub(crate) fn new(platform: Arc<dyn Platform>) -> Self {
        tracing::info!(platform = platform.kind(), "quotes come from here");
        Self { platform, one_at_a_time: Arc::new(Semaphore::new(1)) }
    }

    /// A quote over `report_data` without its zero tail.
    pub(crate) async fn quote(&self, report_data: [u8; 64]) -> Result<Vec<u8>, PlatformError> {
        let started = Instant::now();
        let quote = self.blocking(report_data).instrument(spans::step(names::QUOTE)).await;
        names::ATTESTATION_STEP_DURATION.record(started.elapsed().as_secs_f64(), &[(names::STEP, "quote")]);
        quote
    }

    async fn blocking(&self, report_data: [u8; 64]) -> Result<Vec<u8>, PlatformError> {
        let ended = |_| PlatformError::Foreign("the service is stopping".to_owned());
        let permit = Arc::clone(&self.one_at_a_time)
            .acquire_owned()
            .await
            .map_err(|_| PlatformError::Foreign("the service is stopping".to_owned()))?;
        let platform = Arc::clone(&self.platform);
        let job = tokio::task::spawn_blocking(move || {
            // A caller that gave up does not let the next one in before the platform is free again.
            let _permit = permit;
            over(&platform.quote(&report_data)?, &report_data)
        });
        job.await.map_err(ended)?
    }
}

/// The quote without tail, if it is one and over our data.
fn over(bytes: &[u8], report_data: &[u8; 64]) -> Result<Vec<u8>, PlatformError> {
    let quote = Quote::parse(bytes).map_err(|error| PlatformError::Foreign(error.to_string()))?;
    if &quote.body().report_data != report_data {
        return Err(PlatformError::Foreign("it is over other report data".to_owned()));
    }
    Ok(quote.without_tail().to_vec())
}
