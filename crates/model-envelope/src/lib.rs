//! The encrypted model file; decrypts in memory.
