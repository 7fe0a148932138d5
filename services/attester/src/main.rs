//! Collects TDX evidence and obtains attestation tokens for the workload in the same TD.
fn main() {}
