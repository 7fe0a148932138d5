//! Carrying a plan out, one record after the other.

use std::path::Path;

use keyferry_contract::{
    Reason,
    release::v1::{ImportKeyRequest, ImportPolicyRequest, ImportUserRequest, ReplaceTokenSigningKeyRequest},
};
use prost_types::Timestamp;
use tonic::Status;

use super::{
    certificates,
    plan::{Plan, Record, State},
    record::Refusal,
};
use crate::{
    broker::{Broker, reason, refused},
    output::{Failure, printable},
};

/// Imports everything that is to be imported. A refused record stops nothing; a server that does not answer, or does not
/// let this user import at all, stops the rest.
pub(super) async fn all(plan: &mut Plan, broker: &Broker, tls_dir: Option<&Path>) -> Result<(), Failure> {
    for item in &mut plan.items {
        let State::Import(record) = &item.state else { continue };
        let answer = match record {
            Record::TlsPair { certificate, key } => {
                item.state = copied(certificate, key, tls_dir);
                continue;
            }
            record => send(record, broker).await,
        };
        match answer {
            Ok(notes) => {
                item.state = State::Imported;
                item.notes.extend(notes);
            }
            Err(status) => match reason(&status) {
                Some(Reason::AlreadyExists) => item.state = State::AlreadyThere,
                Some(reason) if stops_everything(reason) => return Err(refused(broker.url(), &status)),
                Some(reason) => item.state = State::Refused(Refusal::new(printable(status.message()), reason.advice().text)),
                None => return Err(refused(broker.url(), &status)),
            },
        }
    }
    Ok(())
}

/// What would be answered to every other record as well.
const fn stops_everything(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Unauthenticated
            | Reason::PermissionDenied
            | Reason::LockedOut
            | Reason::StoreUnavailable
            | Reason::AuditUnavailable
            | Reason::BusUnavailable
    )
}

fn copied(certificate: &[u8], key: &[u8], target: Option<&Path>) -> State {
    let Some(target) = target else { return State::Reported };
    match certificates::write(certificate, key, target) {
        Ok(()) => State::Imported,
        Err(error) => State::Refused(Refusal::new(format!("{}: {error}", target.display()), "make the directory writable")),
    }
}

/// Notes about what came of it: warnings of the server.
async fn send(record: &Record, broker: &Broker) -> Result<Vec<String>, Status> {
    match record {
        Record::SigningKey(pem) => {
            let request = ReplaceTokenSigningKeyRequest { private_key_pem: pem.as_str().to_owned() };
            let replaced = broker.users().replace_token_signing_key(request).await?.into_inner();
            Ok(vec![format!("its key id in tokens is {}", printable(&replaced.key_id))])
        }
        Record::User(user) => {
            let request = ImportUserRequest {
                user_id: user.id.to_string(),
                username: user.username.clone(),
                bcrypt_hash: user.bcrypt_hash.clone(),
                permissions: user.permissions.iter().cloned().collect(),
                created_at: user.created_at.map(timestamp),
                updated_at: user.updated_at.map(timestamp),
            };
            broker.users().import_user(request).await?;
            Ok(Vec::new())
        }
        Record::Policy(policy) => {
            let request = ImportPolicyRequest {
                policy_id: policy.id.to_string(),
                document: policy.document.clone(),
                created_at: policy.created_at.map(timestamp),
            };
            // The same linter has spoken in the plan.
            broker.keys().import_policy(request).await?;
            Ok(Vec::new())
        }
        Record::Key(key) => {
            let request = ImportKeyRequest {
                key_id: key.id.to_string(),
                algorithm: key.algorithm.into(),
                length_bits: key.length_bits,
                curve: key.curve.clone(),
                policy_id: key.policy_id.map(|id| id.to_string()).unwrap_or_default(),
                kms_key_ref: key.kms_key_ref.clone(),
                created_at: key.created_at.map(timestamp),
            };
            broker.keys().import_key(request).await?;
            Ok(Vec::new())
        }
        Record::TlsPair { .. } => Ok(Vec::new()),
    }
}

fn timestamp(time: jiff::Timestamp) -> Timestamp {
    Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() }
}
