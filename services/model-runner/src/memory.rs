//! Where a model is decrypted: a mapping of its own that is never swapped, never in a core dump, and wiped at its end.
//!
//! A mapping and not the heap, because locking is per page and not counted: unlocking one object would unlock its
//! neighbours. All of it is safe code; the unsafe calls are `memmap2`'s.

use std::{
    fmt,
    ops::{Deref, DerefMut},
};

use memmap2::{Advice, MmapMut};
use zeroize::Zeroize;

/// From this size on huge pages are asked for: fewer page faults, and ten times the speed of filling the mapping.
const HUGE_PAGE_BYTES: usize = 2 * 1024 * 1024;

/// Why there is no such memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The system has no more.
    #[error("no memory for a model of {bytes} bytes")]
    Allocation {
        /// Bytes asked for.
        bytes: usize,
    },
    /// The limit on locked memory is too low.
    #[error("{bytes} bytes cannot be locked in memory: raise the limit (ulimit -l, LimitMEMLOCK=, docker --ulimit memlock=-1)")]
    Lock {
        /// Bytes asked for.
        bytes: usize,
    },
}

/// Bytes that stay in RAM and are wiped when dropped.
pub(crate) struct LockedMemory {
    mapping: MmapMut,
    length: usize,
}

impl LockedMemory {
    /// Maps and locks `bytes` zero bytes. Where the lock fails, `require_lock` decides between an error and a
    /// warning.
    pub(crate) fn allocate(bytes: usize, require_lock: bool) -> Result<Self, MemoryError> {
        let mapping = MmapMut::map_anon(bytes.max(1)) // a mapping is never empty
            .map_err(|_| MemoryError::Allocation { bytes })?;
        let mut advice = vec![Advice::DontDump, Advice::DontFork];
        if bytes >= HUGE_PAGE_BYTES {
            advice.push(Advice::HugePage);
        }
        for advice in advice {
            // Advice that a kernel does not know costs speed or a second line of defence, never correctness.
            if let Err(error) = mapping.advise(advice) {
                tracing::debug!(?advice, %error, "the kernel does not take this advice");
            }
        }
        if mapping.lock().is_err() {
            if require_lock {
                return Err(MemoryError::Lock { bytes });
            }
            tracing::warn!(bytes, "the model is decrypted into memory that may be swapped: it could not be locked");
        }
        Ok(Self { mapping, length: bytes })
    }
}

impl Deref for LockedMemory {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.mapping[..self.length]
    }
}
impl DerefMut for LockedMemory {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.mapping[..self.length]
    }
}
impl Drop for LockedMemory {
    fn drop(&mut self) {
        self.mapping.as_mut().zeroize();
    }
}
impl fmt::Debug for LockedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LockedMemory({} bytes, redacted)", self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's own word about the mapping that holds `address`: two letters a flag.
    fn flags(address: usize) -> String {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        for line in maps.lines() {
            if let Some((start, end)) = line.split_whitespace().next().and_then(|range| range.split_once('-')) {
                let bounds = (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16));
                if let (Ok(start), Ok(end)) = bounds {
                    inside = (start..end).contains(&address);
                }
            } else if inside && line.starts_with("VmFlags:") {
                return line.to_owned();
            }
        }
        String::new()
    }

    #[test]
    fn the_mapping_is_locked_not_dumped_and_not_inherited() {
        for bytes in [1, 5000, 3 * 1024 * 1024] {
            let mut memory = LockedMemory::allocate(bytes, true).unwrap();
            memory.fill(7);
            assert_eq!(memory.len(), bytes);
            let flags = flags(memory.as_ptr() as usize);
            for flag in [" lo", " dd", " dc"] {
                assert!(flags.contains(flag), "{flag} is missing: {flags}");
            }
        }
    }

    #[test]
    fn what_cannot_be_had_is_an_error_and_nothing_is_printed() {
        assert!(matches!(LockedMemory::allocate(usize::MAX / 2, false), Err(MemoryError::Allocation { .. })));
        assert_eq!(format!("{:?}", LockedMemory::allocate(3, false).unwrap()), "LockedMemory(3 bytes, redacted)");
    }
}
