//! A file that is still coming: it is written, summed up, and told whole or not.

use crate::error::{Error, Result};
use crate::lock::FileLock;
use crate::select::Digest;
use crate::source::hex;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What is read at once to be summed up.
const BLOCK: usize = 1 << 20;

/// A file in the staging folder, open for appending. All of its functions block.
pub(super) struct Part {
    path: PathBuf,
    file: File,
    length: u64,
    sums: Sums,
    /// Whatever still writes keeps others from writing too.
    _lock: Arc<FileLock>,
}

/// The sums of what was written so far.
struct Sums {
    sha256: Sha256,
    /// Git's, with the file's size before its content; only where it is asked for.
    git: Option<(Sha1, u64)>,
}

/// The sum that a file has, where it is not the one that it should have.
pub(super) struct Damaged {
    pub digest: &'static str,
    pub expected: String,
    pub got: String,
}

impl Part {
    /// Opens what has arrived of a file, and sums it up; nothing, where it is longer than the whole.
    pub(super) fn open(path: &Path, size: Option<u64>, digest: Option<&Digest>, lock: Arc<FileLock>) -> Result<Self> {
        let io = |source| Error::io(path, source);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let git = match (digest, size) {
            (Some(Digest::GitBlob(_)), Some(size)) => Some((Sha1::new(), size)),
            _ => None,
        };
        let sums = Sums { sha256: Sha256::new(), git };
        let mut part = Self { path: path.to_owned(), file, length, sums, _lock: lock };
        part.sums.begin();
        if size.is_some_and(|size| length > size) {
            part.restart()?;
        }
        part.sum_up()?;
        Ok(part)
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|source| Error::io(&self.path, source))?;
        self.sums.add(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Throws away what was written.
    pub(super) fn restart(&mut self) -> Result<()> {
        let cut = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        cut.map_err(|source| Error::io(&self.path, source))?;
        self.length = 0;
        self.sums.begin();
        Ok(())
    }

    /// The SHA-256 of the whole file, which is on the disk then; the difference, where it is not the expected one.
    pub(super) fn finish(&mut self, digest: Option<&Digest>) -> Result<Result<String, Damaged>> {
        let sha256 = hex(&self.sums.sha256.clone().finalize());
        let (name, expected, got) = match (digest, &self.sums.git) {
            (Some(Digest::Sha256(expected)), _) => ("SHA-256", expected.clone(), sha256.clone()),
            (Some(Digest::GitBlob(expected)), Some((git, _))) => {
                ("git hash", expected.clone(), hex(&git.clone().finalize()))
            }
            (Some(Digest::GitBlob(_)), None) | (None, _) => ("SHA-256", sha256.clone(), sha256.clone()),
        };
        if expected != got {
            return Ok(Err(Damaged { digest: name, expected, got }));
        }
        self.file.sync_all().map_err(|source| Error::io(&self.path, source))?;
        Ok(Ok(sha256))
    }

    /// Reads what was there before.
    fn sum_up(&mut self) -> Result<()> {
        let mut block = vec![0; BLOCK];
        let io = |source| Error::io(&self.path, source);
        self.file.seek(SeekFrom::Start(0)).map_err(io)?;
        let mut left = self.length;
        while left > 0 {
            let wanted = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = self.file.read(&mut block[..wanted]).map_err(io)?;
            if read == 0 {
                break;
            }
            self.sums.add(&block[..read]);
            left -= read as u64;
        }
        self.length -= left;
        Ok(())
    }
}

impl Sums {
    fn begin(&mut self) {
        self.sha256 = Sha256::new();
        if let Some((git, size)) = &mut self.git {
            *git = Sha1::new();
            git.update(format!("blob {size}\0"));
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        if let Some((git, _)) = &mut self.git {
            git.update(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_goes_on_where_it_stopped_and_knows_its_sums() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("part");
        let lock = || Arc::new(FileLock::shared(&folder.path().join("lock")).unwrap().unwrap());
        // `printf 'hello world' | sha256sum`, `printf 'hello world' | git hash-object --stdin`
        let sha256 = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9";
        let git = Digest::GitBlob("95d09f2b10159347eece71399a7e2e907ea3df4f".to_owned());
        Part::open(&path, Some(11), Some(&git), lock()).unwrap().append(b"hello ").unwrap();
        let mut part = Part::open(&path, Some(11), Some(&git), lock()).unwrap();
        assert_eq!(part.length(), 6);
        part.append(b"world").unwrap();
        assert_eq!(part.finish(Some(&git)).unwrap().ok().as_deref(), Some(sha256));
        assert!(part.finish(Some(&Digest::Sha256("00".repeat(32)))).unwrap().is_err());
        part.restart().unwrap();
        part.append(b"hello worle").unwrap();
        assert!(part.finish(Some(&git)).unwrap().is_err());
        assert_eq!(Part::open(&path, Some(5), None, lock()).unwrap().length(), 0, "longer than the whole");
    }
}
