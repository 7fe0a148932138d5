//! Where Intel's service is. A key belongs to one region.

use serde::{Deserialize, Serialize};

/// A region of Intel Trust Authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Region {
    /// Everywhere but Europe; also known as `us`.
    #[serde(alias = "us")]
    World,
    /// Europe.
    Eu,
    /// Intel's pilot: two requests a second.
    Pilot,
}

impl Region {
    /// The appraisal API.
    pub const fn api_url(self) -> &'static str {
        match self {
            Self::World => "https://api.trustauthority.intel.com",
            Self::Eu => "https://api.eu.trustauthority.intel.com",
            Self::Pilot => "https://api.pilot.trustauthority.intel.com",
        }
    }

    /// The portal: key set and revocation lists, and the `iss` of its tokens.
    pub const fn base_url(self) -> &'static str {
        match self {
            Self::World => "https://portal.trustauthority.intel.com",
            Self::Eu => "https://portal.eu.trustauthority.intel.com",
            Self::Pilot => "https://portal.pilot.trustauthority.intel.com",
        }
    }
}
