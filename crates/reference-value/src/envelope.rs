//! DSSE, the Dead Simple Signing Envelope of secure-systems-lab, version 1: what is signed is the pre-authentication
//! encoding of the payload's type and its exact bytes, so a signature for something else is never one for a document.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
    prelude::BASE64_STANDARD,
};
use serde::{Deserialize, Serialize};

use crate::{KeyError, Signer, VerificationKey};

/// The `payloadType` of our envelopes.
pub const PAYLOAD_TYPE: &str = "application/vnd.keyferry.reference-value+json";
const SIGNATURES_MAX: usize = 16;

const TOLERANT: GeneralPurposeConfig = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
/// The specification lets a reader take either alphabet.
const ENGINES: [GeneralPurpose; 2] =
    [GeneralPurpose::new(&alphabet::STANDARD, TOLERANT), GeneralPurpose::new(&alphabet::URL_SAFE, TOLERANT)];

#[derive(Serialize, Deserialize)]
pub(crate) struct Envelope {
    payload: String,
    #[serde(rename = "payloadType")]
    payload_type: String,
    signatures: Vec<Signature>,
}

#[derive(Serialize, Deserialize)]
struct Signature {
    #[serde(default)]
    keyid: String,
    sig: String,
}

/// What came of an envelope.
pub(crate) enum Opened {
    /// One of the keys signed it.
    Signed { payload: Vec<u8>, key: String },
    /// None of them did.
    OtherKey { payload: Vec<u8>, keys: Vec<String> },
    /// It cannot be read.
    Malformed(&'static str),
}

/// Signs a document's bytes, exactly as they are.
pub fn sign(payload: &[u8], signer: &Signer) -> Result<String, KeyError> {
    let signature = signer.sign(&pre_authentication(PAYLOAD_TYPE, payload))?;
    let envelope = Envelope {
        payload: BASE64_STANDARD.encode(payload),
        payload_type: PAYLOAD_TYPE.to_owned(),
        signatures: vec![Signature { keyid: signer.id().to_owned(), sig: BASE64_STANDARD.encode(signature) }],
    };
    serde_json::to_string_pretty(&envelope).map_err(|_| KeyError::Sign)
}

impl Envelope {
    /// `None` where the bytes are no envelope at all.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// A `keyid` is a hint that nobody vouches for: every signature is tried with every key.
    pub(crate) fn open(&self, keys: &[VerificationKey]) -> Opened {
        if self.payload_type != PAYLOAD_TYPE {
            return Opened::Malformed("its payloadType is not that of reference values");
        }
        if self.signatures.len() > SIGNATURES_MAX {
            return Opened::Malformed("it has more than 16 signatures");
        }
        let Some(payload) = decoded(&self.payload) else { return Opened::Malformed("its payload is not base64") };
        let message = pre_authentication(&self.payload_type, &payload);
        for signature in self.signatures.iter().filter_map(|signature| decoded(&signature.sig)) {
            if let Some(key) = keys.iter().find(|key| key.verifies(&message, &signature)) {
                return Opened::Signed { payload, key: key.id().to_owned() };
            }
        }
        Opened::OtherKey { payload, keys: self.signatures.iter().map(|signature| signature.keyid.chars().take(64).collect()).collect() }
    }
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    ENGINES.iter().find_map(|engine| engine.decode(text).ok())
}

/// `DSSEv1`, then length and bytes of the type and of the payload, each after a blank.
fn pre_authentication(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut encoded = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    encoded.extend_from_slice(payload);
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoding_is_that_of_the_specification() {
        let wanted = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world";
        assert_eq!(pre_authentication("http://example.com/HelloWorld", b"hello world"), wanted);
    }
}
