//! Certificates and roots as rustls configurations: the one place that decides which TLS Keyferry speaks.
//!
//! Servers speak TLS 1.3 and nothing older, offer the hybrid group X25519MLKEM768 first and take no early data. Clients
//! trust the roots they are given and no others: the system's store is never consulted, because a key broker's peers are
//! known by name. The provider is always passed explicitly ([`provider`]): a process default is shared with every
//! library in the binary, and rustls panics at run time when two of them chose differently.
//!
//! This crate knows nothing of what travels over a connection, of configuration files or of telemetry. Nor has it a clock
//! of its own: [`CertificateAuthority`] takes the time as an argument (the handshake itself asks the system's clock,
//! inside rustls).

mod authority;
mod channel;
mod config;
mod error;

use std::sync::{Arc, LazyLock};

pub use authority::{CertificateAuthority, IssuedCertificate, VALIDITY_DAYS_DEFAULT};
pub use channel::{grpc_channel, grpc_unix_channel};
pub use config::{
    ALPN_GRPC, ALPN_HTTP, ClientCertificate, RootsConfig, ServerCertificate, client_config, http_client_config, mutual_client_config,
    read_certificates, server_config, server_config_from_issued,
};
pub use error::TlsError;
use rustls::crypto::CryptoProvider;

/// The one rustls provider of the whole product: aws-lc-rs, with X25519MLKEM768 as the first key-exchange group.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    Arc::clone(&PROVIDER)
}

/// Makes [`provider`] the process default, for libraries that take no provider as an argument. Harmless when called
/// twice: the first call wins, and there is only one provider to choose.
pub fn install_provider() {
    let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
