//! Throughput as a fraction of the cryptographic bound of the same run.
