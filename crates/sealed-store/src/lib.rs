//! Compare-and-set records on JetStream KV, sealed and bound to name and revision.
