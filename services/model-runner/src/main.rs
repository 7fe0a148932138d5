//! All of `main`, and the allocator: a TD that holds a decrypted model wipes every piece of heap it gives back, because
//! inference libraries copy weights around without knowing that they are secret.

use std::{alloc::System, process::ExitCode};

use zeroizing_alloc::ZeroAlloc;

#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    keyferry_lifecycle::run("model-runner", model_runner::serve)
}
