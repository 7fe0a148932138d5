//! `cargo xtask stack` as a user meets it: it describes itself, stays, and leaves nothing behind.
#![allow(clippy::unwrap_used)] // tests: a missing value is the failure

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

const PATIENCE: Duration = Duration::from_mins(3);

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for<T>(what: &str, mut state: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = state() {
            return value;
        }
        assert!(begun.elapsed() < PATIENCE, "{what} did not come");
        thread::sleep(Duration::from_millis(50));
    }
}

fn terminate(pid: u32) {
    assert!(Command::new("kill").args(["-TERM", &pid.to_string()]).status().unwrap().success());
}

fn runs(pid: u64) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn a_stack_describes_itself_and_leaves_nothing_behind() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = scratch.path().join("stack");
    let environment = scratch.path().join("workload.env");
    fs::write(&environment, "# for every service\nOTEL_RESOURCE_ATTRIBUTES=deployment.ring=test\n").unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["stack", "--kms", "dev", "--tds", "2", "--dir"])
        .arg(&directory)
        .arg("--env-file")
        .arg(&environment)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let mut child = Running(child);
    let file = directory.join("stack.json");
    let description: Value = wait_for("stack.json", || {
        assert!(child.0.try_wait().unwrap().is_none(), "the stack ended before it was ready");
        serde_json::from_slice(&fs::read(&file).ok()?).ok()
    });

    for url in ["nats_url", "nats_monitor_url", "grpc_url", "kbs_url", "ita_url", "workload_url"] {
        let text = description[url].as_str().unwrap();
        assert!(text.contains("://127.0.0.1:"), "{url} = {text}");
    }
    assert!(description["trust_anchor"].as_str().unwrap().starts_with("simulator:"));
    assert_eq!(description["key_id"].as_str().unwrap().len(), 36);
    assert_eq!(description["kms"]["kind"], "dev");
    let tds = description["tds"].as_array().unwrap();
    assert_eq!(tds.len(), 2);
    let secrets = ["/admin_password_file", "/ita_api_key_file", "/bus/admin_credentials", "/bus/auditor_credentials", "/tds/0/credentials"];
    for pointer in secrets {
        let path = PathBuf::from(description.pointer(pointer).and_then(Value::as_str).unwrap());
        assert!(path.is_absolute(), "{pointer}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{pointer}");
    }
    let services = description["services"].as_object().unwrap();
    let names: Vec<&str> = services.keys().map(String::as_str).collect();
    assert_eq!(names, ["attester", "attester-1", "key-release", "model-runner", "model-runner-1", "token-broker"]);
    let pids: Vec<u64> = services.values().map(|service| service["pid"].as_u64().unwrap()).collect();
    assert!(pids.iter().all(|pid| runs(*pid)));

    let second = Command::new(env!("CARGO_BIN_EXE_xtask")).args(["stack", "--dir"]).arg(&directory).output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && said.contains("a stack is running in"), "{said}");
    assert!(file.exists() && pids.iter().all(|pid| runs(*pid)), "the first one was not touched");

    terminate(child.0.id());
    let status = wait_for("the end", || child.0.try_wait().unwrap());
    assert!(status.success(), "{status}");
    assert!(!directory.exists(), "the directory is gone");
    assert!(pids.iter().all(|pid| !runs(*pid)), "every process is gone");
}

/// Processes whose command line names this directory.
fn processes_of(directory: &Path) -> Vec<String> {
    let lines = fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(directory.to_str().unwrap()) && !line.contains("xtask")).collect()
}

#[test]
fn whoever_ends_a_start_half_way_leaves_nothing_behind() {
    let scratch = tempfile::tempdir().unwrap();
    let target = scratch.path().join("target");
    let stack = ["stack", "--kms", "dev", "--dir", target.to_str().unwrap()].map(str::to_owned).to_vec();
    for (arguments, leaves_with) in [(stack, 0), (vec!["demo".to_owned(), "--kms".to_owned(), "dev".to_owned()], 1)] {
        let child = Command::new(env!("CARGO_BIN_EXE_xtask")).args(&arguments).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let mut child = Running(child);
        let own = if arguments[0] == "stack" { target.clone() } else { demo_directory(child.0.id()) };
        wait_for("a service", || processes_of(&own).iter().any(|line| line.contains("token-broker")).then_some(()));
        terminate(child.0.id());
        let status = wait_for("the end", || child.0.try_wait().unwrap());
        assert_eq!(status.code(), Some(leaves_with), "{arguments:?}");
        wait_for("the end of its processes", || processes_of(&own).is_empty().then_some(()));
        assert!(!own.exists(), "{} is gone", own.display());
    }
}

/// Where a demo keeps its files while it runs.
fn demo_directory(pid: u32) -> PathBuf {
    let debug = Path::new(env!("CARGO_BIN_EXE_xtask")).parent().unwrap();
    debug.parent().unwrap().join(format!("demo-{pid}"))
}

#[test]
fn a_directory_with_something_else_in_it_is_not_touched() {
    let scratch = tempfile::tempdir().unwrap();
    fs::write(scratch.path().join("thesis.tex"), "years of work").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_xtask")).args(["stack", "--dir"]).arg(scratch.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(said.contains("xtask: error:") && said.contains("is not empty") && said.contains("xtask: hint:"), "{said}");
    assert_eq!(fs::read_to_string(scratch.path().join("thesis.tex")).unwrap(), "years of work");
}

#[test]
fn a_missing_python_is_one_sentence_and_a_hint() {
    // A path without python3 and without nats-server, and a tools cache that is empty.
    let scratch = tempfile::tempdir().unwrap();
    let failure = tokio::runtime::Runtime::new().unwrap().block_on(async {
        let toolbox = keyferry_testkit::tools::Toolbox::at(scratch.path().join("tools")).with_python("/nonexistent/python3").without_path();
        toolbox.program(&keyferry_testkit::tools::NATS_SERVER).await.unwrap_err()
    });
    assert!(failure.to_string().to_lowercase().contains("python"), "{failure}");
    assert!(!failure.hint().is_empty());
    assert_eq!(failure.to_string().lines().count(), 1);
}
