//! The memory mapping of a file.
#![allow(unsafe_code)]

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;

use crate::{Error, Result};

/// A file in memory, read page by page as its bytes are looked at.
///
/// # Safety
/// The bytes are shared with everybody who can write the file. Who writes into it while it is mapped changes values below a `&[u8]`; who
/// makes it shorter turns reading behind its new end into the signal SIGBUS, which ends the process. Models must therefore be replaced by
/// rename (as hubs' clients and this project's store do), which leaves the mapped file as it was. [`Mapped::check_unchanged`] before each tensor
/// makes an overwriting copy a clear error in nearly every case; it cannot do so while a tensor is being read.
#[derive(Debug)]
pub(super) struct Mapped {
    file: File,
    map: Mmap,
}

impl Mapped {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        // Opening a named pipe would wait for its writer.
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            return Err(Error::BadFile { path: path.to_owned(), reason: "is not a file".to_owned() });
        }
        let file = File::open(path).map_err(io)?;
        // SAFETY: the mapping is only read; that nobody shortens or rewrites the file below it is what the type's `# Safety` asks for.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(Self { file, map })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Takes the pages that hold `range` from this process; they are read again when somebody looks at them.
    #[cfg(unix)]
    pub(super) fn forget(&self, range: Range<usize>) {
        /// Who looks at one page gets its neighbours too: Linux hands out so many bytes.
        const AROUND: usize = 64 << 10;
        let start = range.start / AROUND * AROUND;
        let end = range.end.next_multiple_of(AROUND).min(self.map.len());
        if start < end {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the mapping is shared with its file and never written to, so the pages hold the same bytes afterwards.
            let _ = unsafe { self.map.unchecked_advise_range(advice, start, end - start) };
        }
    }

    #[cfg(not(unix))]
    pub(super) fn forget(&self, _: Range<usize>) {}

    /// Refuses a file that has another length than when it was mapped.
    pub(super) fn check_unchanged(&self, path: &Path) -> Result<()> {
        let length = self.file.metadata().map_err(|source| Error::Io { path: path.to_owned(), source })?.len();
        if length == self.map.len() as u64 {
            return Ok(());
        }
        let reason = format!(
            "was changed while it was read: it had {} bytes, now {length}; load the model again",
            self.map.len()
        );
        Err(Error::BadFile { path: path.to_owned(), reason })
    }
}
