//! The signature algorithms that exist here. Whatever is not in this list cannot be configured, issued or verified.

use std::fmt;

/// A JWS signature algorithm (RFC 7518).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Algorithm {
    /// RSASSA-PSS with SHA-384 and a 48-byte salt: what Intel issues.
    #[serde(rename = "PS384")]
    Ps384,
    /// ECDSA on P-384 with SHA-384.
    #[serde(rename = "ES384")]
    Es384,
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// RSASSA-PKCS1-v1_5 with SHA-256: what Intel issues on request. Nobody believes it who was not told to.
    #[serde(rename = "RS256")]
    Rs256,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Self; 4] = [Self::Ps384, Self::Es384, Self::Es256, Self::Rs256];
    /// What a relying party believes that was not told otherwise.
    pub const BELIEVED_BY_DEFAULT: [Self; 3] = [Self::Ps384, Self::Es384, Self::Es256];

    /// The `alg` value.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ps384 => "PS384",
            Self::Es384 => "ES384",
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }

    /// The algorithm with this `alg` value, byte for byte.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// Whether its keys are RSA keys: such a key serves PS384 and RS256.
    pub const fn is_rsa(self) -> bool {
        matches!(self, Self::Ps384 | Self::Rs256)
    }

    pub(crate) const fn for_verification(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::Ps384 => jsonwebtoken::Algorithm::PS384,
            Self::Es384 => jsonwebtoken::Algorithm::ES384,
            Self::Es256 => jsonwebtoken::Algorithm::ES256,
            Self::Rs256 => jsonwebtoken::Algorithm::RS256,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
