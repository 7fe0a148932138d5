//! A simulated machine: its PCK certificate, and the attestation key that its quoting enclave vouches for.

use std::fmt;
use std::sync::Arc;

use keyferry_tdx_quote::layout::{ATTESTATION_KEY_BYTES, QE_AUTHENTICATION_DATA_BYTES, SGX_REPORT_BYTES, SIGNATURE_BYTES, sgx_report};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::authority::Authority;
use crate::pck_extension::PckExtension;
use crate::signer::Signer;
use crate::{SimulatorError, hex_array};

/// The product id of Intel's TD quoting enclave, which the simulated one shares.
pub(crate) const QE_ISV_PROD_ID: u16 = 2;
/// SGX ATTRIBUTES of a production enclave: INIT and PROVISION_KEY.
const QE_ATTRIBUTES: u8 = 0x11;
/// SGX ATTRIBUTES bit 1.
const QE_DEBUG: u8 = 0x02;

/// MRSIGNER of the simulated quoting enclave.
pub(crate) fn qe_mr_signer() -> [u8; 32] {
    Sha256::digest(b"Keyferry: signer of the simulated TD quoting enclave").into()
}

/// What kind of machine to simulate.
#[derive(Clone, Debug)]
pub struct PlatformOptions {
    /// Family, model, stepping and platform: selects the TCB info. The default is one no Intel product has.
    pub fmspc: [u8; 6],
    /// Id of the provisioning certification enclave.
    pub pce_id: [u8; 2],
    /// The 16 SGX component SVNs.
    pub cpu_svn: [u8; 16],
    /// SVN of the provisioning certification enclave.
    pub pce_svn: u16,
    /// SVN of the quoting enclave.
    pub qe_isv_svn: u16,
    /// Whether the quoting enclave runs in debug mode, which no verifier may accept.
    pub qe_debug: bool,
}

impl PlatformOptions {
    /// The SVNs of a platform that meets the newest level of [`crate::CollateralOptions`].
    pub const CPU_SVN: [u8; 16] = [4, 4, 2, 2, 4, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0];
    /// The SVNs of a platform that only meets the older level of [`crate::CollateralOptions`].
    pub const CPU_SVN_OLD: [u8; 16] = [3, 3, 2, 2, 4, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0];
    /// `SIM` and a number.
    pub const FMSPC: [u8; 6] = [b'S', b'I', b'M', 0, 0, 1];
    /// The PCESVN of both levels.
    pub const PCE_SVN: u16 = 13;
    /// The QE's SVN of the newest level.
    pub const QE_ISV_SVN: u16 = 8;
}

impl Default for PlatformOptions {
    fn default() -> Self {
        Self {
            fmspc: Self::FMSPC,
            pce_id: [0; 2],
            cpu_svn: Self::CPU_SVN,
            pce_svn: Self::PCE_SVN,
            qe_isv_svn: Self::QE_ISV_SVN,
            qe_debug: false,
        }
    }
}

/// A simulated machine. Several TDs may run on a clone of one platform, as on a real host.
///
/// Its attestation key is secret within the simulation: `Debug` leaves it out, and it is written only by
/// [`crate::SimulatedTd::to_json`].
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Platform {
    #[serde(with = "hex_array")]
    fmspc: [u8; 6],
    #[serde(with = "hex_array")]
    pce_id: [u8; 2],
    #[serde(with = "hex_array")]
    ppid: [u8; 16],
    #[serde(with = "hex_array")]
    qe_id: [u8; 16],
    #[serde(with = "hex_array")]
    pck_serial: [u8; 20],
    pck_chain: String,
    #[serde(with = "crate::signer::attestation_key")]
    attestation_key: Arc<Signer>,
    #[serde(with = "hex_array")]
    qe_report: [u8; SGX_REPORT_BYTES],
    #[serde(with = "hex_array")]
    qe_report_signature: [u8; SIGNATURE_BYTES],
    #[serde(with = "hex_array")]
    qe_authentication_data: [u8; QE_AUTHENTICATION_DATA_BYTES],
}

impl fmt::Debug for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Platform").field("fmspc", &hex::encode(self.fmspc)).field("ppid", &hex::encode(self.ppid)).finish_non_exhaustive()
    }
}

impl Platform {
    /// Everything that happens once per machine: PCK certificate, attestation key, and the QE report signed by the PCK
    /// key, which is then forgotten.
    pub(crate) fn provision(options: &PlatformOptions, ca: &Authority, root: &Authority, now: i64) -> Result<Self, SimulatorError> {
        let extension = PckExtension {
            ppid: random()?,
            cpu_svn: options.cpu_svn,
            pce_svn: options.pce_svn,
            pce_id: options.pce_id,
            fmspc: options.fmspc,
            platform_instance_id: random()?,
        };
        let pck = ca.pck(&extension, now)?;
        let attestation = Signer::generate("attestation")?;
        let qe_authentication_data = random()?;
        let qe_report = qe_report(options, &attestation.public_key(), &qe_authentication_data);
        let pck_serial = pck.serial().try_into().map_err(|_| SimulatorError::Key("PCK"))?;
        Ok(Self {
            fmspc: options.fmspc,
            pce_id: options.pce_id,
            ppid: extension.ppid,
            qe_id: random()?,
            pck_serial,
            pck_chain: [pck.pem(), ca.pem(), root.pem()].concat(),
            attestation_key: Arc::new(attestation),
            qe_report_signature: pck.signer.sign(&qe_report)?,
            qe_report,
            qe_authentication_data,
        })
    }

    /// FMSPC of the machine.
    pub const fn fmspc(&self) -> [u8; 6] {
        self.fmspc
    }
    /// PCEID of the machine.
    pub const fn pce_id(&self) -> [u8; 2] {
        self.pce_id
    }
    /// PPID of the machine: who has it can recognise the machine.
    pub const fn ppid(&self) -> [u8; 16] {
        self.ppid
    }
    /// Serial number of the PCK certificate, for a CRL.
    pub fn pck_serial(&self) -> Vec<u8> {
        self.pck_serial.to_vec()
    }
    /// PEM of PCK leaf, platform CA and root.
    pub fn pck_chain(&self) -> &str {
        &self.pck_chain
    }

    pub(crate) const fn qe_id(&self) -> &[u8; 16] {
        &self.qe_id
    }

    pub(crate) fn attestation_signer(&self) -> &Signer {
        &self.attestation_key
    }

    /// QE report certification data: what follows the attestation key in a quote, with its type and size.
    pub(crate) fn certification_data(&self) -> Vec<u8> {
        // Most real platforms end the text with a NUL.
        let chain = [self.pck_chain.as_bytes(), &[0]].concat();
        let inner = [
            self.qe_report.as_slice(),
            &self.qe_report_signature,
            &length16(&self.qe_authentication_data),
            &self.qe_authentication_data,
            &keyferry_tdx_quote::layout::CERTIFICATION_TYPE_PCK_CHAIN.to_le_bytes(),
            &length32(&chain),
            &chain,
        ]
        .concat();
        let outer_type = keyferry_tdx_quote::layout::CERTIFICATION_TYPE_QE_REPORT.to_le_bytes();
        [outer_type.as_slice(), &length32(&inner), &inner].concat()
    }
}

/// The quoting enclave's report over its attestation key.
fn qe_report(options: &PlatformOptions, key: &[u8; ATTESTATION_KEY_BYTES], authentication_data: &[u8]) -> [u8; SGX_REPORT_BYTES] {
    let mut report = [0; SGX_REPORT_BYTES];
    let binding = Sha256::new().chain_update(key).chain_update(authentication_data).finalize();
    let attributes = if options.qe_debug { QE_ATTRIBUTES | QE_DEBUG } else { QE_ATTRIBUTES };
    for (offset, bytes) in [
        (sgx_report::CPU_SVN, options.cpu_svn.as_slice()),
        (sgx_report::ATTRIBUTES, &[attributes]),
        (sgx_report::MR_ENCLAVE, &Sha256::digest(b"Keyferry: the simulated TD quoting enclave")),
        (sgx_report::MR_SIGNER, &qe_mr_signer()),
        (sgx_report::ISV_PROD_ID, &QE_ISV_PROD_ID.to_le_bytes()),
        (sgx_report::ISV_SVN, &options.qe_isv_svn.to_le_bytes()),
        (sgx_report::REPORT_DATA, &binding),
    ] {
        put(&mut report, offset, bytes);
    }
    report
}

/// Copies `bytes` to `offset`; what would not fit is left out, and layouts here always fit.
pub(crate) fn put(target: &mut [u8], offset: usize, bytes: &[u8]) {
    target.iter_mut().skip(offset).zip(bytes).for_each(|(target, byte)| *target = *byte);
}

pub(crate) fn length32(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes()
}

fn length16(bytes: &[u8]) -> [u8; 2] {
    u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_le_bytes()
}

fn random<const N: usize>() -> Result<[u8; N], SimulatorError> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| SimulatorError::Key("random source"))?;
    Ok(bytes)
}
