//! What the broker knows of a key, as stored. The key itself is in the KMS and nowhere else.

use jiff::Timestamp;
use keyferry_identifiers::{KeyId, PolicyId};
use keyferry_kms::{Curve, FINGERPRINT_BYTES, KeyRef, KeySpec};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::moment;
use crate::Denial;

/// A key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeyRecord {
    pub(crate) key_id: KeyId,
    pub(crate) algorithm: Algorithm,
    /// Of the key, of the modulus, or of the curve.
    pub(crate) length_bits: u16,
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "write_curve", deserialize_with = "read_curve")]
    pub(crate) curve: Option<Curve>,
    /// Which kind of KMS the reference belongs to.
    pub(crate) kms_kind: String,
    pub(crate) kms_ref: String,
    /// Taken when the key was made or registered; `None` if the KMS wraps by itself and never shows the key.
    pub(crate) fingerprint: Option<Fingerprint>,
    /// `None`: an administrator may export it, no TD gets it.
    pub(crate) policy_id: Option<PolicyId>,
    #[serde(with = "moment")]
    pub(crate) created_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) updated_at: Option<Timestamp>,
    /// Whether the broker put the key into the KMS, and so takes it out again. Not known of keys that the first version of
    /// this service made: they stay.
    #[serde(default)]
    pub(crate) made_by_us: bool,
}

/// Keyed hash of the material.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Fingerprint(#[serde(with = "hex::serde")] pub(crate) [u8; FINGERPRINT_BYTES]);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Algorithm {
    #[serde(rename = "AES")]
    Aes,
    #[serde(rename = "RSA")]
    Rsa,
    #[serde(rename = "EC")]
    Ec,
}

impl Algorithm {
    /// Upper or lower case mean the same key.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "AES" | "aes" => Some(Self::Aes),
            "RSA" | "rsa" => Some(Self::Rsa),
            "EC" | "ec" => Some(Self::Ec),
            _ => None,
        }
    }

    /// In upper case.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Aes => "AES",
            Self::Rsa => "RSA",
            Self::Ec => "EC",
        }
    }

    /// The key that is meant. The length of an EC key is its curve's, whatever is said.
    pub(crate) fn spec(self, length_bits: u32, curve: Option<Curve>) -> Result<KeySpec, Denial> {
        let bits = u16::try_from(length_bits).unwrap_or_default();
        match (self, curve) {
            (Self::Ec, Some(curve)) => Ok(KeySpec::ec(curve)),
            (Self::Ec, None) => Err(Denial::malformed("curve", "must be secp256r1, prime256v1, secp384r1 or secp521r1")),
            (_, Some(_)) => Err(Denial::malformed("curve", "is for algorithm EC only")),
            (Self::Aes, None) => KeySpec::aes(bits).map_err(|_| Denial::malformed("length_bits", "must be 128, 192 or 256")),
            (Self::Rsa, None) => KeySpec::rsa(bits).map_err(|_| Denial::malformed("length_bits", "must be 2048, 3072, 4096 or 7680")),
        }
    }
}

impl KeyRecord {
    pub(crate) fn reference(&self) -> Result<KeyRef, Denial> {
        Ok(KeyRef::parse(&self.kms_ref)?)
    }
    pub(crate) fn spec(&self) -> Result<KeySpec, Denial> {
        let unreadable = |_| Denial::Record { name: self.key_id.to_string() };
        self.algorithm.spec(self.length_bits.into(), self.curve).map_err(unreadable)
    }
    /// Whether this is the same key in the same place under the same policy.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let what = |key: &Self| (key.key_id, key.algorithm, key.length_bits, key.curve, key.policy_id, key.fingerprint);
        what(self) == what(other) && (&self.kms_kind, &self.kms_ref) == (&other.kms_kind, &other.kms_ref)
    }
}

/// Which keys are wanted: all that is given must fit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct KeyFilter {
    pub(crate) algorithm: Option<Algorithm>,
    pub(crate) length_bits: Option<u32>,
    pub(crate) curve: Option<Curve>,
    pub(crate) policy_id: Option<PolicyId>,
}

impl KeyFilter {
    pub(super) fn takes(&self, key: &KeyRecord) -> bool {
        self.algorithm.is_none_or(|algorithm| algorithm == key.algorithm)
            && self.length_bits.is_none_or(|bits| bits == u32::from(key.length_bits))
            && self.curve.is_none_or(|curve| Some(curve) == key.curve)
            && self.policy_id.is_none_or(|policy| Some(policy) == key.policy_id)
    }
}

#[allow(clippy::ref_option, clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference to the field")]
fn write_curve<S: Serializer>(curve: &Option<Curve>, serializer: S) -> Result<S::Ok, S::Error> {
    curve.map(Curve::name).serialize(serializer)
}

fn read_curve<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Curve>, D::Error> {
    let Some(name) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    Curve::parse(&name).map(Some).ok_or_else(|| D::Error::custom("no curve of this name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the first version of this service wrote it.
    const OLD: &str = r#"{"key_id":"5f1c7a52-3c0e-4f0b-9f43-5d1d2a6f7b10","algorithm":"AES","length_bits":256,"kms_kind":"dev",
        "kms_ref":"7","fingerprint":"0000000000000000000000000000000000000000000000000000000000000000","policy_id":null,"created_at":1700000000}"#;

    #[test]
    fn a_record_of_the_first_version_is_read() {
        let old: KeyRecord = serde_json::from_str(OLD).unwrap();
        assert_eq!((old.created_at.as_second(), old.curve, old.made_by_us), (1_700_000_000, None, false));
        assert_eq!(old.fingerprint, Some(Fingerprint([0; 32])));
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let old: KeyRecord = serde_json::from_str(OLD).unwrap();
        let changed = KeyRecord {
            algorithm: Algorithm::Ec,
            length_bits: 384,
            curve: Some(Curve::P384),
            fingerprint: None,
            policy_id: Some(PolicyId::random()),
            updated_at: Some("2026-01-02T03:04:05.678901234Z".parse().unwrap()),
            made_by_us: true,
            ..old.clone()
        };
        for key in [old, changed] {
            assert_eq!(serde_json::from_slice::<KeyRecord>(&serde_json::to_vec(&key).unwrap()).unwrap(), key);
        }
    }

    #[test]
    fn lower_case_means_the_same_algorithm_and_anything_else_none() {
        for algorithm in [Algorithm::Aes, Algorithm::Rsa, Algorithm::Ec] {
            assert_eq!(Algorithm::parse(algorithm.name()), Some(algorithm));
            assert_eq!(Algorithm::parse(&algorithm.name().to_lowercase()), Some(algorithm));
        }
        for text in ["", "Aes", "AES ", "DES", "ECDSA"] {
            assert_eq!(Algorithm::parse(text), None, "{text:?}");
        }
    }
}
