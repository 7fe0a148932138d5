//! The simulated provisioning service: its root, and what hangs below it.

use std::path::Path;

use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::authority::Authority;
use crate::signer::Signer;
use crate::{CollateralOptions, Platform, PlatformOptions, SimulatorError, collateral, private_file};

/// `simulator:` and the lower-case hex SHA-256 of a root certificate.
pub(crate) fn trust_anchor(root_der: &[u8]) -> String {
    format!("simulator:{}", hex::encode(Sha256::digest(root_der)))
}

/// Root, platform CA and TCB signer of one simulated world.
#[derive(Debug)]
pub struct SimulatorRoot {
    root: Authority,
    platform_ca: Authority,
    tcb_signer: Authority,
}

impl SimulatorRoot {
    /// A new world. `name` ends up in the certificates, after `Simulated`; `now` is in Unix seconds.
    pub fn generate(name: &str, now: u64) -> Result<Self, SimulatorError> {
        let now = seconds(now)?;
        let root = Authority::root(name, now)?;
        let platform_ca = Authority::platform_ca(&root, name, now)?;
        let tcb_signer = Authority::tcb_signer(&root, name, now)?;
        Ok(Self { root, platform_ca, tcb_signer })
    }

    /// DER of the root certificate: what a verifier is told to trust.
    pub fn certificate_der(&self) -> &[u8] {
        &self.root.certificate
    }

    /// Lower-case hex SHA-256 of the root certificate.
    pub fn fingerprint(&self) -> String {
        hex::encode(Sha256::digest(self.certificate_der()))
    }

    /// `simulator:` and the fingerprint.
    pub fn trust_anchor(&self) -> String {
        trust_anchor(self.certificate_der())
    }

    /// A new machine: two key pairs, one certificate and one signature.
    pub fn platform(&self, options: &PlatformOptions, now: u64) -> Result<Platform, SimulatorError> {
        Platform::provision(options, &self.platform_ca, &self.root, seconds(now)?)
    }

    /// Signed collateral as JSON: CRLs and signatures in hex, chains in PEM, TCB info and QE identity as exact texts.
    pub fn collateral(&self, options: &CollateralOptions, now: u64) -> Result<String, SimulatorError> {
        collateral::sign(options, &self.root, &self.platform_ca, &self.tcb_signer, seconds(now)?)
    }

    /// Writes certificates and private keys into `directory`, which is made if missing; the keys get mode 0600.
    pub fn save(&self, directory: &Path) -> Result<(), SimulatorError> {
        std::fs::create_dir_all(directory).map_err(private_file::at(directory))?;
        for (authority, name) in [(&self.root, ROOT), (&self.platform_ca, PLATFORM_CA), (&self.tcb_signer, TCB_SIGNER)] {
            let certificate = directory.join(format!("{name}.der"));
            std::fs::write(&certificate, &authority.certificate).map_err(private_file::at(&certificate))?;
            private_file::write(&directory.join(format!("{name}.key.der")), authority.signer.pkcs8())?;
        }
        Ok(())
    }

    /// Reads what [`SimulatorRoot::save`] wrote.
    pub fn load(directory: &Path) -> Result<Self, SimulatorError> {
        let authority = |name: &'static str| -> Result<Authority, SimulatorError> {
            let certificate = private_file::read(&directory.join(format!("{name}.der")))?;
            let key = Zeroizing::new(private_file::read(&directory.join(format!("{name}.key.der")))?);
            Ok(Authority { certificate: CertificateDer::from(certificate), signer: Signer::from_pkcs8(name, &key)? })
        };
        Ok(Self { root: authority(ROOT)?, platform_ca: authority(PLATFORM_CA)?, tcb_signer: authority(TCB_SIGNER)? })
    }
}

const ROOT: &str = "root";
const PLATFORM_CA: &str = "platform-ca";
const TCB_SIGNER: &str = "tcb-signer";

fn seconds(now: u64) -> Result<i64, SimulatorError> {
    i64::try_from(now).map_err(|_| SimulatorError::Time(i64::MAX))
}
