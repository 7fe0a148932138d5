//! TCB status: how current a platform is, in Intel's words.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Intel's TCB statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TcbStatus {
    /// Nothing is known to be wrong.
    UpToDate,
    /// The TD's software has to harden itself against known issues.
    SWHardeningNeeded,
    /// The platform may be configured insecurely.
    ConfigurationNeeded,
    /// Both of the above.
    ConfigurationAndSWHardeningNeeded,
    /// The platform was updated under the running TD: relaunch it to be up to date.
    TDRelaunchAdvised,
    /// The same, and the platform may be configured insecurely.
    TDRelaunchAdvisedConfigurationNeeded,
    /// Firmware or module lacks security updates.
    OutOfDate,
    /// The same, and the platform may be configured insecurely.
    OutOfDateConfigurationNeeded,
    /// The platform must not be trusted.
    Revoked,
}

/// A name that is not one of Intel's statuses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown TCB status: use one of UpToDate, SWHardeningNeeded, ConfigurationNeeded, ...")]
pub struct UnknownTcbStatus;

impl TcbStatus {
    /// Every status, from best to worst.
    pub const ALL: [Self; 9] = [
        Self::UpToDate,
        Self::SWHardeningNeeded,
        Self::ConfigurationNeeded,
        Self::ConfigurationAndSWHardeningNeeded,
        Self::TDRelaunchAdvised,
        Self::TDRelaunchAdvisedConfigurationNeeded,
        Self::OutOfDate,
        Self::OutOfDateConfigurationNeeded,
        Self::Revoked,
    ];

    /// Intel's name, as in `attester_tcb_status`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UpToDate => "UpToDate",
            Self::SWHardeningNeeded => "SWHardeningNeeded",
            Self::ConfigurationNeeded => "ConfigurationNeeded",
            Self::ConfigurationAndSWHardeningNeeded => "ConfigurationAndSWHardeningNeeded",
            Self::TDRelaunchAdvised => "TDRelaunchAdvised",
            Self::TDRelaunchAdvisedConfigurationNeeded => "TDRelaunchAdvisedConfigurationNeeded",
            Self::OutOfDate => "OutOfDate",
            Self::OutOfDateConfigurationNeeded => "OutOfDateConfigurationNeeded",
            Self::Revoked => "Revoked",
        }
    }

    /// The status by its name.
    pub fn parse(name: &str) -> Result<Self, UnknownTcbStatus> {
        Self::ALL.into_iter().find(|status| status.name() == name).ok_or(UnknownTcbStatus)
    }

    /// Everything that is wrong with either: a TD is as trustworthy as the worse of its launch and its current TCB.
    #[must_use]
    pub fn worse_of(self, other: Self) -> Self {
        let (a, b) = (self.faults(), other.faults());
        Self::from_faults(Faults {
            age: a.age.max(b.age),
            configuration: a.configuration || b.configuration,
            hardening: a.hardening || b.hardening,
        })
    }

    /// With the status of a part that has one of its own, the TDX module or the quoting enclave: only what is out of date or
    /// revoked there makes the whole worse.
    #[must_use]
    pub(crate) const fn with_component(self, component: Self) -> Self {
        match (component, self) {
            (Self::Revoked, _) => Self::Revoked,
            (Self::OutOfDate, Self::UpToDate | Self::SWHardeningNeeded) => Self::OutOfDate,
            (Self::OutOfDate, Self::ConfigurationNeeded | Self::ConfigurationAndSWHardeningNeeded) => Self::OutOfDateConfigurationNeeded,
            _ => self,
        }
    }

    /// The launch status of a TD whose platform has `current` by now: where only the launch is out of date, a relaunch
    /// helps.
    #[must_use]
    pub(crate) const fn relaunched(self, current: Self) -> Self {
        let (launch, now) = (self.faults(), current.faults());
        match (launch.age, now.age) {
            (Age::OutOfDate, Age::Current) if launch.configuration || now.configuration => Self::TDRelaunchAdvisedConfigurationNeeded,
            (Age::OutOfDate, Age::Current) => Self::TDRelaunchAdvised,
            _ => self,
        }
    }

    const fn faults(self) -> Faults {
        let (age, configuration, hardening) = match self {
            Self::UpToDate => (Age::Current, false, false),
            Self::SWHardeningNeeded => (Age::Current, false, true),
            Self::ConfigurationNeeded => (Age::Current, true, false),
            Self::ConfigurationAndSWHardeningNeeded => (Age::Current, true, true),
            Self::TDRelaunchAdvised => (Age::Relaunch, false, false),
            Self::TDRelaunchAdvisedConfigurationNeeded => (Age::Relaunch, true, false),
            Self::OutOfDate => (Age::OutOfDate, false, false),
            Self::OutOfDateConfigurationNeeded => (Age::OutOfDate, true, false),
            Self::Revoked => (Age::Revoked, false, false),
        };
        Faults { age, configuration, hardening }
    }

    const fn from_faults(faults: Faults) -> Self {
        match (faults.age, faults.configuration, faults.hardening) {
            (Age::Revoked, ..) => Self::Revoked,
            (Age::OutOfDate, true, _) => Self::OutOfDateConfigurationNeeded,
            (Age::OutOfDate, false, _) => Self::OutOfDate,
            (Age::Relaunch, true, _) => Self::TDRelaunchAdvisedConfigurationNeeded,
            (Age::Relaunch, false, _) => Self::TDRelaunchAdvised,
            (Age::Current, true, true) => Self::ConfigurationAndSWHardeningNeeded,
            (Age::Current, true, false) => Self::ConfigurationNeeded,
            (Age::Current, false, true) => Self::SWHardeningNeeded,
            (Age::Current, false, false) => Self::UpToDate,
        }
    }
}

#[derive(Clone, Copy)]
struct Faults {
    age: Age,
    configuration: bool,
    hardening: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Age {
    Current,
    Relaunch,
    OutOfDate,
    Revoked,
}

impl From<dcap_qvl::TcbStatus> for TcbStatus {
    fn from(status: dcap_qvl::TcbStatus) -> Self {
        use dcap_qvl::TcbStatus as Engine;
        match status {
            Engine::UpToDate => Self::UpToDate,
            Engine::SWHardeningNeeded => Self::SWHardeningNeeded,
            Engine::ConfigurationNeeded => Self::ConfigurationNeeded,
            Engine::ConfigurationAndSWHardeningNeeded => Self::ConfigurationAndSWHardeningNeeded,
            Engine::TDRelaunchAdvised => Self::TDRelaunchAdvised,
            Engine::TDRelaunchAdvisedConfigurationNeeded => Self::TDRelaunchAdvisedConfigurationNeeded,
            Engine::OutOfDate => Self::OutOfDate,
            Engine::OutOfDateConfigurationNeeded => Self::OutOfDateConfigurationNeeded,
            Engine::Revoked => Self::Revoked,
        }
    }
}

impl fmt::Display for TcbStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worse_of_two_hides_no_fault_of_either() {
        for a in TcbStatus::ALL {
            assert_eq!(TcbStatus::parse(a.name()), Ok(a));
            for b in TcbStatus::ALL {
                let worse = a.worse_of(b);
                assert_eq!(worse, b.worse_of(a));
                assert!(worse >= a && worse >= b, "{a} and {b} give {worse}");
            }
            assert_eq!(a.worse_of(a), a);
        }
        assert_eq!(TcbStatus::OutOfDate.worse_of(TcbStatus::ConfigurationNeeded), TcbStatus::OutOfDateConfigurationNeeded);
        assert_eq!(TcbStatus::parse("OK"), Err(UnknownTcbStatus));
    }
}
