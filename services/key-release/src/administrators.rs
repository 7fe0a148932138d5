//! Who may administer: one name and password, as an argon2id hash in memory. A wrong name costs the same as a wrong
//! password, and only a few attempts are checked at the same time.

use std::{sync::Arc, time::Duration};

use argon2::{Argon2, Params, Version};
use base64::{Engine, prelude::BASE64_STANDARD};
use keyferry_lifecycle::Secret;
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::Denial;

/// 19 MiB, two passes, one lane: OWASP's first choice for argon2id. Some 20 ms.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
const DIGEST_BYTES: usize = 32;
/// Attempts checked at the same time: each takes a core and 19 MiB.
const CONCURRENT_MAX: usize = 2;
/// How long an attempt waits for its turn.
const TURN_WITHIN: Duration = Duration::from_secs(2);
/// Longer credentials are no credentials.
const CREDENTIAL_CHARACTERS_MAX: usize = 1024;

/// Proof that an administrator's credential was checked. Made by [`Administrators::authenticate`] alone.
#[derive(Clone, Debug)]
pub struct Admin(String);

impl Admin {
    /// Who.
    pub fn name(&self) -> &str {
        &self.0
    }
}

/// The one administrator there is, if there is one.
pub struct Administrators {
    known: Option<Arc<Known>>,
    turns: Semaphore,
}

struct Known {
    name: String,
    salt: [u8; 16],
    digest: Zeroizing<[u8; DIGEST_BYTES]>,
}

impl Administrators {
    /// Hashes the password; takes some 20 ms. Without a credential every call is refused.
    pub fn new(credential: Option<(String, Secret)>) -> Result<Self, Denial> {
        let known = match credential {
            Some((name, password)) => {
                let salt = *uuid::Uuid::new_v4().as_bytes();
                let digest = digest(password.expose().as_bytes(), &salt)?;
                Some(Arc::new(Known { name, salt, digest }))
            }
            None => None,
        };
        Ok(Self { known, turns: Semaphore::new(CONCURRENT_MAX) })
    }

    /// Checks `Basic <base64 of name:password>`.
    pub async fn authenticate(&self, authorization: Option<&str>) -> Result<Admin, Denial> {
        let known = self.known.clone().ok_or(Denial::Unauthenticated)?;
        let (name, password) = authorization.and_then(basic).ok_or(Denial::Unauthenticated)?;
        let turn = tokio::time::timeout(TURN_WITHIN, self.turns.acquire()).await;
        let _turn = turn.map_err(|_| Denial::Overloaded)?.map_err(|_| Denial::Internal("the pool is closed"))?;
        let checked = tokio::task::spawn_blocking(move || known.check(&name, &password)).await;
        checked.map_err(|_| Denial::Internal("checking a password failed"))?
    }
}

impl Known {
    /// Always hashes, whatever the name is.
    fn check(&self, name: &str, password: &str) -> Result<Admin, Denial> {
        let digest = digest(password.as_bytes(), &self.salt)?;
        let same = self.name.as_bytes().ct_eq(name.as_bytes()) & self.digest.as_slice().ct_eq(digest.as_slice());
        if bool::from(same) { Ok(Admin(self.name.clone())) } else { Err(Denial::Unauthenticated) }
    }
}

fn digest(password: &[u8], salt: &[u8]) -> Result<Zeroizing<[u8; DIGEST_BYTES]>, Denial> {
    let failed = |_| Denial::Internal("argon2id failed");
    let params = Params::new(MEMORY_KIB, PASSES, LANES, Some(DIGEST_BYTES)).map_err(failed)?;
    let mut digest = Zeroizing::new([0; DIGEST_BYTES]);
    Argon2::new(argon2::Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(password, salt, digest.as_mut_slice())
        .map_err(failed)?;
    Ok(digest)
}

fn basic(authorization: &str) -> Option<(String, Zeroizing<String>)> {
    if authorization.len() > CREDENTIAL_CHARACTERS_MAX {
        return None;
    }
    let (scheme, encoded) = authorization.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("Basic") {
        return None; // RFC 9110, section 11.1: the scheme's name has no case
    }
    let decoded = Zeroizing::new(BASE64_STANDARD.decode(encoded).ok()?);
    let (name, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some((name.to_owned(), Zeroizing::new(password.to_owned())))
}

impl std::fmt::Debug for Administrators {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.known.is_some() { "Administrators(one, redacted)" } else { "Administrators(none)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, password: &str) -> String {
        format!("Basic {}", BASE64_STANDARD.encode(format!("{name}:{password}")))
    }

    #[tokio::test]
    async fn only_name_and_password_together_make_an_administrator() {
        let one = Administrators::new(Some(("admin".to_owned(), Secret::new("pass:word".to_owned())))).unwrap();
        assert_eq!(one.authenticate(Some(&header("admin", "pass:word"))).await.unwrap().name(), "admin");
        assert!(one.authenticate(Some(&header("admin", "pass:word").replace("Basic", "basic"))).await.is_ok(), "schemes have no case");
        for wrong in [header("admin", "password"), header("Admin", "pass:word"), header("admin", ""), header("", "pass:word")] {
            assert!(matches!(one.authenticate(Some(&wrong)).await, Err(Denial::Unauthenticated)), "{wrong}");
        }
        for wrong in ["", "Basic", "Basic ", "Basic !", "Basi YWRtaW46cGFzczp3b3Jk", "Bearer YWRtaW46cGFzczp3b3Jk", &"x".repeat(2000)] {
            assert!(matches!(one.authenticate(Some(wrong)).await, Err(Denial::Unauthenticated)), "{wrong:.40}");
        }
        assert!(matches!(one.authenticate(None).await, Err(Denial::Unauthenticated)));
        let none = Administrators::new(None).unwrap();
        assert!(matches!(none.authenticate(Some(&header("", ""))).await, Err(Denial::Unauthenticated)));
    }
}
