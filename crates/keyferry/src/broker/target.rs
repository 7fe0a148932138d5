//! Which `key-release`, and as whom: flags, then `stack.json`, then the environment.

use std::{
    ffi::OsString,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use clap::Args;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::output::Failure;

/// A description of a stack has some 5 kB; each confidential VM adds 300 bytes.
const STACK_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Passwords have at most 71 bytes; a line feed may follow.
const PASSWORD_BYTES_MAX: u64 = 1024;

/// Where key-release is and who asks. Without flags: `KEYFERRY_STACK`, or `KEYFERRY_URL`, `KEYFERRY_CA_FILE`,
/// `KEYFERRY_USERNAME` and `KEYFERRY_PASSWORD_FILE`.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Connection {
    /// The stack.json of a running installation: everything below is taken from it. [env: KEYFERRY_STACK]
    #[arg(long, value_name = "FILE")]
    stack: Option<PathBuf>,
    /// Where key-release is. [env: KEYFERRY_URL]
    #[arg(long, value_name = "https://HOST:PORT")]
    url: Option<String>,
    /// The root that signed its certificate, PEM. [env: KEYFERRY_CA_FILE]
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// The user who asks. [env: KEYFERRY_USERNAME]
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// A file with that user's password. [env: KEYFERRY_PASSWORD_FILE]
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

/// The settings, complete.
pub(super) struct Target {
    pub(super) url: String,
    pub(super) ca_file: PathBuf,
    pub(super) username: String,
    pub(super) password: Zeroizing<String>,
}

/// What is needed of `stack.json`.
#[derive(Deserialize)]
struct Stack {
    grpc_url: String,
    ca_file: PathBuf,
    admin_username: String,
    admin_password_file: PathBuf,
}

impl Connection {
    /// Whether anything says where key-release is.
    pub(crate) fn is_given(&self) -> bool {
        let set = |name| std::env::var_os(name).is_some();
        self.stack.is_some() || self.url.is_some() || set("KEYFERRY_STACK") || set("KEYFERRY_URL")
    }

    pub(super) fn target(&self, environment: impl Fn(&str) -> Option<OsString>) -> Result<Target, Failure> {
        let Settings { url, ca_file, username, password_file } = self.settings(environment)?;
        let missing = |flag: &str| {
            Failure::usage(format!("{flag} is missing")).hint("give --stack FILE, or --url, --ca-file, --username and --password-file")
        };
        let password_file = password_file.ok_or_else(|| missing("--password-file"))?;
        Ok(Target {
            url: url.ok_or_else(|| missing("--url"))?,
            ca_file: ca_file.ok_or_else(|| missing("--ca-file"))?,
            username: username.ok_or_else(|| missing("--username"))?,
            password: password(&password_file)?,
        })
    }

    fn settings(&self, environment: impl Fn(&str) -> Option<OsString>) -> Result<Settings, Failure> {
        let text = |name: &str| environment(name).map(|value| value.to_string_lossy().into_owned());
        let stack = self.stack.clone().or_else(|| self.url.is_none().then(|| environment("KEYFERRY_STACK")).flatten().map(PathBuf::from));
        let beneath = match stack {
            Some(file) => described(&file)?,
            None => Settings {
                url: text("KEYFERRY_URL"),
                ca_file: environment("KEYFERRY_CA_FILE").map(PathBuf::from),
                username: text("KEYFERRY_USERNAME"),
                password_file: environment("KEYFERRY_PASSWORD_FILE").map(PathBuf::from),
            },
        };
        Ok(Settings {
            url: self.url.clone().or(beneath.url),
            ca_file: self.ca_file.clone().or(beneath.ca_file),
            username: self.username.clone().or(beneath.username),
            password_file: self.password_file.clone().or(beneath.password_file),
        })
    }
}

#[derive(Debug, PartialEq)]
struct Settings {
    url: Option<String>,
    ca_file: Option<PathBuf>,
    username: Option<String>,
    password_file: Option<PathBuf>,
}

fn described(file: &Path) -> Result<Settings, Failure> {
    const HINT: &str = "`cargo xtask stack` writes it once everything runs";
    let wrong = |problem: String| Failure::usage(format!("{}: {problem}", file.display())).hint(HINT);
    let mut text = String::new();
    let read = File::open(file).and_then(|file| file.take(STACK_BYTES_MAX).read_to_string(&mut text));
    read.map_err(|error| wrong(error.to_string()))?;
    let stack: Stack = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    Ok(Settings {
        url: Some(stack.grpc_url),
        ca_file: Some(stack.ca_file),
        username: Some(stack.admin_username),
        password_file: Some(stack.admin_password_file),
    })
}

/// A password from a file; one line feed at its end is not part of it.
pub(crate) fn password(file: &Path) -> Result<Zeroizing<String>, Failure> {
    let wrong = |problem: String| Failure::usage(format!("{}: {problem}", file.display()));
    let mut text = Zeroizing::new(String::new());
    let read = File::open(file).and_then(|file| file.take(PASSWORD_BYTES_MAX + 1).read_to_string(&mut text));
    read.map_err(|error| wrong(error.to_string()))?;
    if text.len() as u64 > PASSWORD_BYTES_MAX {
        return Err(wrong(format!("more than {PASSWORD_BYTES_MAX} bytes are no password")));
    }
    let trimmed = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    if trimmed.is_empty() {
        return Err(wrong("the file is empty".to_owned()).hint("put the password on its first line"));
    }
    Ok(Zeroizing::new(trimmed.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(names: &'static [(&'static str, &'static str)]) -> impl Fn(&str) -> Option<OsString> {
        move |wanted| names.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.into())
    }

    const SET: &[(&str, &str)] = &[
        ("KEYFERRY_URL", "https://env:1"),
        ("KEYFERRY_CA_FILE", "env.pem"),
        ("KEYFERRY_USERNAME", "env"),
        ("KEYFERRY_PASSWORD_FILE", "env-password"),
    ];

    #[test]
    fn a_flag_wins_over_the_stack_and_the_stack_over_the_environment() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("stack.json");
        let stack = r#"{"grpc_url":"https://stack:2","ca_file":"stack.pem","admin_username":"admin","admin_password_file":"pw","tds":[]}"#;
        std::fs::write(&file, stack).unwrap();
        let flags = Connection { stack: Some(file.clone()), username: Some("bob".to_owned()), ..Connection::default() };
        let settings = flags.settings(environment(SET)).unwrap();
        assert_eq!(settings.url.as_deref(), Some("https://stack:2"));
        assert_eq!(settings.username.as_deref(), Some("bob"));
        assert_eq!(settings.password_file, Some("pw".into()));

        let from_environment = Connection::default().settings(environment(SET)).unwrap();
        assert_eq!(from_environment.url.as_deref(), Some("https://env:1"));
        assert_eq!(from_environment.ca_file, Some("env.pem".into()));

        let url = Connection { url: Some("https://flag:3".to_owned()), ..Connection::default() };
        let settings = url.settings(|name| (name == "KEYFERRY_STACK").then(|| file.clone().into())).unwrap();
        assert_eq!(settings.url.as_deref(), Some("https://flag:3"));
        assert_eq!(settings.username, None, "credentials of one installation are not sent to another");
    }

    #[test]
    fn what_is_missing_or_no_stack_is_named() {
        let nothing = Connection::default().target(|_| None).err().unwrap();
        assert!(format!("{nothing:?}").contains("--password-file is missing"), "{nothing:?}");
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("stack.json");
        std::fs::write(&file, "{}").unwrap();
        let failure = Connection { stack: Some(file), ..Connection::default() }.settings(|_| None).unwrap_err();
        assert!(format!("{failure:?}").contains("grpc_url"), "{failure:?}");
    }

    #[test]
    fn a_password_is_the_line_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("password");
        for (content, wanted) in [("pass word \n", "pass word "), ("p\r\n", "p"), ("p\n\n", "p\n"), ("p", "p")] {
            std::fs::write(&file, content).unwrap();
            assert_eq!(password(&file).unwrap().as_str(), wanted);
        }
        for content in ["", "\n", &"x".repeat(2000)] {
            std::fs::write(&file, content).unwrap();
            assert!(password(&file).is_err());
        }
    }
}
