//! The KMS of a stack: as it is started, as key-release is told about it, and as `stack.json` shows it.

use std::path::Path;

use serde_json::{Value, json};

use super::{KmsDescription, KmsKind};
use crate::{
    StartFailure,
    openbao::{AppRole, OpenBao},
    private_directory,
    pykmip::{Profile, Pykmip},
};

/// A running server with keys in it. Dropping it kills it.
#[derive(Debug)]
pub enum KmsServer {
    /// Speaks KMIP.
    Pykmip(Box<Pykmip>),
    /// Speaks Vault's API.
    Openbao(Box<OpenBao>),
}

impl KmsServer {
    /// Ends it at once.
    pub async fn kill(&mut self) {
        match self {
            Self::Pykmip(server) => server.kill().await,
            Self::Openbao(server) => server.kill().await,
        }
    }
}

pub(super) struct Kms {
    pub(super) server: Option<KmsServer>,
    pub(super) settings: Value,
    pub(super) description: KmsDescription,
}

impl Kms {
    pub(super) async fn start(directory: &Path, kind: KmsKind) -> Result<Self, StartFailure> {
        let directory = directory.join("kms");
        match kind {
            KmsKind::Dev => {
                private_directory(&directory)?;
                let file = directory.join("keys");
                let description = KmsDescription { kind: kind.name().to_owned(), url: file.display().to_string(), ca_file: None };
                let settings = json!({ "dev": { "file": file, "key_file": directory.join("store.key") } });
                Ok(Self { server: None, settings, description })
            }
            KmsKind::Pykmip => {
                let server = Pykmip::start_in(Profile::Ecdsa, &directory).await?;
                let url = format!("kmip://{}", server.address());
                let description = KmsDescription { kind: kind.name().to_owned(), url, ca_file: Some(server.ca_file()) };
                Ok(Self { settings: kmip(&server), server: Some(KmsServer::Pykmip(Box::new(server))), description })
            }
            KmsKind::Openbao => {
                let server = OpenBao::start_in(&directory).await?;
                let settings = vault(&server).await?;
                let description = KmsDescription { kind: kind.name().to_owned(), url: server.url(), ca_file: Some(server.ca_file()) };
                Ok(Self { settings, server: Some(KmsServer::Openbao(Box::new(server))), description })
            }
        }
    }
}

fn kmip(server: &Pykmip) -> Value {
    let owner = server.owner();
    json!({ "kmip": {
        "address": server.address().to_string(),
        "version": "1.4",
        "tls": "rustls",
        "ca_file": server.ca_file(),
        "certificate_file": owner.certificate_file,
        "key_file": owner.key_file,
    } })
}

/// What an operator sets up once: the engine, a role that may only read keys, and one that makes and ends them.
async fn vault(server: &OpenBao) -> Result<Value, StartFailure> {
    server.mount_kv("keyferry", 2).await?;
    server.enable_auth("approle").await?;
    server.policy("keyferry-release", &[("keyferry/data/*", &["read"])]).await?;
    let administration: &[(&str, &[&str])] = &[
        ("keyferry/data/*", &["create", "read"]),
        ("keyferry/delete/*", &["create", "update"]),
        ("keyferry/destroy/*", &["create", "update"]),
        ("keyferry/metadata/*", &["create", "read", "update", "delete"]),
    ];
    server.policy("keyferry-administration", administration).await?;
    let release = server.app_role("keyferry-release", json!({ "token_policies": ["keyferry-release"], "token_ttl": "20m" })).await?;
    let settings = json!({ "token_policies": ["keyferry-administration"], "token_ttl": "20m" });
    let administration = server.app_role("keyferry-administration", settings).await?;
    let login = |role: &AppRole| json!({ "approle": { "role_id": role.role_id, "secret_id_file": role.secret_id_file } });
    Ok(json!({ "vault": {
        "url": server.url(),
        "ca_file": server.ca_file(),
        "engine": "kv2",
        "auth": login(&release),
        "administration": login(&administration),
    } }))
}
