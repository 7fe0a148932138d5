//! Report bodies: the TD report the quote is about, and the QE report that vouches for the attestation key.

use crate::layout::{SGX_REPORT_BYTES, TD_REPORT_10_BYTES, TD_REPORT_15_BYTES, TD_REPORT_15_EX_BYTES};
use crate::reader::Reader;
use crate::{QuoteError, TdAttributes, Xfam};

/// The kind of TD report body in a quote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BodyType {
    /// TD report 1.0, the only one in version 4.
    Td10,
    /// TD report 1.5.
    Td15,
    /// TD report 1.5 with the TD's identity.
    Td15Ex,
}

impl BodyType {
    /// The number in a version 5 quote.
    pub const fn number(self) -> u16 {
        match self {
            Self::Td10 => 2,
            Self::Td15 => 3,
            Self::Td15Ex => 4,
        }
    }
    /// The body's size in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Td10 => TD_REPORT_10_BYTES,
            Self::Td15 => TD_REPORT_15_BYTES,
            Self::Td15Ex => TD_REPORT_15_EX_BYTES,
        }
    }
}

/// The measured state of a TD, as the TDX module reported it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TdReportBody {
    /// SVNs of the TDX module and microcode at the TD's launch: \[0\] module ISVSVN, \[1\] module major version.
    pub tee_tcb_svn: [u8; 16],
    /// SHA-384 of the TDX module.
    pub mr_seam: [u8; 48],
    /// Signer of the TDX module; zero for Intel's.
    pub mr_signer_seam: [u8; 48],
    /// Attributes of the TDX module; zero.
    pub seam_attributes: [u8; 8],
    /// What the TD may do.
    pub td_attributes: TdAttributes,
    /// Processor features of the TD.
    pub xfam: Xfam,
    /// Measurement of the TD's initial memory.
    pub mr_td: [u8; 48],
    /// Chosen by the host at launch.
    pub mr_config_id: [u8; 48],
    /// Chosen by the host at launch.
    pub mr_owner: [u8; 48],
    /// Chosen by the host at launch.
    pub mr_owner_config: [u8; 48],
    /// Run-time measurement registers.
    pub rtmrs: [[u8; 48]; 4],
    /// What the TD bound into the quote.
    pub report_data: [u8; 64],
    /// The current SVNs, which differ from the launch SVNs after a TD-preserving update; 1.5 and later.
    pub tee_tcb_svn2: Option<[u8; 16]>,
    /// Hash over the bound service TDs, zero if there are none; 1.5 and later.
    pub mr_service_td: Option<[u8; 48]>,
    /// New at each launch, kept over updates and migration; 1.5ex.
    pub td_id: Option<[u8; 32]>,
    /// The rest of a 1.5ex body.
    pub extension: Option<TdReportExtension>,
}

/// What only a 1.5ex body carries, [`TdReportBody::td_id`] apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TdReportExtension {
    /// 0 = not partitioned (or the L1 VM), 1 to 3 = an L2 VM.
    pub vm_id: u8,
    /// Hash over the attached TDX Connect devices.
    pub device_info: [u8; 48],
    /// Service TD hash at creation.
    pub initial_service_td_hash: [u8; 48],
    /// Service TD attributes at creation.
    pub initial_service_td_attributes: [u8; 8],
    /// CPUSVN at creation.
    pub initial_cpu_svn: [u8; 16],
    /// TEE_TCB_SVN at creation.
    pub initial_tee_tcb_svn: [u8; 16],
    /// FMSPC at creation, padded.
    pub initial_tee_fmspc: [u8; 12],
    /// Service TD hash now.
    pub current_service_td_hash: [u8; 48],
    /// Service TD attributes now.
    pub current_service_td_attributes: [u8; 8],
}

impl TdReportBody {
    /// Whether the TD is bound to any service TD, by whatever field says so.
    pub fn has_service_td(&self) -> bool {
        let bound = |hash: &[u8; 48]| hash.iter().any(|byte| *byte != 0);
        self.td_attributes.service_td_extension()
            || self.mr_service_td.as_ref().is_some_and(bound)
            || self
                .extension
                .as_ref()
                .is_some_and(|extension| bound(&extension.initial_service_td_hash) || bound(&extension.current_service_td_hash))
    }

    pub(crate) fn read(reader: &mut Reader<'_>, body_type: BodyType) -> Result<Self, QuoteError> {
        let mut body = Self {
            tee_tcb_svn: reader.array("TEE_TCB_SVN")?,
            mr_seam: reader.array("MRSEAM")?,
            mr_signer_seam: reader.array("MRSIGNERSEAM")?,
            seam_attributes: reader.array("SEAMATTRIBUTES")?,
            td_attributes: TdAttributes::from_bytes(reader.array("TDATTRIBUTES")?),
            xfam: Xfam::from_bytes(reader.array("XFAM")?),
            mr_td: reader.array("MRTD")?,
            mr_config_id: reader.array("MRCONFIGID")?,
            mr_owner: reader.array("MROWNER")?,
            mr_owner_config: reader.array("MROWNERCONFIG")?,
            rtmrs: [reader.array("RTMR0")?, reader.array("RTMR1")?, reader.array("RTMR2")?, reader.array("RTMR3")?],
            report_data: reader.array("REPORTDATA")?,
            tee_tcb_svn2: None,
            mr_service_td: None,
            td_id: None,
            extension: None,
        };
        if body_type >= BodyType::Td15 {
            body.tee_tcb_svn2 = Some(reader.array("TEE_TCB_SVN2")?);
            body.mr_service_td = Some(reader.array("MRSERVICETD")?);
        }
        if body_type == BodyType::Td15Ex {
            let vm_id = reader.u8("VMID")?;
            body.td_id = Some(reader.array("TD_ID")?);
            body.extension = Some(TdReportExtension::read(reader, vm_id)?);
        }
        Ok(body)
    }
}

impl TdReportExtension {
    fn read(reader: &mut Reader<'_>, vm_id: u8) -> Result<Self, QuoteError> {
        Ok(Self {
            vm_id,
            device_info: reader.array("DEVINFO")?,
            initial_service_td_hash: reader.array("INIT_SERVTD_HASH")?,
            initial_service_td_attributes: reader.array("INIT_SERVTD_ATTR")?,
            initial_cpu_svn: reader.array("INIT_CPUSVN")?,
            initial_tee_tcb_svn: reader.array("INIT_TEE_TCB_SVN")?,
            initial_tee_fmspc: reader.array("INIT_TEE_FMSPC")?,
            current_service_td_hash: reader.array("CUR_SERVTD_HASH")?,
            current_service_td_attributes: reader.array("CUR_SERVTD_ATTR")?,
        })
    }
}

/// The SGX report of the quoting enclave that made the attestation key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QeReport {
    bytes: [u8; SGX_REPORT_BYTES],
}

impl QeReport {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, QuoteError> {
        Ok(Self { bytes: reader.array("QE report")? })
    }
    /// The whole body: what the PCK key signed.
    pub const fn bytes(&self) -> &[u8; SGX_REPORT_BYTES] {
        &self.bytes
    }
    /// MISCSELECT.
    pub const fn misc_select(&self) -> [u8; 4] {
        self.field(crate::layout::sgx_report::MISC_SELECT)
    }
    /// ATTRIBUTES.
    pub const fn attributes(&self) -> [u8; 16] {
        self.field(crate::layout::sgx_report::ATTRIBUTES)
    }
    /// Whether the enclave runs in debug mode.
    pub const fn debug(&self) -> bool {
        self.attributes()[0] & 2 != 0
    }
    /// MRSIGNER.
    pub const fn mr_signer(&self) -> [u8; 32] {
        self.field(crate::layout::sgx_report::MR_SIGNER)
    }
    /// ISVPRODID.
    pub const fn isv_prod_id(&self) -> u16 {
        u16::from_le_bytes(self.field(crate::layout::sgx_report::ISV_PROD_ID))
    }
    /// ISVSVN.
    pub const fn isv_svn(&self) -> u16 {
        u16::from_le_bytes(self.field(crate::layout::sgx_report::ISV_SVN))
    }
    /// REPORTDATA: SHA-256 of attestation key and authentication data, then 32 zero bytes.
    pub const fn report_data(&self) -> [u8; 64] {
        self.field(crate::layout::sgx_report::REPORT_DATA)
    }

    const fn field<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut array = [0; N];
        let mut index = 0;
        while index < N {
            array[index] = self.bytes[offset + index];
            index += 1;
        }
        array
    }
}
