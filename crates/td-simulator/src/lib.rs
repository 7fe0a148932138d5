//! Stands in for the CPU only: byte-exact TDX quotes and collateral under its own root.
