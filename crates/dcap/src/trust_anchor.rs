//! The one certificate a verifier believes.

use sha2::{Digest, Sha256};

use crate::x509::Certificate;

/// Intel's SGX Provisioning Certification Root CA, valid 2018-05-21 to 2049-12-31.
const INTEL_SGX_ROOT_CA: &[u8] = include_bytes!("../testdata/tdx/intel-sgx-root-ca.der");
const INTEL_LABEL: &str = "intel-sgx-root";

/// A pinned root certificate and the name by which tokens and policies refer to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustAnchor {
    root_der: Vec<u8>,
    label: String,
}

/// Why bytes are no trust anchor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustAnchorError {
    /// Not one DER certificate.
    #[error("the trust anchor is not one DER certificate")]
    Malformed,
    /// Not signed by its own P-256 key.
    #[error("the trust anchor is not a self-signed ECDSA P-256 certificate")]
    NotSelfSigned,
}

impl TrustAnchor {
    /// Intel's root: `intel-sgx-root`.
    pub fn intel() -> Self {
        Self { root_der: INTEL_SGX_ROOT_CA.to_vec(), label: INTEL_LABEL.to_owned() }
    }

    /// A simulator's root: `simulator:<lower-case hex SHA-256 of the certificate>`. Intel's own certificate keeps its name,
    /// so that no configuration can pass one off as the other.
    pub fn simulator(root_der: &[u8]) -> Result<Self, TrustAnchorError> {
        if root_der == INTEL_SGX_ROOT_CA {
            return Ok(Self::intel());
        }
        let root = Certificate::parse(root_der).ok_or(TrustAnchorError::Malformed)?;
        if !root.is_signed_by(&root) {
            return Err(TrustAnchorError::NotSelfSigned);
        }
        Ok(Self { root_der: root_der.to_vec(), label: format!("simulator:{}", fingerprint(root_der)) })
    }

    /// The name in tokens and policies.
    pub fn label(&self) -> &str {
        &self.label
    }
    /// DER of the root certificate.
    pub fn root_der(&self) -> &[u8] {
        &self.root_der
    }
    /// Whether this is a stand-in for hardware.
    pub fn is_simulator(&self) -> bool {
        self.label != INTEL_LABEL
    }
}

/// Lower-case hex SHA-256 of a certificate.
pub(crate) fn fingerprint(der: &[u8]) -> String {
    hex::encode(Sha256::digest(der))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intels_root_is_the_published_one() {
        assert_eq!(fingerprint(TrustAnchor::intel().root_der()), "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3");
        assert!(!TrustAnchor::intel().is_simulator());
        assert_eq!(TrustAnchor::simulator(INTEL_SGX_ROOT_CA), Ok(TrustAnchor::intel()));
    }

    #[test]
    fn only_a_self_signed_certificate_is_an_anchor() {
        assert_eq!(TrustAnchor::simulator(b"no certificate"), Err(TrustAnchorError::Malformed));
        let mut altered = INTEL_SGX_ROOT_CA.to_vec();
        let last = altered.len() - 1;
        altered[last] ^= 1;
        assert_eq!(TrustAnchor::simulator(&altered), Err(TrustAnchorError::NotSelfSigned));
    }
}
