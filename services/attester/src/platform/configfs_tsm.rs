//! The kernel's configfs-tsm: a directory per request, `inblob` in, `outblob` out.
//!
//! Source: Linux `Documentation/ABI/testing/configfs-tsm-report` and `drivers/virt/coco/guest/report.c`. Three traps are
//! handled here: a write is handed over at close and its failure is invisible, so the generation counter tells; entries
//! can be shared, so ours has a name nobody can guess and is removed whatever happens; and a failure on the host can
//! arrive as an empty answer with success.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::{Platform, PlatformError};

/// The provider of TDX guests.
const PROVIDER: &str = "tdx_guest";
/// Attempts while others disturb or a signal interrupts.
const ATTEMPTS: usize = 3;
/// The smallest thing that can be a quote: header, body and the start of the signature section.
const QUOTE_BYTES_MIN: usize = 1020;
/// Larger answers are CBOR Web Tokens of DICE platforms; quotes have 4.9 to 8 kB.
const QUOTE_BYTES_MAX: usize = 8192;

/// Quotes through the kernel.
#[derive(Debug)]
pub struct ConfigfsTsm<K = Kernel> {
    directory: PathBuf,
    kernel: K,
}

impl ConfigfsTsm {
    /// With the report directory, usually `/sys/kernel/config/tsm/report`.
    pub const fn new(directory: PathBuf) -> Self {
        Self { directory, kernel: Kernel }
    }
}

/// What the kernel does for us; a plain directory does not make reports by itself, so tests put a stand-in here.
pub(crate) trait Interface: Send + Sync + 'static {
    /// `mkdir`: makes the entry and its attributes.
    fn make(&self, entry: &Path) -> io::Result<()>;
    /// One `write` and `close`.
    fn write(&self, attribute: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Reads at most `bytes_max` bytes.
    fn read(&self, attribute: &Path, bytes_max: usize) -> io::Result<Vec<u8>>;
    /// `rmdir`.
    fn remove(&self, entry: &Path) -> io::Result<()>;
}

/// The real thing.
#[derive(Clone, Copy, Debug)]
pub struct Kernel;

impl Interface for Kernel {
    fn make(&self, entry: &Path) -> io::Result<()> {
        fs::create_dir(entry)
    }
    fn write(&self, attribute: &Path, bytes: &[u8]) -> io::Result<()> {
        // Not `write_all`: what does not fit into one call is not one blob.
        let written = OpenOptions::new().write(true).open(attribute)?.write(bytes)?;
        if written == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
    fn read(&self, attribute: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(attribute)?.take(bytes_max as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
    fn remove(&self, entry: &Path) -> io::Result<()> {
        fs::remove_dir(entry)
    }
}

impl<K: Interface> Platform for ConfigfsTsm<K> {
    fn kind(&self) -> &'static str {
        "configfs-tsm"
    }

    fn quote(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, PlatformError> {
        for _ in 0..ATTEMPTS {
            let entry = Entry::make(&self.directory, &self.kernel)?;
            match entry.quote(report_data) {
                Ok(Some(quote)) => return Ok(quote),
                Ok(None) => tracing::warn!("another process wrote to the attester's report entry; trying again"),
                Err(PlatformError::Interface { source, .. }) if source.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Err(PlatformError::Disturbed)
    }
}

/// A private entry, removed when dropped: a leaked one outlives the process.
struct Entry<'a, K: Interface> {
    path: PathBuf,
    kernel: &'a K,
}

impl<'a, K: Interface> Entry<'a, K> {
    fn make(directory: &Path, kernel: &'a K) -> Result<Self, PlatformError> {
        let path = directory.join(format!("keyferry-{}", uuid::Uuid::new_v4().simple()));
        kernel.make(&path).map_err(|source| failed("making a report entry", source))?;
        Ok(Self { path, kernel })
    }

    /// `None`: somebody else wrote to the entry meanwhile, and the answer may be theirs.
    fn quote(&self, report_data: &[u8; 64]) -> Result<Option<Vec<u8>>, PlatformError> {
        if self.text("provider")? != PROVIDER {
            return Err(PlatformError::Provider);
        }
        let before = self.generation()?;
        self.kernel.write(&self.path.join("inblob"), report_data).map_err(|source| failed("writing the report data", source))?;
        let quote = self.read("outblob", QUOTE_BYTES_MAX + 1)?;
        if self.generation()? != before.wrapping_add(1) {
            return Ok(None);
        }
        match quote.len() {
            bytes if bytes < QUOTE_BYTES_MIN => Err(PlatformError::Empty { bytes }),
            bytes if bytes > QUOTE_BYTES_MAX => Err(PlatformError::TooLarge { max: QUOTE_BYTES_MAX }),
            _ => Ok(Some(quote)),
        }
    }

    fn generation(&self) -> Result<u64, PlatformError> {
        let text = self.text("generation")?;
        text.parse().map_err(|_| failed("reading the generation", io::ErrorKind::InvalidData.into()))
    }

    fn text(&self, attribute: &str) -> Result<String, PlatformError> {
        Ok(String::from_utf8_lossy(&self.read(attribute, 64)?).trim().to_owned())
    }

    fn read(&self, attribute: &str, bytes_max: usize) -> Result<Vec<u8>, PlatformError> {
        self.kernel.read(&self.path.join(attribute), bytes_max).map_err(|source| failed("reading the report", source))
    }
}

impl<K: Interface> Drop for Entry<'_, K> {
    fn drop(&mut self) {
        if let Err(error) = self.kernel.remove(&self.path) {
            tracing::error!(%error, entry = %self.path.display(), "a report entry could not be removed; remove it with rmdir");
        }
    }
}

fn failed(step: &'static str, source: io::Error) -> PlatformError {
    let advice = match source.raw_os_error() {
        Some(6) => "no report provider is loaded; load the tdx_guest module",
        Some(16) => "an earlier request is still with the host; retry in a few seconds",
        Some(110) => "the host's quoting service did not answer within 30 s",
        Some(5) => "the host's quoting service reported a failure",
        Some(1 | 13) => "run the attester with write access to the report directory",
        _ => "check that this is a TDX guest with configfs mounted",
    };
    PlatformError::Interface { step, source, advice }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use tempfile::TempDir;

    use super::*;

    /// A directory that behaves like the kernel's, with one fault at a time.
    struct StandIn {
        fault: Fault,
        writes: Mutex<Vec<Vec<u8>>>,
    }

    #[derive(Clone, Copy, PartialEq)]
    enum Fault {
        None,
        Empty,
        Dice,
        OtherWriterOnce,
        OtherWriterAlways,
        /// The write is accepted and lost at close, as EBUSY is.
        LostWrite,
        WrongProvider,
        ReadFails(i32),
    }

    impl Interface for StandIn {
        fn make(&self, entry: &Path) -> io::Result<()> {
            fs::create_dir(entry)?;
            fs::write(entry.join("provider"), if self.fault == Fault::WrongProvider { "sev_guest\n" } else { "tdx_guest\n" })?;
            fs::write(entry.join("generation"), "0\n")
        }
        fn write(&self, attribute: &Path, bytes: &[u8]) -> io::Result<()> {
            self.writes.lock().push(bytes.to_vec());
            let disturbed = match self.fault {
                Fault::OtherWriterOnce => self.writes.lock().len() == 1,
                Fault::OtherWriterAlways => true,
                _ => false,
            };
            let generation = match self.fault {
                Fault::LostWrite => "0\n",
                _ if disturbed => "2\n",
                _ => "1\n",
            };
            fs::write(attribute.with_file_name("generation"), generation)
        }
        fn read(&self, attribute: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
            if attribute.file_name().is_some_and(|name| name == "outblob") {
                return match self.fault {
                    Fault::Empty => Ok(Vec::new()),
                    Fault::Dice => Ok(vec![0; bytes_max]),
                    Fault::ReadFails(code) => Err(io::Error::from_raw_os_error(code)),
                    _ => Ok(vec![7; 5006]),
                };
            }
            Kernel.read(attribute, bytes_max)
        }
        fn remove(&self, entry: &Path) -> io::Result<()> {
            fs::remove_dir_all(entry)
        }
    }

    fn run(fault: Fault) -> (Result<Vec<u8>, PlatformError>, Vec<Vec<u8>>) {
        let directory = TempDir::new().unwrap();
        let platform = ConfigfsTsm { directory: directory.path().to_owned(), kernel: StandIn { fault, writes: Mutex::default() } };
        let result = platform.quote(&[3; 64]);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "no entry is left behind");
        let writes = platform.kernel.writes.lock().clone();
        (result, writes)
    }

    #[test]
    fn one_write_of_64_bytes_gives_a_quote() {
        let (quote, writes) = run(Fault::None);
        assert_eq!(quote.unwrap(), vec![7; 5006]);
        assert_eq!(writes, [vec![3; 64]]);
    }

    #[test]
    fn an_empty_answer_is_no_success() {
        assert!(matches!(run(Fault::Empty).0, Err(PlatformError::Empty { bytes: 0 })));
    }

    #[test]
    fn answers_that_may_be_anothers_are_discarded() {
        let (quote, writes) = run(Fault::OtherWriterOnce);
        assert!(quote.is_ok() && writes.len() == 2);
        assert!(matches!(run(Fault::OtherWriterAlways).0, Err(PlatformError::Disturbed)));
        assert!(matches!(run(Fault::LostWrite).0, Err(PlatformError::Disturbed)));
    }

    #[test]
    fn other_evidence_and_other_technologies_are_refused() {
        assert!(matches!(run(Fault::Dice).0, Err(PlatformError::TooLarge { .. })));
        assert!(matches!(run(Fault::WrongProvider).0, Err(PlatformError::Provider)));
    }

    #[test]
    fn failures_say_what_to_do() {
        for (code, advice) in [(6, "tdx_guest"), (16, "retry"), (110, "30 s"), (5, "failure")] {
            let error = run(Fault::ReadFails(code)).0.unwrap_err().to_string();
            assert!(error.contains(advice), "{error}");
        }
        assert!(matches!(run(Fault::ReadFails(4)).0, Err(PlatformError::Disturbed)), "EINTR is tried again, not for ever");
    }

    #[test]
    fn a_directory_that_makes_no_reports_is_an_error() {
        let directory = TempDir::new().unwrap();
        let platform = ConfigfsTsm::new(directory.path().to_owned());
        assert!(matches!(platform.quote(&[0; 64]), Err(PlatformError::Interface { .. })));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
