//! What an operator sets up in the server: engines, policies, logins, quotas.

use std::path::PathBuf;

use reqwest::Method;
use serde_json::{Value, json};

use super::OpenBao;
use crate::{StartFailure, write_private};

/// An AppRole and a secret id for it.
#[derive(Clone, Debug)]
pub struct AppRole {
    /// The role's name.
    pub name: String,
    /// Its identifier: public.
    pub role_id: String,
    /// A file with a secret id, mode 0600.
    pub secret_id_file: PathBuf,
}

impl OpenBao {
    /// One call with the root token; the answer's JSON, `null` for an empty one. Any status but success is a failure that
    /// repeats what the server said.
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, StartFailure> {
        let token = self.root_token().to_owned();
        let (status, answer) = self.call_as(&token, method.clone(), path, body).await?;
        if (200..300).contains(&status) {
            return Ok(answer);
        }
        Err(StartFailure::new(format!("OpenBao answered {method} {path} with {status}: {answer}"), format!("its log:\n{}", self.log())))
    }

    /// One call with any token: status and JSON.
    pub async fn call_as(&self, token: &str, method: Method, path: &str, body: Option<Value>) -> Result<(u16, Value), StartFailure> {
        let failed = |error: reqwest::Error| StartFailure::new(format!("OpenBao does not answer: {error}"), self.log());
        let mut request = self.http.request(method, format!("{}/v1/{path}", self.url())).header("X-Vault-Token", token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.map_err(failed)?;
        let status = answer.status().as_u16();
        let body = answer.bytes().await.map_err(failed)?;
        Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
    }

    /// A KV engine of `version` 1 or 2 at `path`.
    pub async fn mount_kv(&self, path: &str, version: u8) -> Result<(), StartFailure> {
        self.mount(path, json!({ "type": "kv", "options": { "version": version.to_string() } })).await
    }

    /// A transit engine at `path`.
    pub async fn mount_transit(&self, path: &str) -> Result<(), StartFailure> {
        self.mount(path, json!({ "type": "transit" })).await
    }

    async fn mount(&self, path: &str, engine: Value) -> Result<(), StartFailure> {
        self.call(Method::POST, &format!("sys/mounts/{path}"), Some(engine)).await.map(drop)
    }

    /// An authentication method (`approle`, `cert`, `jwt`) at `auth/<kind>`.
    pub async fn enable_auth(&self, kind: &str) -> Result<(), StartFailure> {
        self.call(Method::POST, &format!("sys/auth/{kind}"), Some(json!({ "type": kind }))).await.map(drop)
    }

    /// A policy: pairs of path and capabilities.
    pub async fn policy(&self, name: &str, rules: &[(&str, &[&str])]) -> Result<(), StartFailure> {
        let rule = |(path, capabilities): &(&str, &[&str])| format!("path \"{path}\" {{ capabilities = {capabilities:?} }}\n");
        let text: String = rules.iter().map(rule).collect();
        self.call(Method::POST, &format!("sys/policies/acl/{name}"), Some(json!({ "policy": text }))).await.map(drop)
    }

    /// An AppRole with `settings` (`token_policies`, `token_ttl` ...) and a secret id in a file. `auth/approle` must be
    /// enabled.
    pub async fn app_role(&self, name: &str, settings: Value) -> Result<AppRole, StartFailure> {
        self.call(Method::POST, &format!("auth/approle/role/{name}"), Some(settings)).await?;
        let role = self.call(Method::GET, &format!("auth/approle/role/{name}/role-id"), None).await?;
        let role_id = role["data"]["role_id"].as_str().ok_or_else(|| self.unexpected("a role id"))?.to_owned();
        let role = AppRole { name: name.to_owned(), role_id, secret_id_file: self.directory.join(format!("{name}.secret-id")) };
        self.new_secret_id(&role).await?;
        Ok(role)
    }

    /// Replaces the secret id in the role's file by a new one. The old one stays valid until it is destroyed.
    pub async fn new_secret_id(&self, role: &AppRole) -> Result<(), StartFailure> {
        let made = self.call(Method::POST, &format!("auth/approle/role/{}/secret-id", role.name), Some(json!({}))).await?;
        let secret_id = made["data"]["secret_id"].as_str().ok_or_else(|| self.unexpected("a secret id"))?;
        write_private(&role.secret_id_file, secret_id)
    }

    /// A token with `settings` (`policies`, `ttl`, `num_uses` ...).
    pub async fn token(&self, settings: Value) -> Result<String, StartFailure> {
        let made = self.call(Method::POST, "auth/token/create", Some(settings)).await?;
        made["auth"]["client_token"].as_str().map(str::to_owned).ok_or_else(|| self.unexpected("a token"))
    }

    /// At most `rate` requests a second below `path`.
    pub async fn quota(&self, path: &str, rate: f64) -> Result<(), StartFailure> {
        self.call(Method::POST, "sys/quotas/rate-limit/keyferry", Some(json!({ "rate": rate, "path": path }))).await.map(drop)
    }

    /// Ends the limit again.
    pub async fn no_quota(&self) -> Result<(), StartFailure> {
        self.call(Method::DELETE, "sys/quotas/rate-limit/keyferry", None).await.map(drop)
    }
}
