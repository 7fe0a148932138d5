//! In whose name a call is made.

use std::sync::Arc;

use serde::Deserialize;

use super::{
    VaultEngine,
    http::{Answer, Call},
    json,
    kv::{NO_ENGINE, OTHER_ENGINE},
    login::Credential,
    session::Session,
};
use crate::KmsError;

/// The broker's session, or the token that one TD's attestation gave.
pub(crate) enum Asker {
    Session(Arc<Session>),
    Attested(Box<Credential>),
}

impl Asker {
    /// Makes a call. 403 has become an error; 400, 404 and 405 are for the engine to read.
    pub(crate) async fn call(&self, call: &Call) -> Result<Answer, KmsError> {
        match self {
            Self::Session(session) => session.call(call).await,
            Self::Attested(credential) => {
                let answer = credential.send(call).await?;
                if answer.forbidden() { Err(KmsError::Denied) } else { Ok(answer) }
            }
        }
    }

    /// What a 404 means: no such key, or no such engine. An engine says nothing of a key that it does not have.
    pub(crate) async fn why_absent(&self, answer: &Answer, mount: &str, wanted: VaultEngine) -> KmsError {
        #[derive(Deserialize)]
        struct Told {
            errors: Vec<serde::de::IgnoredAny>,
        }
        let otherwise = match json::read_plain::<Told>(&answer.body) {
            Some(Told { errors }) if errors.is_empty() => KmsError::KeyNotFound,
            _ => NO_ENGINE,
        };
        self.engine_error(mount, wanted).await.unwrap_or(otherwise)
    }

    /// Whether the mount is another engine than the configured one. Asked when a key is not found and before one is
    /// written, because a path of another engine looks the same.
    pub(crate) async fn engine_error(&self, mount: &str, wanted: VaultEngine) -> Option<KmsError> {
        #[derive(Deserialize)]
        struct Mount {
            r#type: String,
            #[serde(default)]
            options: Option<Options>,
        }
        #[derive(Deserialize)]
        struct Options {
            #[serde(default)]
            version: Option<String>,
        }
        if matches!(self, Self::Attested(_)) {
            return None; // its token is for one read, and that is spent
        }
        let answer = self.call(&Call::get(format!("sys/internal/ui/mounts/{mount}"))).await.ok()?;
        if answer.not_found() {
            return Some(NO_ENGINE);
        }
        let Mount { r#type, options } = json::data(&answer.body).ok()?;
        let versioned = options.and_then(|options| options.version).as_deref() == Some("2");
        let found = match r#type.as_str() {
            "kv" if versioned => Some(VaultEngine::Kv2),
            "kv" => Some(VaultEngine::Kv1),
            "transit" => Some(VaultEngine::Transit),
            _ => None,
        };
        (found != Some(wanted)).then_some(OTHER_ENGINE)
    }
}
