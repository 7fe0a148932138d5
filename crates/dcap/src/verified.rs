//! A quote that was verified, and everything that was learnt about its platform.

use std::fmt;
use std::sync::{Arc, OnceLock};

use keyferry_tdx_quote::{Quote, TdReportBody};

use crate::TcbStatus;
use crate::collateral::{PartDigests, sha256};

/// A quote whose signature chain ends in the pinned root and whose platform's TCB is known. Made by
/// [`crate::Verifier::verify`] only. It says nothing yet about *which* TD this is: that is appraisal's question.
#[derive(Clone)]
pub struct VerifiedQuote {
    pub(crate) quote: Quote,
    pub(crate) tcb_status: TcbStatus,
    pub(crate) advisory_ids: Vec<String>,
    pub(crate) tcb_date: String,
    pub(crate) evaluation_number: u32,
    pub(crate) pck: PckIdentity,
    pub(crate) part_digests: Arc<PartDigests>,
    pub(crate) digests: OnceLock<CollateralDigests>,
    pub(crate) valid_until: u64,
    pub(crate) collateral_expired_at: Option<u64>,
    pub(crate) trust_anchor: String,
}

/// What the PCK certificate says about the machine.
#[derive(Clone, PartialEq, Eq)]
pub struct PckIdentity {
    /// Names the physical machine for its whole life: publish a keyed hash of it, never the value.
    pub ppid: Vec<u8>,
    /// The platform family.
    pub fmspc: [u8; 6],
    /// The provisioning certification enclave's id.
    pub pce_id: Vec<u8>,
    /// SVN of the provisioning certification enclave.
    pub pce_svn: u16,
    /// SVNs of the SGX TCB components.
    pub cpu_svn: [u8; 16],
    /// The platform instance, which a factory reset changes.
    pub platform_instance_id: Option<[u8; 16]>,
    /// Whether packages can be added to the platform; `None` below a processor CA, which does not say.
    pub dynamic_platform: Option<bool>,
    /// Whether Intel's registration service keeps the platform's root keys; `None` below a processor CA.
    pub cached_keys: Option<bool>,
    /// Whether simultaneous multithreading is on; `None` below a processor CA.
    pub smt: Option<bool>,
}

impl fmt::Debug for PckIdentity {
    /// Without what names the machine.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PckIdentity")
            .field("fmspc", &hex::encode(self.fmspc))
            .field("pce_id", &hex::encode(&self.pce_id))
            .field("pce_svn", &self.pce_svn)
            .field("cpu_svn", &hex::encode(self.cpu_svn))
            .finish_non_exhaustive()
    }
}

/// SHA-256 of quote and collateral, for the token's `tdx_collateral`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollateralDigests {
    /// The quote without its tail.
    pub quote: [u8; 32],
    /// The TCB info text as signed.
    pub tcb_info: [u8; 32],
    /// Its issuer chain (PEM).
    pub tcb_info_certificates: [u8; 32],
    /// The PCK CRL (DER).
    pub tcb_info_crl: [u8; 32],
    /// The QE identity text as signed.
    pub qe_identity: [u8; 32],
    /// Its issuer chain (PEM).
    pub qe_identity_certificates: [u8; 32],
    /// The root CRL (DER).
    pub qe_identity_crl: [u8; 32],
}

impl fmt::Debug for VerifiedQuote {
    /// Without the quote: its certificate names the machine.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedQuote")
            .field("digest", &hex::encode(self.quote.digest()))
            .field("tcb_status", &self.tcb_status)
            .field("advisory_ids", &self.advisory_ids)
            .field("trust_anchor", &self.trust_anchor)
            .field("pck", &self.pck)
            .finish_non_exhaustive()
    }
}

impl VerifiedQuote {
    /// The quote.
    pub const fn quote(&self) -> &Quote {
        &self.quote
    }
    /// The TD's report.
    pub const fn report(&self) -> &TdReportBody {
        self.quote.body()
    }
    /// The worse of launch and current TCB, quoting enclave and TDX module included. Never `Revoked`: that is a denial.
    pub const fn tcb_status(&self) -> TcbStatus {
        self.tcb_status
    }
    /// Intel's advisories that apply, sorted, as opaque ids.
    pub fn advisory_ids(&self) -> &[String] {
        &self.advisory_ids
    }
    /// RFC 3339 date of the matched TCB level, the older one of launch and current.
    pub fn tcb_date(&self) -> &str {
        &self.tcb_date
    }
    /// The TCB evaluation number of the collateral.
    pub const fn evaluation_number(&self) -> u32 {
        self.evaluation_number
    }
    /// What the PCK certificate says about the machine.
    pub const fn pck(&self) -> &PckIdentity {
        &self.pck
    }
    /// The platform family.
    pub const fn fmspc(&self) -> [u8; 6] {
        self.pck.fmspc
    }
    /// Digests of what was looked at. The quote is hashed when somebody asks first.
    pub fn digests(&self) -> &CollateralDigests {
        self.digests.get_or_init(|| CollateralDigests {
            quote: sha256(self.quote.without_tail()),
            tcb_info: self.part_digests.tcb_info,
            tcb_info_certificates: self.part_digests.tcb_info_certificates,
            tcb_info_crl: self.part_digests.pck_crl,
            qe_identity: self.part_digests.qe_identity,
            qe_identity_certificates: self.part_digests.qe_identity_certificates,
            qe_identity_crl: self.part_digests.root_crl,
        })
    }
    /// The earliest end (Unix seconds) of anything this rests on.
    pub const fn valid_until(&self) -> u64 {
        self.valid_until
    }
    /// The last second (Unix) of the item of collateral that expired first, if the quote was accepted only thanks to
    /// [`crate::Verifier::with_collateral_grace`].
    pub const fn collateral_expired_at(&self) -> Option<u64> {
        self.collateral_expired_at
    }
    /// `intel-sgx-root` or `simulator:<fingerprint>`.
    pub fn trust_anchor(&self) -> &str {
        &self.trust_anchor
    }
}
