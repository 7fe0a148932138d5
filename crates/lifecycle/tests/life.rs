//! A service process from outside: start, readiness, bad configuration, a taken port, drain, failure.
#![allow(clippy::unwrap_used, reason = "the helpers below are test code; clippy exempts only functions marked #[test]")]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// Cargo builds examples before it runs all tests of a package (not before `--test life` alone) and puts them beside the
/// tests' own directory.
fn executable() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    tests.parent().unwrap().parent().unwrap().join("examples/echo-service")
}

struct Service {
    child: Child,
    addresses: BTreeMap<String, String>,
    directory: tempfile::TempDir,
}

impl Service {
    fn start(extra: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("addresses.json");
        let socket = directory.path().join("attester.sock");
        let mut child = command(&["listen=127.0.0.1:0", "runtime.health.listen=127.0.0.1:0"])
            .arg("--set")
            .arg(format!("runtime.addresses_file={}", file.display()))
            .arg("--set")
            .arg(format!("socket={}", socket.display()))
            .args(extra)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let addresses = wait_until(|| {
            assert!(child.try_wait().unwrap().is_none(), "the service ended early");
            serde_json::from_slice(&std::fs::read(&file).ok()?).ok()
        });
        Self { child, addresses, directory }
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.addresses["echo"]).unwrap()
    }

    fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.addresses["health"]).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer)
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn end(mut self) -> (i32, String) {
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (self.child.wait().unwrap().code().unwrap(), log)
    }
}

impl Drop for Service {
    /// A failed test leaves no process behind; after [`Service::end`] there is nothing left to kill.
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn command(settings: &[&str]) -> Command {
    let mut command = Command::new(executable());
    command.env_clear();
    for setting in settings {
        command.args(["--set", setting]);
    }
    command
}

fn output(settings: &[&str]) -> Output {
    command(settings).output().unwrap()
}

fn wait_until<T>(mut probe: impl FnMut() -> Option<T>) -> T {
    let limit = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < limit, "waited 20 s");
        std::thread::yield_now();
    }
}

fn say(stream: &mut TcpStream, line: &str) -> String {
    writeln!(stream, "{line}").unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    answer
}

#[test]
fn a_service_becomes_ready_drains_and_ends_with_zero() {
    let service = Service::start(&[]);
    assert_eq!(service.get("/health/live").0, 200);
    let (status, ready) = service.get("/health/ready");
    assert!(status == 200 && ready.contains(r#""bus":"up""#), "{ready}");
    let (status, metrics) = service.get("/metrics");
    assert!(status == 200 && metrics.contains("target_info"), "{metrics}");

    let socket = PathBuf::from(&service.addresses["attester"]);
    let metadata = std::fs::metadata(&socket).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);

    let mut call = service.connect();
    assert_eq!(say(&mut call, "before"), "before\n");
    service.signal(rustix::process::Signal::TERM);
    wait_until(|| (service.get("/health/ready").0 == 503).then_some(()));
    assert_eq!(say(&mut call, "during the drain"), "during the drain\n", "running work finishes");
    drop(call);
    let directory = service.directory.path().to_owned();
    assert!(Path::new(&directory).exists());
    let (code, log) = service.end();
    assert_eq!(code, 0, "{log}");
    assert!(!socket.exists(), "the socket file is removed");
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["service"], "echo-service");
    }
}

#[test]
fn work_that_does_not_end_is_cut_off_and_said_so() {
    let service = Service::start(&["--set", "runtime.drain_seconds=0"]);
    let mut call = service.connect();
    assert_eq!(say(&mut call, "still here"), "still here\n");
    service.signal(rustix::process::Signal::INT);
    let (code, log) = service.end();
    assert_eq!(code, 70, "{log}");
    assert!(log.contains("cut off"), "{log}");
}

#[test]
fn a_task_that_fails_or_panics_ends_the_service_with_its_name() {
    for (order, reason) in [("fail", "told to fail"), ("panic", "panicked")] {
        let service = Service::start(&[]);
        let mut call = service.connect();
        writeln!(call, "{order}").unwrap();
        let (code, log) = service.end();
        assert_eq!(code, 70, "{log}");
        assert!(log.contains(r#""task":"connection""#) && log.contains(reason), "{log}");
    }
}

#[test]
fn core_dumps_are_off() {
    let service = Service::start(&[]);
    assert_eq!(say(&mut service.connect(), "dumps?"), "Some(0) NotDumpable\n");
    service.signal(rustix::process::Signal::TERM);
    assert_eq!(service.end().0, 0);
}

#[test]
fn a_port_in_use_is_one_sentence_and_a_hint() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let output = output(&[&format!("listen={address}"), "runtime.health.listen=127.0.0.1:0", "runtime.telemetry.log=off"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(69));
    assert_eq!(
        text,
        format!(
            "echo-service: error: the echo listener cannot use {address}: the port is already in use\n\
             echo-service: hint: stop the process that holds it (ss -ltnp shows it), or configure another port\n"
        )
    );
}

#[test]
fn a_task_that_fails_during_the_start_ends_it() {
    let settings = ["listen=127.0.0.1:0", "runtime.health.listen=127.0.0.1:0", "stall=true"];
    let mut child = command(&settings).stderr(Stdio::null()).spawn().unwrap();
    let limit = Instant::now() + Duration::from_secs(20);
    let ended = loop {
        match child.try_wait().unwrap() {
            None if Instant::now() < limit => std::thread::yield_now(),
            ended => break ended,
        }
    };
    let _already_ended = child.kill();
    let _reaped = child.wait();
    assert_eq!(ended.and_then(|status| status.code()), Some(70), "it started for ever");
}

#[test]
fn a_socket_in_use_is_refused_and_a_stale_one_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("attester.sock");
    let held = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let socket = format!("socket={}", path.display());
    let settings = ["listen=127.0.0.1:0", "runtime.health.listen=127.0.0.1:0", "runtime.telemetry.log=off", &socket];
    let refused = output(&settings);
    assert_eq!(refused.status.code(), Some(69));
    assert!(String::from_utf8(refused.stderr).unwrap().contains("another process is listening on it"));

    drop(held); // the file stays behind, as after a crash
    assert!(path.exists());
    let service = Service::start(&["--set", &socket]);
    assert_eq!(service.addresses["attester"], path.display().to_string());
    service.signal(rustix::process::Signal::TERM);
    assert_eq!(service.end().0, 0);
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("signing.key");
    std::fs::write(&path, "precious").unwrap();
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    for path in [&path, &link] {
        let socket = format!("socket={}", path.display());
        let refused = output(&["listen=127.0.0.1:0", "runtime.health.listen=127.0.0.1:0", "runtime.telemetry.log=off", &socket]);
        assert_eq!(refused.status.code(), Some(69));
        assert!(String::from_utf8(refused.stderr).unwrap().contains("something that is no socket is there"));
    }
    assert_eq!(std::fs::read(&link).unwrap(), b"precious");
}

#[test]
fn a_bad_configuration_ends_with_64_before_anything_starts() {
    let output = output(&["listen=everywhere", "color=red"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64));
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "echo-service: error: color: is unknown: expected one of `runtime`, `listen`, `socket`, `stall` (--set color)",
            "echo-service: error: listen: invalid socket address syntax (--set listen)",
            "echo-service: hint: echo-service --help names the layers; nothing was started",
        ]
    );
}

#[test]
fn check_validates_and_starts_nothing() {
    let output = command(&["listen=127.0.0.1:1"]).arg("--check").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "echo-service: ok: the configuration is valid\n");
}
