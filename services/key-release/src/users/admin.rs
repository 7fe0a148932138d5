//! Who asks, and the proof that it was checked.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
};

use axum::extract::ConnectInfo;
use http::{Extensions, HeaderMap, header::AUTHORIZATION};
use keyferry_identifiers::UserId;

use super::Permission;
use crate::Denial;

/// What a request shows of whoever sent it. Nothing of it is checked yet.
#[derive(Clone, Default)]
pub struct Caller {
    /// The `authorization` header as it came.
    pub authorization: Option<String>,
    /// Where the connection comes from.
    pub address: Option<IpAddr>,
}

impl Caller {
    /// From a request's headers and extensions; the listener puts [`ConnectInfo`] there.
    pub fn of(headers: &HeaderMap, extensions: &Extensions) -> Self {
        let authorization = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let peer = extensions.get::<ConnectInfo<SocketAddr>>();
        Self { authorization, address: peer.map(|peer| peer.0.ip().to_canonical()) }
    }

    /// From a gRPC request.
    pub fn of_grpc<T>(request: &tonic::Request<T>) -> Self {
        Self::of(request.metadata().as_ref(), request.extensions())
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Proof that a user's credential was checked. Made by [`super::Users`] alone.
#[derive(Clone, Debug)]
pub struct Admin {
    pub(super) user_id: UserId,
    pub(super) name: String,
    pub(super) permissions: BTreeSet<Permission>,
    pub(super) client: Option<IpAddr>,
}

impl Admin {
    /// Who.
    pub fn user_id(&self) -> UserId {
        self.user_id
    }

    /// Who, by name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// From where.
    pub fn client(&self) -> Option<IpAddr> {
        self.client
    }

    /// What counts now: of the credential, what the user still has.
    pub fn permissions(&self) -> &BTreeSet<Permission> {
        &self.permissions
    }

    /// Refuses whoever lacks the permission.
    pub fn require(&self, permission: Permission) -> Result<(), Denial> {
        if self.permissions.contains(&permission) { Ok(()) } else { Err(Denial::PermissionMissing { permission }) }
    }
}
