//! Asking over the bus: one request, one answer.

use std::time::{Duration, Instant};

use async_nats::{HeaderMap, Message, Request, client::RequestErrorKind};
use bytes::Bytes;
use keyferry_contract::{CONTENT_TYPE, Reason, Rpc};
use prost::Name;
use tracing::Instrument;

use crate::{
    Bus,
    connection::{ACK_TIMEOUT, jittered},
    headers,
    service::{ERROR_CODE, ERROR_TEXT},
};

/// How long a store is asked before it counts as unavailable.
const ASK_WITHIN: Duration = Duration::from_secs(8);
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Nobody serves this method now.
    #[error("nobody answers {method} on the bus: start the service, or wait until it is ready")]
    NoResponders {
        /// The method.
        method: &'static str,
    },
    /// No answer in time.
    #[error("{method} was not answered within {milliseconds} ms")]
    TimedOut {
        /// The method.
        method: &'static str,
        /// How long we waited.
        milliseconds: u128,
    },
    /// The service refused.
    #[error("{method} refused: {reason}")]
    Refused {
        /// The method.
        method: &'static str,
        /// Why.
        reason: Reason,
    },
    /// The answer is not what the contract says.
    #[error("{method} answered something that is not in the contract")]
    Malformed {
        /// The method.
        method: &'static str,
    },
    /// The connection failed.
    #[error("{method}: the bus failed ({detail})")]
    Bus {
        /// The method.
        method: &'static str,
        /// What the client said.
        detail: String,
    },
}

impl Bus {
    /// Asks and waits for the answer, at most `within`. An answer proves nothing about who gave it.
    pub async fn request<Q: Name, A: Name + Default>(&self, rpc: Rpc, question: &Q, within: Duration) -> Result<A, RequestError> {
        let method = rpc.span_name();
        let body = question.encode_to_vec();
        let ask = async {
            let mut headers = HeaderMap::new();
            headers::describe(&mut headers, CONTENT_TYPE, &Q::full_name());
            headers::inject(&mut headers);
            let request = Request::new().headers(headers).payload(body.into()).timeout(Some(within));
            self.client.send_request(rpc.subject(), request).await
        };
        let answer = ask.instrument(headers::client_span(method)).await.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => RequestError::NoResponders { method },
            RequestErrorKind::TimedOut => RequestError::TimedOut { method, milliseconds: within.as_millis() },
            _ => RequestError::Bus { method, detail: error.to_string() },
        })?;
        if let Some(reason) = refusal(&answer) {
            return Err(RequestError::Refused { method, reason });
        }
        A::decode(answer.payload).map_err(|_| RequestError::Malformed { method })
    }

    /// Asks a server API again and again until it answers: after a restart JetStream is silent for a while.
    pub(crate) async fn ask_repeatedly(&self, subject: &str, payload: Bytes) -> Result<Message, String> {
        let started = Instant::now();
        loop {
            let request = Request::new().payload(payload.clone()).timeout(Some(ACK_TIMEOUT));
            let error = match self.client.send_request(subject.to_owned(), request).await {
                Ok(message) => return Ok(message),
                Err(error) => error,
            };
            if started.elapsed() + RETRY_DELAY >= ASK_WITHIN {
                return Err(error.to_string());
            }
            tokio::time::sleep(jittered(RETRY_DELAY)).await;
        }
    }
}

fn refusal(answer: &Message) -> Option<Reason> {
    let headers = answer.headers.as_ref()?;
    headers.get(ERROR_CODE)?;
    Some(headers.get(ERROR_TEXT).and_then(|text| Reason::from_label(text.as_str())).unwrap_or(Reason::Internal))
}
