//! Starts real NATS, KMIP and Vault-API servers and our binaries for a test or a demo.
