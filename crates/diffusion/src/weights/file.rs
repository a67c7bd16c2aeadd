//! One weight file: where its bytes are, and its header.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::weights::header::{self, Entry, Header};
use crate::weights::map::Mapped;
use crate::{Error, Result};

#[derive(Debug)]
pub(super) struct WeightFile {
    path: PathBuf,
    label: String,
    bytes: Bytes,
    entries: HashMap<String, Entry>,
    metadata: HashMap<String, String>,
}

#[derive(Debug)]
enum Bytes {
    Mapped(Mapped),
    Static(&'static [u8]),
}

impl WeightFile {
    pub(super) fn open(path: &Path) -> Result<Self> {
        Self::new(path.to_owned(), Bytes::Mapped(Mapped::open(path)?))
    }

    pub(super) fn from_static(name: &str, bytes: &'static [u8]) -> Result<Self> {
        Self::new(PathBuf::from(name), Bytes::Static(bytes))
    }

    fn new(path: PathBuf, bytes: Bytes) -> Result<Self> {
        let label = path.display().to_string();
        let mut file = Self { path, label, bytes, entries: HashMap::new(), metadata: HashMap::new() };
        let Header { entries, metadata } = header::read(file.all()).map_err(|reason| file.bad(reason))?;
        (file.entries, file.metadata) = (entries, metadata);
        Ok(file)
    }

    pub(super) fn label(&self) -> &str {
        &self.label
    }

    /// A text that the header has beside the tensors.
    pub(super) fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).map(String::as_str)
    }

    /// An error about this file.
    pub(super) fn bad(&self, reason: String) -> Error {
        Error::BadFile { path: self.path.clone(), reason }
    }

    /// The tensors, handed over once.
    pub(super) fn take_entries(&mut self) -> HashMap<String, Entry> {
        std::mem::take(&mut self.entries)
    }

    pub(super) fn bytes(&self, entry: &Entry) -> Result<&[u8]> {
        if let Bytes::Mapped(mapped) = &self.bytes {
            mapped.check_unchanged(&self.path)?;
        }
        Ok(&self.all()[entry.begin..entry.end])
    }

    /// Says that nobody looks at `bytes` for a while.
    pub(super) fn forget(&self, bytes: std::ops::Range<usize>) {
        if let Bytes::Mapped(mapped) = &self.bytes {
            mapped.forget(bytes);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.all().len()
    }

    fn all(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(mapped) => mapped.bytes(),
            Bytes::Static(bytes) => bytes,
        }
    }
}
