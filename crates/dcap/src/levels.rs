//! The levels of TCB info and QE identity in the form in which they are compared: sorted and decoded once.
//!
//! The rules are those of Intel's verification library. A level that cannot be used (another number of components, a
//! status that has no place there, a date that is none) refuses the quotes that arrive at it, not those that match a
//! higher one.

use dcap_qvl::{QeIdentity, TcbInfo};
use keyferry_tdx_quote::{QeReport, TdReportBody};

use crate::TcbStatus;
use crate::collateral::unix_seconds;
use crate::pck_extension::PckExtension;

const PLATFORM_STATUSES: &[TcbStatus] = &[
    TcbStatus::UpToDate,
    TcbStatus::SWHardeningNeeded,
    TcbStatus::ConfigurationNeeded,
    TcbStatus::ConfigurationAndSWHardeningNeeded,
    TcbStatus::OutOfDate,
    TcbStatus::OutOfDateConfigurationNeeded,
    TcbStatus::Revoked,
];
const MODULE_STATUSES: &[TcbStatus] = &[TcbStatus::UpToDate, TcbStatus::OutOfDate, TcbStatus::Revoked];
const ENCLAVE_STATUSES: &[TcbStatus] = &[
    TcbStatus::UpToDate,
    TcbStatus::ConfigurationNeeded,
    TcbStatus::OutOfDate,
    TcbStatus::OutOfDateConfigurationNeeded,
    TcbStatus::Revoked,
];

/// What a level says of whoever meets it.
#[derive(Debug)]
pub(crate) struct Rating {
    pub(crate) status: TcbStatus,
    pub(crate) date: String,
    pub(crate) unix_date: u64,
    pub(crate) advisory_ids: Vec<String>,
}

#[derive(Debug)]
struct PlatformLevel {
    /// SGX components, PCESVN, TDX components.
    needs: Option<([u8; 16], u16, [u8; 16])>,
    rating: Option<Rating>,
}

#[derive(Debug)]
struct IsvLevel {
    isv_svn: u16,
    rating: Option<Rating>,
}

/// ModuleSignature and attributes of a TDX module.
#[derive(Debug)]
struct ModuleSignature {
    mr_signer: [u8; 48],
    attributes: [u8; 8],
    mask: [u8; 8],
}

#[derive(Debug)]
struct Module {
    version: u8,
    signer: Option<ModuleSignature>,
    levels: Vec<IsvLevel>,
}

/// Levels of a platform family.
#[derive(Debug)]
pub(crate) struct PlatformRules {
    levels: Vec<PlatformLevel>,
    base: Option<ModuleSignature>,
    modules: Vec<Module>,
}

/// What a genuine quoting enclave looks like, and its levels.
#[derive(Debug)]
pub(crate) struct EnclaveRules {
    mr_signer: [u8; 32],
    isv_prod_id: u16,
    misc_select: Masked<4>,
    attributes: Masked<16>,
    levels: Vec<IsvLevel>,
}

#[derive(Debug)]
struct Masked<const N: usize> {
    value: [u8; N],
    mask: [u8; N],
}

/// What is concluded from one set of SVNs.
#[derive(Debug)]
pub(crate) struct Matched<'a> {
    /// Of level and module together.
    pub(crate) status: TcbStatus,
    /// Of the level; then that of the module, if one was judged.
    pub(crate) ratings: [Option<&'a Rating>; 2],
}

impl Matched<'_> {
    /// The older rating: its date counts.
    pub(crate) fn oldest(&self) -> Option<&Rating> {
        self.ratings.into_iter().flatten().min_by_key(|rating| rating.unix_date)
    }
}

impl PlatformRules {
    pub(crate) fn of(info: &TcbInfo) -> Self {
        let mut sorted: Vec<_> = info.tcb_levels.iter().collect();
        sorted.sort_by(|a, b| {
            let (a, b) = (&a.tcb, &b.tcb);
            (&b.sgx_components, b.pce_svn, &b.tdx_components).cmp(&(&a.sgx_components, a.pce_svn, &a.tdx_components))
        });
        let svns = |components: &[dcap_qvl::TcbComponents]| {
            let svns: Vec<u8> = components.iter().map(|component| component.svn).collect();
            <[u8; 16]>::try_from(svns).ok()
        };
        let levels = sorted.into_iter().map(|level| PlatformLevel {
            needs: svns(&level.tcb.sgx_components).zip(svns(&level.tcb.tdx_components)).map(|(sgx, tdx)| (sgx, level.tcb.pce_svn, tdx)),
            rating: rating(PLATFORM_STATUSES, level.tcb_status, &level.tcb_date, &level.advisory_ids),
        });
        let modules = info.tdx_module_identities.iter().filter_map(|identity| {
            let levels = identity.tcb_levels.iter().map(|level| IsvLevel {
                isv_svn: level.tcb.isvsvn.into(),
                rating: rating(MODULE_STATUSES, level.tcb_status, &level.tcb_date, &level.advisory_ids),
            });
            Some(Module {
                version: module_version(&identity.id)?,
                signer: ModuleSignature::of(&identity.mrsigner, &identity.attributes, &identity.attributes_mask),
                levels: levels.collect(),
            })
        });
        let base = info.tdx_module.as_ref();
        Self {
            levels: levels.collect(),
            base: base.and_then(|module| ModuleSignature::of(&module.mrsigner, &module.attributes, &module.attributes_mask)),
            modules: modules.collect(),
        }
    }

    /// The level that a platform with these SVNs meets, and that of its TDX module. SGX components and PCESVN are the PCK
    /// certificate's.
    pub(crate) fn matched(&self, pck: &PckExtension, tee_svn: &[u8; 16]) -> Option<Matched<'_>> {
        let [isv_svn, version, ..] = *tee_svn;
        // A module with a version is judged by its own levels: then the first two components are its business.
        let skipped = if version > 0 { 2 } else { 0 };
        let level = self.levels.iter().find(|level| {
            level.needs.is_none_or(|(sgx, pce_svn, tdx)| {
                let meets = |have: &[u8], needs: &[u8]| have.iter().zip(needs).all(|(have, needs)| have >= needs);
                pck.pce_svn >= pce_svn && meets(&pck.cpu_svn, &sgx) && meets(tee_svn.split_at(skipped).1, tdx.split_at(skipped).1)
            })
        })?;
        let platform = level.needs.and(level.rating.as_ref())?;
        if version == 0 {
            return Some(Matched { status: platform.status, ratings: [Some(platform), None] });
        }
        let module = self.module(version)?.levels.iter().find(|level| level.isv_svn <= isv_svn.into())?.rating.as_ref()?;
        Some(Matched { status: platform.status.with_component(module.status), ratings: [Some(platform), Some(module)] })
    }

    /// Whether the TDX module that launched the TD is signed as it has to be and has the attributes it has to have.
    pub(crate) fn module_is_genuine(&self, body: &TdReportBody) -> bool {
        let version = body.tee_tcb_svn[1];
        let own = if version == 0 { self.base.as_ref() } else { self.module(version).and_then(|module| module.signer.as_ref()) };
        let (Some(signer), Some(_)) = (own, &self.base) else { return false };
        let attributes = body.seam_attributes.iter().zip(signer.attributes.iter().zip(&signer.mask));
        signer.mr_signer == body.mr_signer_seam
            && attributes.into_iter().all(|(actual, (expected, mask))| actual & mask == expected & mask && actual & !mask == 0)
    }

    fn module(&self, version: u8) -> Option<&Module> {
        self.modules.iter().find(|module| module.version == version)
    }
}

impl EnclaveRules {
    pub(crate) fn of(identity: &QeIdentity) -> Self {
        let levels = identity.tcb_levels.iter().map(|level| IsvLevel {
            isv_svn: level.tcb.isvsvn,
            rating: rating(ENCLAVE_STATUSES, level.tcb_status, &level.tcb_date, &level.advisory_ids),
        });
        Self {
            mr_signer: identity.mrsigner,
            isv_prod_id: identity.isvprodid,
            misc_select: Masked { value: identity.miscselect, mask: identity.miscselect_mask },
            attributes: Masked { value: identity.attributes, mask: identity.attributes_mask },
            levels: levels.collect(),
        }
    }

    /// Whether a report is of the enclave, and which of the levels it meets.
    pub(crate) fn matched(&self, report: &QeReport) -> Option<u16> {
        let genuine = report.mr_signer() == self.mr_signer
            && report.isv_prod_id() == self.isv_prod_id
            && !report.debug()
            && self.misc_select.matches(&report.misc_select())
            && self.attributes.matches(&report.attributes());
        let level = self.levels.iter().position(|level| level.isv_svn <= report.isv_svn())?;
        let level = u16::try_from(level).ok()?;
        (genuine && self.rating(level).is_some()).then_some(level)
    }

    pub(crate) fn rating(&self, level: u16) -> Option<&Rating> {
        self.levels.get(usize::from(level))?.rating.as_ref()
    }
}

impl<const N: usize> Masked<N> {
    fn matches(&self, actual: &[u8; N]) -> bool {
        actual.iter().zip(self.value.iter().zip(&self.mask)).all(|(actual, (value, mask))| actual & mask == value & mask)
    }
}

impl ModuleSignature {
    fn of(mr_signer: &str, attributes: &str, mask: &str) -> Option<Self> {
        Some(Self { mr_signer: hex_array(mr_signer)?, attributes: hex_array(attributes)?, mask: hex_array(mask)? })
    }
}

fn hex_array<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut array = [0; N];
    hex::decode_to_slice(text, &mut array).ok()?;
    Some(array)
}

fn rating(legal: &[TcbStatus], status: dcap_qvl::TcbStatus, date: &str, advisory_ids: &[String]) -> Option<Rating> {
    let status = TcbStatus::from(status);
    let unix_date = date_of_level(date)?;
    legal.contains(&status).then(|| Rating { status, date: date.to_owned(), unix_date, advisory_ids: advisory_ids.to_vec() })
}

/// Only the one form that Intel's service uses: other forms of a date mean different things to different readers.
fn date_of_level(date: &str) -> Option<u64> {
    let form = |(index, byte): (usize, u8)| match index {
        4 | 7 => byte == b'-',
        10 => byte == b'T',
        13 | 16 => byte == b':',
        19 => byte == b'Z',
        _ => byte.is_ascii_digit(),
    };
    (date.len() == 20 && date.bytes().enumerate().all(form)).then(|| unix_seconds(date)).flatten()
}

/// `TDX_` and two hexadecimal digits, in any case; upper-case ones are asked for, so that is what counts.
fn module_version(id: &str) -> Option<u8> {
    let (prefix, digits) = id.split_at_checked(4)?;
    let version = u8::from_str_radix(digits, 16).ok()?;
    (prefix.eq_ignore_ascii_case("TDX_") && format!("{version:02X}").eq_ignore_ascii_case(digits)).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_services_own_form_is_a_date() {
        assert_eq!(date_of_level("2025-08-13T00:00:00Z"), Some(1_755_043_200));
        for other in ["2025-08-13T00:00:00z", "2025-08-13 00:00:00Z", "2025-08-13T00:00:00+00:00", "2025-13-13T00:00:00Z", "", "x"] {
            assert_eq!(date_of_level(other), None, "{other}");
        }
    }

    #[test]
    fn a_module_is_found_by_two_digits() {
        assert_eq!(module_version("TDX_03"), Some(3));
        assert_eq!(module_version("tdx_a1"), Some(0xa1));
        for other in ["TDX_3", "TDX_003", "TDX_+3", "QE_03", "", "TDX", "TD\u{e9}_03"] {
            assert_eq!(module_version(other), None, "{other}");
        }
    }
}
