//! The two peers of a TD: its attester, over a Unix socket of the same machine, and the key broker, over TLS 1.3.

use std::{path::Path, time::Duration};

use keyferry_contract::{
    Reason, TOKEN_BYTES_MAX,
    attestation::v1::{Evidence, GetEvidenceRequest, GetTokenRequest, VerifierNonce, attester_client::AttesterClient},
    release::v1::{GetNonceRequest, TransferKeyRequest, key_broker_client::KeyBrokerClient, transfer_key_request::Credential},
};
use keyferry_identifiers::{KeyId, ReleaseId};
use keyferry_telemetry::{GrpcService, grpc_client_layer};
use keyferry_tls::TlsError;
use rustls::ClientConfig;
use tonic::{Request, Response, Status, transport::Channel};
use tower::Layer;

use crate::{Refusal, key_pairs::SentKey, refusal::Peer};

/// What the attester may answer: the longest token, or the largest evidence, with what is around it.
const ANSWER_BYTES_MAX: usize = TOKEN_BYTES_MAX + 64 * 1024;

type Traced = GrpcService<Channel>;

/// The attester of this TD.
pub(crate) struct Attester {
    client: AttesterClient<Traced>,
    within: Duration,
}

impl Attester {
    /// Connects at the first call. `within` bounds a call, the verifier's work included.
    pub(crate) fn new(socket: &Path, within: Duration) -> Self {
        let channel = keyferry_tls::grpc_unix_channel(socket);
        let traced = grpc_client_layer(&socket.display().to_string()).layer(channel);
        Self { client: AttesterClient::new(traced).max_decoding_message_size(ANSWER_BYTES_MAX), within }
    }

    /// A token that binds `user_data` to this TD.
    pub(crate) async fn token(&self, user_data: Vec<u8>) -> Result<String, Refusal> {
        let request = GetTokenRequest { user_data, policy_ids: Vec::new() };
        let mut client = self.client.clone();
        let answer = bounded(Peer::Attester, self.within, request, |request| client.get_token(request)).await?;
        if answer.token.is_empty() || answer.token.len() > TOKEN_BYTES_MAX {
            return Err(Refusal::new(Reason::TokenMalformed, "the attester answers without a token, or with one that is too long"));
        }
        Ok(answer.token)
    }

    /// Evidence that binds `user_data` and the relying party's nonce to this TD.
    pub(crate) async fn evidence(&self, user_data: Vec<u8>, nonce: VerifierNonce) -> Result<Evidence, Refusal> {
        let request = GetEvidenceRequest { user_data, nonce: Some(nonce) };
        let mut client = self.client.clone();
        let answer = bounded(Peer::Attester, self.within, request, |request| client.get_evidence(request)).await?;
        answer.evidence.ok_or_else(|| Refusal::new(Reason::QuoteMalformed, "the attester answers without evidence"))
    }
}

/// The key broker.
pub(crate) struct KeyBroker {
    client: KeyBrokerClient<Traced>,
    within: Duration,
}

/// A key that left the broker, wrapped for one of our key pairs.
pub(crate) struct Released {
    pub(crate) key: SentKey,
    /// The broker's audit record; empty if it gave none that parses.
    pub(crate) release_id: String,
}

impl KeyBroker {
    /// Connects at the first call, to nobody but who has a certificate under the pinned roots.
    pub(crate) fn new(url: &str, tls: &ClientConfig, within: Duration) -> Result<Self, TlsError> {
        let traced = grpc_client_layer(url).layer(keyferry_tls::grpc_channel(url, tls)?);
        Ok(Self { client: KeyBrokerClient::new(traced), within })
    }

    /// A nonce of the broker's verifier, for background-check mode.
    pub(crate) async fn nonce(&self) -> Result<VerifierNonce, Refusal> {
        let mut client = self.client.clone();
        let answer = bounded(Peer::KeyBroker, self.within, GetNonceRequest {}, |request| client.get_nonce(request)).await?;
        answer.nonce.ok_or_else(|| Refusal::new(Reason::NonceMissing, "the key broker answers without a nonce"))
    }

    /// The key, wrapped for the public key in the credential.
    pub(crate) async fn transfer(&self, key_id: KeyId, credential: Credential) -> Result<Released, Refusal> {
        let request = TransferKeyRequest { key_id: key_id.to_string(), credential: Some(credential) };
        let mut client = self.client.clone();
        let answer = bounded(Peer::KeyBroker, self.within, request, |request| client.transfer_key(request)).await?;
        let release_id = ReleaseId::parse(&answer.release_id).map(|id| id.to_string()).unwrap_or_default();
        let key = SentKey::from_members(answer.wrapped_key, answer.wrapped_swk, answer.kms_wrapped_key)?;
        Ok(Released { key, release_id })
    }
}

/// One call with a deadline that both ends know.
async fn bounded<Q, A, F>(peer: Peer, within: Duration, request: Q, call: impl FnOnce(Request<Q>) -> F) -> Result<A, Refusal>
where
    F: Future<Output = Result<Response<A>, Status>>,
{
    let mut request = Request::new(request);
    request.set_timeout(within);
    match tokio::time::timeout(within, call(request)).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(Refusal::from_status(peer, &status)),
        Err(_elapsed) => Err(Refusal::from_status(peer, &Status::deadline_exceeded(""))),
    }
}
