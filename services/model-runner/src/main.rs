//! Unwraps a released key, decrypts the model in memory and serves inference.
fn main() {}
