//! The back end for KMIP servers.

mod connector;
mod identity;
mod object;
mod pair;
mod pool;
mod server;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use keyferry_key_wrap::KeyMaterial;
use keyferry_kmip::{Request, RevocationReason};

use self::server::{Answer, Server, new_key, register};
use crate::{KeyDescription, KeyForm, KeyRef, KeySpec, KmipConfig, Kms, KmsError, Revocation, single_flight::SingleFlight};

/// Keys in a KMIP server.
///
/// Attributes and material of a key are read in one message, so that no change of state can come between them. RSA keys
/// are made by the server; elliptic curve keys too, where it can, and may be registered in any case.
pub struct KmipKms {
    server: Arc<Server>,
    fetches: SingleFlight<Result<Arc<KeyMaterial>, KmsError>>,
}

impl KmipKms {
    /// Reads certificates and password. Connects to nothing yet.
    pub fn new(config: &KmipConfig) -> Result<Self, KmsError> {
        Ok(Self { server: Arc::new(Server::new(config)?), fetches: SingleFlight::new() })
    }
}

impl fmt::Debug for KmipKms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KmipKms({}, KMIP {})", self.server.address, self.server.version())
    }
}

#[async_trait]
impl Kms for KmipKms {
    fn kind(&self) -> &'static str {
        "kmip"
    }

    async fn create(&self, spec: &KeySpec) -> Result<KeyRef, KmsError> {
        match spec.form() {
            KeyForm::Private => self.server.make_pair(spec).await,
            _ => self.server.make(Request::Create { key: new_key(spec) }, spec).await.map(|(key, _)| key),
        }
    }

    async fn register(&self, spec: &KeySpec, material: &KeyMaterial) -> Result<KeyRef, KmsError> {
        spec.check_material(material)?;
        let (key, answer) = match spec.form() {
            KeyForm::Private => self.server.register_pair(spec, material).await?,
            _ => self.server.make(register(spec, material), spec).await?,
        };
        if answer == Answer::FoundByName {
            let found = self.fetch(&key, spec).await?;
            if verify_slices_are_equal(found.expose(), material.expose()).is_err() {
                return Err(KmsError::KeyMismatch { field: "material under this name" });
            }
        }
        Ok(key)
    }

    async fn inspect(&self, key: &KeyRef) -> Result<KeyDescription, KmsError> {
        self.server.inspect(key).await
    }

    async fn fetch(&self, key: &KeyRef, spec: &KeySpec) -> Result<Arc<KeyMaterial>, KmsError> {
        let flight = format!("{:?}/{}/{}", spec.algorithm(), spec.length_bits(), key.as_str());
        let (server, key, spec) = (Arc::clone(&self.server), key.clone(), spec.clone());
        self.fetches.run(flight, move || async move { server.fetch(&key, &spec).await }).await
    }

    async fn revoke(&self, key: &KeyRef, why: Revocation) -> Result<(), KmsError> {
        let reason = match why {
            Revocation::Retired => RevocationReason::Superseded,
            Revocation::Compromised => RevocationReason::KeyCompromise,
        };
        self.server.change(Request::Revoke { id: key.object_id(), reason }, key).await
    }

    async fn destroy(&self, key: &KeyRef) -> Result<(), KmsError> {
        self.server.destroy(key).await
    }

    async fn health(&self) -> Result<(), KmsError> {
        self.server.health().await
    }
}
