//! The format of Intel's sample encryptor: `nonce (12) || ciphertext || tag (16)`, AES-GCM, no additional data.
//!
//! Source: trustauthority-samples, `encryptor` and `model/executor.go`. No magic, no version, no key id: nothing binds the
//! file to a model or a key, a wrong key looks like a damaged file, and nothing is authentic before the last byte. Read for
//! compatibility; new models are sealed as [`crate::Kfm1`].

use aws_lc_rs::{
    aead::{AES_128_GCM, AES_192_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand,
};
use keyferry_key_wrap::KeyMaterial;
use zeroize::Zeroize;

use crate::{EnvelopeError, ModelDigest, TAG_BYTES, kfm1::sha256};

/// How long the destination of [`open_into`] must be, in bytes.
pub fn plaintext_length(file: &[u8]) -> Result<usize, EnvelopeError> {
    file.len().checked_sub(NONCE_LEN + TAG_BYTES).ok_or(EnvelopeError::Truncated {
        field: "nonce and tag",
        needed: (NONCE_LEN + TAG_BYTES) as u64,
        got: file.len() as u64,
    })
}

/// SHA-256 of the whole file.
pub fn digest(file: &[u8]) -> ModelDigest {
    ModelDigest(sha256([file]))
}

/// Opens the file into `destination`, which must be exactly [`plaintext_length`] long and is wiped on failure. Keys of
/// 16, 24 and 32 bytes open what was sealed with them.
pub fn open_into(key: &KeyMaterial, file: &[u8], destination: &mut [u8]) -> Result<(), EnvelopeError> {
    let wanted = plaintext_length(file)?;
    if destination.len() != wanted {
        return Err(EnvelopeError::Destination { wanted, got: destination.len() });
    }
    let (nonce, sealed) = file.split_at(NONCE_LEN);
    let (ciphertext, tag) = sealed.split_at(wanted);
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| EnvelopeError::Crypto)?;
    let opened = cipher(key)?.open_separate_gather(nonce, Aad::empty(), ciphertext, tag, destination);
    opened.map_err(|_| {
        destination.zeroize();
        EnvelopeError::NotOpened
    })
}

/// Seals `plaintext` under a fresh random nonce, byte-compatible with Intel's encryptor.
pub fn seal(key: &KeyMaterial, plaintext: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
    let mut nonce = [0; NONCE_LEN];
    rand::fill(&mut nonce).map_err(|_| EnvelopeError::Crypto)?;
    seal_with_nonce(key, plaintext, nonce)
}

fn seal_with_nonce(key: &KeyMaterial, plaintext: &[u8], nonce: [u8; NONCE_LEN]) -> Result<Vec<u8>, EnvelopeError> {
    let mut file = Vec::with_capacity(NONCE_LEN + plaintext.len() + TAG_BYTES);
    file.extend_from_slice(&nonce);
    file.extend_from_slice(plaintext);
    let tag = cipher(key)?
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut file[NONCE_LEN..])
        .map_err(|_| EnvelopeError::Crypto)?;
    file.extend_from_slice(tag.as_ref());
    Ok(file)
}

fn cipher(key: &KeyMaterial) -> Result<LessSafeKey, EnvelopeError> {
    let algorithm = match key.len() {
        16 => &AES_128_GCM,
        24 => &AES_192_GCM,
        32 => &AES_256_GCM,
        bytes => return Err(EnvelopeError::KeyLength { bytes, wanted: "16, 24 or 32" }),
    };
    UnboundKey::new(algorithm, key.expose()).map(LessSafeKey::new).map_err(|_| EnvelopeError::Crypto)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by the sample's own encryptor: key 00..1f, nonce 00..0b.
    #[test]
    fn a_fixed_nonce_gives_the_bytes_of_intels_encryptor() {
        let key = KeyMaterial::new((0..32).collect::<Vec<u8>>()).unwrap();
        let model = b"0.055633 0.154901 0.0167112 0.0281701 0.0399299 0.075899 0.0519244 0.0549757 0.189926";
        let file = seal_with_nonce(&key, model, std::array::from_fn(|i| u8::try_from(i).unwrap())).unwrap();
        assert_eq!(file.len(), 113);
        assert_eq!(hex::encode(&file[12..28]), "772ce62ef0d3f128ad71b9ba84dd415d");
        assert_eq!(hex::encode(&file[97..]), "f0b9411f32b341c6548f92cf75127fcd");
        assert_eq!(digest(&file).to_string(), "aae130cdeb9eb14ca6c2bc09955d9678c76ea751b01322d4fb4436a9e56c0189");
    }
}
