//! NATS: typed publish, consume, request; de-duplication; dead letters; accounts and permissions.
