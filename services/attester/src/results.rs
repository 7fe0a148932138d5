//! Answers on the bus: two subscriptions for the whole TD, handed to whoever waits for that attestation.
//!
//! A core subscription forgets what was sent while the connection was down, so a waiter also reads the last answer back
//! from the stream: after every reconnect, now and then, and once more at the end.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use keyferry_bus::{Bus, SubscribeError};
use keyferry_contract::attestation::v1::{AttestationRejected, TokenIssued};
use keyferry_identifiers::{AttestationId, TdId};
use keyferry_lifecycle::Scope;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

/// Answers kept for one waiter; further ones are dropped, and what was dropped is read back.
const ANSWERS_MAX: usize = 16;
const READ_BACK_INTERVAL: Duration = Duration::from_secs(3);
/// How much of the time is kept for the last reading.
const LAST_READING: Duration = Duration::from_millis(500);

/// What came for an attestation. Nothing of it is proven.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Issued(TokenIssued),
    Rejected(AttestationRejected),
}

type Waiters = Arc<Mutex<HashMap<String, mpsc::Sender<Answer>>>>;

/// The TD's subscriptions.
pub(crate) struct Results {
    bus: Bus,
    td_id: TdId,
    waiters: Waiters,
}

impl Results {
    pub(crate) async fn open(bus: &Bus, td_id: TdId, scope: &Scope) -> Result<Self, SubscribeError> {
        let waiters = Waiters::default();
        let issued = bus.subscribe::<TokenIssued>(&td_id).await?.map(Answer::Issued);
        let rejected = bus.subscribe::<AttestationRejected>(&td_id).await?.map(Answer::Rejected);
        let mut answers = futures::stream::select(issued, rejected);
        let (waiting, scope_of_task) = (Arc::clone(&waiters), scope.clone());
        scope.spawn("results", async move {
            loop {
                tokio::select! {
                    answer = answers.next() => match answer {
                        Some(answer) => hand_over(&waiting, answer),
                        None => return Err("the subscriptions ended"),
                    },
                    () = scope_of_task.cancelled() => return Ok(()),
                }
            }
        });
        Ok(Self { bus: bus.clone(), td_id, waiters })
    }

    /// Starts waiting: call it before publishing.
    pub(crate) fn wait_for(&self, attestation_id: AttestationId, deadline: Instant) -> Waiting {
        let (sender, receiver) = mpsc::channel(ANSWERS_MAX);
        let id = attestation_id.to_string();
        self.waiters.lock().insert(id.clone(), sender);
        let mut connects = self.bus.connects();
        connects.mark_unchanged();
        Waiting {
            id,
            bus: self.bus.clone(),
            td_id: self.td_id.clone(),
            waiters: Arc::clone(&self.waiters),
            receiver,
            connects,
            read: VecDeque::new(),
            next_reading: Instant::now() + READ_BACK_INTERVAL,
            deadline,
            last_reading_done: false,
        }
    }
}

fn hand_over(waiters: &Waiters, answer: Answer) {
    let id = match &answer {
        Answer::Issued(issued) => &issued.attestation_id,
        Answer::Rejected(rejected) => &rejected.attestation_id,
    };
    let waiter = waiters.lock().get(id).cloned();
    if let Some(waiter) = waiter {
        // Full means a flood. The waiter reads back what it missed.
        let _full_or_gone = waiter.try_send(answer);
    }
}

/// One wait. Dropping it ends it.
pub(crate) struct Waiting {
    id: String,
    bus: Bus,
    td_id: TdId,
    waiters: Waiters,
    receiver: mpsc::Receiver<Answer>,
    connects: watch::Receiver<u64>,
    read: VecDeque<Answer>,
    next_reading: Instant,
    deadline: Instant,
    last_reading_done: bool,
}

impl Waiting {
    /// The next answer that claims to be ours; `None` at the deadline.
    pub(crate) async fn next(&mut self) -> Option<Answer> {
        let last_reading = self.deadline.checked_sub(LAST_READING).unwrap_or(self.deadline);
        loop {
            if let Some(answer) = self.read.pop_front() {
                return Some(answer);
            }
            // Answers come last: a flood of forged ones must hide neither the end nor what the stream holds.
            tokio::select! {
                biased;
                () = sleep_until(self.deadline) => return None,
                // The sender lives as long as the bus.
                _ = self.connects.changed() => self.read_back().await,
                () = sleep_until(self.next_reading.min(last_reading)), if !self.last_reading_done => {
                    self.last_reading_done = Instant::now() >= last_reading;
                    self.read_back().await;
                }
                answer = self.receiver.recv() => return answer,
            }
        }
    }

    async fn read_back(&mut self) {
        self.next_reading = Instant::now() + READ_BACK_INTERVAL;
        let reading =
            async { tokio::join!(self.bus.latest::<TokenIssued>(&self.td_id), self.bus.latest::<AttestationRejected>(&self.td_id)) };
        let Ok((issued, rejected)) = timeout_at(self.deadline, reading).await else { return };
        for error in [issued.as_ref().err(), rejected.as_ref().err()].into_iter().flatten() {
            tracing::debug!(%error, "the last answer could not be read back");
        }
        let issued = issued.ok().flatten().filter(|issued| issued.attestation_id == self.id).map(Answer::Issued);
        let rejected = rejected.ok().flatten().filter(|rejected| rejected.attestation_id == self.id).map(Answer::Rejected);
        // A token first: where both exist, the rejection is not the verifier's.
        self.read.extend(issued.into_iter().chain(rejected));
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.waiters.lock().remove(&self.id);
    }
}
