//! The repository's own commands: demo, stack, test, bench, tidy, ci.
