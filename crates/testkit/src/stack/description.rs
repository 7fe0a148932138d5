//! `stack.json`: what a running stack tells the outside about itself. Paths are absolute; secrets are named by file.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

/// The whole file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StackDescription {
    /// Where clients of the bus connect, `tls://host:port`.
    pub nats_url: String,
    /// The server's monitoring endpoint, on loopback.
    pub nats_monitor_url: String,
    /// PEM: the roots of our services' listeners and of the NATS server.
    pub ca_file: PathBuf,
    /// Bus credentials for people.
    pub bus: BusFiles,
    /// Service instances by name: the service's own, and `attester-1`, `model-runner-1` ... for further TDs.
    pub services: BTreeMap<String, ServiceDescription>,
    /// `key-release` over gRPC, `https://host:port`.
    pub grpc_url: String,
    /// `key-release` as an Intel KBS, `https://host:port/kbs/v1`.
    pub kbs_url: String,
    /// `token-broker` as a Trust Authority, `https://host:port`.
    pub ita_url: String,
    /// `model-runner` of the first TD, `https://host:port`.
    pub workload_url: String,
    /// The key broker's administrator.
    pub admin_username: String,
    /// A file with the administrator's password, mode 0600.
    pub admin_password_file: PathBuf,
    /// A file with the API key `token-broker` accepts, mode 0600.
    pub ita_api_key_file: PathBuf,
    /// The confidential VMs.
    pub tds: Vec<TdDescription>,
    /// The key the model is sealed with.
    pub key_id: String,
    /// The KMS that holds it.
    pub kms: KmsDescription,
    /// Where spans go, when anywhere.
    pub otlp_url: Option<String>,
    /// The root of the simulated platforms, as tokens and policies name it.
    pub trust_anchor: String,
}

/// Credentials files of the identities people use on the bus.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BusFiles {
    /// Provisions streams and buckets.
    pub admin_credentials: PathBuf,
    /// Reads, and changes nothing.
    pub auditor_credentials: PathBuf,
}

/// One service process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServiceDescription {
    /// Its process id.
    pub pid: u32,
    /// `http://host:port/health/ready`.
    pub health_url: String,
    /// `http://host:port/metrics`.
    pub metrics_url: String,
    /// JSON lines.
    pub log_file: PathBuf,
}

/// One confidential VM.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TdDescription {
    /// Its bus identity: the public nkey.
    pub id: String,
    /// Its name for people.
    pub label: String,
    /// Its bus credentials.
    pub credentials: PathBuf,
    /// Its attester's Unix socket.
    pub attester_socket: PathBuf,
}

/// The key management system.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KmsDescription {
    /// `dev`, `pykmip` or `openbao`.
    pub kind: String,
    /// `kmip://host:port`, `https://host:port` of OpenBao, or the path of the development store.
    pub url: String,
    /// PEM: the root of the KMIP server or of OpenBao.
    pub ca_file: Option<PathBuf>,
}
