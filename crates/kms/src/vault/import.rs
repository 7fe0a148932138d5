//! Wrapping a key for the server's own wrapping key: how an existing key is brought into the transit engine.

use aws_lc_rs::{
    key_wrap::{AES_256, AesKek, KeyWrapPadded},
    rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey},
};
use keyferry_key_wrap::KeyMaterial;
use zeroize::Zeroizing;

use crate::KmsError;

/// RSA-OAEP (SHA-256) of a fresh AES-256 key, then AES-KWP (RFC 5649) of `material` under it.
pub(crate) fn wrap_for_import(wrapping_key_pem: &str, material: &KeyMaterial) -> Result<Vec<u8>, KmsError> {
    let wrong = |_| KmsError::Protocol("its wrapping key is no RSA public key");
    let spki = pem::parse(wrapping_key_pem).map_err(|_| KmsError::Protocol("its wrapping key is not in PEM"))?;
    let public = PublicEncryptingKey::from_der(spki.contents()).map_err(|_| KmsError::Protocol("its wrapping key is no RSA public key"))?;
    let public = OaepPublicEncryptingKey::new(public).map_err(wrong)?;

    let failed = |_| KmsError::Internal;
    let mut ephemeral = Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(ephemeral.as_mut_slice()).map_err(failed)?;
    let mut wrapped = vec![0; public.ciphertext_size()];
    let length = public.encrypt(&OAEP_SHA256_MGF1SHA256, ephemeral.as_slice(), &mut wrapped, None).map_err(failed)?.len();
    wrapped.truncate(length);

    let kek = AesKek::new(&AES_256, ephemeral.as_slice()).map_err(failed)?;
    let mut key = vec![0; material.len().div_ceil(8) * 8 + 8];
    let key = kek.wrap_with_padding(material.expose(), &mut key).map_err(failed)?;
    wrapped.extend_from_slice(key);
    Ok(wrapped)
}
