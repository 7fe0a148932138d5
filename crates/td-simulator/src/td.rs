//! A simulated trust domain: a platform, a measured state, and the quotes it asks for.

use std::fmt;
use std::path::Path;

use keyferry_tdx_quote::layout::{ATTESTATION_KEY_TYPE_ECDSA_P256, QE_VENDOR_ID_INTEL, TEE_TYPE_TDX, td_report};
use keyferry_tdx_quote::{BodyType, TdAttributes, Xfam};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::platform::{length32, put};
use crate::{Platform, SimulatorError, hex_array, private_file};

/// Quote version and TD body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuoteFormat {
    /// Version 4, TD report 1.0.
    V4,
    /// Version 5, TD report 1.0.
    V5Td10,
    /// Version 5, TD report 1.5.
    V5Td15,
    /// Version 5, TD report 1.5 with the TD's identity.
    V5Td15Ex,
}

impl QuoteFormat {
    /// Every format.
    pub const ALL: [Self; 4] = [Self::V4, Self::V5Td10, Self::V5Td15, Self::V5Td15Ex];

    /// The kind of TD report body.
    pub const fn body_type(self) -> BodyType {
        match self {
            Self::V4 | Self::V5Td10 => BodyType::Td10,
            Self::V5Td15 => BodyType::Td15,
            Self::V5Td15Ex => BodyType::Td15Ex,
        }
    }
}

/// The state of a TD. The default is one that a strict verifier accepts, with fixed measurements.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TdOptions {
    /// Quote version and body.
    pub format: QuoteFormat,
    /// Zero bytes after the quote: hosts add 70 (version 4 in a version 5 buffer) or fill 8000 bytes.
    pub tail_bytes: usize,
    /// SVNs at launch: \[0\] module ISVSVN, \[1\] module major version, \[2\] late microcode.
    #[serde(with = "hex_array")]
    pub tee_tcb_svn: [u8; 16],
    /// SVNs now; in 1.5 and later bodies only.
    #[serde(with = "hex_array")]
    pub tee_tcb_svn2: [u8; 16],
    /// Measurement of the TDX module.
    #[serde(with = "hex_array")]
    pub mr_seam: [u8; 48],
    /// Signer of the TDX module; zero for Intel's.
    #[serde(with = "hex_array")]
    pub mr_signer_seam: [u8; 48],
    /// Attributes of the TDX module; zero.
    #[serde(with = "hex_array")]
    pub seam_attributes: [u8; 8],
    /// TDATTRIBUTES in memory order.
    #[serde(with = "hex_array")]
    pub td_attributes: [u8; 8],
    /// XFAM in memory order.
    #[serde(with = "hex_array")]
    pub xfam: [u8; 8],
    /// Measurement of the initial memory.
    #[serde(with = "hex_array")]
    pub mr_td: [u8; 48],
    /// MRCONFIGID.
    #[serde(with = "hex_array")]
    pub mr_config_id: [u8; 48],
    /// MROWNER.
    #[serde(with = "hex_array")]
    pub mr_owner: [u8; 48],
    /// MROWNERCONFIG.
    #[serde(with = "hex_array")]
    pub mr_owner_config: [u8; 48],
    /// RTMR0.
    #[serde(with = "hex_array")]
    pub rtmr0: [u8; 48],
    /// RTMR1.
    #[serde(with = "hex_array")]
    pub rtmr1: [u8; 48],
    /// RTMR2.
    #[serde(with = "hex_array")]
    pub rtmr2: [u8; 48],
    /// RTMR3.
    #[serde(with = "hex_array")]
    pub rtmr3: [u8; 48],
    /// Hash of the bound service TDs; in 1.5 and later bodies only.
    #[serde(with = "hex_array")]
    pub mr_service_td: [u8; 48],
    /// Identity of this launch; in 1.5ex bodies only.
    #[serde(with = "hex_array")]
    pub td_id: [u8; 32],
}

impl Default for TdOptions {
    fn default() -> Self {
        Self {
            format: QuoteFormat::V5Td15Ex,
            tail_bytes: 0,
            tee_tcb_svn: Self::TEE_TCB_SVN,
            tee_tcb_svn2: Self::TEE_TCB_SVN,
            mr_seam: measurement("TDX module"),
            mr_signer_seam: [0; 48],
            seam_attributes: [0; 8],
            td_attributes: TdAttributes::SEPT_VE_DISABLE.to_bytes(),
            xfam: Xfam::from_bits(0x0006_02e7).to_bytes(),
            mr_td: measurement("firmware"),
            mr_config_id: [0; 48],
            mr_owner: [0; 48],
            mr_owner_config: [0; 48],
            rtmr0: measurement("RTMR0"),
            rtmr1: measurement("RTMR1"),
            rtmr2: measurement("RTMR2"),
            rtmr3: [0; 48],
            mr_service_td: [0; 48],
            td_id: Sha256::digest(b"Keyferry: a simulated launch").into(),
        }
    }
}

impl TdOptions {
    /// SVNs that meet the newest level of [`crate::CollateralOptions`]: TDX module 1, ISVSVN 6.
    pub const TEE_TCB_SVN: [u8; 16] = [6, 1, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    /// SVNs whose module is out of date in [`crate::CollateralOptions`]: TDX module 1, ISVSVN 3.
    pub const TEE_TCB_SVN_OLD_MODULE: [u8; 16] = [3, 1, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    /// The default in another format.
    pub fn of_format(format: QuoteFormat) -> Self {
        Self { format, ..Self::default() }
    }

    fn body(&self, report_data: &[u8; 64]) -> Vec<u8> {
        let body_type = self.format.body_type();
        let mut body = vec![0; body_type.bytes()];
        for (offset, bytes) in [
            (td_report::TEE_TCB_SVN, self.tee_tcb_svn.as_slice()),
            (td_report::MR_SEAM, &self.mr_seam),
            (td_report::MR_SIGNER_SEAM, &self.mr_signer_seam),
            (td_report::SEAM_ATTRIBUTES, &self.seam_attributes),
            (td_report::TD_ATTRIBUTES, &self.td_attributes),
            (td_report::XFAM, &self.xfam),
            (td_report::MR_TD, &self.mr_td),
            (td_report::MR_CONFIG_ID, &self.mr_config_id),
            (td_report::MR_OWNER, &self.mr_owner),
            (td_report::MR_OWNER_CONFIG, &self.mr_owner_config),
            (td_report::RTMRS, &[self.rtmr0, self.rtmr1, self.rtmr2, self.rtmr3].concat()),
            (td_report::REPORT_DATA, report_data),
            // Beyond the end of shorter bodies, where `put` leaves them out.
            (td_report::TEE_TCB_SVN2, &self.tee_tcb_svn2),
            (td_report::MR_SERVICE_TD, &self.mr_service_td),
            (td_report::TD_ID, &self.td_id),
        ] {
            put(&mut body, offset, bytes);
        }
        body
    }
}

/// SHA-384-sized and recognisable: derived from a name, so that reference values can be written down.
fn measurement(name: &str) -> [u8; 48] {
    sha2::Sha384::digest(format!("Keyferry: simulated {name}").as_bytes()).into()
}

/// A trust domain on a platform.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimulatedTd {
    /// The machine under the TD.
    pub platform: Platform,
    /// The TD's state.
    pub options: TdOptions,
}

impl fmt::Debug for SimulatedTd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedTd").field("platform", &self.platform).field("format", &self.options.format).finish_non_exhaustive()
    }
}

impl SimulatedTd {
    /// A TD in the given state.
    pub const fn new(platform: Platform, options: TdOptions) -> Self {
        Self { platform, options }
    }

    /// The machine under the TD.
    pub const fn platform(&self) -> &Platform {
        &self.platform
    }

    /// The TD's state.
    pub const fn options(&self) -> &TdOptions {
        &self.options
    }

    /// The same machine with a TD in another state.
    #[must_use]
    pub fn with(&self, change: impl FnOnce(&mut TdOptions)) -> Self {
        let mut options = self.options.clone();
        change(&mut options);
        Self { platform: self.platform.clone(), options }
    }

    /// A quote over `report_data`, zero tail included. One signature.
    pub fn quote(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, SimulatorError> {
        let signer = self.platform.attestation_signer();
        let mut quote = self.header();
        let body = self.options.body(report_data);
        if self.options.format != QuoteFormat::V4 {
            quote.extend(self.options.format.body_type().number().to_le_bytes());
            quote.extend(length32(&body));
        }
        quote.extend(body);
        let signature = signer.sign(&quote)?;
        let section = [signature.as_slice(), &signer.public_key(), &self.platform.certification_data()].concat();
        quote.extend(length32(&section));
        quote.extend(section);
        quote.resize(quote.len() + self.options.tail_bytes, 0);
        Ok(quote)
    }

    fn header(&self) -> Vec<u8> {
        let version: u16 = if self.options.format == QuoteFormat::V4 { 4 } else { 5 };
        [
            version.to_le_bytes().as_slice(),
            &ATTESTATION_KEY_TYPE_ECDSA_P256.to_le_bytes(),
            &TEE_TYPE_TDX.to_le_bytes(),
            &[0; 4],
            &QE_VENDOR_ID_INTEL,
            self.platform.qe_id(),
            &[0; 4],
        ]
        .concat()
    }

    /// `simulator:` and the SHA-256 of the root certificate this TD's platform chains to.
    pub fn trust_anchor(&self) -> String {
        let blocks = pem::parse_many(self.platform.pck_chain()).unwrap_or_default();
        let root = blocks.last().map(|block| block.contents().to_vec()).unwrap_or_default();
        crate::root::trust_anchor(&root)
    }

    /// The TD with its attestation key, for [`SimulatedTd::from_json`].
    pub fn to_json(&self) -> Result<Zeroizing<String>, SimulatorError> {
        Ok(Zeroizing::new(serde_json::to_string_pretty(self)?))
    }

    /// What [`SimulatedTd::to_json`] wrote.
    pub fn from_json(json: &str) -> Result<Self, SimulatorError> {
        Ok(serde_json::from_str(json)?)
    }

    /// Writes [`SimulatedTd::to_json`] to a file with mode 0600.
    pub fn save(&self, path: &Path) -> Result<(), SimulatorError> {
        private_file::write(path, self.to_json()?.as_bytes())
    }

    /// Reads what [`SimulatedTd::save`] wrote.
    pub fn load(path: &Path) -> Result<Self, SimulatorError> {
        let bytes = Zeroizing::new(private_file::read(path)?);
        Ok(serde_json::from_slice(&bytes)?)
    }
}
