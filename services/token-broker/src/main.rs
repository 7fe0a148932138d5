//! Appraises TDX evidence and issues attestation tokens.
fn main() {}
