//! Memory stays in the process: no core dumps, no debugger of the same user.

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Switches core dumps off. The limit alone does not stop a piped core handler; not being dumpable does, and also keeps
/// `ptrace` and `/proc/PID/mem` from other processes of the same user.
pub(crate) fn forbid_dumps() -> std::io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}
