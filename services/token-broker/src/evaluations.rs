//! The highest evaluation numbers seen, kept over restarts beside the keys: a restart must not be a way to roll
//! collateral back.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use keyferry_contract::Reason;
use keyferry_dcap::EvaluationMemory;

use crate::{directory, refusal::Refusal};

/// One line per platform family: FMSPC in hex, a blank, the number.
const FILE: &str = "evaluation-numbers";

/// Numbers by platform family.
type Numbers = Vec<([u8; 6], u32)>;

/// What was seen is on the disk before anything that rests on it leaves the service.
#[derive(Debug)]
pub(crate) struct Evaluations {
    written: Mutex<Numbers>,
    file: Arc<Mutex<EvaluationFile>>,
}

impl Evaluations {
    /// With what the file holds.
    pub(crate) fn new(file: EvaluationFile) -> Self {
        Self { written: Mutex::new(file.written.clone()), file: Arc::new(Mutex::new(file)) }
    }

    /// Writes `seen` down if it is news. A number that cannot be kept must not be used: a crash would forget it.
    pub(crate) async fn keep(&self, seen: Numbers) -> Result<(), Refusal> {
        if *lock(&self.written) == seen {
            return Ok(());
        }
        let (file, numbers) = (Arc::clone(&self.file), seen.clone());
        let kept = tokio::task::spawn_blocking(move || lock(&file).keep(numbers)).await;
        match kept {
            Ok(Ok(())) => {
                *lock(&self.written) = seen;
                Ok(())
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "the evaluation numbers could not be written down: check token.key_directory");
                Err(Refusal::new(Reason::StoreUnavailable, "the evaluation numbers could not be written down"))
            }
            Err(_) => Err(Refusal::new(Reason::Internal, "writing the evaluation numbers panicked")),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The file, and what it holds.
#[derive(Debug)]
pub(crate) struct EvaluationFile {
    path: PathBuf,
    written: Numbers,
}

impl EvaluationFile {
    /// Reads the file; none is an empty one, a damaged one is an error.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        let path = directory.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged: restore it, or remove it", path.display()));
        let written = text.lines().map(parse).collect::<Option<_>>().ok_or_else(damaged)?;
        Ok(Self { path, written })
    }

    /// A memory that begins with these numbers.
    pub(crate) fn memory(&self) -> EvaluationMemory {
        EvaluationMemory::with(self.written.iter().copied())
    }

    /// Writes what was seen since, if anything was. Replicas share the file: a higher number of theirs is kept.
    fn keep(&mut self, seen: Numbers) -> io::Result<()> {
        if seen == self.written {
            return Ok(());
        }
        let directory = self.path.parent().unwrap_or(Path::new("."));
        let _alone = directory::lock(directory)?;
        let others = Self::open(directory)?;
        let mut text = String::new();
        for (fmspc, number) in &seen {
            let theirs = others.written.iter().find(|(family, _)| family == fmspc).map_or(0, |(_, number)| *number);
            let _infallible = writeln!(text, "{} {}", hex::encode(fmspc), number.max(&theirs));
        }
        for (fmspc, number) in others.written.iter().filter(|(family, _)| seen.iter().all(|(known, _)| known != family)) {
            let _infallible = writeln!(text, "{} {number}", hex::encode(fmspc));
        }
        directory::write(&self.path, text.as_bytes(), 0o600)?;
        self.written = seen;
        Ok(())
    }
}

fn parse(line: &str) -> Option<([u8; 6], u32)> {
    let (family, number) = line.split_once(' ')?;
    let mut fmspc = [0; 6];
    hex::decode_to_slice(family, &mut fmspc).ok()?;
    Some((fmspc, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_and_never_fall_between_replicas() {
        let directory = tempfile::tempdir().unwrap();
        let (mut one, mut two) = (EvaluationFile::open(directory.path()).unwrap(), EvaluationFile::open(directory.path()).unwrap());
        one.keep(vec![([1; 6], 20), ([3; 6], 7)]).unwrap();
        two.keep(vec![([1; 6], 19), ([2; 6], 5)]).unwrap();
        let mut seen = EvaluationFile::open(directory.path()).unwrap().memory().seen();
        seen.sort_unstable();
        assert_eq!(seen, [([1; 6], 20), ([2; 6], 5), ([3; 6], 7)]);
    }

    #[test]
    fn replicas_that_write_at_once_lose_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let replica = |first: u8| {
            let path = directory.path();
            move || {
                let mut file = EvaluationFile::open(path).unwrap();
                for number in 1..=20 {
                    file.keep(vec![([first; 6], number)]).unwrap();
                }
            }
        };
        std::thread::scope(|scope| {
            for first in 1..=4 {
                scope.spawn(replica(first));
            }
        });
        let mut seen = EvaluationFile::open(directory.path()).unwrap().memory().seen();
        seen.sort_unstable();
        assert_eq!(seen, [1, 2, 3, 4].map(|first| ([first; 6], 20)));
    }

    #[test]
    fn a_damaged_file_is_no_empty_one() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(FILE), "nonsense").unwrap();
        assert!(EvaluationFile::open(directory.path()).unwrap_err().to_string().contains("damaged"));
    }
}
