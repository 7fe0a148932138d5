//! What a request may choose: a platform family, its CA, and which of the two TCB evaluations in force.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A family of platforms: collateral is published for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Family {
    /// Intel's name for it.
    pub fmspc: [u8; 6],
    /// Who certifies its platforms.
    pub ca: Ca,
}

impl Family {
    /// FMSPC from 12 hex digits of any case.
    pub fn parse_fmspc(text: &str) -> Option<[u8; 6]> {
        let mut fmspc = [0; 6];
        hex::decode_to_slice(text, &mut fmspc).ok()?;
        Some(fmspc)
    }
}

/// Lower-case hex of the FMSPC, as file names and messages have it.
impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.fmspc))
    }
}

/// Which of Intel's intermediate CAs certifies a platform. Every TDX platform we have seen is under `Platform`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ca {
    /// Multi-package platforms.
    #[default]
    Platform,
    /// Single-package processors.
    Processor,
}

impl Ca {
    /// As requests and bundles have it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Platform => "platform",
            Self::Processor => "processor",
        }
    }

    /// By the common name of the CA, for instance `Intel SGX PCK Platform CA`.
    pub fn from_common_name(name: &str) -> Option<Self> {
        [("Platform", Self::Platform), ("Processor", Self::Processor)].into_iter().find_map(|(word, ca)| name.contains(word).then_some(ca))
    }
}

/// Which TCB evaluation is asked for, while Intel has two in force: `early` knows the newest microcode before most fleets
/// can have it, `standard` follows months later. Both are signed and good for their time; what a platform is called
/// (`UpToDate`, `OutOfDate`) depends on the choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Update {
    /// What Intel serves where nothing is asked for.
    #[default]
    Standard,
    /// At once, as soon as Intel publishes it.
    Early,
}

impl Update {
    /// As requests and bundles have it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Early => "early",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_is_told_by_its_name() {
        assert_eq!(Ca::from_common_name("Intel SGX PCK Platform CA"), Some(Ca::Platform));
        assert_eq!(Ca::from_common_name("Intel SGX PCK Processor CA"), Some(Ca::Processor));
        assert_eq!(Ca::from_common_name("Intel SGX Root CA"), None);
    }

    #[test]
    fn an_fmspc_is_twelve_hex_digits() {
        assert_eq!(Family::parse_fmspc("B0c06F000000"), Some([0xb0, 0xc0, 0x6f, 0, 0, 0]));
        for bad in ["", "b0c06f0000", "b0c06f00000000", "b0c06f00000g", "../../../etc", "b0c06f00000 "] {
            assert_eq!(Family::parse_fmspc(bad), None, "{bad}");
        }
    }
}
