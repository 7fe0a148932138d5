//! Redeemed nonces: which evidence a nonce was used for, and the answer it got.
//!
//! A record is created when a token is issued, if none is there: the effect and its mark are one write. Whoever comes
//! second with the same evidence gets the same token, with other evidence a refusal. The bus stores the record and could
//! alter it, so it is authenticated with a key the bus does not have; were it dropped, a nonce could be used twice inside
//! its lifetime, each time with genuine evidence over it.

use std::time::Duration;

use aws_lc_rs::hmac;
use bytes::Bytes;
use keyferry_bus::{Bucket, BucketError, BucketHandle, Bus};
use keyferry_contract::{Reason, attestation::v1::TokenIssued};
use prost::Message;

use crate::refusal::Refusal;

const MAC_BYTES: usize = 32;
const DIGEST_BYTES: usize = 32;

/// The records of this verifier and its replicas.
#[derive(Debug)]
pub(crate) struct Redemptions {
    bucket: BucketHandle,
    key: hmac::Key,
    lifetime: Duration,
}

impl Redemptions {
    /// Records vanish after `lifetime`: longer than a nonce lives, so that an expired record's nonce has expired too.
    pub(crate) fn new(bus: &Bus, key: hmac::Key, lifetime: Duration) -> Self {
        Self { bucket: bus.bucket(Bucket::Seen), key, lifetime }
    }

    /// The answer this evidence already got, if its nonce was redeemed; a refusal if it was redeemed by other evidence.
    pub(crate) async fn find(&self, nonce_key: &str, evidence: &[u8; 32]) -> Result<Option<TokenIssued>, Refusal> {
        match self.bucket.read(nonce_key).await? {
            Some(entry) => self.open(nonce_key, evidence, &entry.value).map(Some),
            None => Ok(None),
        }
    }

    /// Redeems the nonce with this answer, or returns the answer that came first.
    pub(crate) async fn redeem(&self, nonce_key: &str, evidence: &[u8; 32], answer: TokenIssued) -> Result<TokenIssued, Refusal> {
        let record = self.seal(nonce_key, evidence, &answer);
        match self.bucket.create_for(nonce_key, record, Some(self.lifetime)).await {
            Ok(_revision) => Ok(answer),
            Err(BucketError::Conflict { .. }) => {
                let first = self.find(nonce_key, evidence).await?;
                first.ok_or_else(|| Refusal::new(Reason::StoreUnavailable, "the redemption record vanished while it was read"))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn seal(&self, nonce_key: &str, evidence: &[u8; 32], answer: &TokenIssued) -> Bytes {
        let content = [&evidence[..], &answer.encode_to_vec()].concat();
        let mac = hmac::sign(&self.key, &[nonce_key.as_bytes(), &content].concat());
        [mac.as_ref(), &content].concat().into()
    }

    fn open(&self, nonce_key: &str, evidence: &[u8; 32], record: &[u8]) -> Result<TokenIssued, Refusal> {
        let altered = || Refusal::new(Reason::StoreUnavailable, "a redemption record is not ours: the seen bucket was altered");
        let (mac, content) = record.split_at_checked(MAC_BYTES).ok_or_else(altered)?;
        hmac::verify(&self.key, &[nonce_key.as_bytes(), content].concat(), mac).map_err(|_| altered())?;
        let (digest, answer) = content.split_at_checked(DIGEST_BYTES).ok_or_else(altered)?;
        if digest != evidence {
            return Err(Refusal::new(Reason::NonceReplayed, "the nonce was already redeemed with other evidence"));
        }
        TokenIssued::decode(answer).map_err(|_| altered())
    }
}
