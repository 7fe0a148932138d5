//! Compiles `proto/` with protox: no protoc needed. Messages that carry tokens, nonces or wrapped keys get no derived `Debug`.
use std::{env, fs, path::PathBuf};

use prost::Message;

/// Relative to `proto/`.
const FILES: [&str; 5] = [
    "keyferry/attestation/v1/reason.proto",
    "keyferry/attestation/v1/attestation.proto",
    "keyferry/release/v1/release.proto",
    "keyferry/model/v1/model.proto",
    "keyferry/fleet/v1/fleet.proto",
];

/// Their `Debug` is written by hand in `src/redacted.rs`.
const REDACTED: [&str; 16] = [
    "keyferry.attestation.v1.VerifierNonce",
    "keyferry.attestation.v1.Evidence",
    "keyferry.attestation.v1.TokenIssued",
    "keyferry.attestation.v1.GetTokenRequest",
    "keyferry.attestation.v1.GetTokenResponse",
    "keyferry.attestation.v1.GetEvidenceRequest",
    "keyferry.release.v1.TransferKeyRequest",
    "keyferry.release.v1.TransferKeyRequest.credential",
    "keyferry.release.v1.TransferKeyResponse",
    "keyferry.release.v1.ExplainPolicyRequest",
    "keyferry.release.v1.ExportKeyResponse",
    "keyferry.release.v1.CreateKeyRequest",
    "keyferry.release.v1.CreateUserRequest",
    "keyferry.release.v1.UpdateUserRequest",
    "keyferry.release.v1.ImportUserRequest",
    "keyferry.release.v1.ReplaceTokenSigningKeyRequest",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let proto = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo::rerun-if-changed={}", proto.display());
    let descriptors = protox::compile(FILES, [&proto])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let mut config = prost_build::Config::new();
    config.enable_type_names();
    config.skip_debug(REDACTED);
    tonic_prost_build::configure().compile_fds_with_config(descriptors, config)?;
    Ok(())
}
