//! The highest TCB evaluation number seen for each platform family.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::DcapDenial;

/// Remembers the highest `tcbEvaluationDataNumber` per FMSPC, so that signed but older collateral is noticed inside its
/// own validity. Only authenticated platforms and collateral get here, so it holds as many entries as the trusted root
/// has product families.
#[derive(Debug, Default)]
pub struct EvaluationMemory {
    highest: Mutex<BTreeMap<[u8; 6], u32>>,
}

impl EvaluationMemory {
    /// With the numbers an earlier process had seen.
    pub fn with(seen: impl IntoIterator<Item = ([u8; 6], u32)>) -> Self {
        Self { highest: Mutex::new(seen.into_iter().collect()) }
    }

    /// The numbers seen so far, to be kept over a restart.
    pub fn seen(&self) -> Vec<([u8; 6], u32)> {
        let highest = self.highest.lock().unwrap_or_else(PoisonError::into_inner);
        highest.iter().map(|(fmspc, number)| (*fmspc, *number)).collect()
    }

    pub(crate) fn admit(&self, fmspc: [u8; 6], number: u32) -> Result<(), DcapDenial> {
        let mut highest = self.highest.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = highest.entry(fmspc).or_insert(number);
        if number < *seen {
            return Err(DcapDenial::CollateralRolledBack { seen: *seen, got: number });
        }
        *seen = number;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_rise_per_family_and_survive_a_restart() {
        let memory = EvaluationMemory::default();
        assert!(memory.admit([1; 6], 17).is_ok());
        assert!(memory.admit([2; 6], 3).is_ok());
        assert!(memory.admit([1; 6], 18).is_ok());
        let restarted = EvaluationMemory::with(memory.seen());
        assert_eq!(restarted.admit([1; 6], 17), Err(DcapDenial::CollateralRolledBack { seen: 18, got: 17 }));
        assert!(restarted.admit([1; 6], 18).is_ok());
        assert!(restarted.admit([2; 6], 3).is_ok());
    }
}
