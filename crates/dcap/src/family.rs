//! Which collateral a quote needs, told by its certificates.

use keyferry_tdx_quote::Quote;

use crate::x509::Certificate;
use crate::{TrustAnchor, claimed_fmspc};

/// The family that a certificate under the pinned root names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertifiedFamily {
    /// FMSPC of the PCK certificate.
    pub fmspc: [u8; 6],
    /// Common name of the CA that issued it, for instance `Intel SGX PCK Platform CA`.
    pub issuer: String,
}

/// The family of the quote's PCK certificate, if that was issued under `anchor`: nobody can invent families then. Good for
/// deciding which collateral to fetch and for nothing else: neither dates nor revocation lists nor the quote itself were
/// looked at. Two signatures of CPU.
pub fn certified_family(quote: &Quote, anchor: &TrustAnchor) -> Option<CertifiedFamily> {
    let certification = quote.certification();
    let root = Certificate::parse(anchor.root_der())?;
    let issuer = Certificate::parse(certification.intermediate()).filter(|issuer| issuer.is_signed_by(&root))?;
    Certificate::parse(certification.leaf()).filter(|leaf| leaf.is_signed_by(&issuer))?;
    Some(CertifiedFamily { fmspc: claimed_fmspc(quote)?, issuer: issuer.common_name()?.to_owned() })
}
