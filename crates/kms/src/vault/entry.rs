//! What a KV entry holds: a key record of Intel's KBS, in the members that its Go code reads and writes.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use keyferry_key_wrap::KeyMaterial;
use openssl::pkey::{Id, PKey};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::json::{self, Secret};
use crate::{Algorithm, KeyForm, KeySpec, KeyState, KmsError, Usage};

/// Our own member, which Intel's KBS ignores: `deactivated` or `compromised`. Absent from a key in use.
const STATE: &str = "state";

/// A key as an entry holds it.
pub(crate) struct Entry {
    pub(crate) algorithm: Option<Algorithm>,
    pub(crate) length_bits: Option<u16>,
    pub(crate) state: KeyState,
    pub(crate) material: KeyMaterial,
}

#[derive(Deserialize)]
struct Stored {
    #[serde(default)]
    algorithm: String,
    #[serde(default)]
    key_data: Option<Secret>,
    #[serde(default)]
    private_key: Option<Secret>,
    #[serde(default)]
    state: Option<String>,
}

impl Entry {
    /// Reads a record. What it says about the key's length is not asked: the key itself is.
    pub(crate) fn read(record: &[u8]) -> Result<Self, KmsError> {
        let stored: Stored = json::read(record).map_err(|_| NO_RECORD)?;
        let algorithm = algorithm(&stored.algorithm);
        let text = match algorithm {
            Some(Algorithm::Aes) => stored.key_data,
            Some(Algorithm::Rsa | Algorithm::Ec) => stored.private_key,
            None => stored.private_key.or(stored.key_data),
        };
        // Intel's KBS blanks a member instead of removing it.
        let text = text.filter(|text| !text.expose().is_empty()).ok_or(NO_RECORD)?;
        let material = decode(text.expose())?;
        let state = match stored.state.as_deref() {
            None => KeyState::Active,
            Some("deactivated") => KeyState::Deactivated,
            Some("compromised") => KeyState::Compromised,
            Some(_) => return Err(KmsError::Protocol("an entry is in a state that this version does not know")),
        };
        Ok(Self { algorithm, length_bits: algorithm.and_then(|algorithm| length_bits(algorithm, &material)), state, material })
    }
}

const NO_RECORD: KmsError = KmsError::Protocol("an entry is not a key record: is this the right mount?");

fn algorithm(name: &str) -> Option<Algorithm> {
    let is = |wanted: &str| name.eq_ignore_ascii_case(wanted);
    match () {
        () if is("AES") => Some(Algorithm::Aes),
        () if is("RSA") => Some(Algorithm::Rsa),
        () if is("EC") => Some(Algorithm::Ec),
        () => None,
    }
}

/// Base64 into key material, by way of one buffer that is wiped.
pub(crate) fn decode(text: &str) -> Result<KeyMaterial, KmsError> {
    let bytes = STANDARD.decode(text).map(Zeroizing::new).map_err(|_| KmsError::Protocol("a key is not in base64"))?;
    KeyMaterial::new(bytes).map_err(|_| KmsError::KeyMismatch { field: "length" })
}

/// The length of a key by its bytes; `None` if they are no such key.
pub(crate) fn length_bits(algorithm: Algorithm, material: &KeyMaterial) -> Option<u16> {
    let bits = match algorithm {
        Algorithm::Aes => u32::try_from(material.bits()).ok()?,
        Algorithm::Rsa | Algorithm::Ec => {
            let key = PKey::private_key_from_pkcs8(material.expose()).ok()?;
            let wanted = if algorithm == Algorithm::Rsa { Id::RSA } else { Id::EC };
            (key.id() == wanted).then(|| key.bits())?
        }
    };
    u16::try_from(bits).ok()
}

/// The form of a key of this algorithm.
pub(crate) const fn form(algorithm: Option<Algorithm>) -> KeyForm {
    match algorithm {
        Some(Algorithm::Aes) => KeyForm::Symmetric,
        Some(Algorithm::Rsa | Algorithm::Ec) => KeyForm::Private,
        None => KeyForm::Other,
    }
}

/// An entry has no usage mask: whoever reads it can do with the key whatever its algorithm can.
pub(crate) const fn usage(algorithm: Option<Algorithm>) -> Option<Usage> {
    Some(match algorithm {
        Some(Algorithm::Aes) => Usage::ENCRYPT.with(Usage::DECRYPT).with(Usage::EXPORT),
        Some(Algorithm::Rsa) => Usage::DECRYPT.with(Usage::SIGN).with(Usage::EXPORT),
        Some(Algorithm::Ec) => Usage::SIGN.with(Usage::KEY_AGREEMENT).with(Usage::EXPORT),
        None => return None,
    })
}

/// A record as Intel's KBS writes it.
#[derive(Serialize)]
pub(crate) struct NewEntry<'a> {
    id: Uuid,
    algorithm: &'static str,
    key_length: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    curve_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_data: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    private_key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    public_key: Option<String>,
    transfer_policy_id: Uuid,
    transfer_link: String,
}

/// Base64 of key material, for [`NewEntry::new`] to borrow.
pub(crate) fn encode(material: &KeyMaterial) -> Zeroizing<String> {
    Zeroizing::new(STANDARD.encode(material.expose()))
}

impl<'a> NewEntry<'a> {
    /// `text` is [`encode`] of `material`, a key as `spec` says.
    pub(crate) fn new(id: Uuid, spec: &KeySpec, material: &KeyMaterial, text: &'a str) -> Result<Self, KmsError> {
        let aes = spec.algorithm() == Algorithm::Aes;
        let public_key = if aes { None } else { Some(public_key(material)?) };
        Ok(Self {
            id,
            algorithm: match spec.algorithm() {
                Algorithm::Aes => "AES",
                Algorithm::Rsa => "RSA",
                Algorithm::Ec => "EC",
            },
            key_length: spec.length_bits(),
            curve_type: spec.curve().map(crate::Curve::name),
            key_data: aes.then_some(text),
            private_key: (!aes).then_some(text),
            public_key,
            // As Intel's KBS has it in this place: the policy is in the record that the broker keeps.
            transfer_policy_id: Uuid::nil(),
            transfer_link: format!("/kbs/v1/keys/{id}/transfer"),
        })
    }
}

fn public_key(material: &KeyMaterial) -> Result<String, KmsError> {
    let der = PKey::private_key_from_pkcs8(material.expose()).and_then(|key| key.public_key_to_der());
    der.map(|der| STANDARD.encode(der)).map_err(|_| KmsError::KeyMismatch { field: "format (a private key is PKCS#8)" })
}

/// The same record in another state; every other member stays as it is, known or not.
pub(crate) fn with_state(record: &[u8], state: KeyState) -> Result<Zeroizing<Vec<u8>>, KmsError> {
    let name = match state {
        KeyState::Compromised => "compromised",
        _ => "deactivated",
    };
    let state: Box<RawValue> = to_raw_value(name).map_err(|_| KmsError::Internal)?;
    let mut members: BTreeMap<String, &RawValue> = serde_json::from_slice(record).map_err(|_| NO_RECORD)?;
    members.insert(STATE.to_owned(), &state);
    json::write(&members, record.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Intel's KBS wrote it.
    const INTELS: &str = r#"{"id":"9d8ff5f2-0f4a-4c31-8f6c-3ac3a7d2d7a4","algorithm":"AES","key_length":256,"key_data":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=","transfer_policy_id":"00000000-0000-0000-0000-000000000000","transfer_link":"/kbs/v1/keys/9d8ff5f2-0f4a-4c31-8f6c-3ac3a7d2d7a4/transfer","created_at":"2026-01-02T03:04:05Z"}"#;

    #[test]
    fn a_record_of_intels_is_read_whatever_the_case_of_its_algorithm() {
        for record in [INTELS.to_owned(), INTELS.replace("\"AES\"", "\"aes\"")] {
            let entry = Entry::read(record.as_bytes()).unwrap();
            assert_eq!((entry.algorithm, entry.length_bits, entry.state), (Some(Algorithm::Aes), Some(256), KeyState::Active));
            assert_eq!(entry.material.expose(), (0..32).collect::<Vec<u8>>());
        }
    }

    #[test]
    fn a_state_changes_nothing_else() {
        let once = with_state(INTELS.as_bytes(), KeyState::Deactivated).unwrap();
        assert_eq!(Entry::read(&once).unwrap().state, KeyState::Deactivated);
        let twice = with_state(&once, KeyState::Compromised).unwrap();
        assert_eq!(Entry::read(&twice).unwrap().state, KeyState::Compromised);
        let mut members: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&twice).unwrap();
        members.remove(STATE);
        assert_eq!(members, serde_json::from_str(INTELS).unwrap());
    }

    #[test]
    fn a_record_without_a_key_or_in_an_unknown_state_is_no_key() {
        let blank = r#"{"algorithm":"AES","key_data":""}"#;
        let elsewhere = r#"{"algorithm":"RSA","key_data":"AAAA"}"#;
        let unknown = r#"{"algorithm":"AES","key_data":"AAAA","state":"suspended"}"#;
        for record in ["", "null", "[]", "{}", "\"text\"", blank, elsewhere, unknown, r#"{"algorithm":"AES","key_data":"?"}"#] {
            assert_eq!(Entry::read(record.as_bytes()).err().map(|error| error.label()), Some("kms_protocol"), "{record}");
        }
    }
}
