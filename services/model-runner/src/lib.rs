//! Unwraps a released key, decrypts the model in memory and serves inference.

pub mod runtime;
