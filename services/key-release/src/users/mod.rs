//! Users of the administration: who there is, who gets in, and what each may do.
//!
//! Every request reads its user's record from the leader: whoever is deleted is out at once, and what was taken from a
//! user is taken from the tokens already issued. What counts is what the token says *and* the record still grants.
//!
//! Read on in this order: [`Permission`], [`Admin`] (the proof that everything else asks for), `directory` (names that
//! are unique across replicas), `password` and `lockout` (what an attempt costs), `tokens`.

mod admin;
mod directory;
mod grpc;
mod lockout;
mod password;
mod permission;
mod rules;
mod tokens;

use std::{
    collections::BTreeSet,
    fmt,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use keyferry_bus::Bus;
use keyferry_contract::release::v1::{AuditDecision, AuditRecord};
use keyferry_identifiers::UserId;
use keyferry_lifecycle::{Secret, clock};
use keyferry_sealed_store::{StoreError, StoreKey};
use zeroize::Zeroizing;

pub use admin::{Admin, Caller};
pub(crate) use grpc::{UserService, authenticated};
pub use lockout::LockoutSettings;
pub use password::HashesMade;
pub use permission::Permission;
pub(crate) use rules::{password as check_password, username as check_username};
pub(crate) use tokens::VALIDITY_MAX;

use self::{
    directory::{Directory, UserRecord},
    lockout::{Attempt, Lockout},
    password::{Checked, Hasher, PasswordHash},
    tokens::TokenKeys,
};
use crate::{Denial, release::Release};

/// Longer credentials are no credentials.
const CREDENTIAL_CHARACTERS_MAX: usize = 8 * 1024;
/// How often a change is made again from a record that somebody else changed meanwhile.
const ROUNDS_MAX: usize = 16;
/// Who creates the first administrator, in the audit.
const BOOTSTRAP: &str = "bootstrap";

/// A user, without the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Never changes.
    pub user_id: UserId,
    /// Unique.
    pub username: String,
    /// At least one.
    pub permissions: BTreeSet<Permission>,
    /// When.
    pub created_at: Timestamp,
    /// When last; `None`: never.
    pub updated_at: Option<Timestamp>,
}

/// A user to be created.
pub struct NewUser {
    /// By Intel's rule.
    pub username: String,
    /// 9 to 71 bytes.
    pub password: Zeroizing<String>,
    /// Such as `keys:create`, in either spelling.
    pub permissions: Vec<String>,
}

/// A change of a user; what is empty stays as it is.
#[derive(Default)]
pub struct UserChange {
    /// Another name.
    pub username: String,
    /// Another password.
    pub password: Zeroizing<String>,
    /// Instead of those there were.
    pub permissions: Vec<String>,
}

/// A user of another broker, taken over with id and hash.
pub struct ImportedUser {
    /// As it was there.
    pub user_id: UserId,
    /// By Intel's rule.
    pub username: String,
    /// `$2a$10$...`; replaced by a hash of ours at the first login.
    pub bcrypt_hash: String,
    /// In either spelling.
    pub permissions: Vec<String>,
    /// As it was there; `None`: now.
    pub created_at: Option<Timestamp>,
    /// As it was there.
    pub updated_at: Option<Timestamp>,
}

/// How users get in.
#[derive(Clone, Copy, Debug)]
pub struct UserSettings {
    /// How long a bearer token counts; at most half an hour.
    pub token_validity: Duration,
    /// How often a password may be wrong.
    pub lockout: LockoutSettings,
}

/// The users. Cheap to clone.
#[derive(Clone)]
pub struct Users(Arc<Inner>);

struct Inner {
    release: Release,
    directory: Directory,
    hasher: Hasher,
    lockout: Lockout,
    tokens: TokenKeys,
}

impl Users {
    /// Puts the parts together; nothing is read yet.
    pub fn new(release: &Release, bus: &Bus, store_key: &Arc<StoreKey>, settings: &UserSettings) -> Self {
        let directory = Directory::open(bus, store_key);
        Self(Arc::new(Inner {
            release: release.clone(),
            hasher: Hasher::new(),
            lockout: Lockout::new(settings.lockout),
            tokens: TokenKeys::new(directory.store().clone(), settings.token_validity),
            directory,
        }))
    }

    /// Makes what must be there: the key that signs tokens, and the first administrator, with every permission. If there
    /// is a user of that name nothing changes, the password neither.
    pub async fn bootstrap<'a>(&self, administrators: impl IntoIterator<Item = &'a (String, Secret)>) -> Result<(), Denial> {
        self.0.tokens.open().await?;
        self.0.directory.forget_imports().await?;
        for (name, password) in administrators {
            self.first(name, password).await?;
        }
        Ok(())
    }

    async fn first(&self, name: &str, password: &Secret) -> Result<(), Denial> {
        if self.0.directory.by_name(name).await?.is_some() {
            return Ok(());
        }
        check_username(name)?;
        check_password(password.expose())?;
        let hash = self.0.hasher.hash(password.expose()).await?;
        let user = fresh(name.to_owned(), hash, Permission::ALL.into());
        let record = AuditRecord { actor: BOOTSTRAP.to_owned(), ..about(AuditDecision::UserCreated, &user) };
        self.0.release.audit().allowed(record).await?;
        match self.0.directory.add(&user).await {
            Err(Denial::AlreadyExists { .. }) => Ok(()), // another replica was faster
            other => other,
        }
    }

    /// How often passwords were hashed: what an attempt costs does not depend on whom it is for.
    pub fn hashes_made(&self) -> HashesMade {
        self.0.hasher.made()
    }

    /// Who asks: `Basic <base64 of name:password>` or `Bearer <token>`. A failed attempt is recorded.
    pub async fn authenticate(&self, caller: &Caller) -> Result<Admin, Denial> {
        let result = self.identify(caller).await;
        self.note(&result, caller.address).await;
        result
    }

    async fn identify(&self, caller: &Caller) -> Result<Admin, Denial> {
        let authorization = caller.authorization.as_deref().filter(|text| text.len() <= CREDENTIAL_CHARACTERS_MAX);
        let (scheme, credential) = authorization.and_then(|text| text.split_once(' ')).ok_or(Denial::Unauthenticated)?;
        // RFC 9110, section 11.1: the scheme's name has no case.
        if scheme.eq_ignore_ascii_case("Bearer") {
            return self.bearer(credential, caller.address).await;
        }
        if !scheme.eq_ignore_ascii_case("Basic") {
            return Err(Denial::Unauthenticated);
        }
        let (name, password) = basic(credential).ok_or(Denial::Unauthenticated)?;
        let user = self.attempt(&name, &password, caller.address).await?;
        Ok(Admin { user_id: user.user_id, name: user.username, permissions: user.permissions, client: caller.address })
    }

    async fn bearer(&self, token: &str, client: Option<IpAddr>) -> Result<Admin, Denial> {
        let claims = self.0.tokens.verify(token, clock::now()).await?;
        let (user, _) = self.0.directory.by_id(claims.user_id()).await?.ok_or(Denial::Unauthenticated)?;
        let permissions = claims.scope().filter(|permission| user.permissions.contains(permission)).collect();
        Ok(Admin { user_id: user.user_id, name: user.username, permissions, client })
    }

    /// A bearer token for a name and a password: a compact JWS. Recorded before it is handed out.
    pub async fn login(&self, username: &str, password: &Zeroizing<String>, address: Option<IpAddr>) -> Result<String, Denial> {
        let result = self.attempt(username, password, address).await;
        self.note(&result, address).await;
        let user = result?;
        let admin = Admin { user_id: user.user_id, name: user.username, permissions: user.permissions, client: address };
        let record = AuditRecord { decision: AuditDecision::LoggedIn.into(), user_id: admin.user_id.to_string(), ..AuditRecord::default() };
        self.0.release.audit().administered(&admin, record).await?;
        let claims = self.0.tokens.claims(admin.user_id, &admin.name, admin.permissions.iter().copied(), clock::now());
        self.0.tokens.sign(&claims).await
    }

    async fn note<T>(&self, result: &Result<T, Denial>, address: Option<IpAddr>) {
        if let Err(denial @ (Denial::Unauthenticated | Denial::LockedOut)) = result {
            self.0.release.audit().intruded(denial, address).await;
        }
    }

    /// Checks a name and a password. The same work whether there is such a user or not.
    async fn attempt(&self, username: &str, password: &Zeroizing<String>, address: Option<IpAddr>) -> Result<UserRecord, Denial> {
        let who = Attempt::new(address, username);
        self.0.lockout.check(&who, Instant::now())?;
        let (found, imports) = tokio::try_join!(self.0.directory.by_name(username), self.0.directory.has_imports())?;
        let turn = self.0.hasher.turn().await?;
        self.0.lockout.check(&who, Instant::now())?; // others of the same kind may have failed while this one waited
        let hash = found.as_ref().map(|(user, _)| user.password.clone());
        let checked = self.0.hasher.check(&turn, hash, password, imports).await?;
        let (Some((user, revision)), Checked::Right | Checked::Upgraded(_)) = (found, &checked) else {
            return Err(self.0.lockout.failed(&who, Instant::now()));
        };
        self.0.lockout.succeeded(&who);
        if let Checked::Upgraded(password) = checked {
            let upgraded = UserRecord { password, ..user.clone() };
            if let Err(error) = self.0.directory.replace(&upgraded, revision).await {
                tracing::warn!(%error, "an imported password hash was not replaced; the next login tries again");
            }
        }
        Ok(user)
    }

    /// Creates a user.
    pub async fn create(&self, admin: &Admin, new: NewUser) -> Result<User, Denial> {
        admin.require(Permission::UsersCreate)?;
        check_username(&new.username)?;
        check_password(&new.password)?;
        let permissions = Permission::parse_all(&new.permissions)?;
        self.refuse_taken(&new.username).await?;
        let hash = self.0.hasher.hash(&new.password).await?;
        let user = fresh(new.username, hash, permissions);
        self.add(admin, user).await
    }

    /// Takes over a user of another broker.
    pub async fn import(&self, admin: &Admin, imported: ImportedUser) -> Result<User, Denial> {
        admin.require(Permission::UsersCreate)?;
        check_username(&imported.username)?;
        let password = PasswordHash::imported(&imported.bcrypt_hash)?;
        let permissions = Permission::parse_all(&imported.permissions)?;
        self.refuse_taken(&imported.username).await?;
        if self.0.directory.by_id(imported.user_id).await?.is_some() {
            return Err(Denial::AlreadyExists { what: "user" });
        }
        let user = UserRecord {
            user_id: imported.user_id,
            username: imported.username,
            password,
            permissions,
            created_at: imported.created_at.unwrap_or_else(clock::timestamp),
            updated_at: imported.updated_at,
            becoming: None,
        };
        self.0.directory.expect_imports().await?;
        let added = self.add(admin, user).await?;
        self.0.directory.expect_imports().await?;
        Ok(added)
    }

    async fn refuse_taken(&self, username: &str) -> Result<(), Denial> {
        match self.0.directory.by_name(username).await? {
            Some(_) => Err(Denial::AlreadyExists { what: "username" }),
            None => Ok(()),
        }
    }

    /// Recorded first, then done, though the caller may be gone by then.
    async fn add(&self, admin: &Admin, user: UserRecord) -> Result<User, Denial> {
        let (this, admin) = (self.clone(), admin.clone());
        let work = async move {
            this.0.release.audit().administered(&admin, about(AuditDecision::UserCreated, &user)).await?;
            let added = this.0.directory.add(&user).await;
            this.recorded(&admin, user.user_id, added).await?;
            Ok(described(user))
        };
        self.0.release.to_its_end(work).await
    }

    /// One user.
    pub async fn user(&self, admin: &Admin, id: UserId) -> Result<User, Denial> {
        admin.require(Permission::UsersSearch)?;
        let (user, _) = self.0.directory.by_id(id).await?.ok_or(Denial::UserNotFound)?;
        Ok(described(user))
    }

    /// The user of this name, or everybody, in the order of their ids.
    pub async fn find(&self, admin: &Admin, username: Option<&str>) -> Result<Vec<User>, Denial> {
        admin.require(Permission::UsersSearch)?;
        let found = match username {
            None => self.0.directory.all().await?,
            Some(name) => {
                check_username(name)?;
                self.0.directory.by_name(name).await?.map(|(user, _)| user).into_iter().collect()
            }
        };
        Ok(found.into_iter().map(described).collect())
    }

    /// Changes a user.
    pub async fn update(&self, admin: &Admin, id: UserId, change: UserChange) -> Result<User, Denial> {
        admin.require(Permission::UsersUpdate)?;
        if !change.username.is_empty() {
            check_username(&change.username)?;
        }
        let permissions = if change.permissions.is_empty() { None } else { Some(Permission::parse_all(&change.permissions)?) };
        let (user, _) = self.0.directory.by_id(id).await?.ok_or(Denial::UserNotFound)?;
        let username = Some(change.username).filter(|name| !name.is_empty() && *name != user.username);
        if let Some(name) = &username {
            self.refuse_taken(name).await?;
        }
        let password = if change.password.is_empty() {
            None
        } else {
            check_password(&change.password)?;
            Some(self.0.hasher.hash(&change.password).await?)
        };
        let edit = Edit { username, password, permissions };
        let (this, admin) = (self.clone(), admin.clone());
        let work = async move {
            let record = AuditRecord { detail: edit.to_string(), ..about(AuditDecision::UserChanged, &user) };
            this.0.release.audit().administered(&admin, record).await?;
            let edited = this.edit(id, &edit).await;
            this.recorded(&admin, id, edited).await
        };
        self.0.release.to_its_end(work).await
    }

    async fn edit(&self, id: UserId, edit: &Edit) -> Result<User, Denial> {
        for _ in 0..ROUNDS_MAX {
            let (before, revision) = self.0.directory.by_id(id).await?.ok_or(Denial::UserNotFound)?;
            let after = edit.applied_to(&before);
            let written = if after.username == before.username {
                self.0.directory.replace(&after, revision).await.map(drop)
            } else {
                self.0.directory.rename(&after, &before.username, revision).await
            };
            match written {
                Ok(()) => return Ok(described(after)),
                Err(Denial::Conflict | Denial::Store(StoreError::Conflict { .. })) => {}
                Err(denial) => return Err(denial),
            }
        }
        Err(Denial::Conflict)
    }

    /// Deletes a user, oneself and the last administrator not excepted: the configured one returns at the next start.
    pub async fn delete(&self, admin: &Admin, id: UserId) -> Result<(), Denial> {
        admin.require(Permission::UsersDelete)?;
        let (user, _) = self.0.directory.by_id(id).await?.ok_or(Denial::UserNotFound)?;
        let (this, admin) = (self.clone(), admin.clone());
        let work = async move {
            this.0.release.audit().administered(&admin, about(AuditDecision::UserDeleted, &user)).await?;
            let removed = this.remove(id).await;
            this.recorded(&admin, id, removed).await
        };
        self.0.release.to_its_end(work).await
    }

    async fn remove(&self, id: UserId) -> Result<(), Denial> {
        for _ in 0..ROUNDS_MAX {
            let (user, revision) = self.0.directory.by_id(id).await?.ok_or(Denial::UserNotFound)?;
            match self.0.directory.remove(&user, revision).await {
                Err(Denial::Store(StoreError::Conflict { .. })) => {}
                other => return other,
            }
        }
        Err(Denial::Conflict)
    }

    /// Signs tokens with another key from now on: the given one (PKCS#8 PEM, RSA of at least 3072 bits), or a new one.
    /// Returns its `kid`. Tokens of the old one count until they expire.
    pub async fn replace_signing_key(&self, admin: &Admin, pem: Option<Zeroizing<String>>) -> Result<String, Denial> {
        admin.require(Permission::UsersUpdate)?;
        let key = self.0.tokens.prepare(pem).await?;
        let (this, admin) = (self.clone(), admin.clone());
        let work = async move {
            let kid = key.kid().to_owned();
            let record = AuditRecord {
                decision: AuditDecision::SigningKeyChanged.into(),
                detail: format!("tokens are signed with {kid} from now on"),
                ..AuditRecord::default()
            };
            this.0.release.audit().administered(&admin, record).await?;
            this.0.tokens.replace(key, clock::now()).await?;
            Ok(kid)
        };
        self.0.release.to_its_end(work).await
    }

    /// A change that was recorded and then did not happen is recorded too.
    async fn recorded<T>(&self, admin: &Admin, id: UserId, result: Result<T, Denial>) -> Result<T, Denial> {
        if let Err(denial) = &result {
            let about = AuditRecord { user_id: id.to_string(), ..AuditRecord::default() };
            self.0.release.audit().undone(admin, about, denial).await;
        }
        result
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Users(redacted)")
    }
}

/// A change that was checked; what is not there stays.
struct Edit {
    username: Option<String>,
    password: Option<PasswordHash>,
    permissions: Option<BTreeSet<Permission>>,
}

impl Edit {
    fn applied_to(&self, user: &UserRecord) -> UserRecord {
        UserRecord {
            user_id: user.user_id,
            username: self.username.as_ref().unwrap_or(&user.username).clone(),
            password: self.password.as_ref().unwrap_or(&user.password).clone(),
            permissions: self.permissions.as_ref().unwrap_or(&user.permissions).clone(),
            created_at: user.created_at,
            updated_at: Some(clock::timestamp()),
            becoming: None,
        }
    }
}

/// What changes, for the audit.
impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if let Some(name) = &self.username {
            parts.push(format!("username {name}"));
        }
        if self.password.is_some() {
            parts.push("password".to_owned());
        }
        if let Some(permissions) = &self.permissions {
            parts.push(listed(permissions));
        }
        if parts.is_empty() { f.write_str("nothing") } else { f.write_str(&parts.join("; ")) }
    }
}

fn listed(permissions: &BTreeSet<Permission>) -> String {
    let names: Vec<_> = permissions.iter().map(|permission| permission.as_str()).collect();
    format!("permissions {}", names.join(" "))
}

fn fresh(username: String, password: PasswordHash, permissions: BTreeSet<Permission>) -> UserRecord {
    let user_id = UserId::random();
    UserRecord { user_id, username, password, permissions, created_at: clock::timestamp(), updated_at: None, becoming: None }
}

fn about(decision: AuditDecision, user: &UserRecord) -> AuditRecord {
    AuditRecord {
        decision: decision.into(),
        user_id: user.user_id.to_string(),
        detail: format!("username {}; {}", user.username, listed(&user.permissions)),
        ..AuditRecord::default()
    }
}

fn described(user: UserRecord) -> User {
    User {
        user_id: user.user_id,
        username: user.username,
        permissions: user.permissions,
        created_at: user.created_at,
        updated_at: user.updated_at,
    }
}

fn basic(encoded: &str) -> Option<(String, Zeroizing<String>)> {
    let decoded = Zeroizing::new(BASE64_STANDARD.decode(encoded).ok()?);
    let (name, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some((name.to_owned(), Zeroizing::new(password.to_owned())))
}
