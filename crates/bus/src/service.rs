//! Answering over the bus, by the NATS services API: `nats micro ls` finds it.

use std::{collections::HashMap, future::Future, sync::Arc};

use async_nats::{
    HeaderMap,
    service::{self, ServiceExt, endpoint::Endpoint},
};
use futures::{FutureExt, StreamExt};
use keyferry_contract::{CONTENT_TYPE, Reason, Rpc};
use prost::Name;
use tokio::{sync::Semaphore, task::JoinSet};
use tracing::Instrument;

use crate::{Bus, headers};

pub(crate) const ERROR_CODE: &str = "Nats-Service-Error-Code";
pub(crate) const ERROR_TEXT: &str = "Nats-Service-Error";
/// Where answers may go: inboxes of our account, and the server's own reply subjects for imported requests. A reply
/// subject is never checked by the server against the asker's permissions, so it is checked here.
const REPLY_PREFIXES: [&str; 2] = ["_INBOX.", "_R_."];

/// Why requests are not served.
#[derive(Debug, thiserror::Error)]
#[error("the service {name} could not be registered on the bus: {detail}")]
pub struct ServeError {
    name: &'static str,
    detail: String,
}

/// One service with its endpoints. Dropping it stops answering.
pub struct RpcService {
    bus: Bus,
    service: service::Service,
    tasks: JoinSet<()>,
}

impl Bus {
    /// Registers this service; endpoints are added with [`RpcService::serve`].
    pub async fn rpc_service(&self, version: &str, description: &str) -> Result<RpcService, ServeError> {
        let builder = self.client.service_builder().description(description).metadata(HashMap::new());
        let service = builder.start(self.service, version).await;
        let service = service.map_err(|error| ServeError { name: self.service, detail: error.to_string() })?;
        Ok(RpcService { bus: self.clone(), service, tasks: JoinSet::new() })
    }
}

impl RpcService {
    /// Answers `rpc` with `handler`, at most `concurrency` at a time; what comes above that is refused as overloaded.
    pub async fn serve<Q, A, H, F>(&mut self, rpc: Rpc, concurrency: usize, handler: H) -> Result<(), ServeError>
    where
        Q: Name + Default + 'static,
        A: Name + 'static,
        H: Fn(Q) -> F + Send + Sync + 'static,
        F: Future<Output = Result<A, Reason>> + Send + 'static,
    {
        let subject = rpc.subject();
        let name = subject.rsplit('.').next().unwrap_or(subject);
        let endpoint = self.service.endpoint_builder().name(name).add(subject).await;
        let endpoint = endpoint.map_err(|error| ServeError { name: self.bus.service, detail: error.to_string() })?;
        self.tasks.spawn(answer_all(endpoint, rpc, concurrency, Arc::new(handler)));
        Ok(())
    }

    /// Leaves the bus and lets the answers under way finish.
    pub async fn stop(mut self) {
        if let Err(error) = self.service.stop().await {
            tracing::debug!(%error, "the service had already left the bus");
        }
        while self.tasks.join_next().await.is_some() {}
    }
}

impl std::fmt::Debug for RpcService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RpcService({})", self.bus.service)
    }
}

async fn answer_all<Q, A, H, F>(mut endpoint: Endpoint, rpc: Rpc, concurrency: usize, handler: Arc<H>)
where
    Q: Name + Default + 'static,
    A: Name + 'static,
    H: Fn(Q) -> F + Send + Sync + 'static,
    F: Future<Output = Result<A, Reason>> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(concurrency));
    let mut under_way = JoinSet::new();
    while let Some(request) = endpoint.next().await {
        while under_way.try_join_next().is_some() {}
        let reply = request.message.reply.as_deref().unwrap_or_default();
        if !REPLY_PREFIXES.iter().any(|prefix| reply.starts_with(prefix)) {
            tracing::warn!(method = rpc.span_name(), "refused to answer to a subject that is no inbox");
            continue;
        }
        let permit = Arc::clone(&permits).try_acquire_owned();
        let handler = Arc::clone(&handler);
        let span = headers::server_span(rpc.span_name(), request.message.headers.as_ref());
        let answer = async move {
            let answered = match permit {
                Ok(_permit) => answer_one(&request.message.payload, &*handler).await,
                Err(_full) => Err(Reason::Overloaded),
            };
            respond(&request, rpc, answered).await;
        };
        under_way.spawn(answer.instrument(span));
    }
    while under_way.join_next().await.is_some() {}
}

async fn answer_one<Q, A, H, F>(payload: &[u8], handler: &H) -> Result<A, Reason>
where
    Q: Name + Default,
    H: Fn(Q) -> F,
    F: Future<Output = Result<A, Reason>>,
{
    let question = Q::decode(payload).map_err(|_| Reason::RequestMalformed)?;
    let answered = std::panic::AssertUnwindSafe(handler(question)).catch_unwind().await;
    answered.unwrap_or_else(|_| {
        tracing::error!("answering a request panicked");
        Err(Reason::Internal)
    })
}

async fn respond<A: Name>(request: &service::Request, rpc: Rpc, answered: Result<A, Reason>) {
    let mut headers = HeaderMap::new();
    headers::describe(&mut headers, CONTENT_TYPE, &A::full_name());
    headers::inject(&mut headers);
    let response = match answered {
        Ok(answer) => Ok(answer.encode_to_vec().into()),
        Err(reason) => {
            tracing::info!(keyferry.decision = "denied", keyferry.reason = reason.label(), "refused a request on the bus");
            Err(service::error::Error { status: reason.label().to_owned(), code: reason.advice().http.into() })
        }
    };
    if let Err(error) = request.respond_with_headers(response, headers).await {
        tracing::warn!(%error, method = rpc.span_name(), "an answer could not be sent");
    }
}
