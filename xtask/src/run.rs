//! Running other programs from the root of the repository.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use keyferry_testkit::StartFailure;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// `cargo` with these arguments, at the root.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// Runs to the end; anything but success is a failure that names the command.
pub(crate) fn succeed(command: &mut Command, hint: &str) -> Result<(), StartFailure> {
    let shown = shown(command);
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(StartFailure::new(format!("`{shown}` failed ({status})"), hint)),
        Err(error) => Err(StartFailure::new(format!("`{shown}` could not be started: {error}"), hint)),
    }
}

fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    std::iter::once(program).chain(command.get_args().map(|argument| argument.to_string_lossy().into_owned())).collect::<Vec<_>>().join(" ")
}

/// Builds every program of the workspace, so that what runs is what is checked out.
pub(crate) fn build_programs() -> Result<(), StartFailure> {
    succeed(
        &mut cargo(&["build", "--quiet", "--workspace", "--bins"]),
        "read the compiler's message above; a missing OpenSSL header means: install libssl-dev and pkg-config",
    )
}

/// Where this program was built, and so where everything else is.
pub(crate) fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Two workers at least: telemetry is flushed from a blocking task.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, StartFailure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| StartFailure::new(format!("no async runtime: {error}"), "report this"))
}

/// Does the work until it ends, or until Ctrl-C or SIGTERM: then what it started ends with it, and the answer is `None`.
pub(crate) async fn unless_interrupted<T>(work: impl Future<Output = T>) -> Result<Option<T>, StartFailure> {
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    Ok(tokio::select! {
        result = work => Some(result),
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
    })
}

/// Hears a signal from now on.
pub(crate) fn listen(kind: SignalKind) -> Result<Signal, StartFailure> {
    signal(kind).map_err(|error| StartFailure::new(format!("signals cannot be handled: {error}"), "report this"))
}

/// Removes a directory and what is in it. A process that was just killed may still be writing its last file, so it is tried
/// a few times.
pub(crate) fn remove(directory: &Path) -> Result<(), StartFailure> {
    const TRIES: usize = 20;
    let mut last = std::fs::remove_dir_all(directory);
    for _ in 1..TRIES {
        if last.as_ref().err().is_none_or(|error| error.kind() == std::io::ErrorKind::NotFound) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
        last = std::fs::remove_dir_all(directory);
    }
    last.map_err(|error| {
        StartFailure::new(format!("{} could not be removed: {error}", directory.display()), "remove it by hand: it holds credentials")
    })
}
