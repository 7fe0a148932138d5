//! What an operator does once: a policy, a key, and the key's bytes to seal a model with.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use keyferry_contract::release::v1::{
    CreateKeyRequest, CreatePolicyRequest, ExportKeyRequest, KeyAlgorithm, key_administration_client::KeyAdministrationClient,
};
use keyferry_key_wrap::{ExportKeyPair, KeyMaterial};
use keyferry_tls::RootsConfig;
use tonic::{
    Request,
    metadata::{Ascii, MetadataValue},
    transport::Channel,
};

use crate::StartFailure;

/// The key broker's administrator, over gRPC.
pub struct Administrator {
    client: KeyAdministrationClient<Channel>,
    authorization: MetadataValue<Ascii>,
}

impl std::fmt::Debug for Administrator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Administrator(redacted)")
    }
}

impl Administrator {
    /// `url` is `https://host:port`; nothing is sent yet.
    pub fn new(url: &str, roots: &RootsConfig, username: &str, password: &str) -> Result<Self, StartFailure> {
        let tls = keyferry_tls::client_config(roots, false).map_err(|error| StartFailure::new(error.to_string(), "check the CA file"))?;
        let channel = keyferry_tls::grpc_channel(url, &tls).map_err(|error| StartFailure::new(error.to_string(), "check the URL"))?;
        let credential = format!("Basic {}", STANDARD.encode(format!("{username}:{password}")));
        let authorization = credential
            .parse()
            .map_err(|_| StartFailure::new("the administrator's name or password cannot be sent", "use printable characters"))?;
        Ok(Self { client: KeyAdministrationClient::new(channel), authorization })
    }

    /// Stores a policy document; its id.
    pub async fn create_policy(&mut self, document: &str) -> Result<String, StartFailure> {
        let request = self.request(CreatePolicyRequest { document: document.to_owned() });
        Ok(self.client.create_policy(request).await.map_err(|status| refused("create a policy", &status))?.into_inner().policy_id)
    }

    /// Makes an AES-256 key in the KMS under a policy; its id.
    pub async fn create_key(&mut self, policy_id: &str) -> Result<String, StartFailure> {
        let request = CreateKeyRequest {
            algorithm: KeyAlgorithm::Aes.into(),
            length_bits: 256,
            policy_id: policy_id.to_owned(),
            ..Default::default()
        };
        let request = self.request(request);
        Ok(self.client.create_key(request).await.map_err(|status| refused("create a key", &status))?.into_inner().key_id)
    }

    /// The key itself, wrapped on the way for a key pair that lives only here.
    pub async fn export_key(&mut self, key_id: &str) -> Result<KeyMaterial, StartFailure> {
        let unusable = |error: String| StartFailure::new(format!("the exported key cannot be opened: {error}"), "report this");
        let pair = tokio::task::spawn_blocking(|| ExportKeyPair::generate(2048)).await.map_err(|error| unusable(error.to_string()))?;
        let pair = pair.map_err(|error| unusable(error.to_string()))?;
        let request = self.request(ExportKeyRequest { key_id: key_id.to_owned(), public_key_pem: pair.public_pem() });
        let exported = self.client.export_key(request).await.map_err(|status| refused("export the key", &status))?.into_inner();
        pair.open(&exported.wrapped_key).map_err(|error| unusable(error.to_string()))
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.authorization.clone());
        request
    }
}

fn refused(what: &str, status: &tonic::Status) -> StartFailure {
    StartFailure::new(
        format!("key-release refused to {what}: {} ({:?})", status.message(), status.code()),
        "its log and the audit stream name the reason",
    )
}
