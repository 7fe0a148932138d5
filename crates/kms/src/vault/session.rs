//! The broker's standing login: obtained once by many callers, renewed while nobody waits, obtained anew when it ends.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use serde::Deserialize;
use tokio::{task::AbortHandle, time::Instant};
use zeroize::Zeroizing;

use super::{
    http::{Answer, Call, Http},
    json::{self, Secret},
    login::{Credential, Login},
};
use crate::KmsError;

/// A token this young that is refused was not refused for its age: the server is asked about it before another login.
const YOUNG: Duration = Duration::from_secs(10);
/// Secrets that were refused are not tried again for this long, unless they change: servers lock a role out after a few.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);
/// Between two tries to renew while the server does not answer.
const RENEWAL_PAUSE: Duration = Duration::from_secs(1);

/// A login, and the token it gave.
pub(crate) struct Session {
    login: Login,
    http: Http,
    current: ArcSwapOption<Credential>,
    /// Held while logging in: whoever waits for it finds the other's result.
    gate: tokio::sync::Mutex<Option<Refused>>,
    keeper: Mutex<Option<AbortHandle>>,
}

struct Refused {
    secrets: [u8; 32],
    until: Instant,
}

impl Session {
    pub(crate) fn new(login: Login, http: Http) -> Arc<Self> {
        let (current, gate, keeper) = (ArcSwapOption::empty(), tokio::sync::Mutex::new(None), Mutex::new(None));
        Arc::new(Self { login, http, current, gate, keeper })
    }

    /// Makes a call. If the token is refused, logs in once and makes it once more.
    pub(crate) async fn call(self: &Arc<Self>, call: &Call) -> Result<Answer, KmsError> {
        let credential = self.credential().await?;
        let answer = credential.send(call).await?;
        if !answer.forbidden() {
            return Ok(answer);
        }
        if credential.obtained.elapsed() < YOUNG && credential.alive().await? {
            return Err(KmsError::Denied);
        }
        let fresh = self.log_in(Some(&credential)).await?;
        let answer = fresh.send(call).await?;
        if !answer.forbidden() {
            return Ok(answer);
        }
        // A token from a login of this moment is alive; one that somebody else obtained need not be.
        let dead = self.login.is_token() && !fresh.alive().await?;
        Err(if dead { KmsError::Auth } else { KmsError::Denied })
    }

    async fn credential(self: &Arc<Self>) -> Result<Arc<Credential>, KmsError> {
        match self.current.load_full() {
            Some(credential) if !credential.expired() => Ok(credential),
            spent => self.log_in(spent.as_ref()).await,
        }
    }

    /// Logs in, unless another caller has replaced `spent` meanwhile.
    async fn log_in(self: &Arc<Self>, spent: Option<&Arc<Credential>>) -> Result<Arc<Credential>, KmsError> {
        let mut refused = self.gate.lock().await;
        if let Some(current) = self.current.load_full()
            && !current.expired()
            && spent.is_none_or(|spent| !Arc::ptr_eq(spent, &current))
        {
            return Ok(current);
        }
        let login = self.login.clone();
        let secrets = tokio::task::spawn_blocking(move || login.secrets()).await.unwrap_or(Err(KmsError::Internal))?;
        let digest = secrets.digest();
        if refused.as_ref().is_some_and(|refused| refused.secrets == digest && Instant::now() < refused.until) {
            return Err(KmsError::Auth);
        }
        match self.login.perform(&self.http, &secrets).await {
            Ok(credential) => {
                *refused = None;
                let credential = Arc::new(credential);
                self.current.store(Some(Arc::clone(&credential)));
                self.keep(&credential);
                let lease_seconds = credential.lease.as_secs();
                tracing::info!(host = self.http.host(), lease_seconds, renewable = credential.renewable, "logged in to the KMS");
                Ok(credential)
            }
            Err(error) => {
                if error == KmsError::Auth {
                    *refused = Some(Refused { secrets: digest, until: Instant::now() + REFUSED_PAUSE });
                }
                Err(error)
            }
        }
    }

    /// Renews a token in the background for as long as that works.
    fn keep(self: &Arc<Self>, credential: &Arc<Credential>) {
        let keeper = (!credential.lease.is_zero())
            .then(|| tokio::spawn(renew_until_the_end(Arc::downgrade(self), Arc::clone(credential))).abort_handle());
        let mut slot = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(former) = std::mem::replace(&mut *slot, keeper) {
            former.abort();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take() {
            keeper.abort();
        }
    }
}

async fn renew_until_the_end(session: Weak<Session>, credential: Arc<Credential>) {
    let mut lease = credential.lease;
    loop {
        tokio::time::sleep(lease * 2 / 3).await;
        let renewed = loop {
            match renew(&credential).await {
                Err(error) if error.retryable() && !credential.expired() => tokio::time::sleep(RENEWAL_PAUSE.min(lease / 10)).await,
                result => break result.ok().flatten(),
            }
        };
        // A lease that shrinks is about to reach its end whatever is done.
        if let Some(next) = renewed.filter(|next| *next * 2 > credential.lease) {
            credential.prolong(next);
            lease = next;
            continue;
        }
        let Some(session) = session.upgrade() else { return };
        // On failure the next caller tries, and is told why not. On success another keeper has taken over.
        if let Err(error) = session.log_in(Some(&credential)).await {
            tracing::warn!(host = session.http.host(), error = error.label(), "the login to the KMS could not be renewed");
        }
        return;
    }
}

#[derive(Deserialize)]
struct Renewed {
    auth: RenewedAuth,
    #[serde(default)]
    warnings: Option<Vec<serde::de::IgnoredAny>>,
}

#[derive(Deserialize)]
struct RenewedAuth {
    #[serde(rename = "client_token")]
    _client_token: Secret,
    #[serde(default)]
    lease_duration: u64,
}

/// The new lease; `None` if the token cannot be renewed, or not for as long as it should.
async fn renew(credential: &Credential) -> Result<Option<Duration>, KmsError> {
    if !credential.renewable {
        return Ok(None);
    }
    let answer = credential.send(&Call::post("auth/token/renew-self".to_owned(), Zeroizing::new(b"{}".to_vec())).repeatable()).await?;
    if !answer.succeeded() {
        return Ok(None);
    }
    let Renewed { auth, warnings } = json::read(&answer.body)?;
    let capped = warnings.is_some_and(|warnings| !warnings.is_empty());
    Ok((!capped).then(|| Duration::from_secs(auth.lease_duration)))
}
