//! What a TD asks its platform to sign.

use sha2::{Digest, Sha512};

/// REPORTDATA (64 bytes) that binds a verifier's nonce and the TD's own data to a quote:
/// SHA-512(val || iat || user_data), over the bytes as decoded once from the verifier's JSON, without separators.
/// Without a nonce pass two empty slices. Source: Intel Trust Authority client, `tdx` adapter.
pub fn report_data(val: &[u8], iat: &[u8], user_data: &[u8]) -> [u8; 64] {
    Sha512::new().chain_update(val).chain_update(iat).chain_update(user_data).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VAL: &[u8] = b"9ETO/v6EWUxJxK1KFG62qYIriL9P5gss89RUtPa5WIGgd8dhVR9sqD2mPze9sWe/FYPpqFG9+5QbhALsGvTkLA==";
    const IAT: &[u8] = b"2026-03-04 10:11:12 +0000 UTC";

    /// The value without a nonce was published with the client; the one with a nonce was computed with another SHA-512
    /// (Python's hashlib) over the concatenation.
    #[test]
    fn the_vectors_agree() {
        let with_nonce = "5d578585d9e433bd4a3d505f21875cf4b2d55be46e86abeff3372622b866a875\
                          2f2b458c67fa967f659defdf0e7bc5d5b3cb9abf5b3f4dcbf269570b1dbbd9c3";
        assert_eq!(hex::encode(report_data(VAL, IAT, &[0, 1, 2, 3])), with_nonce);
        let without_nonce = "4ec54b09e2b209ddb9a678522bb451740c513f488cb27a088363071857174514\
                             1920036aebdb78c0b4cd783a4a6eecc937a40c6104e427512d709a634b412f60";
        assert_eq!(hex::encode(report_data(b"", b"", &[0, 1, 2, 3])), without_nonce);
        assert!(hex::encode(report_data(b"", b"", b"")).starts_with("cf83e135"));
    }
}
