//! Consuming a work queue: a message leaves it after its effect, or for the dead letters with a reason. Never otherwise.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::jetstream::{self, AckKind, consumer::PullConsumer};
use futures::{FutureExt, StreamExt};
use keyferry_contract::{Event, Reason};
use keyferry_identifiers::TdId;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tracing::Instrument;

use crate::{
    Bus,
    connection::jittered,
    dead_letter::DeadLetter,
    headers, metrics,
    provision::{ACK_WAIT, DELIVERIES_MAX},
};

/// Our own backoff, by delivery: a plain NAK would bring the message back at once.
const BACKOFF: [Duration; 4] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(15), Duration::from_secs(30)];
/// The consumer is opened again after it vanished, in steps up to this long.
const REOPEN_DELAY_MAX: Duration = Duration::from_secs(5);
const PULL_EXPIRES: Duration = Duration::from_secs(30);
const PULL_HEARTBEAT: Duration = Duration::from_secs(5);
/// An acknowledgement is repeated this often before the message is left to be delivered again.
const ACK_ATTEMPTS: u32 = 3;

/// One message, decoded, its identity checked against its subject.
#[derive(Clone, Debug)]
pub struct Delivery<E> {
    /// The event.
    pub event: E,
    /// The identity in body and subject.
    pub identity: TdId,
    /// 1 for the first delivery, as far as the server remembers: after a crash it may begin anew. Decide nothing by it.
    pub delivery: u32,
    /// The sequence in the stream.
    pub sequence: u64,
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The effect is stored, with its mark. The message may go.
    Done,
    /// Something is out of reach. The message comes back after `after`, or after our own backoff if `None`; too many
    /// deliveries send it to the dead letters.
    Retry {
        /// When to deliver it again.
        after: Option<Duration>,
    },
    /// No repetition can help. The message goes to the dead letters.
    Poison {
        /// Why, from the closed table.
        reason: Reason,
        /// Which field or check; never a secret.
        detail: String,
    },
}

impl Outcome {
    /// A label for metrics; empty = none.
    const fn failure(&self) -> &'static str {
        match self {
            Self::Done => "",
            Self::Retry { .. } => "retry",
            Self::Poison { reason, .. } => reason.label(),
        }
    }
}

/// Handles the messages of one queue. A closure `Fn(Delivery<E>) -> impl Future<Output = Outcome>` is one.
pub trait Handler<E>: Send + Sync + 'static {
    /// Does the effect. Must be idempotent by the event's own identity: a message can come twice.
    fn handle(&self, delivery: Delivery<E>) -> impl Future<Output = Outcome> + Send;

    /// Told of every message that goes to the dead letters, before it leaves the queue: write the audit record here.
    /// `false` means it could not be recorded: the message then stays and comes back.
    fn buried(&self, letter: &DeadLetter) -> impl Future<Output = bool> + Send {
        let _ = letter;
        std::future::ready(true)
    }
}

impl<E, H, F> Handler<E> for H
where
    E: Send + 'static,
    H: Fn(Delivery<E>) -> F + Send + Sync + 'static,
    F: Future<Output = Outcome> + Send,
{
    fn handle(&self, delivery: Delivery<E>) -> impl Future<Output = Outcome> + Send {
        self(delivery)
    }
}

impl Bus {
    /// Handles messages of `durable` with at most `workers` at a time, until `cancel` ends; then finishes what is under
    /// way and returns. A consumer that vanished, or is not there yet, is opened again for as long as it takes.
    pub async fn consume<E, H>(&self, durable: &'static str, workers: usize, cancel: impl Future<Output = ()>, handler: H)
    where
        E: Event + 'static,
        H: Handler<E>,
    {
        let queue = Arc::new(Queue {
            bus: self.clone(),
            durable,
            handler,
            permits: Arc::new(Semaphore::new(workers)),
            _event: std::marker::PhantomData,
        });
        let (mut messages, mut under_way) = (None, JoinSet::new());
        tokio::select! {
            () = queue.pull_for_ever(workers, &mut messages, &mut under_way) => {}
            () = cancel => {}
        }
        if let Some(messages) = messages {
            give_back(messages).await;
        }
        while under_way.join_next().await.is_some() {}
    }
}

/// Messages as they are pulled.
type Messages = jetstream::consumer::pull::Stream;

struct Queue<E, H> {
    bus: Bus,
    durable: &'static str,
    handler: H,
    permits: Arc<Semaphore>,
    _event: std::marker::PhantomData<fn() -> E>,
}

impl<E: Event + 'static, H: Handler<E>> Queue<E, H> {
    /// `messages` is where the open stream is, so that what it has fetched can be given back.
    async fn pull_for_ever(self: &Arc<Self>, workers: usize, messages: &mut Option<Messages>, under_way: &mut JoinSet<()>) {
        let mut delay = Duration::from_millis(50);
        loop {
            match self.open(workers).await {
                Ok(opened) => {
                    delay = Duration::from_millis(50);
                    self.pull(messages.insert(opened), under_way).await;
                    tracing::error!(durable = self.durable, "the consumer vanished; opening it again");
                }
                Err(detail) => tracing::warn!(durable = self.durable, detail, "the consumer cannot be opened yet"),
            }
            tokio::time::sleep(jittered(delay)).await;
            delay = (delay * 2).min(REOPEN_DELAY_MAX);
        }
    }

    async fn open(&self, workers: usize) -> Result<Messages, String> {
        let consumer: PullConsumer =
            self.bus.jetstream.get_consumer_from_stream(self.durable, E::KIND.stream.name()).await.map_err(|error| error.to_string())?;
        let stream = consumer.stream().max_messages_per_batch(prefetch(workers)).expires(PULL_EXPIRES).heartbeat(PULL_HEARTBEAT);
        stream.messages().await.map_err(|error| error.to_string())
    }

    /// Returns when the stream of messages ends. Takes a message only when there is a worker for it.
    async fn pull(self: &Arc<Self>, messages: &mut Messages, under_way: &mut JoinSet<()>) {
        while let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await {
            let Some(next) = messages.next().await else { return };
            while under_way.try_join_next().is_some() {}
            match next {
                Ok(message) => {
                    under_way.spawn(Arc::clone(self).process(message, permit));
                }
                Err(error) if error.kind() == jetstream::consumer::pull::MessagesErrorKind::ConsumerDeleted => return,
                // A missed heartbeat while the server restarts: the stream goes on by itself.
                Err(error) => tracing::warn!(durable = self.durable, %error, "pulling was interrupted"),
            }
        }
    }

    async fn process(self: Arc<Self>, message: jetstream::Message, permit: OwnedSemaphorePermit) {
        let Ok(info) = message.info() else {
            tracing::warn!(durable = self.durable, "dropped a message without delivery information");
            return;
        };
        let (sequence, delivery) = (info.stream_sequence, u32::try_from(info.delivered).unwrap_or(u32::MAX));
        let span = headers::consumer_span(
            &message.subject,
            &E::subject_template(),
            E::KIND.stream.name(),
            self.durable,
            delivery,
            message.headers.as_ref(),
        );
        async {
            let started = Instant::now();
            let outcome = self.outcome(&message, sequence, delivery).await;
            metrics::handled(&E::subject_template(), outcome.failure(), started.elapsed());
            self.settle(&message, sequence, delivery, outcome).await;
        }
        .instrument(span)
        .await;
        drop(permit);
    }

    async fn outcome(&self, message: &jetstream::Message, sequence: u64, delivery: u32) -> Outcome {
        if delivery > DELIVERIES_MAX {
            // Whoever had it before never came to an end: it may be what kills workers. It is buried unopened.
            return Outcome::Retry { after: None };
        }
        let (event, identity) = match decode::<E>(message) {
            Ok(decoded) => decoded,
            Err((reason, detail)) => return Outcome::Poison { reason, detail: detail.to_owned() },
        };
        let handled = self.handler.handle(Delivery { event, identity, delivery, sequence });
        let handled = std::panic::AssertUnwindSafe(handled).catch_unwind();
        tokio::select! {
            handled = handled => handled.unwrap_or_else(|_| {
                tracing::error!(durable = self.durable, "handling a message panicked");
                Outcome::Retry { after: None }
            }),
            never = keep_alive(message) => match never {},
        }
    }

    async fn settle(&self, message: &jetstream::Message, sequence: u64, delivery: u32, outcome: Outcome) {
        match outcome {
            Outcome::Done => acknowledge(message).await,
            Outcome::Retry { after } if delivery < DELIVERIES_MAX => {
                negative_acknowledge(message, after.unwrap_or_else(|| backoff(delivery))).await;
            }
            Outcome::Retry { .. } => {
                let detail = format!("given up after {delivery} deliveries");
                self.bury(message, sequence, delivery, Reason::DeadlineExceeded, detail).await;
            }
            Outcome::Poison { reason, detail } => self.bury(message, sequence, delivery, reason, detail).await,
        }
    }

    /// Copy first, then terminate: the other way round the message would be gone if we died in between.
    async fn bury(&self, message: &jetstream::Message, sequence: u64, delivery: u32, reason: Reason, detail: String) {
        tracing::warn!(durable = self.durable, sequence, keyferry.reason = reason.label(), detail, "a message goes to the dead letters");
        let letter = DeadLetter {
            stream: E::KIND.stream.name().to_owned(),
            subject: message.subject.to_string(),
            sequence,
            deliveries: delivery,
            reason,
            detail,
            body: message.payload.clone(),
        };
        let stored = self.bus.publish_dead_letter(&letter, message.headers.as_ref()).await;
        if let Err(error) = &stored {
            tracing::error!(%error, "a dead letter could not be stored; the message stays in its queue");
        }
        if stored.is_ok() && self.handler.buried(&letter).await {
            terminate(message, reason).await;
        } else {
            negative_acknowledge(message, backoff(delivery)).await;
        }
    }
}

/// Messages that were fetched and not begun go to another replica at once, instead of after the ack wait. The stream goes
/// first: the server would send them to its open request.
async fn give_back(mut messages: Messages) {
    let mut fetched = Vec::new();
    while let Some(Some(next)) = messages.next().now_or_never() {
        fetched.extend(next);
    }
    drop(messages);
    for message in fetched {
        negative_acknowledge(&message, Duration::ZERO).await;
    }
}

/// Enough to keep the workers busy, little enough that a dead worker holds few messages.
fn prefetch(workers: usize) -> usize {
    workers.saturating_mul(2).clamp(2, 64)
}

fn backoff(delivery: u32) -> Duration {
    let step = usize::try_from(delivery).unwrap_or(BACKOFF.len()).saturating_sub(1);
    jittered(BACKOFF[step.min(BACKOFF.len() - 1)])
}

/// The event and its identity, if the body is the contract's and agrees with the subject.
pub(crate) fn decode<E: Event>(message: &async_nats::Message) -> Result<(E, TdId), (Reason, &'static str)> {
    let event = E::decode(message.payload.clone()).map_err(|_| (Reason::RequestMalformed, "the body is no message of this type"))?;
    let last = message.subject.rsplit('.').next().unwrap_or_default();
    let identity = TdId::parse(last).map_err(|_| (Reason::RequestMalformed, "the subject ends in no identity"))?;
    if event.identity() == identity.as_str() {
        Ok((event, identity))
    } else {
        Err((Reason::SubjectMismatch, "the identity in the body is not the one in the subject"))
    }
}

/// Tells the server, for as long as it is polled, that the message is still being worked on.
async fn keep_alive(message: &jetstream::Message) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(ACK_WAIT / 3).await;
        if let Err(error) = message.ack_with(AckKind::Progress).await {
            tracing::debug!(%error, "progress was not reported");
        }
    }
}

async fn acknowledge(message: &jetstream::Message) {
    for _ in 0..ACK_ATTEMPTS {
        match message.double_ack().await {
            Ok(()) => return,
            Err(error) => tracing::warn!(%error, "an acknowledgement was not confirmed; repeating it"),
        }
        tokio::time::sleep(jittered(Duration::from_millis(200))).await;
    }
}

async fn negative_acknowledge(message: &jetstream::Message, after: Duration) {
    if let Err(error) = message.ack_with(AckKind::Nak(Some(after))).await {
        tracing::warn!(%error, "a negative acknowledgement was not sent; the message comes back after the ack wait");
    }
}

/// The client's own `Term` carries no reason; the server puts ours into its advisory.
async fn terminate(message: &jetstream::Message, reason: Reason) {
    let Some(reply) = message.reply.clone() else { return };
    let term = bytes::Bytes::from(format!("+TERM {}", reason.label()));
    if let Err(error) = message.context.client().publish(reply, term).await {
        tracing::warn!(%error, "a termination was not sent; the message comes back after the ack wait");
    }
}
