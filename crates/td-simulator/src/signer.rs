//! One P-256 key with the two signature encodings the quote world needs: DER in certificates, raw r and s elsewhere.

use std::fmt;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::PrivatePkcs8KeyDer;
use zeroize::Zeroizing;

use crate::SimulatorError;

/// A P-256 signing key, parsed once.
pub(crate) struct Signer {
    pair: EcdsaKeyPair,
    pkcs8: Zeroizing<Vec<u8>>,
    role: &'static str,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({}, redacted)", self.role)
    }
}

impl Signer {
    pub(crate) fn generate(role: &'static str) -> Result<Self, SimulatorError> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        Self::from_pkcs8(role, document.map_err(|_| SimulatorError::Key(role))?.as_ref())
    }

    pub(crate) fn from_pkcs8(role: &'static str, der: &[u8]) -> Result<Self, SimulatorError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der).map_err(|_| SimulatorError::Key(role))?;
        Ok(Self { pair, pkcs8: Zeroizing::new(der.to_vec()), role })
    }

    /// The private key in PKCS #8.
    pub(crate) fn pkcs8(&self) -> &Zeroizing<Vec<u8>> {
        &self.pkcs8
    }

    /// x and y, big-endian, as quotes carry a key.
    pub(crate) fn public_key(&self) -> [u8; 64] {
        let mut key = [0; 64];
        // The point is 0x04, x, y.
        if let Some(point) = self.pair.public_key().as_ref().get(1..65) {
            key.copy_from_slice(point);
        }
        key
    }

    /// r and s, big-endian, over SHA-256 of `message`.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<[u8; 64], SimulatorError> {
        let signature = self.pair.sign(&SystemRandom::new(), message).map_err(|_| SimulatorError::Key(self.role))?;
        signature.as_ref().try_into().map_err(|_| SimulatorError::Key(self.role))
    }

    /// The same key for certificates.
    pub(crate) fn certificate_key(&self) -> Result<KeyPair, SimulatorError> {
        let der = PrivatePkcs8KeyDer::from(self.pkcs8.as_slice());
        Ok(KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256)?)
    }
}

/// An attestation key in the file of a simulated TD: PKCS #8 in hex.
pub(crate) mod attestation_key {
    use std::sync::Arc;

    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};
    use zeroize::Zeroizing;

    use super::Signer;

    pub(crate) fn serialize<S: Serializer>(signer: &Arc<Signer>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(hex::encode(signer.pkcs8().as_slice())))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<Signer>, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        let der = hex::decode(text.as_bytes()).map(Zeroizing::new).map_err(|_| D::Error::custom("attestation key: not hex"))?;
        Signer::from_pkcs8("attestation", &der).map(Arc::new).map_err(D::Error::custom)
    }
}
