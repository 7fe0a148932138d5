//! Key transfer policy documents and their evaluation against an authentic attestation token.
