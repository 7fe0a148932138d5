//! A verified quote against reference values: an attestation result, or why not.
