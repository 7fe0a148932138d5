//! The whole of Keyferry on one machine: a real bus, a real KMS, our four services as separate processes, and simulated
//! confidential VMs. Used by the demo, by `cargo xtask stack` and by the integration tests, so all three run the same thing.

mod administration;
mod configuration;
mod description;
mod kms;
mod options;
mod prediction;
mod simulation;
mod start;
mod steps;

use std::{collections::BTreeMap, path::PathBuf};

pub use administration::Administrator;
pub use description::{BusFiles, KmsDescription, ServiceDescription, StackDescription, TdDescription};
pub use kms::KmsServer;
pub use options::{KmsKind, ModelKind, StackOptions};
pub use prediction::Prediction;
pub use simulation::Simulation;
pub use steps::{Step, Steps};

use crate::{StartFailure, nats::NatsServer, process::Service};

/// A running stack. Dropping it kills every process; [`Stack::stop`] ends them in order.
#[derive(Debug)]
pub struct Stack {
    /// The bus.
    pub nats: NatsServer,
    /// The server that holds the key, when it is in one.
    pub kms: Option<KmsServer>,
    /// Our services by instance name: `token-broker`, `key-release`, and for each TD `attester` and
    /// `model-runner`, then `attester-1`, `model-runner-1` ...
    pub services: BTreeMap<String, Service>,
    /// What `stack.json` says.
    pub description: StackDescription,
    /// The platforms and their root.
    pub simulation: Simulation,
    authority: keyferry_tls::CertificateAuthority,
    directory: PathBuf,
    options: StackOptions,
}

impl Stack {
    /// Starts everything, in order; every step is timed. What was started ends if a later step fails.
    pub async fn start(options: StackOptions, steps: &mut Steps) -> Result<Self, StartFailure> {
        // Boxed: the state of so many steps is too large for a caller's stack.
        Box::pin(start::start(options, steps)).await
    }

    /// A service by instance name.
    pub fn service(&mut self, instance: &str) -> Result<&mut Service, StartFailure> {
        let known = self.services.keys().cloned().collect::<Vec<_>>().join(", ");
        self.services
            .get_mut(instance)
            .ok_or_else(|| StartFailure::new(format!("the stack has no service {instance}"), format!("it has {known}")))
    }

    /// Starts the model-runner of TD number `td` and waits until its model is served.
    pub async fn load_model(&mut self, td: usize) -> Result<(), StartFailure> {
        self.begin_model(td)?;
        self.until_loaded(td).await
    }

    /// Starts the model-runner of TD number `td` and does not wait: [`Self::until_loaded`] does.
    pub fn begin_model(&mut self, td: usize) -> Result<(), StartFailure> {
        let runner = start::model_runner(self, td)?;
        self.services.insert(runner.instance.clone(), runner);
        Ok(())
    }

    /// Waits until the model of TD number `td` is served.
    pub async fn until_loaded(&mut self, td: usize) -> Result<(), StartFailure> {
        self.service(&start::instance("model-runner", td))?.until_healthy().await?;
        self.describe_services();
        Ok(())
    }

    /// Where the model-runner of TD number `td` serves.
    pub fn workload_url(&self, td: usize) -> Result<String, StartFailure> {
        let name = start::instance("model-runner", td);
        let runner = self.services.get(&name).ok_or_else(|| StartFailure::new(format!("{name} is not running"), "load its model first"))?;
        Ok(format!("https://{}", runner.address("https")?))
    }

    /// The directory with configurations, logs and credentials.
    pub fn directory(&self) -> &std::path::Path {
        &self.directory
    }

    /// Ends everything in order: workloads first, the bus last.
    pub async fn stop(mut self) -> Result<(), StartFailure> {
        let mut unclean = Vec::new();
        for prefix in ["model-runner", "attester", "key-release", "token-broker"] {
            for (name, service) in self.services.iter_mut().filter(|(name, _)| name.starts_with(prefix)) {
                if service.stop().await != Some(0) {
                    unclean.push(format!("{name} (log: {})", service.log_file.display()));
                }
            }
        }
        if let Some(kms) = &mut self.kms {
            kms.kill().await;
        }
        self.nats.stop().await;
        if unclean.is_empty() {
            return Ok(());
        }
        Err(StartFailure::new(format!("these services did not end cleanly: {}", unclean.join(", ")), "read their logs"))
    }

    fn describe_services(&mut self) {
        self.description.services = self.services.iter().filter_map(|(name, service)| Some((name.clone(), describe(service)?))).collect();
        self.description.workload_url = self.workload_url(0).unwrap_or_default();
    }
}

fn describe(service: &Service) -> Option<ServiceDescription> {
    let health = service.address("health").ok()?;
    Some(ServiceDescription {
        pid: service.pid()?,
        health_url: format!("http://{health}/health/ready"),
        metrics_url: format!("http://{health}/metrics"),
        log_file: service.log_file.clone(),
    })
}
