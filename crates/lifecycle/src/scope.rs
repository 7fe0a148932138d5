//! What a service gets to live in: listeners, supervised tasks, readiness and the signal to stop.

use std::{
    collections::BTreeMap,
    fmt::Display,
    fs,
    future::Future,
    io,
    net::SocketAddr,
    os::unix::{fs::FileTypeExt, net::UnixStream as BlockingUnixStream},
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use rustix::{
    fs::{Mode, fchmod},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};
use tokio::net::{TcpListener, UnixListener};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, Span};

use crate::{StartError, addresses};

/// How many connections may wait to be accepted on a Unix socket.
const BACKLOG: i32 = 128;

/// Shared by every task of a service; cheap to clone.
#[derive(Clone)]
pub struct Scope {
    state: Arc<State>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What the health listener shows and what the run loop waits for.
pub(crate) struct State {
    inner: Mutex<Inner>,
    addresses_file: Option<PathBuf>,
}

#[derive(Default)]
struct Inner {
    ready: bool,
    draining: bool,
    checks: BTreeMap<&'static str, Option<String>>,
    addresses: BTreeMap<String, String>,
    failed_task: Option<String>,
    sockets: Vec<PathBuf>,
}

/// How a supervised task may end.
pub trait TaskOutput {
    /// Why it failed, if it did.
    fn failure(self) -> Option<String>;
}
impl TaskOutput for () {
    fn failure(self) -> Option<String> {
        None
    }
}
impl<E: Display> TaskOutput for Result<(), E> {
    fn failure(self) -> Option<String> {
        self.err().map(|error| error.to_string())
    }
}

impl Scope {
    pub(crate) fn new(addresses_file: Option<PathBuf>) -> Self {
        let state = Arc::new(State { inner: Mutex::default(), addresses_file });
        Self { state, tasks: TaskTracker::new(), stop: CancellationToken::new() }
    }

    /// Binds the listener called `name` and announces its address. Port 0 takes a free one.
    pub async fn bind(&self, name: &str, address: SocketAddr) -> Result<TcpListener, StartError> {
        let failed = |error: io::Error| StartError::bind(name, address, &error);
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        self.announce(name, &bound.to_string());
        tracing::info!(listener = name, address = %bound, "listening");
        Ok(listener)
    }

    /// Binds a Unix socket that only this user may open (0600 from the first moment) and announces its path. A socket file
    /// that nobody listens on is replaced; one that is in use is an error. It is removed at the end.
    pub fn bind_unix(&self, name: &str, path: &Path) -> Result<UnixListener, StartError> {
        make_room(name, path)?;
        let listener = bind_private(path).map_err(|error| {
            StartError::message(format!("the {name} listener cannot use {}: {error}", path.display()))
                .hint("the directory must exist and be writable, and the whole path must fit in 107 bytes")
        })?;
        self.announce(name, &path.display().to_string());
        self.state.inner.lock().sockets.push(path.to_owned());
        tracing::info!(listener = name, address = %path.display(), "listening");
        Ok(listener)
    }

    /// Adds an address to the addresses file.
    pub fn announce(&self, name: &str, address: &str) {
        self.state.inner.lock().addresses.insert(name.to_owned(), address.to_owned());
    }

    /// Runs `task` under supervision, within the current span. A drain waits for it; a failure or panic ends the service.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future + Send + 'static,
        F::Output: TaskOutput + Send,
    {
        let scope = self.clone();
        let inner = tokio::spawn(task.instrument(Span::current()));
        self.tasks.spawn(async move {
            let failure = match inner.await {
                Ok(output) => output.failure(),
                Err(error) if error.is_panic() => Some("panicked".to_owned()),
                Err(_) => None,
            };
            if let Some(failure) = failure {
                scope.fail(name, &failure);
            }
        });
    }

    fn fail(&self, name: &'static str, failure: &str) {
        tracing::error!(task = name, error = failure, "a task failed; the service ends");
        self.state.inner.lock().failed_task.get_or_insert_with(|| format!("{name}: {failure}"));
        self.stop.cancel();
    }

    /// Resolves when the service should stop: accept nothing new, finish, return.
    pub async fn cancelled(&self) {
        self.stop.cancelled().await;
    }

    /// The signal itself, for libraries that take a token.
    pub fn cancellation(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Asks the service to stop, as SIGTERM does.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// A named condition of readiness, down until it is first set up.
    pub fn readiness_check(&self, name: &'static str) -> ReadinessCheck {
        let check = ReadinessCheck { state: Arc::clone(&self.state), name };
        check.down("not yet checked");
        check
    }

    /// Everything is up: writes the addresses file and turns readiness on. Call it once, at the end of `serve`'s start.
    pub async fn ready(&self) -> Result<(), StartError> {
        let addresses = self.state.inner.lock().addresses.clone();
        if let Some(path) = self.state.addresses_file.clone() {
            let target = path.clone();
            let written = tokio::task::spawn_blocking(move || addresses::write(&target, &addresses)).await;
            let failed = |error: &dyn Display| {
                StartError::message(format!("runtime.addresses_file: {} cannot be written: {error}", path.display()))
                    .hint("the directory must exist and be writable")
            };
            written.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
        }
        self.state.inner.lock().ready = true;
        tracing::info!("ready");
        Ok(())
    }

    pub(crate) fn state(&self) -> Arc<State> {
        Arc::clone(&self.state)
    }

    pub(crate) fn failed_task(&self) -> Option<String> {
        self.state.inner.lock().failed_task.clone()
    }

    pub(crate) fn begin_drain(&self) {
        self.state.inner.lock().draining = true;
        self.stop.cancel();
        self.tasks.close();
    }

    pub(crate) async fn drained(&self) {
        self.tasks.wait().await;
    }

    pub(crate) fn remove_sockets(&self) {
        for path in self.state.inner.lock().sockets.drain(..) {
            let _already_gone = fs::remove_file(path);
        }
    }
}

impl State {
    pub(crate) fn readiness(&self) -> (bool, BTreeMap<&'static str, String>) {
        let inner = self.inner.lock();
        let checks: BTreeMap<_, _> =
            inner.checks.iter().map(|(name, down)| (*name, down.clone().unwrap_or_else(|| "up".to_owned()))).collect();
        (inner.ready && !inner.draining && inner.checks.values().all(Option::is_none), checks)
    }
}

/// A condition that a service reports about itself: the bus is connected, the KMS answers.
#[derive(Clone)]
pub struct ReadinessCheck {
    state: Arc<State>,
    name: &'static str,
}

impl ReadinessCheck {
    /// The condition holds.
    pub fn up(&self) {
        self.state.inner.lock().checks.insert(self.name, None);
    }
    /// It does not; `reason` is shown to whoever asks for readiness.
    pub fn down(&self, reason: &str) {
        self.state.inner.lock().checks.insert(self.name, Some(reason.to_owned()));
    }
}

/// Removes a socket file that nobody listens on. Anything else at that place is somebody's, and stays.
fn make_room(name: &str, path: &Path) -> Result<(), StartError> {
    let refuse = |problem: &str, hint: &str| {
        Err(StartError::message(format!("the {name} listener cannot use {}: {problem}", path.display())).hint(hint))
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(metadata) if metadata.file_type().is_socket() => {}
        Ok(_) => return refuse("something that is no socket is there", "remove it yourself, or configure another path"),
        Err(error) => return refuse(&error.to_string(), "the directory must exist and be readable"),
    }
    match BlockingUnixStream::connect(path) {
        Ok(_) => refuse("another process is listening on it", "stop that process, or configure another path"),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => refuse(&error.to_string(), "remove the left-over socket"),
            _ => Ok(()),
        },
        Err(error) => refuse(&format!("it cannot be told whether somebody listens there ({error})"), "configure another path"),
    }
}

fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    // On Linux the mode set on an unbound socket becomes the mode of its file: there is no moment at which others may connect.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    UnixListener::from_std(socket.into())
}
