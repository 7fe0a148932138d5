//! `/key-transfer-policies`: Intel's JSON, over the functions of [`crate::administration`]. There is no `PUT`, as with
//! Intel: new versions are made over gRPC.

use axum::{http::StatusCode, response::IntoResponse};
use keyferry_identifiers::PolicyId;
use serde_json::{Map, Value};

use super::{
    Call, Rest, json, query,
    reply::{self, Answer, Refusal, time},
};
use crate::{Denial, records::PolicyRecord, users::Admin};

/// The document as it was given, under its id. What is null was not given.
fn body(policy: &PolicyRecord) -> Result<Value, Denial> {
    let document: Map<String, Value> =
        serde_json::from_str(&policy.document).map_err(|_| Denial::Record { name: policy.policy_id.to_string() })?;
    let mut body = Map::new();
    body.insert("id".to_owned(), policy.policy_id.to_string().into());
    body.insert("created_at".to_owned(), time(Some(policy.created_at)).into());
    let is_ours = |name: &str| name == "id" || name == "created_at";
    body.extend(document.into_iter().filter(|(name, value)| !is_ours(name) && !value.is_null()));
    Ok(body.into())
}

pub(super) async fn create(rest: Rest, admin: Admin, call: Call) -> Answer {
    let document = json::document(&call.body.unwrap_or_default())?;
    let created = rest.0.administration.create_policy(&admin, document.to_string()).await?;
    Ok(reply::json(StatusCode::CREATED, body(&created.policy)?))
}

/// Every policy, or with `page_size` a page of them that begins behind `after`. Other keys are not looked at.
pub(super) async fn list(rest: Rest, admin: Admin, call: Call) -> Answer {
    let mut page = query::page(&query::lenient(call.query.as_deref()), ("after", "page_size"), PolicyId::parse)?;
    let mut policies = Vec::new();
    loop {
        let part = rest.0.administration.policies(&admin, page.next()).await?;
        policies.extend(part.items.iter().map(body).collect::<Result<Vec<_>, _>>()?);
        if !page.goes_on(part.next) {
            return Ok(reply::json(StatusCode::OK, policies));
        }
    }
}

pub(super) async fn one(rest: Rest, admin: Admin, call: Call) -> Answer {
    let policy = rest.0.administration.policy(&admin, policy_id(&call)?, None).await.map_err(not_found)?;
    Ok(reply::json(StatusCode::OK, body(&policy)?))
}

pub(super) async fn delete(rest: Rest, admin: Admin, call: Call) -> Answer {
    rest.0.administration.delete_policy(&admin, policy_id(&call)?).await.map_err(not_found)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn policy_id(call: &Call) -> Result<PolicyId, Denial> {
    PolicyId::parse(&call.id.to_string()).map_err(|_| Denial::PolicyNotFound)
}

/// That a policy is missing is 500 for whoever wants a key, and 404 for whoever wants the policy.
fn not_found(denial: Denial) -> Refusal {
    match denial {
        Denial::PolicyNotFound => Refusal::As(StatusCode::NOT_FOUND, denial),
        other => other.into(),
    }
}
