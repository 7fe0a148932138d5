//! The gRPC surface on the Unix socket.

use std::sync::Arc;
use std::time::Duration;

use keyferry_contract::attestation::v1::attester_server::{Attester, AttesterServer};
use keyferry_contract::attestation::v1::{GetEvidenceRequest, GetEvidenceResponse, GetTokenRequest, GetTokenResponse};
use keyferry_contract::{DESCRIPTORS, Reason, USER_DATA_BYTES_MAX};
use keyferry_telemetry::{Trust, grpc_server_layer};
use prost_types::Timestamp;
use tokio::net::UnixListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tower::util::MapResponseLayer;

use crate::Refusal;
use crate::attestation::Attestations;
use crate::peers::Callers;

/// Larger requests are not decoded. Well over every bound of the contract, so that those refuse by name.
const REQUEST_BYTES_MAX: usize = 2 * USER_DATA_BYTES_MAX;
/// Calls of one connection at the same time; each may hold a request. Callers are few, local, and known by their user ids.
const CALLS_MAX: u32 = 64;
/// What is kept of a caller's deadline for the way back: at most this much.
const WAY_BACK: Duration = Duration::from_millis(100);

/// Serves until `stop`, then finishes the calls under way.
pub(crate) async fn serve(
    listener: UnixListener,
    callers: Callers,
    attestations: Arc<Attestations>,
    within_max: Duration,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let (health_reporter, health) = tonic_health::server::health_reporter();
    let api = AttesterServer::new(Api { attestations, within_max }).max_decoding_message_size(REQUEST_BYTES_MAX);
    health_reporter.set_serving::<AttesterServer<Api>>().await;
    let reflection = tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(DESCRIPTORS).build_v1().ok();
    Server::builder()
        .max_concurrent_streams(CALLS_MAX)
        .layer(grpc_server_layer(Trust::Adopt))
        .layer(MapResponseLayer::new(with_reason))
        .add_service(api)
        .add_service(health)
        .add_optional_service(reflection)
        .serve_with_incoming_shutdown(callers.incoming(listener), stop.cancelled_owned())
        .await
}

/// tonic refuses a message over its bound before the API sees it; the caller learns the reason as with any other refusal.
fn with_reason(response: http::Response<Body>) -> http::Response<Body> {
    // `Code::OutOfRange` as it is written: nothing of ours answers it.
    let refused_unread = response.headers().get(Status::GRPC_STATUS).is_some_and(|code| code == "11");
    if !refused_unread {
        return response;
    }
    let detail = format!("the request has more than {REQUEST_BYTES_MAX} bytes: user_data may have {USER_DATA_BYTES_MAX}");
    Refusal::new(Reason::RequestTooLarge, detail).status().into_http()
}

struct Api {
    attestations: Arc<Attestations>,
    within_max: Duration,
}

#[tonic::async_trait]
impl Attester for Api {
    async fn get_token(&self, request: Request<GetTokenRequest>) -> Result<Response<GetTokenResponse>, Status> {
        let deadline = self.deadline(request.metadata());
        let GetTokenRequest { user_data, policy_ids } = request.into_inner();
        let attested = self.attestations.token(user_data, policy_ids, deadline).await.map_err(|refusal| {
            tracing::warn!(keyferry.reason = refusal.reason.label(), "no token: {}", refusal.detail);
            refusal.status()
        })?;
        let expires_at = i64::try_from(attested.token.token.expires_at()).unwrap_or(i64::MAX);
        let token_id = attested.token.token.token_id();
        tracing::info!(keyferry.token.id = token_id, keyferry.attestation.id = %attested.attestation_id, "token obtained");
        Ok(Response::new(GetTokenResponse {
            attestation_id: attested.attestation_id.to_string(),
            expires_at: Some(Timestamp { seconds: expires_at, nanos: 0 }),
            token: attested.token.jwt,
        }))
    }

    async fn get_evidence(&self, request: Request<GetEvidenceRequest>) -> Result<Response<GetEvidenceResponse>, Status> {
        let deadline = self.deadline(request.metadata());
        let GetEvidenceRequest { user_data, nonce } = request.into_inner();
        let evidence = self.attestations.evidence_for(user_data, nonce, deadline).await.map_err(|refusal| {
            tracing::warn!(keyferry.reason = refusal.reason.label(), "no evidence: {}", refusal.detail);
            refusal.status()
        })?;
        Ok(Response::new(GetEvidenceResponse { evidence: Some(evidence) }))
    }
}

impl Api {
    /// The caller's deadline, a little earlier so that our answer with its reason still gets there; ours if it has none.
    fn deadline(&self, metadata: &MetadataMap) -> Instant {
        let asked = metadata.get("grpc-timeout").and_then(|value| value.to_str().ok()).and_then(timeout);
        let within = asked.map_or(self.within_max, |asked| asked.saturating_sub(WAY_BACK.min(asked / 5)).min(self.within_max));
        Instant::now() + within
    }
}

/// gRPC's `grpc-timeout`: at most eight digits and a unit.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let amount: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(timeout("5S"), Some(Duration::from_secs(5)));
        assert_eq!(timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(timeout("2H"), Some(Duration::from_hours(2)));
        for nonsense in ["", "S", "5", "5X", "-5S", "123456789S", "5é"] {
            assert_eq!(timeout(nonsense), None, "{nonsense}");
        }
    }
}
