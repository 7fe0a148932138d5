//! Mistakes in a configuration, all of them at once, each with its place and without secret values.

use std::fmt;

/// One mistake: the dotted name of a setting, what is wrong with it, and where it was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    setting: String,
    problem: String,
    origin: Option<String>,
}

impl Mistake {
    /// A mistake in `setting` (dotted, e.g. `nonce.lifetime`); `problem` continues the sentence and says what to do.
    pub fn new(setting: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { setting: setting.into(), problem: problem.into(), origin: None }
    }

    pub(crate) fn at(mut self, origin: Option<String>) -> Self {
        self.origin = origin;
        self
    }

    /// The dotted name.
    pub fn setting(&self) -> &str {
        &self.setting
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.setting, self.problem)?;
        match &self.origin {
            Some(origin) => write!(f, " ({origin})"),
            None => Ok(()),
        }
    }
}

/// Why a configuration was not accepted.
#[derive(Clone, Debug, thiserror::Error)]
pub struct ConfigError {
    mistakes: Vec<Mistake>,
}

impl ConfigError {
    pub(crate) fn new(mistakes: Vec<Mistake>) -> Self {
        Self { mistakes }
    }

    /// Every mistake, in the order found.
    pub fn mistakes(&self) -> &[Mistake] {
        &self.mistakes
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.mistakes.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{mistake}")?;
        }
        Ok(())
    }
}
