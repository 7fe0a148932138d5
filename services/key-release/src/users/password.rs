//! Passwords: argon2id for ours, bcrypt for those that came from Intel's KBS until their owners log in once.
//!
//! Every attempt does the same work, whoever it is for: one argon2id, and one bcrypt as long as any user has a bcrypt hash.
//! Only a few are done at the same time, off the runtime: each takes a core, and argon2id 19 MiB.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use argon2::{Argon2, Params, Version};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use tokio::sync::{Semaphore, SemaphorePermit};
use zeroize::Zeroizing;

use crate::Denial;

/// 19 MiB, two passes, one lane: OWASP's first choice for argon2id. Some 20 ms.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
const DIGEST_BYTES: usize = 32;
/// Attempts checked at the same time.
const CONCURRENT_MAX: usize = 2;
/// How long an attempt waits for its turn.
const TURN_WITHIN: Duration = Duration::from_secs(2);
/// Intel's cost; what an attempt for a user without a bcrypt hash costs too.
const BCRYPT_COST: u32 = 10;
/// An imported hash may not cost more: 12 takes a quarter of a second.
const BCRYPT_COSTS: std::ops::RangeInclusive<u32> = 4..=12;
const BCRYPT_CHARACTERS: usize = 60;
/// bcrypt takes 72 bytes, a zero at the end included.
const BCRYPT_BYTES_MAX: usize = 71;

/// A stored hash.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum PasswordHash {
    Argon2id(Argon2id),
    /// `$2a$10$...`, as another broker made it.
    Bcrypt(String),
}

/// An argon2id hash with what it was made with.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Argon2id {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    #[serde(with = "hex::serde")]
    salt: [u8; 16],
    #[serde(with = "hex::serde")]
    digest: [u8; DIGEST_BYTES],
}

impl PasswordHash {
    /// Reads a bcrypt hash to be taken over.
    pub(super) fn imported(bcrypt: &str) -> Result<Self, Denial> {
        let refused = |problem: &str| Err(Denial::malformed("bcrypt_hash", problem));
        let Ok(parts) = bcrypt.parse::<bcrypt::HashParts>() else {
            return refused("is not a bcrypt hash such as $2a$10$ and 53 characters");
        };
        if bcrypt.len() != BCRYPT_CHARACTERS {
            return refused("is not a bcrypt hash such as $2a$10$ and 53 characters");
        }
        if BCRYPT_COSTS.contains(&parts.get_cost()) { Ok(Self::Bcrypt(bcrypt.to_owned())) } else { refused("must have a cost of 4 to 12") }
    }

    pub(super) const fn is_imported(&self) -> bool {
        matches!(self, Self::Bcrypt(_))
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(redacted)")
    }
}

/// What came of checking a password.
pub(super) enum Checked {
    Wrong,
    Right,
    /// Right, and hashed anew the way ours are.
    Upgraded(PasswordHash),
}

/// How often each hash was computed, since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashesMade {
    /// argon2id.
    pub argon2id: u64,
    /// bcrypt.
    pub bcrypt: u64,
}

/// Hashes, a few at the same time.
pub(super) struct Hasher {
    turns: Semaphore,
    work: Arc<Work>,
}

impl Hasher {
    pub(super) fn new() -> Self {
        Self { turns: Semaphore::new(CONCURRENT_MAX), work: Arc::default() }
    }

    pub(super) fn made(&self) -> HashesMade {
        HashesMade { argon2id: self.work.argon2id.load(Ordering::Relaxed), bcrypt: self.work.bcrypt.load(Ordering::Relaxed) }
    }

    /// A turn to hash; refused when too many wait.
    pub(super) async fn turn(&self) -> Result<SemaphorePermit<'_>, Denial> {
        let turn = tokio::time::timeout(TURN_WITHIN, self.turns.acquire()).await;
        turn.map_err(|_| Denial::Overloaded)?.map_err(|_| Denial::Internal("the pool is closed"))
    }

    /// Hashes a new password.
    pub(super) async fn hash(&self, password: &str) -> Result<PasswordHash, Denial> {
        let _turn = self.turn().await?;
        let (work, password) = (Arc::clone(&self.work), Zeroizing::new(password.to_owned()));
        let hashed = tokio::task::spawn_blocking(move || work.argon2id_anew(&password)).await;
        hashed.map_err(|_| Denial::Internal("hashing a password failed"))?
    }

    /// Checks a password against the hash of a user, or against none; `with_bcrypt` when any user may have a bcrypt hash.
    pub(super) async fn check(
        &self,
        _turn: &SemaphorePermit<'_>,
        hash: Option<PasswordHash>,
        password: &Zeroizing<String>,
        with_bcrypt: bool,
    ) -> Result<Checked, Denial> {
        let (work, password) = (Arc::clone(&self.work), password.clone());
        let checked = tokio::task::spawn_blocking(move || work.check(hash, &password, with_bcrypt)).await;
        checked.map_err(|_| Denial::Internal("checking a password failed"))?
    }
}

/// The hashing itself, counted.
#[derive(Default)]
struct Work {
    argon2id: AtomicU64,
    bcrypt: AtomicU64,
}

impl Work {
    fn check(&self, hash: Option<PasswordHash>, password: &str, with_bcrypt: bool) -> Result<Checked, Denial> {
        match hash {
            Some(PasswordHash::Argon2id(known)) => {
                self.bcrypt_for_nothing(password, with_bcrypt);
                let digest = self.argon2id(&known, password)?;
                let same = bool::from(digest.as_slice().ct_eq(&known.digest));
                Ok(if same { Checked::Right } else { Checked::Wrong })
            }
            Some(PasswordHash::Bcrypt(known)) => {
                self.bcrypt.fetch_add(1, Ordering::Relaxed);
                let same = bcrypt::verify(password, &known).unwrap_or(false);
                let anew = self.argon2id_anew(password)?; // whether it is of use or not: an attempt costs what it costs
                Ok(if same { Checked::Upgraded(anew) } else { Checked::Wrong })
            }
            None => {
                self.bcrypt_for_nothing(password, with_bcrypt);
                self.argon2id_anew(password).map(|_of_no_use| Checked::Wrong)
            }
        }
    }

    fn bcrypt_for_nothing(&self, password: &str, with_bcrypt: bool) {
        if !with_bcrypt {
            return;
        }
        self.bcrypt.fetch_add(1, Ordering::Relaxed);
        let mut input = Zeroizing::new(password.as_bytes().to_vec());
        input.truncate(BCRYPT_BYTES_MAX);
        input.push(0);
        std::hint::black_box(bcrypt::bcrypt(BCRYPT_COST, [0; 16], &input));
    }

    fn argon2id_anew(&self, password: &str) -> Result<PasswordHash, Denial> {
        let salt = *uuid::Uuid::new_v4().as_bytes();
        let mut hash = Argon2id { memory_kib: MEMORY_KIB, passes: PASSES, lanes: LANES, salt, digest: [0; DIGEST_BYTES] };
        hash.digest = *self.argon2id(&hash, password)?;
        Ok(PasswordHash::Argon2id(hash))
    }

    /// The digest of a password with the parameters and the salt of `hash`.
    fn argon2id(&self, hash: &Argon2id, password: &str) -> Result<Zeroizing<[u8; DIGEST_BYTES]>, Denial> {
        self.argon2id.fetch_add(1, Ordering::Relaxed);
        let failed = |_| Denial::Internal("argon2id failed");
        let params = Params::new(hash.memory_kib, hash.passes, hash.lanes, Some(DIGEST_BYTES)).map_err(failed)?;
        let mut digest = Zeroizing::new([0; DIGEST_BYTES]);
        Argon2::new(argon2::Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(password.as_bytes(), &hash.salt, digest.as_mut_slice())
            .map_err(failed)?;
        Ok(digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Go writes it, with a cost that tests can afford.
    fn bcrypt_of(password: &str) -> String {
        bcrypt::hash_with_salt(password, 4, [7; 16]).unwrap().format_for_version(bcrypt::Version::TwoA)
    }

    #[test]
    fn a_bcrypt_hash_is_checked_and_replaced() {
        let work = Work::default();
        let known = PasswordHash::imported(&bcrypt_of("correct horse")).unwrap();
        assert!(matches!(work.check(Some(known.clone()), "wrong horse", true).unwrap(), Checked::Wrong));
        let Checked::Upgraded(anew) = work.check(Some(known), "correct horse", true).unwrap() else { panic!("it is right") };
        assert!(matches!(work.check(Some(anew.clone()), "correct horse", false).unwrap(), Checked::Right));
        assert!(matches!(work.check(Some(anew), "wrong horse", false).unwrap(), Checked::Wrong));
    }

    #[test]
    fn what_is_no_bcrypt_hash_is_not_taken_over() {
        let good = bcrypt_of("x");
        for bad in ["", "x", "$2a$10$short", &good[..59], &format!("{good}."), &good.replace("$04$", "$31$"), &good.replace("$2a$", "$1$")]
        {
            assert!(PasswordHash::imported(bad).is_err(), "{bad}");
        }
    }
}
