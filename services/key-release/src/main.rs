//! Releases keys from a KMS to attested TDs, wrapped so that only they can open them.
fn main() {}
