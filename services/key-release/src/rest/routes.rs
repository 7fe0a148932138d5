//! The one list of addresses. An address without a permission is public because it says so.

use std::{future::Future, pin::Pin, sync::LazyLock};

use axum::http::Method;

use super::{Call, Rest, keys, openapi, policies, reply::Answer, session, transfer, users};
use crate::users::{Admin, Permission};

/// A path segment that is an id.
pub(super) const ID: &str = "{id}";
pub(super) const PEM: &str = "application/x-pem-file";
pub(super) const JWT: &str = "application/jwt";

/// A login, a user.
const SMALL: usize = 16 * 1024;
/// A key that is brought, in base64.
const KEY: usize = 32 * 1024;
const POLICY: usize = 64 * 1024;
/// A token of the longest kind, or evidence with every member at its bound, in base64.
const TRANSFER: usize = crate::surface::REQUEST_BYTES_MAX;

type Answering = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// One address.
pub struct Route {
    /// GET, POST, PUT or DELETE.
    pub method: Method,
    /// With `{id}` where an id is.
    pub path: &'static str,
    /// One line for people.
    pub summary: &'static str,
    /// The status of success.
    pub status: u16,
    pub(super) access: Access,
    pub(super) consumes: Consumes,
    pub(super) produces: Produces,
    /// Intel's server checks `Accept` before `Content-Type` here.
    pub(super) accept_first: bool,
    /// Keys of the query, of which a search needs one.
    pub(super) query: &'static [&'static str],
    /// Keys of the query of which none is needed.
    pub(super) optional_query: &'static [&'static str],
}

/// Who may call, and what answers.
pub(super) enum Access {
    Anybody(fn(Rest, Call) -> Answering),
    /// Anybody, within a budget for what is refused.
    Attested(fn(Rest, Call) -> Answering),
    Administrator(Permission, fn(Rest, Admin, Call) -> Answering),
}

/// A body: what it must call itself, its schema, and its bound in bytes.
pub(super) enum Consumes {
    Nothing,
    Json { schema: &'static str, max: usize },
    OptionalJson { schema: &'static str, max: usize },
    Pem { max: usize },
}

/// What the caller must accept, with its schema.
pub(super) enum Produces {
    Nothing,
    Json(&'static str),
    /// Whatever the caller accepts.
    JsonForAnybody(&'static str),
    Jwt,
}

impl Route {
    /// Which permission a bearer token needs; `None`: no token.
    pub fn permission(&self) -> Option<Permission> {
        match self.access {
            Access::Administrator(permission, _) => Some(permission),
            Access::Anybody(_) | Access::Attested(_) => None,
        }
    }

    /// The `Content-Type` its body must have; `None`: there is no body.
    pub fn content_type(&self) -> Option<&'static str> {
        match self.consumes {
            Consumes::Nothing => None,
            Consumes::Json { .. } | Consumes::OptionalJson { .. } => Some(super::reply::JSON),
            Consumes::Pem { .. } => Some(PEM),
        }
    }

    /// The `Accept` header it insists on.
    pub fn accept(&self) -> Option<&'static str> {
        match self.produces {
            Produces::Json(_) => Some(super::reply::JSON),
            Produces::Jwt => Some(JWT),
            Produces::Nothing | Produces::JsonForAnybody(_) => None,
        }
    }

    /// The most bytes its body may have.
    pub fn body_bytes_max(&self) -> usize {
        match self.consumes {
            Consumes::Nothing => 0,
            Consumes::Json { max, .. } | Consumes::OptionalJson { max, .. } | Consumes::Pem { max } => max,
        }
    }
}

macro_rules! anybody {
    ($kind:ident, $handler:path) => {
        Access::$kind(|rest, call| Box::pin($handler(rest, call)))
    };
}
macro_rules! administrator {
    ($permission:ident, $handler:path) => {
        Access::Administrator(Permission::$permission, |rest, admin, call| Box::pin($handler(rest, admin, call)))
    };
}

const fn route(method: Method, path: &'static str, summary: &'static str, access: Access) -> Route {
    Route {
        method,
        path,
        summary,
        status: 200,
        access,
        consumes: Consumes::Nothing,
        produces: Produces::Nothing,
        accept_first: false,
        query: &[],
        optional_query: &[],
    }
}

const fn json(schema: &'static str, max: usize) -> Consumes {
    Consumes::Json { schema, max }
}

/// Every address.
pub static ROUTES: LazyLock<Vec<Route>> = LazyLock::new(|| {
    vec![
        Route {
            produces: Produces::JsonForAnybody("Version"),
            ..route(Method::GET, "/kbs/v1/version", "What this is.", anybody!(Anybody, session::version))
        },
        Route {
            produces: Produces::JsonForAnybody("Document"),
            ..route(Method::GET, "/kbs/v1/openapi.json", "This document.", anybody!(Anybody, openapi::serve))
        },
        Route {
            consumes: json("Login", SMALL),
            produces: Produces::Jwt,
            ..route(Method::POST, "/kbs/v1/token", "A bearer token for a username and a password.", anybody!(Anybody, session::token))
        },
        Route {
            status: 201,
            consumes: json("UserRequest", SMALL),
            produces: Produces::Json("User"),
            ..route(Method::POST, "/kbs/v1/users", "Create a user.", administrator!(UsersCreate, users::create))
        },
        Route {
            produces: Produces::Json("Users"),
            query: &["username"],
            ..route(
                Method::GET,
                "/kbs/v1/users",
                "Users of a name; of every name if it is empty.",
                administrator!(UsersSearch, users::find),
            )
        },
        Route {
            produces: Produces::Json("User"),
            ..route(Method::GET, "/kbs/v1/users/{id}", "One user.", administrator!(UsersSearch, users::one))
        },
        Route {
            status: 201,
            consumes: json("UserRequest", SMALL),
            produces: Produces::Json("User"),
            accept_first: true,
            ..route(Method::PUT, "/kbs/v1/users/{id}", "Change a user; what is empty stays.", administrator!(UsersUpdate, users::update))
        },
        Route { status: 204, ..route(Method::DELETE, "/kbs/v1/users/{id}", "Delete a user.", administrator!(UsersDelete, users::delete)) },
        Route {
            status: 201,
            consumes: json("Policy", POLICY),
            produces: Produces::Json("Policy"),
            ..route(
                Method::POST,
                "/kbs/v1/key-transfer-policies",
                "Create a key transfer policy.",
                administrator!(PoliciesCreate, policies::create),
            )
        },
        Route {
            produces: Produces::Json("Policies"),
            optional_query: &["after", "page_size"],
            ..route(Method::GET, "/kbs/v1/key-transfer-policies", "Every policy.", administrator!(PoliciesSearch, policies::list))
        },
        Route {
            produces: Produces::Json("Policy"),
            ..route(Method::GET, "/kbs/v1/key-transfer-policies/{id}", "One policy.", administrator!(PoliciesSearch, policies::one))
        },
        Route {
            status: 204,
            ..route(
                Method::DELETE,
                "/kbs/v1/key-transfer-policies/{id}",
                "Delete a policy that no key is under.",
                administrator!(PoliciesDelete, policies::delete),
            )
        },
        Route {
            status: 201,
            consumes: json("KeyRequest", KEY),
            produces: Produces::Json("Key"),
            ..route(Method::POST, "/kbs/v1/keys", "Create or register a key.", administrator!(KeysCreate, keys::create))
        },
        Route {
            produces: Produces::Json("Keys"),
            query: &["algorithm", "keyLength", "curveType", "transferPolicyId", "after", "pageSize"],
            ..route(Method::GET, "/kbs/v1/keys", "Keys that pass every filter.", administrator!(KeysSearch, keys::find))
        },
        Route {
            produces: Produces::Json("Key"),
            ..route(Method::GET, "/kbs/v1/keys/{id}", "What is known of a key.", administrator!(KeysSearch, keys::one))
        },
        Route {
            status: 201,
            consumes: json("KeyUpdate", SMALL),
            produces: Produces::Json("Key"),
            ..route(Method::PUT, "/kbs/v1/keys/{id}", "Put a key under another policy.", administrator!(KeysUpdate, keys::update))
        },
        Route { status: 204, ..route(Method::DELETE, "/kbs/v1/keys/{id}", "Delete a key.", administrator!(KeysDelete, keys::delete)) },
        Route {
            consumes: Consumes::Pem { max: SMALL },
            produces: Produces::Json("ExportedKey"),
            ..route(
                Method::POST,
                "/kbs/v1/keys/{id}",
                "The key, wrapped for an administrator's own RSA public key.",
                administrator!(KeysTransfer, keys::export),
            )
        },
        Route {
            consumes: Consumes::OptionalJson { schema: "TransferRequest", max: TRANSFER },
            produces: Produces::Json("WrappedKey"),
            accept_first: true,
            ..route(
                Method::POST,
                "/kbs/v1/keys/{id}/transfer",
                "The key, wrapped for an attested TD or enclave; without a body, a nonce to attest with.",
                anybody!(Attested, transfer::transfer),
            )
        },
    ]
});
