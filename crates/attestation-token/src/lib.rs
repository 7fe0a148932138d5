//! Attestation token claims, signing, and authentication against a JWKS and its pinned root.
