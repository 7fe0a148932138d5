//! The bus: NATS with typed events, calls and buckets, and the operator that decides who may do what on it.
//!
//! The bus is hostile by design: what it carries is signed, quoted or sealed by others, and this crate proves none of it.
//! What it does promise: an event is published when its stream acknowledged it; a consumed message leaves its queue only
//! after its effect; a message nobody can handle ends in the dead letters with a reason; a body whose identity is not the
//! one in its subject never reaches a handler; an answer goes to an inbox and nowhere else.
//!
//! It knows nothing of quotes, tokens, keys or policies, and reads no calendar: whoever signs credentials or keeps
//! the audit says what time it is.

mod audit;
mod bucket;
mod connection;
mod consume;
mod credentials;
pub mod dead_letter;
mod deployment;
mod files;
mod headers;
mod jwt;
mod metrics;
mod operator;
pub mod permissions;
pub mod provision;
mod publish;
mod request;
mod service;
mod subscribe;

pub use audit::key::{AuditKey, AuditKeyError, AuditPublicKey};
pub use audit::read::{AuditCopy, AuditReadError, AuditReader, AuditState, StoredRecord};
pub use audit::verify::{AuditChain, AuditFault, AuditFinding, AuditReport, AuditVerifier, KeptCheckpoint};
pub use audit::{AuditLog, AuditPace, Recorded};
pub use bucket::{Bucket, BucketError, BucketHandle, Entry};
pub use connection::{Bus, BusConfig, ConnectError};
pub use consume::{Delivery, Handler, Outcome};
pub use credentials::{Credentials, CredentialsError, UserKey};
pub use dead_letter::DeadLetter;
pub use deployment::{Deployment, DeploymentError, DeploymentOptions, LIFETIME_SECONDS_DEFAULT};
pub use operator::{Enrolment, LIFETIME_SECONDS_MAX, LIFETIME_SECONDS_MIN, Operator, OperatorError, ServerSettings};
pub use permissions::Role;
pub use provision::{ProvisionError, Provisioning};
pub use publish::{PUBLISH_WITHIN_DEFAULT, PUBLISH_WITHIN_MAX, PublishError, Stored};
pub use request::RequestError;
pub use service::{RpcService, ServeError};
pub use subscribe::{Events, SubscribeError};
