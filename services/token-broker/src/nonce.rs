//! Nonces: handed out without being stored, recognised by their signature, good for a short time.
//!
//! `val` is the base64 text of 64 random bytes and `iat` a time as Go prints it, as in Intel's nonces; the signature is
//! opaque to everybody but us, so it is an HMAC: it needs no certificate, costs a microsecond, and every replica that
//! shares the key directory can check it. That a nonce was used is remembered in the `seen` bucket when a token is issued
//! for it ([`crate::redemption`]), not before, because old clients send the same evidence again after a 5xx.

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::{Timestamp, fmt::strtime, tz::TimeZone};
use keyferry_contract::Reason;
use sha2::{Digest, Sha256};

use crate::refusal::Refusal;

/// Clocks of replicas may differ by this much.
const CLOCK_SKEW_SECONDS: u64 = 5;
/// `2026-03-04 10:11:12 +0000 UTC`.
const TIME_FORMAT: &str = "%Y-%m-%d %H:%M:%S +0000 UTC";
const RANDOM_BYTES: usize = 64;
/// Base64 text of the random bytes.
const VAL_BYTES: usize = 88;
/// Text of a time.
const IAT_BYTES: usize = 29;
/// Of a nonce that another verifier issued; Intel's has 88.
const VAL_BYTES_MAX: usize = 256;
/// The same; Intel's has 384.
const SIGNATURE_BYTES_MAX: usize = 1024;

/// A nonce as it travels: decoded bytes.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Nonce {
    /// Base64 text of 64 random bytes.
    pub(crate) val: Vec<u8>,
    /// When it was issued, as text.
    pub(crate) iat: Vec<u8>,
    /// HMAC-SHA-384 over both.
    pub(crate) signature: Vec<u8>,
}

impl std::fmt::Debug for Nonce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Nonce(redacted)")
    }
}

impl Nonce {
    /// Names the nonce in the `seen` bucket.
    pub(crate) fn key(&self) -> String {
        let digest = Sha256::new().chain_update(&self.val).chain_update([0]).chain_update(&self.iat).finalize();
        format!("nonce.{}", hex::encode(digest))
    }
}

/// Makes and recognises nonces.
pub(crate) struct NonceAuthority {
    key: hmac::Key,
    lifetime_seconds: u64,
}

/// A nonce that we issued, whatever its age.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Recognised {
    issued_at: u64,
}

impl NonceAuthority {
    /// With the key that all replicas share.
    pub(crate) fn new(key: &[u8], lifetime_seconds: u64) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA384, key), lifetime_seconds }
    }

    /// A fresh nonce, and when it ends (Unix seconds).
    pub(crate) fn issue(&self, now: u64) -> Result<(Nonce, u64), Refusal> {
        let mut random = [0; RANDOM_BYTES];
        SystemRandom::new().fill(&mut random).map_err(|_| Refusal::new(Reason::Internal, "the random number generator failed"))?;
        let val = BASE64_STANDARD.encode(random).into_bytes();
        let iat = go_time(now).ok_or_else(|| Refusal::new(Reason::Internal, "the clock is outside the calendar"))?.into_bytes();
        let signature = hmac::sign(&self.key, &signed(&val, &iat)).as_ref().to_vec();
        Ok((Nonce { val, iat, signature }, now.saturating_add(self.lifetime_seconds)))
    }

    /// Whether we issued it. Says nothing of its age: evidence that is already answered gets its answer again.
    pub(crate) fn recognise(&self, nonce: &Nonce) -> Result<Recognised, Refusal> {
        let expected = hmac::sign(&self.key, &signed(&nonce.val, &nonce.iat));
        verify_slices_are_equal(expected.as_ref(), &nonce.signature)
            .map_err(|_| Refusal::new(Reason::NonceSignatureInvalid, "the nonce was not issued by this verifier, or was altered"))?;
        let issued_at = std::str::from_utf8(&nonce.iat).ok().and_then(parse_go_time);
        issued_at
            .map(|issued_at| Recognised { issued_at })
            .ok_or_else(|| Refusal::new(Reason::NonceSignatureInvalid, "nonce.iat is no time"))
    }

    /// Whether it may still be redeemed.
    pub(crate) fn check_age(&self, nonce: &Recognised, now: u64) -> Result<(), Refusal> {
        nonce.check_age(self.lifetime_seconds, now)
    }
}

impl Recognised {
    /// A nonce that somebody else issued: only its form and its time can be looked at here.
    pub(crate) fn by_its_time(nonce: &Nonce) -> Result<Self, Refusal> {
        let refuse = |problem| Refusal::new(Reason::NonceSignatureInvalid, problem);
        let val_is_base64 = nonce.val.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(byte));
        if !val_is_base64 || !(1..=VAL_BYTES_MAX).contains(&nonce.val.len()) {
            return Err(refuse("nonce.val is no base64 text of a nonce"));
        }
        if !(1..=SIGNATURE_BYTES_MAX).contains(&nonce.signature.len()) {
            return Err(refuse("nonce.signature is none"));
        }
        let time = std::str::from_utf8(&nonce.iat).ok().filter(|text| text.len() == IAT_BYTES);
        let issued_at = time.and_then(parse_go_time).ok_or_else(|| refuse("nonce.iat is no time"))?;
        Ok(Self { issued_at })
    }

    /// When it was issued, Unix seconds.
    pub(crate) const fn at(&self) -> u64 {
        self.issued_at
    }

    /// Whether it is at most `lifetime_seconds` old.
    pub(crate) fn check_age(&self, lifetime_seconds: u64, now: u64) -> Result<(), Refusal> {
        if self.issued_at > now.saturating_add(CLOCK_SKEW_SECONDS) {
            return Err(Refusal::new(Reason::NonceExpired, "the nonce is from the future: check the clocks of the verifier's replicas"));
        }
        let age = now.saturating_sub(self.issued_at);
        if age > lifetime_seconds {
            return Err(Refusal::new(Reason::NonceExpired, format!("the nonce is {age} s old: {lifetime_seconds} s are allowed")));
        }
        Ok(())
    }
}

impl std::fmt::Debug for NonceAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NonceAuthority({} s, key redacted)", self.lifetime_seconds)
    }
}

/// Domain and lengths first, so that no two pairs give the same bytes.
fn signed(val: &[u8], iat: &[u8]) -> Vec<u8> {
    let length = |bytes: &[u8]| (bytes.len() as u64).to_be_bytes();
    [b"keyferry nonce v1", &length(val)[..], val, &length(iat)[..], iat].concat()
}

/// Whether `data` begin with the two texts of a nonce. Report data is a hash over nonce and data without a boundary, so a
/// quote over a nonce is also one over data that begin with it: whoever replays it without the nonce must not get a token.
pub(crate) fn begins_with_nonce(data: &[u8]) -> bool {
    let Some((val, rest)) = data.split_at_checked(VAL_BYTES) else { return false };
    let iat = rest.get(..IAT_BYTES).and_then(|iat| std::str::from_utf8(iat).ok());
    BASE64_STANDARD.decode(val).is_ok() && iat.is_some_and(|iat| parse_go_time(iat).is_some())
}

fn go_time(now: u64) -> Option<String> {
    let timestamp = Timestamp::from_second(i64::try_from(now).ok()?).ok()?;
    strtime::format(TIME_FORMAT, timestamp).ok()
}

fn parse_go_time(text: &str) -> Option<u64> {
    let civil = strtime::parse(TIME_FORMAT, text).ok()?.to_datetime().ok()?;
    u64::try_from(TimeZone::UTC.to_timestamp(civil).ok()?.as_second()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_772_619_072;

    fn authority() -> NonceAuthority {
        NonceAuthority::new(&[7; 48], 120)
    }

    #[test]
    fn a_nonce_looks_like_intels_and_lives_its_time() {
        let (nonce, ends) = authority().issue(NOW).unwrap();
        assert_eq!((nonce.val.len(), nonce.iat.len(), ends), (88, 29, NOW + 120));
        assert_eq!(nonce.iat, b"2026-03-04 10:11:12 +0000 UTC");
        let recognised = authority().recognise(&nonce).unwrap();
        for age in [0, 1, 120] {
            assert_eq!(authority().check_age(&recognised, NOW + age), Ok(()));
        }
        assert_eq!(authority().check_age(&recognised, NOW - 5), Ok(()));
        for now in [NOW + 121, NOW + 100_000, NOW - 6] {
            assert_eq!(authority().check_age(&recognised, now).unwrap_err().reason, Reason::NonceExpired);
        }
        let (other, _) = authority().issue(NOW).unwrap();
        assert_ne!(nonce.val, other.val);
        assert_ne!(nonce.key(), other.key());
    }

    #[test]
    fn a_changed_or_foreign_nonce_is_not_recognised() {
        let (nonce, _) = authority().issue(NOW).unwrap();
        let refused = |nonce: &Nonce| authority().recognise(nonce).unwrap_err().reason;
        for part in [0, 1, 2] {
            let mut changed = nonce.clone();
            match part {
                0 => changed.val[0] ^= 1,
                1 => changed.iat[28] ^= 1,
                _ => changed.signature[47] ^= 1,
            }
            assert_eq!(refused(&changed), Reason::NonceSignatureInvalid);
        }
        // The boundary between the two texts is signed too.
        let mut shifted = nonce.clone();
        let first = shifted.iat.remove(0);
        shifted.val.push(first);
        assert_eq!(refused(&shifted), Reason::NonceSignatureInvalid);
        let (foreign, _) = NonceAuthority::new(&[8; 48], 120).issue(NOW).unwrap();
        assert_eq!(refused(&foreign), Reason::NonceSignatureInvalid);
        assert_eq!(refused(&Nonce { val: Vec::new(), iat: Vec::new(), signature: Vec::new() }), Reason::NonceSignatureInvalid);
    }
}
