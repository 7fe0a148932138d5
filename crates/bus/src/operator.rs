//! The offline operator: keys and JWTs of operator, accounts, services and TDs, and the text of the server's
//! configuration. Nothing here talks to a server.
//!
//! Accounts: `APP` for the services (JetStream), `TDS` for the fleet and the auditor (no JetStream; reaches APP only through
//! imported subjects), `MIRROR` for a copy of the audit that nobody in APP can touch, `SYS` for monitoring. A TD's user is signed with a scoped key whose template decides every permission, so
//! whoever holds that key can mint TDs and nothing else.

use std::{collections::BTreeMap, fmt};

use keyferry_identifiers::TdId;
use nkeys::{KeyPair, KeyPairType};
use serde_json::{Value, json};

use crate::{
    Credentials, Role,
    jwt::Claims,
    permissions::{self, Account, Shared},
};

/// The longest validity of any credentials: two years.
pub const LIFETIME_SECONDS_MAX: u64 = 2 * 366 * 24 * 3600;
/// The shortest: below it a TD would spend its time reconnecting.
pub const LIFETIME_SECONDS_MIN: u64 = 10;
/// Users and JWTs are dated back this much: clocks of servers differ.
const BACKDATE_SECONDS: u64 = 60;

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// Not a public nkey of a user.
    #[error("public nkey: not a NATS user's public key (56 characters, beginning with U): copy it from the TD's own output")]
    Nkey,
    /// The label could not be a name.
    #[error("label: {0}")]
    Label(#[from] keyferry_identifiers::IdentifierError),
    /// Too short or too long.
    #[error("lifetime: {found} s is outside {LIFETIME_SECONDS_MIN} s to {LIFETIME_SECONDS_MAX} s")]
    Lifetime {
        /// What was asked for, seconds.
        found: u64,
    },
    /// A key is no key, or of another kind than its place wants.
    #[error("{name}: not the seed of a NATS {kind} key: restore the file from your backup")]
    Seed {
        /// Which key.
        name: &'static str,
        /// Operator, account or user.
        kind: &'static str,
    },
    /// The key pair cannot sign: it has no private half.
    #[error("the signing key has no private half")]
    Signing,
}

/// All keys of a bus. Belongs on a machine that is switched off most of the time.
pub struct Operator {
    pub(crate) root: KeyPair,
    pub(crate) app: KeyPair,
    pub(crate) tds: KeyPair,
    pub(crate) sys: KeyPair,
    pub(crate) mirror: KeyPair,
    td_signing_public: String,
    revoked: BTreeMap<String, u64>,
}

/// The one key that mints TDs, with the account it mints them for.
pub struct Enrolment {
    account: String,
    pub(crate) signing: KeyPair,
}

/// How the server is to be run.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerSettings {
    /// The server's name in logs and monitoring.
    pub name: String,
    /// `host:port` of the TLS listener; port -1 = any.
    pub listen: String,
    /// `host:port` of monitoring: plain HTTP, loopback only.
    pub monitor: String,
    /// Where JetStream keeps its files.
    pub store_directory: String,
    /// The certificate chain, PEM.
    pub certificate_file: String,
    /// Its private key, PEM.
    pub key_file: String,
    /// The most JetStream may store, bytes.
    pub store_bytes_max: u64,
    /// Where the server writes the ports it chose, for tests and laptops.
    pub ports_directory: Option<String>,
}

impl Operator {
    /// Fresh keys for a new bus.
    pub fn generate() -> (Self, Enrolment) {
        let tds = KeyPair::new_account();
        let enrolment = Enrolment { account: tds.public_key(), signing: KeyPair::new_account() };
        let operator = Self {
            root: KeyPair::new_operator(),
            app: KeyPair::new_account(),
            sys: KeyPair::new_account(),
            mirror: KeyPair::new_account(),
            td_signing_public: enrolment.signing.public_key(),
            revoked: BTreeMap::new(),
            tds,
        };
        (operator, enrolment)
    }

    pub(crate) fn from_seeds(seeds: [&str; 5], td_signing_public: String, revoked: BTreeMap<String, u64>) -> Result<Self, OperatorError> {
        let [operator, app, tds, sys, mirror] = seeds;
        Ok(Self {
            root: key_pair("operator.nk", operator, &KeyPairType::Operator)?,
            app: key_pair("app.nk", app, &KeyPairType::Account)?,
            tds: key_pair("tds.nk", tds, &KeyPairType::Account)?,
            sys: key_pair("sys.nk", sys, &KeyPairType::Account)?,
            mirror: key_pair("mirror.nk", mirror, &KeyPairType::Account)?,
            td_signing_public,
            revoked,
        })
    }

    /// Credentials for a service or a person, valid from `now` for `lifetime` seconds, for a fresh key.
    pub fn service_credentials(&self, role: Role, now: u64, lifetime: u64) -> Result<Credentials, OperatorError> {
        let user = KeyPair::new_user();
        let permissions = json!(role.permissions(&user.public_key()));
        let account = match role.account() {
            Account::App => &self.app,
            Account::Tds => &self.tds,
            Account::Mirror => &self.mirror,
        };
        Self::user(account, user, role.name(), permissions, now, lifetime)
    }

    /// Credentials that see the server's own figures (account SYS), and no message of ours.
    pub fn monitor_credentials(&self, now: u64, lifetime: u64) -> Result<Credentials, OperatorError> {
        Self::user(&self.sys, KeyPair::new_user(), "monitor", json!({}), now, lifetime)
    }

    fn user(
        account: &KeyPair,
        user: KeyPair,
        name: &str,
        permissions: Value,
        now: u64,
        lifetime: u64,
    ) -> Result<Credentials, OperatorError> {
        let mut nats = json!({ "type": "user", "subs": -1, "data": -1, "payload": -1 });
        if let (Some(nats), Value::Object(permissions)) = (nats.as_object_mut(), permissions) {
            nats.extend(permissions);
        }
        let claims = user_claims(&user, name, now, lifetime, nats)?.sign(account)?;
        Ok(Credentials::new(claims, user))
    }

    /// Ends the validity of every JWT of this user that was issued until `now`. Takes effect when the server has the
    /// configuration made afterwards.
    pub fn revoke(&mut self, nkey: &str, now: u64) -> Result<(), OperatorError> {
        check_user_nkey(nkey)?;
        self.revoked.insert(nkey.to_owned(), now);
        Ok(())
    }
    pub(crate) fn revoked(&self) -> &BTreeMap<String, u64> {
        &self.revoked
    }

    /// The server's configuration file, with JWTs issued at `now`. Give the same time again for a server that is to reload
    /// it: one with another operator JWT is refused.
    pub fn server_configuration(&self, settings: &ServerSettings, now: u64) -> Result<String, OperatorError> {
        let operator = self.operator_jwt(now)?;
        let (app, tds, sys) = (self.app_jwt(now)?, self.tds_jwt(now)?, self.sys_jwt(now)?);
        let mirror = self.mirror_jwt(now)?;
        let quoted = |text: &str| Value::from(text).to_string();
        let ports = settings.ports_directory.as_deref().map(|directory| format!("ports_file_dir: {}\n", quoted(directory)));
        Ok(format!(
            "# Made by `keyferry bus init`. JWTs are public; the only secret this file points to is the TLS key.
server_name: {name}
listen: {listen}
http: {monitor}
{ports}max_payload: {payload}

# TLS 1.3 from the first byte: whoever does not speak it is told nothing.
tls {{
  cert_file: {certificate}
  key_file: {key}
  min_version: \"1.3\"
  handshake_first: true
  timeout: 5
}}

jetstream {{
  store_dir: {store}
  max_file_store: {store_bytes}
  max_memory_store: 0
}}

operator: {operator}
system_account: {sys_id}
resolver: MEMORY
resolver_preload {{
  {app_id}: {app}
  {tds_id}: {tds}
  {sys_id}: {sys}
  {mirror_id}: {mirror}
}}
",
            name = quoted(&settings.name),
            listen = quoted(&settings.listen),
            monitor = quoted(&settings.monitor),
            ports = ports.unwrap_or_default(),
            payload = permissions::SERVER_PAYLOAD_BYTES_MAX,
            certificate = quoted(&settings.certificate_file),
            key = quoted(&settings.key_file),
            store = quoted(&settings.store_directory),
            store_bytes = settings.store_bytes_max,
            app_id = self.app.public_key(),
            tds_id = self.tds.public_key(),
            sys_id = self.sys.public_key(),
            mirror_id = self.mirror.public_key(),
        ))
    }

    fn operator_jwt(&self, now: u64) -> Result<String, OperatorError> {
        let nats = json!({ "type": "operator", "system_account": self.sys.public_key() });
        self.sign(&self.root, "keyferry", now, nats)
    }

    fn app_jwt(&self, now: u64) -> Result<String, OperatorError> {
        let mut shared = permissions::shared_with_tds();
        for (subject, _, how) in permissions::feeds_mirror() {
            // What both take is exported once.
            if !shared.iter().any(|(known, _)| known == subject) {
                shared.push((subject.to_owned(), how));
            }
        }
        let exports: Vec<Value> = shared.iter().map(|(subject, shared)| export(subject, *shared)).collect();
        let nats = json!({
            "type": "account", "limits": limits(-1, 0), "exports": exports, "revocations": self.revoked,
            "default_permissions": { "pub": {}, "sub": {} },
        });
        self.sign(&self.app, "APP", now, nats)
    }

    fn tds_jwt(&self, now: u64) -> Result<String, OperatorError> {
        let app = self.app.public_key();
        let mirror = self.mirror.public_key();
        let of_app = permissions::shared_with_tds();
        let of_app = of_app.iter().map(|(subject, shared)| import(&app, subject, subject, *shared));
        let imports: Vec<Value> =
            of_app.chain(permissions::mirror_reads().map(|(subject, shared)| import(&mirror, subject, subject, shared))).collect();
        let scope = json!({
            "kind": "user_scope", "key": self.td_signing_public, "role": "td", "template": permissions::td_template(),
        });
        let nats = json!({
            "type": "account", "limits": limits(0, -1), "imports": imports, "signing_keys": [scope], "revocations": self.revoked,
            "default_permissions": { "pub": {}, "sub": {} },
        });
        self.sign(&self.tds, "TDS", now, nats)
    }

    fn mirror_jwt(&self, now: u64) -> Result<String, OperatorError> {
        let app = self.app.public_key();
        let imports = permissions::feeds_mirror().map(|(subject, local, shared)| import(&app, subject, &local, shared));
        let exports = permissions::mirror_reads().map(|(subject, shared)| export(subject, shared));
        let nats = json!({
            "type": "account", "limits": limits(-1, -1), "imports": imports, "exports": exports, "revocations": self.revoked,
            "default_permissions": { "pub": {}, "sub": {} },
        });
        self.sign(&self.mirror, "MIRROR", now, nats)
    }

    fn sys_jwt(&self, now: u64) -> Result<String, OperatorError> {
        let nats = json!({ "type": "account", "limits": limits(0, 0), "default_permissions": { "pub": {}, "sub": {} } });
        self.sign(&self.sys, "SYS", now, nats)
    }

    fn sign(&self, subject: &KeyPair, name: &str, now: u64, nats: Value) -> Result<String, OperatorError> {
        let issued_at = now.saturating_sub(BACKDATE_SECONDS);
        Claims { subject: &subject.public_key(), name, issued_at, expires_at: None, nats }.sign(&self.root)
    }
}

impl Enrolment {
    pub(crate) fn from_seed(account: String, seed: &str) -> Result<Self, OperatorError> {
        Ok(Self { account, signing: key_pair("td-signing.nk", seed, &KeyPairType::Account)? })
    }

    /// A user JWT for the TD that holds the private half of `nkey` (its td_id), valid from `now` for `lifetime` seconds.
    /// `label` is a name for people; it decides nothing.
    pub fn enrol(&self, nkey: &str, label: &str, now: u64, lifetime: u64) -> Result<String, OperatorError> {
        let user = check_user_nkey(nkey)?;
        let label = TdId::parse(label)?;
        // A scoped user may carry no permission or limit of its own: the template is all there is.
        let nats = json!({ "type": "user", "issuer_account": self.account });
        user_claims(&user, label.as_str(), now, lifetime, nats)?.sign(&self.signing)
    }

    /// As [`Self::enrol`], for a key made here: for laptops and tests. In production the key is made inside the TD.
    pub fn enrol_new(&self, label: &str, now: u64, lifetime: u64) -> Result<Credentials, OperatorError> {
        let user = KeyPair::new_user();
        let jwt = self.enrol(&user.public_key(), label, now, lifetime)?;
        Ok(Credentials::new(jwt, user))
    }

    /// The account TDs belong to: its public nkey.
    pub fn account(&self) -> &str {
        &self.account
    }
}

impl fmt::Debug for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Operator({})", self.root.public_key())
    }
}
impl fmt::Debug for Enrolment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Enrolment({})", self.account)
    }
}

/// JWTs of a user, with owned subject.
struct UserClaims<'a> {
    subject: String,
    name: &'a str,
    issued_at: u64,
    expires_at: u64,
    nats: Value,
}

impl UserClaims<'_> {
    fn sign(self, signer: &KeyPair) -> Result<String, OperatorError> {
        let Self { subject, name, issued_at, expires_at, nats } = self;
        Claims { subject: &subject, name, issued_at, expires_at: Some(expires_at), nats }.sign(signer)
    }
}

fn user_claims<'a>(user: &KeyPair, name: &'a str, now: u64, lifetime: u64, nats: Value) -> Result<UserClaims<'a>, OperatorError> {
    if !(LIFETIME_SECONDS_MIN..=LIFETIME_SECONDS_MAX).contains(&lifetime) {
        return Err(OperatorError::Lifetime { found: lifetime });
    }
    // Not dated back: a revocation ends what was issued until then, and a JWT issued right after it must live.
    Ok(UserClaims { subject: user.public_key(), name, issued_at: now, expires_at: now.saturating_add(lifetime), nats })
}

fn check_user_nkey(nkey: &str) -> Result<KeyPair, OperatorError> {
    match KeyPair::from_public_key(nkey) {
        Ok(key) if key.key_pair_type() == KeyPairType::User && key.public_key() == nkey => Ok(key),
        _ => Err(OperatorError::Nkey),
    }
}

fn key_pair(name: &'static str, seed: &str, kind: &KeyPairType) -> Result<KeyPair, OperatorError> {
    let kind_name = if *kind == KeyPairType::Operator { "operator" } else { "account" };
    let key = KeyPair::from_seed(seed.trim()).map_err(|_| OperatorError::Seed { name, kind: kind_name })?;
    if key.key_pair_type() == *kind { Ok(key) } else { Err(OperatorError::Seed { name, kind: kind_name }) }
}

/// Account limits: -1 = none, 0 = forbidden.
fn limits(storage: i64, imports: i64) -> Value {
    json!({
        "subs": -1, "data": -1, "payload": -1, "conn": -1, "leaf": 0, "imports": imports, "exports": -1, "wildcards": true,
        "mem_storage": 0, "disk_storage": storage, "streams": storage, "consumer": storage,
    })
}

/// `subject` of another account, known here as `local`.
fn import(account: &str, subject: &str, local: &str, shared: Shared) -> Value {
    let mut import = json!({ "name": subject, "subject": subject, "account": account, "type": shared.name() });
    if local != subject {
        import["local_subject"] = json!(local);
    }
    import
}

fn export(subject: &str, shared: Shared) -> Value {
    let mut export = json!({ "name": subject, "subject": subject, "type": shared.name() });
    match shared {
        Shared::Service => export["response_type"] = json!("Singleton"),
        Shared::Answers => export["response_type"] = json!("Stream"),
        Shared::Stream => {}
    }
    export
}
