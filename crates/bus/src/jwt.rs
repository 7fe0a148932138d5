//! NATS JWTs: ed25519 over base64url, signed by nkeys. See the NATS documentation, "JSON Web Tokens".

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use nkeys::KeyPair;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::OperatorError;

/// Exactly what the server wants: typ and alg, in this spelling.
const HEADER: &str = r#"{"typ":"JWT","alg":"ed25519-nkey"}"#;

/// What every claim set has.
pub(crate) struct Claims<'a> {
    /// Whom it is about: a public nkey.
    pub(crate) subject: &'a str,
    /// For people.
    pub(crate) name: &'a str,
    /// Unix seconds.
    pub(crate) issued_at: u64,
    /// Unix seconds; none = for ever.
    pub(crate) expires_at: Option<u64>,
    /// The `nats` member, without `version`.
    pub(crate) nats: Value,
}

impl Claims<'_> {
    /// The compact JWT.
    pub(crate) fn sign(&self, signer: &KeyPair) -> Result<String, OperatorError> {
        let mut nats = self.nats.clone();
        nats["version"] = json!(2);
        let mut claims = Map::new();
        claims.insert("iss".into(), json!(signer.public_key()));
        claims.insert("sub".into(), json!(self.subject));
        claims.insert("name".into(), json!(self.name));
        claims.insert("iat".into(), json!(self.issued_at));
        if let Some(expires_at) = self.expires_at {
            claims.insert("exp".into(), json!(expires_at));
        }
        claims.insert("nats".into(), nats);
        let digest = Sha256::digest(Value::Object(claims.clone()).to_string());
        claims.insert("jti".into(), json!(hex::encode(digest)));
        let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(HEADER), URL_SAFE_NO_PAD.encode(Value::Object(claims).to_string().as_bytes()));
        let signature = signer.sign(text.as_bytes()).map_err(|_| OperatorError::Signing)?;
        Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// The claims of a JWT, its signature unchecked: for reading our own credentials, never for a decision.
pub(crate) fn claims(jwt: &str) -> Option<Value> {
    let payload = jwt.split('.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}
