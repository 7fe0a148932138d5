//! A key's fingerprint: lets a broker notice other bytes under a known reference without storing anything that helps to
//! guess the key.

use aws_lc_rs::{constant_time::verify_slices_are_equal, hmac};
use keyferry_key_wrap::KeyMaterial;

/// Length of a fingerprint, in bytes.
pub const FINGERPRINT_BYTES: usize = 32;
/// Keeps these tags apart from anything else that is made under the same store key.
const DOMAIN: &[u8] = b"keyferry key fingerprint v1\0";

/// HMAC-SHA-256 under the broker's store key over the material. Keyed, because a bare hash of a short or weak key can be
/// searched for. Store it when the key is created; compare it at every release.
pub fn fingerprint(store_key: &[u8; 32], material: &KeyMaterial) -> [u8; FINGERPRINT_BYTES] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, store_key));
    context.update(DOMAIN);
    context.update(material.expose());
    let mut fingerprint = [0; FINGERPRINT_BYTES];
    fingerprint.copy_from_slice(context.sign().as_ref());
    fingerprint
}

/// Whether `material` is the key that `stored` was made from, in constant time.
pub fn fingerprint_matches(store_key: &[u8; 32], material: &KeyMaterial, stored: &[u8]) -> bool {
    verify_slices_are_equal(&fingerprint(store_key, material), stored).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_bytes_another_store_key_and_a_cut_fingerprint_do_not_match() {
        let key = KeyMaterial::new(vec![7; 32]).unwrap();
        let stored = fingerprint(&[1; 32], &key);
        assert!(fingerprint_matches(&[1; 32], &key, &stored));
        assert!(!fingerprint_matches(&[2; 32], &key, &stored));
        assert!(!fingerprint_matches(&[1; 32], &KeyMaterial::new(vec![8; 32]).unwrap(), &stored));
        assert!(!fingerprint_matches(&[1; 32], &key, &stored[..31]));
        assert!(!fingerprint_matches(&[1; 32], &key, &[]));
    }
}
