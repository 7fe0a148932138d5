//! TDATTRIBUTES and XFAM: what a TD may do, and which bits nobody may set.

use std::fmt;

const fn bits(first: u32, last: u32) -> u64 {
    (u64::MAX << first) & (u64::MAX >> (63 - last))
}

/// TDATTRIBUTES. Bit 0 is the lowest bit of the first byte in memory, so SEPT_VE_DISABLE (bit 28) prints as
/// `0000001000000000`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TdAttributes(u64);

impl TdAttributes {
    /// DEBUG.
    pub const DEBUG: Self = Self(1);
    /// SERVTD_EXT.
    pub const SERVICE_TD_EXTENSION: Self = Self(1 << 17);
    /// SEPT_VE_DISABLE.
    pub const SEPT_VE_DISABLE: Self = Self(1 << 28);
    /// MIGRATABLE.
    pub const MIGRATABLE: Self = Self(1 << 29);
    /// PKS.
    pub const PROTECTION_KEYS: Self = Self(1 << 30);
    /// KL.
    pub const KEY_LOCKER: Self = Self(1 << 31);
    /// PERFMON.
    pub const PERFMON: Self = Self(1 << 63);
    /// The "TD under debug" group: with any of these set the TD is untrusted.
    const UNDER_DEBUG: u64 = bits(0, 7);
    /// Must be zero (Intel 348551-008, table 3.23), the reserved ones of the debug group included.
    const RESERVED: u64 = bits(1, 3) | bits(7, 15) | bits(23, 26) | bits(32, 61);

    /// From the value.
    pub const fn from_bits(value: u64) -> Self {
        Self(value)
    }
    /// From memory order.
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(u64::from_le_bytes(bytes))
    }
    /// In memory order.
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.to_le_bytes()
    }
    /// The value.
    pub const fn bits(self) -> u64 {
        self.0
    }
    /// Both sets of bits.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    /// Without the bits of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
    /// Whether every bit of `other` is set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
    /// Bit 0: the host may read the TD's memory.
    pub const fn debug(self) -> bool {
        self.contains(Self::DEBUG)
    }
    /// Any bit of the "TD under debug" group, bits 0 to 7: debug or profiling.
    pub const fn under_debug(self) -> bool {
        self.0 & Self::UNDER_DEBUG != 0
    }
    /// Bit 17: the TD is bound to service TDs by an extended structure.
    pub const fn service_td_extension(self) -> bool {
        self.contains(Self::SERVICE_TD_EXTENSION)
    }
    /// Bit 28: the host cannot inject #VE on private pages.
    pub const fn sept_ve_disable(self) -> bool {
        self.contains(Self::SEPT_VE_DISABLE)
    }
    /// Bit 29: a migration TD may move the TD to another machine.
    pub const fn migratable(self) -> bool {
        self.contains(Self::MIGRATABLE)
    }
    /// Bit 30: supervisor protection keys.
    pub const fn protection_keys(self) -> bool {
        self.contains(Self::PROTECTION_KEYS)
    }
    /// Bit 31: Key Locker.
    pub const fn key_locker(self) -> bool {
        self.contains(Self::KEY_LOCKER)
    }
    /// Bit 63: performance counters.
    pub const fn perfmon(self) -> bool {
        self.contains(Self::PERFMON)
    }
    /// The reserved bits that are set; zero in every sound quote.
    pub const fn reserved(self) -> u64 {
        self.0 & Self::RESERVED
    }
}

/// XFAM: the extended processor features the TD may use, laid out like XCR0 | IA32_XSS.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Xfam(u64);

impl Xfam {
    /// FP and SSE: always one.
    const FIXED_ONE: u64 = 0b11;
    /// What the TDX module allows: FP, SSE, AVX, AVX-512, PT, PKRU, CET, UINTR, LBR, HDC, AMX.
    const ALLOWED: u64 = bits(0, 2) | bits(5, 9) | bits(11, 12) | bits(14, 18);

    /// From the value.
    pub const fn from_bits(value: u64) -> Self {
        Self(value)
    }
    /// From memory order.
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(u64::from_le_bytes(bytes))
    }
    /// In memory order.
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.to_le_bytes()
    }
    /// The value.
    pub const fn bits(self) -> u64 {
        self.0
    }
    /// Bits that are set and must not be; zero in every sound quote.
    pub const fn reserved(self) -> u64 {
        self.0 & !Self::ALLOWED
    }
    /// Whether FP and SSE are set, as they always are.
    pub const fn has_fixed_bits(self) -> bool {
        self.0 & Self::FIXED_ONE == Self::FIXED_ONE
    }
}

macro_rules! memory_order_hex {
    ($($name:ident)*) => {$(
        impl fmt::Display for $name {
            /// Lower-case hex in memory order, as attestation tokens print it.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.to_bytes()))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    )*};
}
memory_order_hex!(TdAttributes Xfam);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_print_in_memory_order() {
        assert_eq!(TdAttributes::SEPT_VE_DISABLE.to_string(), "0000001000000000");
        assert_eq!(TdAttributes::DEBUG.with(TdAttributes::SEPT_VE_DISABLE).to_string(), "0100001000000000");
        assert_eq!(TdAttributes::SEPT_VE_DISABLE.with(TdAttributes::PERFMON).to_string(), "0000001000000080");
        assert!(TdAttributes::from_bytes([0, 0, 0, 0x40, 0, 0, 0, 0]).protection_keys());
    }

    #[test]
    fn exactly_the_undefined_bits_are_reserved() {
        let defined = [0, 4, 5, 6, 16, 17, 18, 19, 20, 21, 22, 27, 28, 29, 30, 31, 62, 63];
        for bit in 0..64 {
            assert_eq!(TdAttributes::from_bits(1 << bit).reserved() == 0, defined.contains(&bit), "bit {bit}");
            assert_eq!(TdAttributes::from_bits(1 << bit).under_debug(), bit < 8, "bit {bit}");
        }
    }

    #[test]
    fn the_xfam_values_of_the_field_have_no_reserved_bit() {
        for hex in ["e702060000000000", "e718060000000000", "e71a060000000000", "e742060000000000", "e700060000000000"] {
            let mut bytes = [0; 8];
            hex::decode_to_slice(hex, &mut bytes).unwrap();
            let xfam = Xfam::from_bytes(bytes);
            assert_eq!(xfam.reserved(), 0, "{hex}");
            assert!(xfam.has_fixed_bits());
            assert_eq!(xfam.to_string(), hex);
        }
        for bit in [3, 4, 10, 13, 19, 63] {
            assert_ne!(Xfam::from_bits(1 << bit).reserved(), 0, "bit {bit}");
        }
        assert!(!Xfam::from_bits(2).has_fixed_bits());
    }
}
