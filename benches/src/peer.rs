//! The peer: plain `dcap-qvl`, with the same cryptography as ours and with the one it brings along.

use anyhow::Result;
use aws_lc_rs::digest;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use dcap_qvl::QuoteCollateralV3;
use dcap_qvl::config::{Config, CryptoProvider};
use dcap_qvl::verify::QuoteVerifier;
use rustls_pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, alg_id};

use crate::world::{NOW, World};

/// `dcap-qvl` with AWS-LC: parses the collateral and verifies.
pub(crate) fn verify_from_json(world: &World, quote: &[u8]) -> Result<()> {
    let collateral: QuoteCollateralV3 = serde_json::from_str(&world.collateral_json)?;
    verify(world, quote, &collateral)
}

/// `dcap-qvl` with AWS-LC over parsed collateral.
pub(crate) fn verify(world: &World, quote: &[u8], collateral: &QuoteCollateralV3) -> Result<()> {
    QuoteVerifier::<AwsLc>::new_with_config(world.root.certificate_der().to_vec()).verify(quote, collateral, NOW).map(drop)
}

struct AwsLc;

impl Config for AwsLc {
    type X509 = dcap_qvl::x509::X509CertBackend;
    type SigEncoder = dcap_qvl::signature::DerSigEncoder;
    type Crypto = Self;
}

impl CryptoProvider for AwsLc {
    fn sig_algo() -> &'static dyn SignatureVerificationAlgorithm {
        &EcdsaP256
    }
    fn sha256(data: &[u8]) -> [u8; 32] {
        digest_array(&digest::SHA256, data)
    }
    fn sha384(data: &[u8]) -> [u8; 48] {
        digest_array(&digest::SHA384, data)
    }
}

fn digest_array<const N: usize>(algorithm: &'static digest::Algorithm, data: &[u8]) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(digest::digest(algorithm, data).as_ref());
    array
}

#[derive(Debug)]
struct EcdsaP256;

impl SignatureVerificationAlgorithm for EcdsaP256 {
    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P256
    }
    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_SHA256
    }
    fn verify_signature(&self, public_key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, public_key).verify(message, signature).map_err(|_| InvalidSignature)
    }
}
