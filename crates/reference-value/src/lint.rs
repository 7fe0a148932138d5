//! What a document leaves open.

use crate::Document;

/// Warnings, each a sentence. None: nothing that is known to go wrong.
pub fn lint(document: &Document) -> Vec<String> {
    let has = |name: &str| document.values().contains_key(name);
    let zero = |name: &&str| document.values().get(*name).is_some_and(|value| value.0 == [0; 48]);
    let mut warnings = Vec::new();
    if document.values().is_empty() {
        warnings.push("nothing is pinned: every TD is of this build".to_owned());
    } else if !has("mr_td") {
        warnings.push("mr_td is not pinned: the registers can be made by any firmware, which extends what it likes".to_owned());
    }
    if has("mr_td") {
        for (register, what) in [("rtmr1", "kernel"), ("rtmr2", "command line and initial file system")] {
            if !has(register) {
                warnings.push(format!("mr_td is pinned without {register}: the firmware is fixed, the {what} is not"));
            }
        }
    }
    for register in ["rtmr0", "rtmr1", "rtmr2"].into_iter().filter(zero) {
        warnings.push(format!("{register} is all zeros: nothing was measured, as under a paravisor, and any guest has that"));
    }
    if document.not_after().is_none() {
        warnings.push("not_after is missing: it is good until somebody thinks of revoking it".to_owned());
    }
    warnings
}
