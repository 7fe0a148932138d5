//! The back end for servers that speak Vault's API: OpenBao and HashiCorp Vault.
//!
//! Three engines hold keys: KV version 1 as Intel's KBS fills it, KV version 2, and transit. The server applies its own
//! policy in two ways that no other back end has: it can demand each TD's attestation token as the credential for the
//! key, and it can wrap the key for the TD so that the broker never sees it.

mod asker;
mod config;
mod entry;
mod http;
mod import;
mod json;
mod kv;
mod login;
mod reference;
mod session;
mod transit;

use std::{fmt, future::Future, sync::Arc};

use async_trait::async_trait;
pub use config::{VaultAppRole, VaultAttestation, VaultAuth, VaultCert, VaultConfig, VaultEngine, VaultJwt, VaultTimeouts};
use keyferry_key_wrap::KeyMaterial;
use tokio::time::timeout;

use self::{
    asker::Asker, config::configuration, http::Http, kv::Kv, login::Login, reference::Reference, session::Session, transit::Transit,
};
use crate::{
    AttestedTd, FetchedKey, KeyDescription, KeyRef, KeySpec, Kms, KmsError, Revocation, Stage, material::generate,
    single_flight::SingleFlight,
};

/// Keys in a Vault-API server.
pub struct VaultKms {
    server: Arc<Server>,
    fetches: SingleFlight<Result<Arc<KeyMaterial>, KmsError>>,
}

struct Server {
    http: Http,
    engine: Engine,
    kind: VaultEngine,
    /// For releases; `None` if each TD brings its token.
    releases: Option<Arc<Session>>,
    attestation: Option<VaultAttestation>,
    /// For everything else; `None` if there is no credential for it.
    administration: Option<Arc<Session>>,
    wrap_for_td: bool,
    timeouts: VaultTimeouts,
}

enum Engine {
    Kv(Kv),
    Transit(Transit),
}

impl VaultKms {
    /// Checks the settings and reads certificates. Connects to nothing and logs in nowhere yet.
    pub fn new(config: &VaultConfig) -> Result<Self, KmsError> {
        config.check()?;
        let (http, mount) = (Http::new(config)?, config.mount()?);
        let engine = match config.engine {
            VaultEngine::Kv1 => Engine::Kv(Kv::one(mount)),
            VaultEngine::Kv2 => Engine::Kv(Kv::two(mount)),
            VaultEngine::Transit => Engine::Transit(Transit::new(mount)),
        };
        let session = |auth| Ok::<_, KmsError>(Login::new(auth, config)?.map(|login| Session::new(login, http.clone())));
        let releases = session(&config.auth)?;
        let administration = match &config.administration {
            Some(auth) => session(auth)?,
            None => releases.clone(),
        };
        let attestation = match &config.auth {
            VaultAuth::Attestation(method) => {
                let mount = config::path("mount", &method.mount)?;
                Some(VaultAttestation { mount, role: method.role.clone() })
            }
            _ => None,
        };
        let (kind, wrap_for_td, timeouts) = (config.engine, config.wrap_for_td, config.timeouts);
        let server = Server { http, engine, kind, releases, attestation, administration, wrap_for_td, timeouts };
        Ok(Self { server: Arc::new(server), fetches: SingleFlight::new() })
    }

    /// One exchange for all who ask for the same key with the same session at the same moment.
    async fn fetch_shared(
        &self,
        who: &'static str,
        session: Arc<Session>,
        key: &KeyRef,
        spec: &KeySpec,
    ) -> Result<Arc<KeyMaterial>, KmsError> {
        let flight = format!("{who}/{:?}/{:?}/{}/{}", spec.algorithm(), spec.curve(), spec.length_bits(), key.as_str());
        let (server, key, spec) = (Arc::clone(&self.server), key.clone(), spec.clone());
        let fetch = move || async move { server.fetch(&Asker::Session(session), &key, &spec).await };
        self.fetches.run(flight, fetch).await
    }
}

impl fmt::Debug for VaultKms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VaultKms({}, {:?})", self.server.http.host(), self.server.kind)
    }
}

impl Server {
    async fn within<T>(&self, call: impl Future<Output = Result<T, KmsError>>) -> Result<T, KmsError> {
        timeout(self.timeouts.total, call).await.unwrap_or(Err(KmsError::Timeout(Stage::Total)))
    }

    fn administrator(&self) -> Result<Asker, KmsError> {
        let session = self.administration.as_ref().ok_or_else(|| {
            configuration("administration", "the broker has no credential of its own for this: set one beside auth.attestation")
        })?;
        Ok(Asker::Session(Arc::clone(session)))
    }

    async fn fetch(&self, asker: &Asker, key: &KeyRef, spec: &KeySpec) -> Result<Arc<KeyMaterial>, KmsError> {
        self.within(async {
            match &self.engine {
                Engine::Kv(kv) => kv.fetch(asker, key, spec).await,
                Engine::Transit(transit) => transit.fetch(asker, key, spec).await,
            }
        })
        .await
    }

    /// In whose name a key is released to this TD.
    async fn releaser(&self, key: &KeyRef, td: &AttestedTd) -> Result<Asker, KmsError> {
        match (&self.releases, &self.attestation) {
            (Some(session), _) => Ok(Asker::Session(Arc::clone(session))),
            (None, Some(method)) => {
                let id = Reference::parse(self.kind, key)?.id;
                self.within(login::attest(&self.http, method, id, &td.token)).await.map(|credential| Asker::Attested(Box::new(credential)))
            }
            (None, None) => Err(KmsError::KeyNotReleasable),
        }
    }
}

#[async_trait]
impl Kms for VaultKms {
    fn kind(&self) -> &'static str {
        "vault"
    }

    async fn create(&self, spec: &KeySpec) -> Result<KeyRef, KmsError> {
        let (server, asker) = (&self.server, self.server.administrator()?);
        match &server.engine {
            Engine::Kv(kv) => {
                let material = generate(spec).await?;
                server.within(kv.register(&asker, spec, &material)).await
            }
            Engine::Transit(transit) => server.within(transit.create(&asker, spec)).await,
        }
    }

    async fn register(&self, spec: &KeySpec, material: &KeyMaterial) -> Result<KeyRef, KmsError> {
        spec.check_material(material)?;
        let (server, asker) = (&self.server, self.server.administrator()?);
        server
            .within(async {
                match &server.engine {
                    Engine::Kv(kv) => kv.register(&asker, spec, material).await,
                    Engine::Transit(transit) => transit.register(&asker, spec, material).await,
                }
            })
            .await
    }

    async fn inspect(&self, key: &KeyRef) -> Result<KeyDescription, KmsError> {
        let (server, asker) = (&self.server, self.server.administrator()?);
        server
            .within(async {
                match &server.engine {
                    Engine::Kv(kv) => kv.inspect(&asker, key).await,
                    Engine::Transit(transit) => transit.inspect(&asker, key).await,
                }
            })
            .await
    }

    async fn fetch(&self, key: &KeyRef, spec: &KeySpec) -> Result<Arc<KeyMaterial>, KmsError> {
        let session = self.server.administration.clone().ok_or(KmsError::KeyNotReleasable)?;
        self.fetch_shared("administration", session, key, spec).await
    }

    async fn release(&self, key: &KeyRef, spec: &KeySpec, td: &AttestedTd) -> Result<FetchedKey, KmsError> {
        let server = &self.server;
        match (&server.engine, &server.releases) {
            (Engine::Transit(transit), _) if server.wrap_for_td => {
                let asker = server.releaser(key, td).await?;
                transit.wrap(asker, key, spec, td, server.timeouts.total).await.map(FetchedKey::WrappedForTd)
            }
            // Never shared: what one TD's token opens is for that TD.
            (_, None) => server.fetch(&server.releaser(key, td).await?, key, spec).await.map(FetchedKey::Material),
            (_, Some(session)) => self.fetch_shared("release", Arc::clone(session), key, spec).await.map(FetchedKey::Material),
        }
    }

    fn releases_unseen(&self) -> bool {
        self.server.wrap_for_td
    }

    async fn revoke(&self, key: &KeyRef, why: Revocation) -> Result<(), KmsError> {
        let (server, asker) = (&self.server, self.server.administrator()?);
        server
            .within(async {
                match &server.engine {
                    Engine::Kv(kv) => kv.revoke(&asker, key, why).await,
                    Engine::Transit(transit) => transit.revoke(&asker, key).await,
                }
            })
            .await
    }

    async fn destroy(&self, key: &KeyRef) -> Result<(), KmsError> {
        let (server, asker) = (&self.server, self.server.administrator()?);
        server
            .within(async {
                match &server.engine {
                    Engine::Kv(kv) => kv.destroy(&asker, key).await,
                    Engine::Transit(transit) => transit.destroy(&asker, key).await,
                }
            })
            .await
    }

    /// The server's own word, which needs no token: whether it is initialised, unsealed and active, or a standby that
    /// forwards.
    async fn health(&self) -> Result<(), KmsError> {
        let status = self.server.within(self.server.http.status("sys/health?standbyok=true&perfstandbyok=true")).await?;
        match status {
            200..=299 => Ok(()),
            501 | 503 => Err(KmsError::Sealed),
            429 => Err(KmsError::Throttled),
            472 | 500..=599 => Err(KmsError::Internal),
            _ => Err(KmsError::Protocol("it has no health under this URL: check url")),
        }
    }
}
