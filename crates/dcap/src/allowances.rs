//! What weakens a TD, refused unless somebody says otherwise.

use keyferry_tdx_quote::TdReportBody;
use serde::{Deserialize, Serialize};

/// Exceptions from the refusing defaults. Each one is a decision an operator writes down; reserved bits have none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(clippy::struct_excessive_bools)] // independent exceptions: every combination is meaningful
pub struct Allowances {
    /// TDs whose memory the host may read, or that it may profile.
    pub debug: bool,
    /// TDs bound to service TDs.
    pub service_td: bool,
    /// TDs that a migration TD may move.
    pub migratable: bool,
    /// TDs into whose private pages the host can inject #VE.
    pub no_sept_ve: bool,
}

/// Which attribute of the TD is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttributeDenial {
    /// TDATTRIBUTES bits 0 to 7.
    #[error("TDATTRIBUTES: the TD is under debug or profiling (bits 0 to 7 are {0:#04x}, wanted 0)")]
    UnderDebug(u8),
    /// TDATTRIBUTES bit 28.
    #[error("TDATTRIBUTES: SEPT_VE_DISABLE (bit 28) is not set")]
    SeptVeDisableMissing,
    /// TDATTRIBUTES bit 29.
    #[error("TDATTRIBUTES: MIGRATABLE (bit 29) is set")]
    Migratable,
    /// TDATTRIBUTES bit 17, MRSERVICETD or a service TD hash.
    #[error("the TD is bound to a service TD")]
    ServiceTd,
    /// Reserved TDATTRIBUTES bits.
    #[error("TDATTRIBUTES: reserved bits {0:#018x} are set")]
    ReservedAttributes(u64),
    /// XFAM bits the TDX module does not allow.
    #[error("XFAM: reserved bits {0:#018x} are set")]
    ReservedXfam(u64),
    /// XFAM without FP and SSE.
    #[error("XFAM: FP and SSE (bits 0 and 1) are not set")]
    XfamFixedBits,
    /// SEAMATTRIBUTES not zero.
    #[error("SEAMATTRIBUTES are not zero")]
    SeamAttributes,
}

impl AttributeDenial {
    /// The label of the contract's reason.
    pub const fn label(self) -> &'static str {
        match self {
            Self::UnderDebug(_) => "debug_enabled",
            Self::SeptVeDisableMissing => "sept_ve_disable_missing",
            Self::Migratable => "migratable",
            Self::ServiceTd => "service_td",
            Self::ReservedAttributes(_) | Self::ReservedXfam(_) | Self::XfamFixedBits | Self::SeamAttributes => "reserved_bits_set",
        }
    }
}

impl Allowances {
    /// No exception.
    pub const NONE: Self = Self { debug: false, service_td: false, migratable: false, no_sept_ve: false };
    /// Every exception: for tools that only look.
    pub const ALL: Self = Self { debug: true, service_td: true, migratable: true, no_sept_ve: true };

    /// The first refused attribute, debug before everything else.
    pub fn check(&self, body: &TdReportBody) -> Result<(), AttributeDenial> {
        let attributes = body.td_attributes;
        if attributes.under_debug() && !self.debug {
            return Err(AttributeDenial::UnderDebug(attributes.to_bytes()[0]));
        }
        // The debug group has reserved bits of its own, which the exception covers.
        let reserved = attributes.reserved() & if self.debug { !0xff } else { u64::MAX };
        if reserved != 0 {
            return Err(AttributeDenial::ReservedAttributes(reserved));
        }
        if body.seam_attributes != [0; 8] {
            return Err(AttributeDenial::SeamAttributes);
        }
        if body.xfam.reserved() != 0 {
            return Err(AttributeDenial::ReservedXfam(body.xfam.reserved()));
        }
        if !body.xfam.has_fixed_bits() {
            return Err(AttributeDenial::XfamFixedBits);
        }
        if attributes.migratable() && !self.migratable {
            return Err(AttributeDenial::Migratable);
        }
        if body.has_service_td() && !self.service_td {
            return Err(AttributeDenial::ServiceTd);
        }
        if !attributes.sept_ve_disable() && !self.no_sept_ve {
            return Err(AttributeDenial::SeptVeDisableMissing);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use keyferry_tdx_quote::{Quote, TdAttributes, Xfam};

    use super::*;

    const V5: &[u8] = include_bytes!("../testdata/tdx/v5-td15ex-uptodate/quote.bin");

    fn refused(edit: impl FnOnce(&mut TdReportBody), allowances: Allowances) -> Option<&'static str> {
        let mut body = Quote::parse(V5).unwrap().body().clone();
        edit(&mut body);
        allowances.check(&body).err().map(AttributeDenial::label)
    }

    fn attributes(more: TdAttributes) -> impl FnOnce(&mut TdReportBody) {
        move |body| body.td_attributes = body.td_attributes.with(more)
    }

    #[test]
    fn everything_that_weakens_a_td_is_refused_by_default_and_only_its_own_allowance_helps() {
        let no_sept_ve = |body: &mut TdReportBody| body.td_attributes = TdAttributes::PERFMON;
        let none = Allowances::NONE;
        assert_eq!(refused(|_| {}, none), None);
        assert_eq!(refused(attributes(TdAttributes::DEBUG), none), Some("debug_enabled"));
        assert_eq!(refused(attributes(TdAttributes::from_bits(1 << 5)), none), Some("debug_enabled"));
        assert_eq!(refused(attributes(TdAttributes::MIGRATABLE), none), Some("migratable"));
        assert_eq!(refused(attributes(TdAttributes::SERVICE_TD_EXTENSION), none), Some("service_td"));
        assert_eq!(refused(|body| body.mr_service_td = Some([1; 48]), none), Some("service_td"));
        assert_eq!(refused(no_sept_ve, none), Some("sept_ve_disable_missing"));

        assert_eq!(refused(attributes(TdAttributes::DEBUG), Allowances { debug: true, ..none }), None);
        assert_eq!(refused(attributes(TdAttributes::MIGRATABLE), Allowances { migratable: true, ..none }), None);
        assert_eq!(refused(attributes(TdAttributes::SERVICE_TD_EXTENSION), Allowances { service_td: true, ..none }), None);
        assert_eq!(refused(no_sept_ve, Allowances { no_sept_ve: true, ..none }), None);
        assert_eq!(refused(attributes(TdAttributes::DEBUG), Allowances { debug: false, ..Allowances::ALL }), Some("debug_enabled"));
        assert_eq!(refused(no_sept_ve, Allowances { no_sept_ve: false, ..Allowances::ALL }), Some("sept_ve_disable_missing"));
    }

    #[test]
    fn no_allowance_covers_reserved_bits() {
        let all = Allowances::ALL;
        assert_eq!(refused(attributes(TdAttributes::from_bits(1 << 40)), all), Some("reserved_bits_set"));
        assert_eq!(refused(|body| body.xfam = Xfam::from_bits(body.xfam.bits() | 1 << 40), all), Some("reserved_bits_set"));
        assert_eq!(refused(|body| body.xfam = Xfam::from_bits(2), all), Some("reserved_bits_set"));
        assert_eq!(refused(|body| body.seam_attributes[3] = 1, all), Some("reserved_bits_set"));
    }
}
