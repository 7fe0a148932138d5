//! The contract of the bus and of gRPC: code generated from `proto/`, and for each event its subject, stream and schema
//! name.
//!
//! It knows nothing of NATS, TLS or decisions. Decision crates never see it: a service converts at its edge, so
//! generated code cannot reach a decision. Messages that carry tokens, nonces or wrapped keys have a redacted `Debug`.

mod event;
mod reason;
mod redacted;

pub use event::{CONTENT_TYPE, Event, EventKind, Rpc, Stream, message_id};
pub use keyferry_identifiers as identifiers;
pub use reason::{Advice, DOMAIN, Decision, Retry};

/// The largest quote that is read: real ones are 4.9 to 8 kB, 8000 bytes with a zero tail on Google's cloud.
pub const QUOTE_BYTES_MAX: usize = 16 * 1024;
/// The most user data that a quote binds for its relying party: 1 MiB. An RSA-3072 public key in Intel's form is 388 bytes.
pub const USER_DATA_BYTES_MAX: usize = 1024 * 1024;
/// The longest event log that travels with evidence. Firmware, loader and kernel together log some 60 kB.
pub const EVENT_LOG_BYTES_MAX: usize = 256 * 1024;
/// The longest attestation token that is parsed. The most user data is 1.4 MB in base64, and 1.9 MB once the token around it
/// is encoded too; 170 kB of claims fit beside it.
pub const TOKEN_BYTES_MAX: usize = 2 * 1024 * 1024;

/// The encoded `FileDescriptorSet` of the whole contract, for gRPC reflection and for tests that walk it.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Package `keyferry.attestation.v1`.
pub mod attestation {
    /// Version 1.
    #[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::pedantic)] // generated code
    pub mod v1 {
        tonic::include_proto!("keyferry.attestation.v1");
    }
}
/// Package `keyferry.release.v1`.
pub mod release {
    /// Version 1.
    #[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::pedantic)] // generated code
    pub mod v1 {
        tonic::include_proto!("keyferry.release.v1");
    }
}
/// Package `keyferry.model.v1`.
pub mod model {
    /// Version 1.
    #[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::pedantic)] // generated code
    pub mod v1 {
        tonic::include_proto!("keyferry.model.v1");
    }
}
/// Package `keyferry.fleet.v1`.
pub mod fleet {
    /// Version 1.
    #[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::pedantic)] // generated code
    pub mod v1 {
        tonic::include_proto!("keyferry.fleet.v1");
    }
}

pub use attestation::v1::Reason;
