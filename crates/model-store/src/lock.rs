use crate::error::{Error, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

/// A lock on a file, between processes as between threads. The system gives it up when its holder ends, however it ends;
/// the file itself stays, because one that is removed could be locked by two.
#[derive(Debug)]
pub(crate) struct FileLock(#[expect(dead_code, reason = "held open: the lock is the open file's")] File);

impl FileLock {
    /// For one alone; `None` where somebody else holds it.
    pub(crate) fn exclusive(path: &Path) -> Result<Option<Self>> {
        Self::take(path, File::try_lock)
    }

    /// For many; `None` where one holds it alone.
    pub(crate) fn shared(path: &Path) -> Result<Option<Self>> {
        Self::take(path, File::try_lock_shared)
    }

    fn take(path: &Path, lock: impl Fn(&File) -> std::result::Result<(), TryLockError>) -> Result<Option<Self>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(|source| Error::io(path, source))?;
        match lock(&file) {
            Ok(()) => Ok(Some(Self(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(Error::io(path, source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_share_and_one_has_it_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let readers = [FileLock::shared(&path).unwrap(), FileLock::shared(&path).unwrap()];
        assert!(readers.iter().all(Option::is_some));
        assert!(FileLock::exclusive(&path).unwrap().is_none());
        drop(readers);
        let writer = FileLock::exclusive(&path).unwrap();
        assert!(writer.is_some());
        assert!(FileLock::shared(&path).unwrap().is_none());
    }
}
