//! Sizes and offsets of a quote, in bytes; integers are little-endian unless a comment says otherwise.
//!
//! Sources: Intel "TDX DCAP Quoting Library API", quote format versions 4 and 5, and the TDX module ABI specification
//! (348551) for the report bodies.

/// The largest input that is looked at: real quotes are 4.9 to 8 kB.
pub const QUOTE_BYTES_MAX: usize = 16 * 1024;

/// The quote header of both versions.
pub const HEADER_BYTES: usize = 48;
/// `att_key_type`: ECDSA with P-256.
pub const ATTESTATION_KEY_TYPE_ECDSA_P256: u16 = 2;
/// `tee_type` of SGX.
pub const TEE_TYPE_SGX: u32 = 0;
/// `tee_type` of TDX.
pub const TEE_TYPE_TDX: u32 = 0x81;
/// The vendor id of Intel's quoting enclave.
pub const QE_VENDOR_ID_INTEL: [u8; 16] = [0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07];

/// Body type and size of a version 5 quote: u16 and u32, between header and body.
pub const BODY_DESCRIPTOR_BYTES: usize = 6;
/// SGX report body; also the QE report inside every quote.
pub const SGX_REPORT_BYTES: usize = 384;
/// TD report body 1.0.
pub const TD_REPORT_10_BYTES: usize = 584;
/// TD report body 1.5: 1.0 and then TEE_TCB_SVN2 and MRSERVICETD.
pub const TD_REPORT_15_BYTES: usize = 648;
/// TD report body "1.5ex": 1.5 and then the TD's identity and its service TD history.
pub const TD_REPORT_15_EX_BYTES: usize = 885;

/// Raw ECDSA P-256 signature: r and s, big-endian, 32 bytes each.
pub const SIGNATURE_BYTES: usize = 64;
/// Raw P-256 public key: x and y, big-endian, without the 0x04 prefix.
pub const ATTESTATION_KEY_BYTES: usize = 64;
/// Outer certification data type: QE report certification data.
pub const CERTIFICATION_TYPE_QE_REPORT: u16 = 6;
/// Inner certification data type: PEM chain of PCK leaf, intermediate and root.
pub const CERTIFICATION_TYPE_PCK_CHAIN: u16 = 5;
/// QE authentication data: the only size quoting enclaves produce.
pub const QE_AUTHENTICATION_DATA_BYTES: usize = 32;

/// Offsets inside a TD report body.
pub mod td_report {
    /// TEE_TCB_SVN, 16 bytes: \[0\] module ISVSVN, \[1\] module major version, \[2\] late microcode SVN.
    pub const TEE_TCB_SVN: usize = 0;
    /// MRSEAM, 48 bytes.
    pub const MR_SEAM: usize = 16;
    /// MRSIGNERSEAM, 48 bytes.
    pub const MR_SIGNER_SEAM: usize = 64;
    /// SEAMATTRIBUTES, 8 bytes.
    pub const SEAM_ATTRIBUTES: usize = 112;
    /// TDATTRIBUTES, 8 bytes.
    pub const TD_ATTRIBUTES: usize = 120;
    /// XFAM, 8 bytes.
    pub const XFAM: usize = 128;
    /// MRTD, 48 bytes.
    pub const MR_TD: usize = 136;
    /// MRCONFIGID, 48 bytes.
    pub const MR_CONFIG_ID: usize = 184;
    /// MROWNER, 48 bytes.
    pub const MR_OWNER: usize = 232;
    /// MROWNERCONFIG, 48 bytes.
    pub const MR_OWNER_CONFIG: usize = 280;
    /// RTMR0 to RTMR3, 48 bytes each.
    pub const RTMRS: usize = 328;
    /// REPORTDATA, 64 bytes.
    pub const REPORT_DATA: usize = 520;
    /// TEE_TCB_SVN2, 16 bytes; 1.5 and later.
    pub const TEE_TCB_SVN2: usize = 584;
    /// MRSERVICETD, 48 bytes; 1.5 and later.
    pub const MR_SERVICE_TD: usize = 600;
    /// VMID, 1 byte; 1.5ex.
    pub const VM_ID: usize = 648;
    /// TD_ID, 32 bytes; 1.5ex.
    pub const TD_ID: usize = 649;
}

/// Offsets inside an SGX report body.
pub mod sgx_report {
    /// CPUSVN, 16 bytes.
    pub const CPU_SVN: usize = 0;
    /// MISCSELECT, 4 bytes.
    pub const MISC_SELECT: usize = 16;
    /// ATTRIBUTES, 16 bytes; bit 1 is DEBUG.
    pub const ATTRIBUTES: usize = 48;
    /// MRENCLAVE, 32 bytes.
    pub const MR_ENCLAVE: usize = 64;
    /// MRSIGNER, 32 bytes.
    pub const MR_SIGNER: usize = 128;
    /// ISVPRODID, u16.
    pub const ISV_PROD_ID: usize = 256;
    /// ISVSVN, u16.
    pub const ISV_SVN: usize = 258;
    /// REPORTDATA, 64 bytes.
    pub const REPORT_DATA: usize = 320;
}
