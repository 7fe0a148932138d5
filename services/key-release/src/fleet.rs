//! What the fleet bucket says about a TD: only whether it was revoked.
//!
//! The record is not sealed, since other services write it: whoever controls the bus can hide a revocation, and can never
//! use the record to get a key. It is read from the leader at each release, so that a revocation counts at once.

use keyferry_attestation_token::AuthenticToken;
use keyferry_bus::{Bucket, BucketHandle, Bus};
use keyferry_contract::fleet::v1::{TdRecord, TdState};
use prost::Message;

use crate::Denial;

pub(crate) struct Fleet(BucketHandle);

impl Fleet {
    pub(crate) fn new(bus: &Bus) -> Self {
        Self(bus.bucket(Bucket::Fleet))
    }

    /// Refuses the token of a TD that an operator revoked. A token that names no TD cannot be revoked here.
    pub(crate) async fn refuse_revoked(&self, token: &AuthenticToken) -> Result<(), Denial> {
        let Some(td_id) = token.td_id() else { return Ok(()) };
        let Some(entry) = self.0.read(td_id.as_str()).await.map_err(Denial::Fleet)? else { return Ok(()) };
        let unreadable = |_| Denial::Record { name: format!("fleet/{td_id}") };
        let record = TdRecord::decode(entry.value).map_err(unreadable)?;
        if record.state() == TdState::Revoked { Err(Denial::TdRevoked) } else { Ok(()) }
    }
}
