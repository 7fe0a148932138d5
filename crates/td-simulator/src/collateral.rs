//! Collateral under the simulator's root: TCB info, QE identity and CRLs, signed over exact bytes.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::authority::Authority;
use crate::platform::{QE_ISV_PROD_ID, qe_mr_signer};
use crate::{Platform, PlatformOptions, SimulatorError};

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;
/// TCB info, QE identity and PCK CRL live 30 days.
const LIFE: i64 = 30 * DAY;

/// When a piece of collateral is valid, in seconds relative to the time of signing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Issue date; negative = before now.
    pub from: i64,
    /// Next update; negative = before now.
    pub until: i64,
}

impl Window {
    /// Issued an hour ago for 30 days.
    pub const CURRENT: Self = Self { from: -HOUR, until: LIFE - HOUR };
    /// Ended an hour ago.
    pub const EXPIRED: Self = Self { from: -LIFE - HOUR, until: -HOUR };
    /// Starts in an hour.
    pub const FUTURE: Self = Self { from: HOUR, until: LIFE + HOUR };
}

/// One level of the TCB info.
#[derive(Clone, Debug)]
pub struct TcbLevel {
    /// Minimum of each SGX component.
    pub sgx: [u8; 16],
    /// Minimum of each TDX component; 0 and 1 are judged by the module identity instead.
    pub tdx: [u8; 16],
    /// Minimum PCESVN.
    pub pce_svn: u16,
    /// The status's word, for instance `UpToDate`; not checked, so that a verifier's check can be tested.
    pub status: String,
    /// RFC 3339.
    pub date: String,
    /// Advisories that concern a platform of this level.
    pub advisory_ids: Vec<String>,
}

/// One level of a TDX module or of the quoting enclave.
#[derive(Clone, Debug)]
pub struct IsvLevel {
    /// Minimum ISVSVN.
    pub isv_svn: u16,
    /// The status's word.
    pub status: String,
    /// RFC 3339.
    pub date: String,
    /// Advisories.
    pub advisory_ids: Vec<String>,
}

/// A TDX module the TCB info knows.
#[derive(Clone, Debug)]
pub struct ModuleIdentity {
    /// `TDX_` and two hex digits of the major version.
    pub id: String,
    /// Signer of the module.
    pub mr_signer: [u8; 48],
    /// Its levels, newest first.
    pub levels: Vec<IsvLevel>,
}

/// What the collateral says, and in which way it is wrong.
#[derive(Clone, Debug)]
pub struct CollateralOptions {
    /// FMSPC of the TCB info.
    pub fmspc: [u8; 6],
    /// PCEID of the TCB info.
    pub pce_id: [u8; 2],
    /// `tcbEvaluationDataNumber` of the TCB info.
    pub tcb_evaluation_number: u32,
    /// `tcbEvaluationDataNumber` of the QE identity.
    pub qe_evaluation_number: u32,
    /// Validity of the TCB info.
    pub tcb_info: Window,
    /// Validity of the QE identity.
    pub qe_identity: Window,
    /// Validity of the PCK CRL.
    pub pck_crl: Window,
    /// Validity of the root CRL.
    pub root_crl: Window,
    /// Levels of the TCB info, newest first.
    pub levels: Vec<TcbLevel>,
    /// TDX modules with a major version.
    pub modules: Vec<ModuleIdentity>,
    /// Levels of the quoting enclave, newest first.
    pub qe_levels: Vec<IsvLevel>,
    /// Signer of the quoting enclave.
    pub qe_mr_signer: [u8; 32],
    /// Serial numbers on the PCK CRL.
    pub revoked_pcks: Vec<Vec<u8>>,
    /// Whether the root CRL lists the platform CA.
    pub revoke_platform_ca: bool,
    /// Whether the root CRL lists the TCB signer.
    pub revoke_tcb_signer: bool,
}

impl Default for CollateralOptions {
    fn default() -> Self {
        Self {
            fmspc: PlatformOptions::FMSPC,
            pce_id: [0; 2],
            tcb_evaluation_number: Self::EVALUATION_NUMBER,
            qe_evaluation_number: Self::EVALUATION_NUMBER,
            tcb_info: Window::CURRENT,
            qe_identity: Window::CURRENT,
            pck_crl: Window::CURRENT,
            root_crl: Window { from: -HOUR, until: 365 * DAY },
            levels: vec![
                level(PlatformOptions::CPU_SVN, [5, 0, 4], UP_TO_DATE, NEWEST, &[]),
                level(PlatformOptions::CPU_SVN_OLD, [5, 0, 3], OUT_OF_DATE, OLDER, &[ADVISORY]),
            ],
            modules: vec![module("TDX_01"), module("TDX_03")],
            qe_levels: vec![isv_level(6, UP_TO_DATE, NEWEST, &[]), isv_level(4, OUT_OF_DATE, OLDER, &[QE_ADVISORY])],
            qe_mr_signer: qe_mr_signer(),
            revoked_pcks: Vec::new(),
            revoke_platform_ca: false,
            revoke_tcb_signer: false,
        }
    }
}

impl CollateralOptions {
    /// The evaluation number unless another is asked for.
    pub const EVALUATION_NUMBER: u32 = 20;

    /// Collateral that fits `platform`: up to date if the platform's SVNs are the default ones.
    pub fn for_platform(platform: &Platform) -> Self {
        Self { fmspc: platform.fmspc(), pce_id: platform.pce_id(), ..Self::default() }
    }

    /// The newest level gets another status, with one advisory unless it is `UpToDate`.
    #[must_use]
    pub fn with_status(mut self, status: &str) -> Self {
        if let Some(newest) = self.levels.first_mut() {
            status.clone_into(&mut newest.status);
            newest.advisory_ids = if status == UP_TO_DATE { Vec::new() } else { vec![ADVISORY.to_owned()] };
        }
        self
    }

    /// The newest level of the quoting enclave gets another status.
    #[must_use]
    pub fn with_qe_status(mut self, status: &str) -> Self {
        if let Some(newest) = self.qe_levels.first_mut() {
            status.clone_into(&mut newest.status);
        }
        self
    }

    /// Both evaluation numbers.
    #[must_use]
    pub const fn with_evaluation_number(mut self, number: u32) -> Self {
        self.tcb_evaluation_number = number;
        self.qe_evaluation_number = number;
        self
    }

    /// Puts the platform's PCK certificate on the CRL.
    #[must_use]
    pub fn revoking(mut self, platform: &Platform) -> Self {
        self.revoked_pcks.push(platform.pck_serial());
        self
    }

    /// Every window moved by `seconds`, to sign collateral of another time.
    #[must_use]
    pub const fn moved(mut self, seconds: i64) -> Self {
        self.tcb_info = moved(self.tcb_info, seconds);
        self.qe_identity = moved(self.qe_identity, seconds);
        self.pck_crl = moved(self.pck_crl, seconds);
        self.root_crl = moved(self.root_crl, seconds);
        self
    }

    fn tcb_info_json(&self, now: i64) -> Result<Value, SimulatorError> {
        Ok(json!({
            "id": "TDX",
            "version": 3,
            "issueDate": date(now + self.tcb_info.from)?,
            "nextUpdate": date(now + self.tcb_info.until)?,
            "fmspc": upper(&self.fmspc),
            "pceId": upper(&self.pce_id),
            "tcbType": 0,
            "tcbEvaluationDataNumber": self.tcb_evaluation_number,
            "tdxModule": { "mrsigner": upper(&[0; 48]), "attributes": upper(&[0; 8]), "attributesMask": upper(&[0xff; 8]) },
            "tdxModuleIdentities": self.modules.iter().map(ModuleIdentity::json).collect::<Vec<_>>(),
            "tcbLevels": self.levels.iter().map(TcbLevel::json).collect::<Vec<_>>(),
        }))
    }

    fn qe_identity_json(&self, now: i64) -> Result<Value, SimulatorError> {
        let mut attributes = [0; 16];
        attributes[0] = 0x11;
        let mut mask = [0; 16];
        mask[..8].copy_from_slice(&[0xfb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        Ok(json!({
            "id": "TD_QE",
            "version": 2,
            "issueDate": date(now + self.qe_identity.from)?,
            "nextUpdate": date(now + self.qe_identity.until)?,
            "tcbEvaluationDataNumber": self.qe_evaluation_number,
            "miscselect": upper(&[0; 4]),
            "miscselectMask": upper(&[0xff; 4]),
            "attributes": upper(&attributes),
            "attributesMask": upper(&mask),
            "mrsigner": upper(&self.qe_mr_signer),
            "isvprodid": QE_ISV_PROD_ID,
            "tcbLevels": self.qe_levels.iter().map(IsvLevel::json).collect::<Vec<_>>(),
        }))
    }
}

pub(crate) fn sign(
    options: &CollateralOptions,
    root: &Authority,
    platform_ca: &Authority,
    tcb_signer: &Authority,
    now: i64,
) -> Result<String, SimulatorError> {
    let number = options.tcb_evaluation_number;
    let revoked_by_root = [(options.revoke_platform_ca, platform_ca), (options.revoke_tcb_signer, tcb_signer)];
    let revoked_by_root: Vec<Vec<u8>> =
        revoked_by_root.iter().filter(|(revoke, _)| *revoke).map(|(_, authority)| authority.serial()).collect();
    let tcb_info = options.tcb_info_json(now)?.to_string();
    let qe_identity = options.qe_identity_json(now)?.to_string();
    let ca_chain = [platform_ca.pem(), root.pem()].concat();
    let signer_chain = [tcb_signer.pem(), root.pem()].concat();
    let collateral = json!({
        "pck_crl_issuer_chain": ca_chain,
        "root_ca_crl": hex::encode(root.crl(&revoked_by_root, options.root_crl, number, now)?),
        "pck_crl": hex::encode(platform_ca.crl(&options.revoked_pcks, options.pck_crl, number, now)?),
        "tcb_info_issuer_chain": signer_chain,
        "tcb_info_signature": hex::encode(tcb_signer.signer.sign(tcb_info.as_bytes())?),
        "tcb_info": tcb_info,
        "qe_identity_issuer_chain": signer_chain,
        "qe_identity_signature": hex::encode(tcb_signer.signer.sign(qe_identity.as_bytes())?),
        "qe_identity": qe_identity,
    });
    Ok(serde_json::to_string_pretty(&collateral)?)
}

const UP_TO_DATE: &str = "UpToDate";
const OUT_OF_DATE: &str = "OutOfDate";
const NEWEST: &str = "2025-08-13T00:00:00Z";
const OLDER: &str = "2024-03-13T00:00:00Z";
const ADVISORY: &str = "SIMULATED-SA-00001";
const QE_ADVISORY: &str = "SIMULATED-SA-00002";
const MODULE_ADVISORY: &str = "SIMULATED-SA-00003";

fn level(sgx: [u8; 16], tdx_start: [u8; 3], status: &str, date: &str, advisories: &[&str]) -> TcbLevel {
    let mut tdx = [0; 16];
    tdx[..3].copy_from_slice(&tdx_start);
    TcbLevel {
        sgx,
        tdx,
        pce_svn: PlatformOptions::PCE_SVN,
        status: status.to_owned(),
        date: date.to_owned(),
        advisory_ids: owned(advisories),
    }
}

fn isv_level(isv_svn: u16, status: &str, date: &str, advisories: &[&str]) -> IsvLevel {
    IsvLevel { isv_svn, status: status.to_owned(), date: date.to_owned(), advisory_ids: owned(advisories) }
}

fn module(id: &str) -> ModuleIdentity {
    let levels = vec![isv_level(5, UP_TO_DATE, NEWEST, &[]), isv_level(2, OUT_OF_DATE, OLDER, &[MODULE_ADVISORY])];
    ModuleIdentity { id: id.to_owned(), mr_signer: [0; 48], levels }
}

fn owned(advisories: &[&str]) -> Vec<String> {
    advisories.iter().map(|&advisory| advisory.to_owned()).collect()
}

impl TcbLevel {
    fn json(&self) -> Value {
        let components = |svns: &[u8]| svns.iter().map(|svn| json!({ "svn": svn })).collect::<Vec<_>>();
        let tcb = json!({ "sgxtcbcomponents": components(&self.sgx), "pcesvn": self.pce_svn, "tdxtcbcomponents": components(&self.tdx) });
        level_json(&tcb, &self.date, &self.status, &self.advisory_ids)
    }
}

impl IsvLevel {
    fn json(&self) -> Value {
        level_json(&json!({ "isvsvn": self.isv_svn }), &self.date, &self.status, &self.advisory_ids)
    }
}

impl ModuleIdentity {
    fn json(&self) -> Value {
        json!({
            "id": self.id,
            "mrsigner": upper(&self.mr_signer),
            "attributes": upper(&[0; 8]),
            "attributesMask": upper(&[0xff; 8]),
            "tcbLevels": self.levels.iter().map(IsvLevel::json).collect::<Vec<_>>(),
        })
    }
}

/// A level as Intel's service prints it: without the member of advisories where there are none.
fn level_json(tcb: &Value, date: &str, status: &str, advisory_ids: &[String]) -> Value {
    let mut level = json!({ "tcb": tcb, "tcbDate": date, "tcbStatus": status });
    if let (Some(members), false) = (level.as_object_mut(), advisory_ids.is_empty()) {
        members.insert("advisoryIDs".to_owned(), json!(advisory_ids));
    }
    level
}

fn upper(bytes: &[u8]) -> String {
    hex::encode_upper(bytes)
}

fn date(unix_seconds: i64) -> Result<String, SimulatorError> {
    // Without a fraction, and always in UTC: the one form the service uses.
    Timestamp::from_second(unix_seconds).map(|time| time.to_string()).map_err(|_| SimulatorError::Time(unix_seconds))
}

const fn moved(window: Window, seconds: i64) -> Window {
    Window { from: window.from + seconds, until: window.until + seconds }
}
