//! Why a token is not believed. One variant, one reason of the contract.

/// Longest piece of a hostile text that is repeated.
const SHOWN_CHARACTERS_MAX: usize = 96;

/// Why a token is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenDenial {
    /// Over the bound; nothing was parsed.
    #[error("the token has {characters} characters, {max} are allowed")]
    TooLarge {
        /// Characters found.
        characters: usize,
        /// Characters allowed.
        max: usize,
    },
    /// Not a compact JWS, or a member has the wrong form.
    #[error("the token is malformed: {field}")]
    Malformed {
        /// Which part or member.
        field: &'static str,
    },
    /// `alg` is not one of ours, not allowed for this issuer, or not the key's.
    #[error("the token is signed with {found}; allowed here: {allowed}")]
    AlgorithmNotAllowed {
        /// The header's word, cut and cleaned.
        found: String,
        /// What would be accepted.
        allowed: String,
    },
    /// `iss` is not a configured issuer.
    #[error("the token's issuer {found:?} is not configured")]
    IssuerUnknown {
        /// The token's word, cut and cleaned.
        found: String,
    },
    /// No key of that issuer has this `kid`.
    #[error("no key of issuer {issuer:?} has the kid {kid:?}")]
    KeyUnknown {
        /// The configured issuer.
        issuer: String,
        /// The token's word, cut and cleaned.
        kid: String,
    },
    /// The signature does not verify.
    #[error("the token's signature does not verify with the issuer's key")]
    SignatureInvalid,
    /// The issuer names a trust anchor that it was not configured for.
    #[error("issuer {issuer:?} may not speak for the trust anchor {found}: name it in the issuer's trust_anchors if it should")]
    TrustAnchorNotAllowed {
        /// The configured issuer.
        issuer: String,
        /// The token's word, of the right form.
        found: String,
    },
    /// `exp` has passed, or the token is older than the issuer's maximum.
    #[error("the token expired at {at} (unix seconds)")]
    Expired {
        /// When it stopped being good, in unix seconds.
        at: u64,
    },
    /// `nbf` or `iat` is in the future.
    #[error("the token is valid from {from} (unix seconds): check the clocks of verifier and relying party")]
    NotYetValid {
        /// When it starts being good, in unix seconds.
        from: u64,
    },
    /// A claim that every token must carry is absent.
    #[error("the token has no claim {claim}")]
    ClaimMissing {
        /// Its name.
        claim: &'static str,
    },
    /// A signed claim has a form that cannot be right.
    #[error("the token's claim {claim} is malformed")]
    ClaimMalformed {
        /// Its name.
        claim: &'static str,
    },
}

impl TokenDenial {
    /// The label of the contract's reason.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "request_too_large",
            Self::AlgorithmNotAllowed { .. } => "token_algorithm_not_allowed",
            Self::IssuerUnknown { .. } => "token_issuer_unknown",
            Self::KeyUnknown { .. } => "token_key_unknown",
            Self::SignatureInvalid => "token_signature_invalid",
            Self::TrustAnchorNotAllowed { .. } => "trust_anchor_not_allowed",
            Self::Expired { .. } => "token_expired",
            Self::NotYetValid { .. } => "token_not_yet_valid",
            Self::ClaimMissing { .. } => "token_claim_missing",
            Self::Malformed { .. } | Self::ClaimMalformed { .. } => "token_malformed",
        }
    }
}

/// A hostile text, safe to show: printable ASCII only, and short.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(SHOWN_CHARACTERS_MAX).map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
}
