//! Key material, the symmetric wrapping key, and Intel's AES-GCM and RSA-OAEP layouts: both ends.
