//! KMIP messages and TTLV encoding: bytes only.
