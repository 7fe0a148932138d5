//! Whether a token is for our own evidence. The bus that brought it is nobody's witness; the token must prove itself.

use keyferry_attestation_token::{AuthenticToken, KeySet, TokenDenial, authenticate};
use keyferry_contract::Reason;
use keyferry_contract::attestation::v1::VerifierNonce;
use keyferry_identifiers::{AttestationId, TdId};

/// What our own evidence was.
pub(crate) struct Expected {
    pub(crate) attestation_id: AttestationId,
    pub(crate) td_id: TdId,
    pub(crate) nonce: VerifierNonce,
    pub(crate) user_data: Vec<u8>,
    pub(crate) report_data: [u8; 64],
}

/// A token of the pinned verifier for exactly our evidence. Made by [`Expected::prove`] only.
pub(crate) struct OwnToken {
    pub(crate) jwt: String,
    pub(crate) token: AuthenticToken,
}

/// Whoever has the text has the token.
impl std::fmt::Debug for OwnToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OwnToken({}, redacted)", self.token.token_id())
    }
}

/// Why a token is not ours.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Foreign {
    #[error(transparent)]
    Denied(#[from] TokenDenial),
    #[error("the token's {0} is not that of our evidence")]
    Other(&'static str),
}

impl Foreign {
    /// The label of a reason, bounded, for metrics.
    pub(crate) fn reason(&self) -> Reason {
        match self {
            Self::Denied(TokenDenial::SignatureInvalid) => Reason::TokenSignatureInvalid,
            Self::Denied(TokenDenial::KeyUnknown { .. }) => Reason::TokenKeyUnknown,
            Self::Denied(TokenDenial::IssuerUnknown { .. }) => Reason::TokenIssuerUnknown,
            Self::Denied(TokenDenial::Expired { .. }) => Reason::TokenExpired,
            Self::Denied(TokenDenial::NotYetValid { .. }) => Reason::TokenNotYetValid,
            Self::Denied(TokenDenial::AlgorithmNotAllowed { .. }) => Reason::TokenAlgorithmNotAllowed,
            Self::Denied(_) => Reason::TokenMalformed,
            Self::Other(_) => Reason::TokenForeign,
        }
    }
}

/// What a token may hold beside our user data.
const CLAIMS_BYTES_MAX: usize = 128 * 1024;

impl Expected {
    /// A longer token is not for our evidence: user data in base64, and the token around it in base64 again. A flood of
    /// long forgeries costs nothing that way.
    pub(crate) fn token_bytes_max(&self) -> usize {
        self.user_data.len().div_ceil(3).div_ceil(3) * 16 + CLAIMS_BYTES_MAX
    }

    /// Signature under the pinned root, then everything that ties the token to this evidence. The report data is the
    /// strongest tie: it hashes nonce and user data, and it was inside our quote.
    pub(crate) fn prove(&self, jwt: &str, keys: &KeySet, now: u64) -> Result<OwnToken, Foreign> {
        let token = authenticate(jwt, std::slice::from_ref(keys), now)?;
        let report_data = token.claims().report_data.as_deref();
        check(report_data.is_some_and(|text| text.eq_ignore_ascii_case(&hex::encode(self.report_data))), "report data")?;
        check(self.holds(&token), "held data")?;
        check(token.nonce().is_none_or(|nonce| self.is_nonce(nonce)), "nonce")?;
        check(token.td_id().is_none_or(|td_id| *td_id == self.td_id), "TD")?;
        check(token.attestation_id().is_none_or(|id| *id == self.attestation_id), "attestation")?;
        Ok(OwnToken { jwt: jwt.to_owned(), token })
    }

    /// User data that is a JSON object travels as another claim; then the report data alone vouches for it.
    fn holds(&self, token: &AuthenticToken) -> bool {
        match token.held_data() {
            Some(held) => held == self.user_data,
            None => self.user_data.is_empty() || serde_json::from_slice::<serde_json::Map<_, _>>(&self.user_data).is_ok(),
        }
    }

    fn is_nonce(&self, nonce: &keyferry_attestation_token::Nonce) -> bool {
        (&nonce.val, &nonce.iat, &nonce.signature) == (&self.nonce.val, &self.nonce.iat, &self.nonce.signature)
    }
}

fn check(holds: bool, what: &'static str) -> Result<(), Foreign> {
    if holds { Ok(()) } else { Err(Foreign::Other(what)) }
}
