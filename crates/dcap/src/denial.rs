//! Why a quote is not a verified one.

use std::fmt;

use crate::AttributeDenial;

/// A part of the quote that something signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignedPart {
    /// Header and body, signed by the attestation key.
    Quote,
    /// The report of the quoting enclave, signed by the PCK key.
    QeReport,
    /// Attestation key and authentication data, hashed into the QE report.
    QeBinding,
    /// The PCK certificate, signed by the platform or processor CA.
    PckCertificate,
    /// The platform or processor CA, signed by the root.
    PckIssuer,
}

/// A part of the collateral.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CollateralPart {
    /// The root's revocation list.
    RootCrl,
    /// The platform or processor CA's revocation list.
    PckCrl,
    /// The certificate that signs the TCB info.
    TcbInfoSigner,
    /// TCB levels of the platform family.
    TcbInfo,
    /// The certificate that signs the QE identity.
    QeIdentitySigner,
    /// What a genuine quoting enclave looks like.
    QeIdentity,
    /// A certificate of the quote's own chain, where its validity is concerned.
    PckChain,
}

/// Why the quote was refused. [`DcapDenial::label`] is the contract's name for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DcapDenial {
    /// The chain in the quote ends in another root than the pinned one.
    #[error("the quote's root is {got}: only {wanted} is trusted")]
    RootUntrusted {
        /// SHA-256 of the pinned root.
        wanted: String,
        /// SHA-256 of the quote's root.
        got: String,
    },
    /// A signature or hash inside the quote does not verify.
    #[error("{0} does not verify")]
    SignatureInvalid(SignedPart),
    /// Refused, and no stage of the walk explains it; treated as a bad signature.
    #[error("the quote does not verify")]
    Unexplained,
    /// A signature of the collateral does not verify under the pinned root.
    #[error("{0} is not signed under the pinned root")]
    CollateralSignatureInvalid(CollateralPart),
    /// The collateral does not read as what it has to be.
    #[error("{part} is malformed: {detail}")]
    CollateralMalformed {
        /// Which part.
        part: CollateralPart,
        /// What is wrong.
        detail: &'static str,
    },
    /// The collateral is of another kind, platform family or enclave than the quote.
    #[error("{field} is {got} in the quote: the collateral is for {wanted}")]
    CollateralMismatch {
        /// What differs.
        field: &'static str,
        /// In the collateral.
        wanted: String,
        /// In the quote.
        got: String,
    },
    /// Past its end.
    #[error("{part} expired at {expires_at} (Unix seconds): fetch fresh collateral")]
    CollateralExpired {
        /// Which part.
        part: CollateralPart,
        /// Its end.
        expires_at: u64,
    },
    /// Before its beginning.
    #[error("{part} is not valid before {valid_from} (Unix seconds): check the clock")]
    CollateralNotYetValid {
        /// Which part.
        part: CollateralPart,
        /// Its beginning.
        valid_from: u64,
    },
    /// TCB info and QE identity are of different TCB evaluations.
    #[error("TCB info has evaluation number {tcb_info}, QE identity {qe_identity}: they have to be equal")]
    EvaluationNumbersDiffer {
        /// Of the TCB info.
        tcb_info: u32,
        /// Of the QE identity.
        qe_identity: u32,
    },
    /// Older collateral than was already seen for this platform family.
    #[error("collateral has evaluation number {got}, {seen} was seen before: fetch fresh collateral")]
    CollateralRolledBack {
        /// The highest number seen.
        seen: u32,
        /// The number given.
        got: u32,
    },
    /// A certificate is revoked.
    #[error("{0} is revoked")]
    CertificateRevoked(&'static str),
    /// The TCB itself is revoked.
    #[error("the TCB status is Revoked, advisories {advisory_ids:?}")]
    TcbRevoked {
        /// Intel's advisories for it.
        advisory_ids: Vec<String>,
    },
    /// No TCB level, module version or enclave version of the collateral matches.
    #[error("no level of the collateral matches the {0}")]
    TcbUnknown(&'static str),
    /// An attribute of the TD is refused.
    #[error(transparent)]
    Attribute(#[from] AttributeDenial),
}

impl DcapDenial {
    /// The label of the contract's reason.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::RootUntrusted { .. } => "quote_root_untrusted",
            Self::SignatureInvalid(_) | Self::Unexplained => "quote_signature_invalid",
            Self::CollateralSignatureInvalid(_) | Self::CollateralMalformed { .. } | Self::CollateralMismatch { .. } => {
                "collateral_invalid"
            }
            Self::CollateralExpired { .. } | Self::CollateralNotYetValid { .. } => "collateral_expired",
            Self::EvaluationNumbersDiffer { .. } | Self::CollateralRolledBack { .. } => "collateral_rolled_back",
            Self::CertificateRevoked(_) | Self::TcbRevoked { .. } => "platform_revoked",
            Self::TcbUnknown(_) => "tcb_unknown",
            Self::Attribute(denial) => denial.label(),
        }
    }
}

impl fmt::Display for SignedPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Quote => "the quote signature",
            Self::QeReport => "the QE report signature",
            Self::QeBinding => "the hash of attestation key and authentication data in the QE report",
            Self::PckCertificate => "the signature of the PCK certificate",
            Self::PckIssuer => "the signature of the PCK certificate's issuer",
        })
    }
}

impl fmt::Display for CollateralPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RootCrl => "the root CRL",
            Self::PckCrl => "the PCK CRL",
            Self::TcbInfoSigner => "the TCB info signer certificate",
            Self::TcbInfo => "the TCB info",
            Self::QeIdentitySigner => "the QE identity signer certificate",
            Self::QeIdentity => "the QE identity",
            Self::PckChain => "the PCK certificate chain",
        })
    }
}
