//! Collateral by itself: genuine and current, before any quote asks for it.

use crate::denial::CollateralPart;
use crate::diagnosis::{Moment, check_kinds, check_signed_documents, revocation_list};
use crate::verifier::check_evaluation_numbers;
use crate::x509::{Certificate, RevocationList};
use crate::{Collateral, DcapDenial, TrustAnchor};

/// What genuine and current collateral says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authenticated {
    /// The platform family.
    pub fmspc: [u8; 6],
    /// The TCB evaluation number of TCB info and QE identity.
    pub evaluation_number: u32,
    /// The second (Unix) at which the youngest of TCB info, QE identity and revocation lists was issued.
    pub issued_at: u64,
    /// The last second (Unix) at which all of them are valid.
    pub next_update: u64,
}

impl Collateral {
    /// Checks every signature, issuer and window of the collateral under `anchor` at `now` (Unix seconds), without a quote:
    /// for whoever fetches collateral and wants to know whether to keep it. The PCK CRL needs its issuer chain for that,
    /// which a quote would otherwise bring along.
    pub fn authenticate(&self, anchor: &TrustAnchor, now: u64) -> Result<Authenticated, DcapDenial> {
        let moment = Moment { now, grace: 0 };
        let root = Certificate::parse(anchor.root_der()).ok_or(DcapDenial::Unexplained)?;
        for (part, chain) in
            [(CollateralPart::TcbInfoSigner, self.tcb_info_chain()), (CollateralPart::QeIdentitySigner, self.qe_identity_chain())]
        {
            if chain.last().map(Vec::as_slice) != Some(anchor.root_der()) {
                return Err(DcapDenial::CollateralSignatureInvalid(part));
            }
        }
        let root_crl = revocation_list(CollateralPart::RootCrl, &self.for_engine().root_ca_crl, &root, moment)?;
        check_signed_documents(self, &root, &root_crl, moment)?;
        let pck_crl = self.authentic_pck_crl(&root, &root_crl, moment)?;
        check_kinds(self)?;
        check_evaluation_numbers(self)?;
        let issued = [self.tcb_info_window().from, self.qe_identity_window().from, root_crl.validity().0, pck_crl.validity().0];
        Ok(Authenticated {
            fmspc: self.fmspc(),
            evaluation_number: self.evaluation_number(),
            issued_at: issued.into_iter().max().unwrap_or(0),
            next_update: self.next_update(),
        })
    }

    fn authentic_pck_crl(
        &self,
        root: &Certificate<'_>,
        root_crl: &RevocationList<'_>,
        moment: Moment,
    ) -> Result<RevocationList<'_>, DcapDenial> {
        let part = CollateralPart::PckCrl;
        let issuer = self.pck_crl_issuer().unwrap_or_default();
        let issuer = Certificate::parse(&issuer).ok_or(DcapDenial::CollateralMalformed { part, detail: "without its issuer chain" })?;
        let (from, until) = issuer.validity();
        if !issuer.is_signed_by(root) || moment.now < from || moment.now > until {
            return Err(DcapDenial::CollateralSignatureInvalid(part));
        }
        if root_crl.lists(&issuer) {
            return Err(DcapDenial::CertificateRevoked("the PCK certificate's issuer"));
        }
        revocation_list(part, &self.for_engine().pck_crl, &issuer, moment)
    }
}
