//! What of a plan is in `key-release` already: asked before anything is written, in a dry run too.

use std::collections::BTreeSet;

use keyferry_contract::{
    Reason,
    release::v1::{GetKeyRequest, GetPolicyRequest, GetUserRequest, ListUsersRequest},
};
use tonic::{Response, Status};

use super::{
    plan::{Item, Plan, Record, State},
    record::{KeyRecord, Refusal, UserRecord},
};
use crate::{
    broker::{Broker, reason, refused},
    output::Failure,
};

/// Marks what is there. It stays as it is, also where it differs by now: whoever changed it meant it.
pub(super) async fn with(plan: &mut Plan, broker: &Broker) -> Result<(), Failure> {
    for item in &mut plan.items {
        let State::Import(record) = &item.state else { continue };
        let (state, note) = match record {
            Record::User(record) => user(record, broker).await?,
            Record::Policy(record) => {
                let request = GetPolicyRequest { policy_id: record.id.to_string(), version: 0 };
                match found(broker, broker.keys().get_policy(request).await, Reason::PolicyNotFound)? {
                    Some(policy) if policy.version > 1 => {
                        (Some(State::AlreadyThere), Some(format!("version {} counts there", policy.version)))
                    }
                    Some(_) => (Some(State::AlreadyThere), None),
                    None => (None, None),
                }
            }
            Record::Key(record) => key(record, broker).await?,
            Record::SigningKey(_) | Record::TlsPair { .. } => (None, None),
        };
        mark(item, state, note);
    }
    Ok(())
}

fn mark(item: &mut Item, state: Option<State>, note: Option<String>) {
    if let Some(state) = state {
        item.state = state;
    }
    item.notes.extend(note);
}

/// `None` where the answer is that there is none.
fn found<T>(broker: &Broker, answer: Result<Response<T>, Status>, absent: Reason) -> Result<Option<T>, Failure> {
    match answer {
        Ok(found) => Ok(Some(found.into_inner())),
        Err(status) if reason(&status) == Some(absent) => Ok(None),
        Err(status) => Err(refused(broker.url(), &status)),
    }
}

type Finding = (Option<State>, Option<String>);

async fn user(record: &UserRecord, broker: &Broker) -> Result<Finding, Failure> {
    let mut client = broker.users();
    let same_id = client.get_user(GetUserRequest { user_id: record.id.to_string() }).await;
    if found(broker, same_id, Reason::UserNotFound)?.is_some() {
        return Ok((Some(State::AlreadyThere), None));
    }
    let same_name = broker.answer(client.list_users(ListUsersRequest { username: record.username.clone() }).await)?;
    let Some(other) = same_name.users.first() else { return Ok((None, None)) };
    let permissions: BTreeSet<String> = other.permissions.iter().map(|permission| permission.replace('-', "_")).collect();
    if record.permissions.is_subset(&permissions) {
        // The first administrator of a new key-release has the name its settings give, and an id of its own.
        return Ok((Some(State::AlreadyThere), Some(format!("as user {}, with the password it has there", other.user_id))));
    }
    let reason = format!("the name is taken by user {}, who may do less", other.user_id);
    Ok((Some(State::Refused(Refusal::new(reason, "give that user the permissions, or another name"))), None))
}

async fn key(record: &KeyRecord, broker: &Broker) -> Result<Finding, Failure> {
    let request = GetKeyRequest { key_id: record.id.to_string() };
    let Some(there) = found(broker, broker.keys().get_key(request).await, Reason::KeyNotFound)? else { return Ok((None, None)) };
    let policy = record.policy_id.map(|id| id.to_string()).unwrap_or_default();
    let note = if there.kms_key_ref != record.kms_key_ref {
        Some("another object of the KMS is recorded there".to_owned())
    } else if there.policy_id != policy {
        Some("it is under another policy there".to_owned())
    } else {
        None
    };
    Ok((Some(State::AlreadyThere), note))
}
