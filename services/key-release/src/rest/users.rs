//! `/users`: their JSON, over the functions of [`crate::users`].

use axum::{http::StatusCode, response::IntoResponse};
use keyferry_identifiers::UserId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{
    Call, Rest, json, query,
    reply::{self, Answer, Refusal, time},
};
use crate::{
    Denial,
    users::{Admin, NewUser, Permission, User, UserChange},
};

#[derive(Serialize)]
struct UserBody {
    id: UserId,
    created_at: String,
    updated_at: String,
    username: String,
    permissions: Vec<Permission>,
}

impl From<User> for UserBody {
    fn from(user: User) -> Self {
        Self {
            id: user.user_id,
            created_at: time(Some(user.created_at)),
            updated_at: time(user.updated_at),
            username: user.username,
            permissions: user.permissions.into_iter().collect(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserRequest {
    username: Option<String>,
    password: Option<String>,
    permissions: Option<Vec<String>>,
}

pub(super) async fn create(rest: Rest, admin: Admin, call: Call) -> Answer {
    let request: UserRequest = json::decode(&call.body.unwrap_or_default())?;
    let new = NewUser {
        username: request.username.unwrap_or_default(),
        password: Zeroizing::new(request.password.unwrap_or_default()),
        permissions: request.permissions.unwrap_or_default(),
    };
    let user = rest.0.users.create(&admin, new).await?;
    Ok(reply::json(StatusCode::CREATED, UserBody::from(user)))
}

pub(super) async fn find(rest: Rest, admin: Admin, call: Call) -> Answer {
    let query = query::parse(call.query.as_deref(), &["username"])?;
    let name = query.get("username").map(String::as_str).filter(|name| !name.is_empty());
    let users = rest.0.users.find(&admin, name).await?;
    Ok(reply::json(StatusCode::OK, users.into_iter().map(UserBody::from).collect::<Vec<_>>()))
}

pub(super) async fn one(rest: Rest, admin: Admin, call: Call) -> Answer {
    let user = rest.0.users.user(&admin, user_id(call.id)?).await?;
    Ok(reply::json(StatusCode::OK, UserBody::from(user)))
}

pub(super) async fn update(rest: Rest, admin: Admin, call: Call) -> Answer {
    let request: UserRequest = json::decode(&call.body.unwrap_or_default())?;
    let change = UserChange {
        username: request.username.unwrap_or_default(),
        password: Zeroizing::new(request.password.unwrap_or_default()),
        permissions: request.permissions.unwrap_or_default(),
    };
    let updated = rest.0.users.update(&admin, user_id(call.id)?, change).await;
    let user = updated.map_err(|denial| match denial {
        // Intel's own: not 404.
        Denial::UserNotFound => Refusal::As(StatusCode::BAD_REQUEST, denial),
        other => other.into(),
    })?;
    Ok(reply::json(StatusCode::CREATED, UserBody::from(user)))
}

pub(super) async fn delete(rest: Rest, admin: Admin, call: Call) -> Answer {
    rest.0.users.delete(&admin, user_id(call.id)?).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn user_id(id: Uuid) -> Result<UserId, Denial> {
    UserId::parse(&id.to_string()).map_err(|_| Denial::UserNotFound)
}
