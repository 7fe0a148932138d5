//! A few connections to one server, shared by all requests.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use super::connector::{Connection, Connector};
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
}

pub(crate) struct Pool {
    connector: Connector,
    timeouts: KmipTimeouts,
    permits: Semaphore,
    idle: Mutex<Vec<Idle>>,
    breaker: Breaker,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

impl Pool {
    pub(crate) fn new(connector: Connector, timeouts: KmipTimeouts, connections: usize) -> Self {
        Self { connector, timeouts, permits: Semaphore::new(connections), idle: Mutex::default(), breaker: Breaker::default() }
    }

    /// Sends `frame` and gives the answer to `read`, within the time limits.
    pub(crate) async fn call<T>(&self, effect: Effect, frame: &[u8], read: impl Fn(&[u8]) -> Result<T, KmsError>) -> Result<T, KmsError> {
        if !self.breaker.permits(Instant::now()) {
            return Err(KmsError::CircuitOpen);
        }
        let result = timeout(self.timeouts.total, self.attempts(effect, frame, read)).await;
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
        let idle = if effect == Effect::Read { self.take_idle() } else { None };
        match self.attempt(idle, frame, &read).await {
            Err(error) if effect == Effect::Read && error.connection_failed() => self.attempt(None, frame, &read).await,
            result => result,
        }
    }

    /// The connection goes back only after an answer that was in order; on any other way out, cancellation included, it
    /// is dropped here.
    async fn attempt<T>(&self, idle: Option<Connection>, frame: &[u8], read: impl Fn(&[u8]) -> Result<T, KmsError>) -> Result<T, KmsError> {
        let mut connection = match idle {
            Some(connection) => connection,
            None => self.connector.connect(&self.timeouts).await?,
        };
        let answer = connection.exchange(frame, &self.timeouts).await?;
        let result = read(&answer);
        if result.as_ref().err().is_none_or(KmsError::connection_usable) {
            self.give_back(connection);
        }
        result
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|entry| entry.since.elapsed() < IDLE_MAX);
        idle.pop().map(|entry| entry.connection)
    }

    fn give_back(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // Writes open connections of their own, so there can be more than permits.
        if idle.len() < self.permits.available_permits() + 1 {
            idle.push(Idle { connection, since: Instant::now() });
        }
    }
}
