//! Why bytes are no quote.

/// What is wrong with the bytes, with what was wanted and what came. Says nothing about signatures.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    /// Over [`crate::layout::QUOTE_BYTES_MAX`]; nothing was parsed.
    #[error("quote has {bytes} bytes: at most {max} are read")]
    TooLarge {
        /// Bytes given.
        bytes: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// The input ends inside a field.
    #[error("quote ends inside {field}: {wanted} bytes wanted at offset {offset}, {left} left")]
    Truncated {
        /// The field that is cut.
        field: &'static str,
        /// Where it starts.
        offset: usize,
        /// Its size.
        wanted: usize,
        /// What is there.
        left: usize,
    },
    /// Neither version 4 nor 5.
    #[error("quote version {0}: only 4 and 5 are TDX quotes")]
    Version(u16),
    /// An attestation key that is not ECDSA P-256.
    #[error("attestation key type {0}: only 2 (ECDSA P-256) is supported")]
    AttestationKeyType(u16),
    /// Neither TDX nor SGX.
    #[error("TEE type {0:#x}: only 0x81 (TDX) is supported")]
    TeeType(u32),
    /// A well-formed start of an SGX quote.
    #[error("this is an SGX quote: only TDX quotes are supported")]
    Sgx,
    /// TEE type and body type contradict each other.
    #[error("TEE type {tee_type:#x} with body type {body_type}")]
    BodyOfOtherTee {
        /// `tee_type` of the header.
        tee_type: u32,
        /// Body type of the descriptor.
        body_type: u16,
    },
    /// A body type this crate does not know.
    #[error("body type {0}: 2 (TD 1.0), 3 (TD 1.5) and 4 (TD 1.5ex) are supported")]
    BodyType(u16),
    /// The declared size is not the size of the declared body type.
    #[error("body type {body_type} declares {declared} bytes: it has {wanted}")]
    BodySize {
        /// Body type of the descriptor.
        body_type: u16,
        /// Size of the descriptor.
        declared: u32,
        /// Size of that type.
        wanted: usize,
    },
    /// A quoting enclave that is not Intel's.
    #[error("QE vendor id is not Intel's")]
    QeVendorId,
    /// Outer certification data that is not QE report certification data.
    #[error("outer certification data type {0}: only 6 (QE report) is supported")]
    OuterCertificationType(u16),
    /// Inner certification data that is not a PCK certificate chain.
    #[error("inner certification data type {0}: only 5 (PCK certificate chain) is supported")]
    InnerCertificationType(u16),
    /// QE authentication data of another size than enclaves produce.
    #[error("QE authentication data has {0} bytes: 32 are wanted")]
    QeAuthenticationDataSize(u16),
    /// A declared size that does not end where its content ends.
    #[error("{field} declares {declared} bytes: its content has {actual}")]
    SectionSize {
        /// The section.
        field: &'static str,
        /// Declared size.
        declared: usize,
        /// Size of its content.
        actual: usize,
    },
    /// The PCK chain is not the PEM text of exactly three certificates.
    #[error("PCK certificate chain: {0}")]
    PckChain(&'static str),
    /// Bytes after the quote that are not zero.
    #[error("byte {offset} after the end of the quote is not zero")]
    Tail {
        /// Offset of the first such byte in the input.
        offset: usize,
    },
}
