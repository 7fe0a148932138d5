//! Bearer tokens, as Intel KBS issues them, and the keys that sign them.
//!
//! A token counts for exactly `validity` after it was issued: `exp` on the wire lies 60 seconds before that, as Intel's
//! does. It is looked at anew at each request; nothing remembers that it was good before. The keys are one sealed record
//! that every replica reads from the leader, parsed once per change.

use std::{fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use aws_lc_rs::{
    digest::{SHA256, digest},
    encoding::{AsDer, PublicKeyX509Der},
    rand::SystemRandom,
    rsa::KeySize,
    signature::{KeyPair, ParsedPublicKey, RSA_PSS_2048_8192_SHA384, RSA_PSS_SHA384, RsaKeyPair},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use keyferry_identifiers::UserId;
use keyferry_sealed_store::{SealedStore, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

use super::Permission;
use crate::{Denial, budget::Budget};

const RECORD: &str = "token-signing-keys";
/// Intel's algorithm. No other is accepted, whatever a header says.
const ALGORITHM: &str = "PS384";
/// `iat` and `nbf` lie this far before the moment of issue, and `exp` this far before the end.
const BACKDATED_SECONDS: u64 = 60;
/// No token counts longer, whatever the settings of the replica that issued it.
pub(crate) const VALIDITY_MAX: Duration = Duration::from_mins(30);
const TOKEN_CHARACTERS_MAX: usize = 8 * 1024;
const KEY_BITS_MIN: usize = 3072;
const PEM_BYTES_MAX: usize = 16 * 1024;
/// Keys kept: the one that signs, and those whose tokens may still count.
const KEYS_MAX: usize = 8;
/// Reads of the record per second because of keys nobody knows: anybody can cause them.
const UNKNOWN_KEYS_PER_SECOND: u32 = 10;
const ROUNDS_MAX: usize = 8;

/// What a token says. In the order in which Intel writes it.
#[derive(Serialize, Deserialize)]
pub(super) struct Claims {
    #[serde(rename = "Extensions")]
    extensions: Value,
    #[serde(rename = "Groups")]
    groups: Value,
    #[serde(rename = "ID")]
    id: UserId,
    #[serde(rename = "Name")]
    name: String,
    aud: Vec<String>,
    exp: u64,
    iat: u64,
    nbf: u64,
    scope: Vec<String>,
    sub: UserId,
}

impl Claims {
    pub(super) fn new(user_id: UserId, name: &str, scope: impl IntoIterator<Item = Permission>, validity: Duration, now: u64) -> Self {
        let issued = now.saturating_sub(BACKDATED_SECONDS);
        Self {
            extensions: Value::Null,
            groups: Value::Null,
            id: user_id,
            name: name.to_owned(),
            aud: vec![String::new()],
            exp: issued.saturating_add(validity.min(VALIDITY_MAX).as_secs()),
            iat: issued,
            nbf: issued,
            scope: scope.into_iter().map(|permission| permission.as_str().to_owned()).collect(),
            sub: user_id,
        }
    }

    pub(super) fn user_id(&self) -> UserId {
        self.sub
    }

    /// Only what is a permission.
    pub(super) fn scope(&self) -> impl Iterator<Item = Permission> {
        self.scope.iter().filter_map(|text| Permission::parse(text))
    }

    fn check(&self, now: u64) -> Result<(), Denial> {
        let ends = self.exp.saturating_add(BACKDATED_SECONDS);
        let lives = self.exp.saturating_sub(self.iat);
        let counts = self.aud.iter().any(String::is_empty)
            && self.id == self.sub
            && now < ends
            && self.nbf <= now
            && self.iat <= now
            && lives <= VALIDITY_MAX.as_secs();
        if counts { Ok(()) } else { Err(Denial::Unauthenticated) }
    }
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    kid: String,
    typ: String,
}

/// The sealed record; the key that signs comes first.
#[derive(Serialize, Deserialize)]
struct StoredKeys {
    keys: Vec<StoredKey>,
}

#[derive(Serialize, Deserialize)]
struct StoredKey {
    kid: String,
    #[serde(with = "der_text")]
    pkcs8: Zeroizing<Vec<u8>>,
    /// Unix seconds; none of its tokens is younger.
    retired_at: Option<u64>,
}

struct ParsedKey {
    kid: String,
    pair: RsaKeyPair,
    public: ParsedPublicKey,
    retired_at: Option<u64>,
}

struct KeySet {
    revision: u64,
    keys: Vec<ParsedKey>,
}

/// Signs and checks tokens.
pub(super) struct TokenKeys {
    store: SealedStore,
    parsed: ArcSwapOption<KeySet>,
    unknown: Budget,
    validity: Duration,
}

impl TokenKeys {
    pub(super) fn new(store: SealedStore, validity: Duration) -> Self {
        Self { store, parsed: ArcSwapOption::empty(), unknown: Budget::new(UNKNOWN_KEYS_PER_SECOND), validity }
    }

    /// Reads the keys, and makes the first one if there is none: of several replicas, one makes it.
    pub(super) async fn open(&self) -> Result<(), Denial> {
        for _ in 0..ROUNDS_MAX {
            if self.current().await?.is_some() {
                return Ok(());
            }
            let keys = StoredKeys { keys: vec![off_runtime(make).await?] };
            match self.store.create(RECORD, &encoded(&keys)?).await {
                Ok(_) | Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Denial::Conflict)
    }

    pub(super) fn claims(&self, user_id: UserId, name: &str, scope: impl IntoIterator<Item = Permission>, now: u64) -> Claims {
        Claims::new(user_id, name, scope, self.validity, now)
    }

    /// A compact JWS with the key that signs now.
    pub(super) async fn sign(&self, claims: &Claims) -> Result<String, Denial> {
        let keys = self.current().await?.ok_or(Denial::Internal("there is no key that signs tokens"))?;
        let claims = serde_json::to_vec(claims).map_err(|_| Denial::Internal("claims do not serialise"))?;
        off_runtime(move || keys.sign(&claims)).await
    }

    /// Whose token it is. Anything wrong with it is one and the same refusal.
    pub(super) async fn verify(&self, jwt: &str, now: u64) -> Result<Claims, Denial> {
        let (header, claims, signature) = parts(jwt).ok_or(Denial::Unauthenticated)?;
        let message = &jwt.as_bytes()[..header.len() + 1 + claims.len()];
        let header: Header = decoded(header)?;
        if header.alg != ALGORITHM {
            return Err(Denial::Unauthenticated);
        }
        let known = match self.parsed.load_full().filter(|keys| keys.key(&header.kid).is_some()) {
            Some(known) => known,
            None if self.unknown.take() => self.current().await?.ok_or(Denial::Unauthenticated)?,
            None => return Err(Denial::Unauthenticated),
        };
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).map_err(|_| Denial::Unauthenticated)?;
        let key = known.key(&header.kid).ok_or(Denial::Unauthenticated)?;
        key.public.verify_sig(message, &signature).map_err(|_| Denial::Unauthenticated)?;
        let claims: Claims = decoded(claims)?;
        claims.check(now)?;
        // Somebody signed it who had the key. Whether the key still counts, the leader says.
        let current = self.current().await?.ok_or(Denial::Unauthenticated)?;
        let key = current.key(&header.kid).ok_or(Denial::Unauthenticated)?;
        match key.retired_at {
            Some(retired_at) if claims.iat > retired_at => Err(Denial::Unauthenticated),
            _ => Ok(claims),
        }
    }

    /// Signs with another key from now on: the given one (PKCS#8 PEM), or a new one. Returns its `kid`.
    pub(super) async fn prepare(&self, pem: Option<Zeroizing<String>>) -> Result<Replacement, Denial> {
        let key = match pem {
            Some(pem) if pem.len() > PEM_BYTES_MAX => {
                return Err(Denial::TooLarge { field: "private_key_pem", bytes: pem.len(), max: PEM_BYTES_MAX });
            }
            Some(pem) => off_runtime(move || import(&pem)).await?,
            None => off_runtime(make).await?,
        };
        Ok(Replacement(key))
    }

    /// Puts a prepared key in the place of the one that signs.
    pub(super) async fn replace(&self, Replacement(key): Replacement, now: u64) -> Result<(), Denial> {
        let mut keys = vec![key];
        for _ in 0..ROUNDS_MAX {
            let (stored, revision) = self.stored().await?.ok_or(Denial::Internal("there is no key that signs tokens"))?;
            keys.truncate(1);
            let others = stored.keys.into_iter().filter(|old| keys.iter().all(|new| new.kid != old.kid));
            let others: Vec<_> = others.filter_map(|old| retired(old, now)).collect();
            keys.extend(others);
            if keys.len() > KEYS_MAX {
                return Err(Denial::RateLimited);
            }
            let record = StoredKeys { keys };
            match self.store.update(RECORD, &encoded(&record)?, revision).await {
                Ok(_) => return Ok(()),
                Err(StoreError::Conflict { .. }) => keys = record.keys,
                Err(error) => return Err(error.into()),
            }
        }
        Err(Denial::Conflict)
    }

    /// The keys as the leader has them.
    async fn current(&self) -> Result<Option<Arc<KeySet>>, Denial> {
        let Some(record) = self.store.read(RECORD).await? else { return Ok(None) };
        if let Some(known) = self.parsed.load_full().filter(|keys| keys.revision == record.revision) {
            return Ok(Some(known));
        }
        let parsed = Arc::new(off_runtime(move || KeySet::parse(&record.value, record.revision)).await?);
        self.parsed.store(Some(Arc::clone(&parsed)));
        Ok(Some(parsed))
    }

    async fn stored(&self) -> Result<Option<(StoredKeys, u64)>, Denial> {
        let Some(record) = self.store.read(RECORD).await? else { return Ok(None) };
        let unreadable = |_| Denial::Record { name: RECORD.to_owned() };
        Ok(Some((serde_json::from_slice(&record.value).map_err(unreadable)?, record.revision)))
    }
}

/// A key that is about to sign.
pub(super) struct Replacement(StoredKey);

impl Replacement {
    pub(super) fn kid(&self) -> &str {
        &self.0.kid
    }
}

/// An old key, as long as a token of it may count.
fn retired(key: StoredKey, now: u64) -> Option<StoredKey> {
    let retired_at = key.retired_at.unwrap_or(now);
    let counts_until = retired_at.saturating_add(VALIDITY_MAX.as_secs()).saturating_add(BACKDATED_SECONDS);
    (now < counts_until).then_some(StoredKey { retired_at: Some(retired_at), ..key })
}

impl KeySet {
    fn parse(record: &[u8], revision: u64) -> Result<Self, Denial> {
        let unreadable = || Denial::Record { name: RECORD.to_owned() };
        let stored: StoredKeys = serde_json::from_slice(record).map_err(|_| unreadable())?;
        let keys = stored.keys.into_iter().map(|key| ParsedKey::parse(key).ok_or_else(unreadable)).collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() { Err(unreadable()) } else { Ok(Self { revision, keys }) }
    }

    fn key(&self, kid: &str) -> Option<&ParsedKey> {
        self.keys.iter().find(|key| key.kid == kid)
    }

    fn sign(&self, claims: &[u8]) -> Result<String, Denial> {
        let failed = || Denial::Internal("signing a token failed");
        let key = self.keys.first().ok_or_else(failed)?;
        let header = Header { alg: ALGORITHM.to_owned(), kid: key.kid.clone(), typ: "JWT".to_owned() };
        let header = serde_json::to_vec(&header).map_err(|_| failed())?;
        let message = format!("{}.{}", BASE64_URL_SAFE_NO_PAD.encode(header), BASE64_URL_SAFE_NO_PAD.encode(claims));
        let mut signature = vec![0; key.pair.public_modulus_len()];
        key.pair.sign(&RSA_PSS_SHA384, &SystemRandom::new(), message.as_bytes(), &mut signature).map_err(|_| failed())?;
        Ok(format!("{message}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)))
    }
}

impl ParsedKey {
    fn parse(stored: StoredKey) -> Option<Self> {
        let pair = RsaKeyPair::from_pkcs8(&stored.pkcs8).ok()?;
        let spki = spki(&pair)?;
        let public = ParsedPublicKey::new(&RSA_PSS_2048_8192_SHA384, &spki).ok()?;
        Some(Self { kid: stored.kid, pair, public, retired_at: stored.retired_at })
    }
}

impl fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKeys(redacted)")
    }
}

fn make() -> Result<StoredKey, Denial> {
    let failed = Denial::Internal("generating a key failed");
    let Ok(pair) = RsaKeyPair::generate(KeySize::Rsa3072) else { return Err(failed) };
    stored(&pair).ok_or(failed)
}

fn import(pem: &str) -> Result<StoredKey, Denial> {
    let refused = || Denial::malformed("private_key_pem", "is not a PKCS#8 private key in PEM, RSA of at least 3072 bits");
    let block = pem::parse(pem).map_err(|_| refused())?;
    let (tag, der) = (block.tag().to_owned(), Zeroizing::new(block.into_contents()));
    if tag != "PRIVATE KEY" {
        return Err(refused());
    }
    let pair = RsaKeyPair::from_pkcs8(&der).map_err(|_| refused())?;
    if pair.public_modulus_len() * 8 < KEY_BITS_MIN {
        return Err(refused());
    }
    stored(&pair).ok_or_else(refused)
}

fn stored(pair: &RsaKeyPair) -> Option<StoredKey> {
    let pkcs8 = Zeroizing::new(pair.as_der().ok()?.as_ref().to_vec());
    let kid = hex::encode(&digest(&SHA256, &spki(pair)?).as_ref()[..16]);
    Some(StoredKey { kid, pkcs8, retired_at: None })
}

fn spki(pair: &RsaKeyPair) -> Option<Vec<u8>> {
    let der: PublicKeyX509Der<'_> = pair.public_key().as_der().ok()?;
    Some(der.as_ref().to_vec())
}

fn parts(jwt: &str) -> Option<(&str, &str, &str)> {
    if jwt.len() > TOKEN_CHARACTERS_MAX {
        return None;
    }
    let mut parts = jwt.split('.');
    let found = (parts.next()?, parts.next()?, parts.next()?);
    parts.next().is_none().then_some(found)
}

fn decoded<T: for<'de> Deserialize<'de>>(part: &str) -> Result<T, Denial> {
    let json = BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| Denial::Unauthenticated)?;
    serde_json::from_slice(&json).map_err(|_| Denial::Unauthenticated)
}

fn encoded(keys: &StoredKeys) -> Result<Zeroizing<Vec<u8>>, Denial> {
    serde_json::to_vec(keys).map(Zeroizing::new).map_err(|_| Denial::Internal("the key record does not serialise"))
}

async fn off_runtime<T: Send + 'static>(work: impl FnOnce() -> Result<T, Denial> + Send + 'static) -> Result<T, Denial> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Denial::Internal("work on a key ended without a result"))?
}

mod der_text {
    use base64::{Engine, prelude::BASE64_STANDARD};
    use serde::{Deserialize, Deserializer, Serializer};
    use zeroize::Zeroizing;

    pub(super) fn serialize<S: Serializer>(der: &Zeroizing<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(BASE64_STANDARD.encode(der.as_slice())))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Zeroizing<Vec<u8>>, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        BASE64_STANDARD.decode(text.as_bytes()).map(Zeroizing::new).map_err(|_| serde::de::Error::custom("no base64"))
    }
}

#[cfg(test)]
mod tests;
