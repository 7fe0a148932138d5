//! A few connections to one server, shared by all requests.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use super::{
    connector::Connection,
    identity::{Identities, Identity},
};
use crate::{KmipTimeouts, KmsError, Stage, breaker::Breaker};

/// An idle connection older than this is not used again: a NAT or firewall may have forgotten it.
const IDLE_MAX: Duration = Duration::from_mins(1);

/// Whether a request may be made twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It changes nothing: repeated once on a new connection if the first one fails.
    Read,
    /// It changes something: never repeated, and never tried on an idle connection that may be dead.
    Write,
    /// The same, and it takes the server as long as making a key pair takes.
    SlowWrite,
}

pub(crate) struct Pool {
    address: String,
    identities: Arc<Identities>,
    timeouts: KmipTimeouts,
    permits: Semaphore,
    idle: Mutex<Vec<Idle>>,
    breaker: Breaker,
}

struct Idle {
    connection: Connection,
    identity: Arc<Identity>,
    since: Instant,
}

impl Pool {
    pub(crate) fn new(address: String, identities: Arc<Identities>, timeouts: KmipTimeouts, connections: usize) -> Self {
        let (permits, idle, breaker) = (Semaphore::new(connections), Mutex::default(), Breaker::default());
        Self { address, identities, timeouts, permits, idle, breaker }
    }

    /// Sends `frame` and gives the answer to `read`, within the time limits.
    pub(crate) async fn call<T>(&self, effect: Effect, frame: &[u8], read: impl Fn(&[u8]) -> Result<T, KmsError>) -> Result<T, KmsError> {
        if !self.breaker.permits(Instant::now()) {
            return Err(KmsError::CircuitOpen);
        }
        let total = if effect == Effect::SlowWrite { self.timeouts.key_pair + self.timeouts.total } else { self.timeouts.total };
        let result = timeout(total, self.attempts(effect, frame, read)).await;
        let result = result.unwrap_or(Err(KmsError::Timeout(Stage::Total)));
        match &result {
            // Neither says whether the server works.
            Err(KmsError::Tls(_) | KmsError::Timeout(Stage::Pool)) => {}
            Err(error) if error.connection_failed() => self.breaker.failed(Instant::now()),
            _ => self.breaker.succeeded(),
        }
        result
    }

    async fn attempts<T>(&self, effect: Effect, frame: &[u8], read: impl Fn(&[u8]) -> Result<T, KmsError>) -> Result<T, KmsError> {
        let permit = timeout(self.timeouts.request, self.permits.acquire()).await.map_err(|_| KmsError::Timeout(Stage::Pool))?;
        let _permit = permit.map_err(|_| KmsError::CircuitOpen)?; // the semaphore is never closed
        let limit = if effect == Effect::SlowWrite { self.timeouts.key_pair } else { self.timeouts.request };
        let identity = self.identities.current();
        let idle = if effect == Effect::Read { self.take_idle(&identity) } else { None };
        match self.attempt(idle, &identity, frame, limit, &read).await {
            Err(error) if effect == Effect::Read && error.connection_failed() => self.attempt(None, &identity, frame, limit, &read).await,
            result => result,
        }
    }

    /// The connection goes back only after an answer that was in order; on any other way out, cancellation included, it
    /// is dropped here.
    async fn attempt<T>(
        &self,
        idle: Option<Connection>,
        identity: &Arc<Identity>,
        frame: &[u8],
        limit: Duration,
        read: impl Fn(&[u8]) -> Result<T, KmsError>,
    ) -> Result<T, KmsError> {
        let mut connection = match idle {
            Some(connection) => connection,
            None => identity.tls.connect(&self.address, &self.timeouts).await?,
        };
        let answer = connection.exchange(frame, limit).await?;
        let result = read(&answer);
        if result.as_ref().err().is_none_or(KmsError::connection_usable) {
            self.give_back(connection, identity);
        }
        result
    }

    /// A connection made with these credentials; those made with others are closed.
    fn take_idle(&self, identity: &Arc<Identity>) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|entry| entry.since.elapsed() < IDLE_MAX && Arc::ptr_eq(&entry.identity, identity));
        idle.pop().map(|entry| entry.connection)
    }

    fn give_back(&self, connection: Connection, identity: &Arc<Identity>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // Writes open connections of their own, so there can be more than permits.
        if idle.len() < self.permits.available_permits() + 1 {
            idle.push(Idle { connection, identity: Arc::clone(identity), since: Instant::now() });
        }
    }
}
