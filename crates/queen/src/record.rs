use serde::{Deserialize, Serialize};
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What a running queen leaves for the command line to find. It is to be believed only while [`running`] says so: a
/// pid alone may be somebody else's by now, a lock that is held is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueenRecord {
    /// Her process id.
    pub pid: u32,
    /// Where she listens.
    pub url: String,
    /// Her version.
    pub version: String,
}

/// Held by a queen as long as she lives; the system lets go of it even when she is killed.
#[derive(Debug)]
pub(crate) struct QueenLock {
    _file: File,
    record: PathBuf,
}

/// Why a queen cannot have the folder.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    #[error("a queen runs already in {folder}{}; stop her with: rbee down", described(.running.as_ref()))]
    Running { folder: PathBuf, running: Option<QueenRecord> },
    #[error("cannot lock {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

fn described(running: Option<&QueenRecord>) -> String {
    running.map(|record| format!(" (process {}, {})", record.pid, record.url)).unwrap_or_default()
}

/// Those who only look hold the lock for a moment.
const LOOKERS: Duration = Duration::from_secs(1);

impl QueenLock {
    pub(crate) fn take(folder: &Path) -> Result<Self, LockError> {
        let path = lock_path(folder);
        let io = |source| LockError::Io { path: path.clone(), source };
        let file = open(&path).map_err(io)?;
        let deadline = Instant::now() + LOOKERS;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file, record: record_path(folder) }),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(LockError::Running { folder: folder.to_path_buf(), running: read(folder) });
                }
                Err(TryLockError::Error(source)) => return Err(io(source)),
            }
        }
    }

    pub(crate) fn write(&self, record: &QueenRecord) -> io::Result<()> {
        let temporary = self.record.with_extension("json.part");
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(record).map_err(io::Error::other)?)?;
        fs::rename(temporary, &self.record)
    }
}

impl Drop for QueenLock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.record);
    }
}

/// The queen that runs in this data folder, if one does. She may be starting and have no record yet.
///
/// # Errors
/// The folder cannot be read.
pub fn running(folder: &Path) -> io::Result<Option<Option<QueenRecord>>> {
    let file = match File::open(lock_path(folder)) {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(Some(read(folder))),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn read(folder: &Path) -> Option<QueenRecord> {
    serde_json::from_slice(&fs::read(record_path(folder)).ok()?).ok()
}

fn open(path: &Path) -> io::Result<File> {
    File::options().create(true).truncate(false).write(true).open(path)
}

fn lock_path(folder: &Path) -> PathBuf {
    folder.join("queen.lock")
}

fn record_path(folder: &Path) -> PathBuf {
    folder.join("queen.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_queen_has_a_folder_and_is_known_while_she_lives() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(running(folder.path()).unwrap(), None);
        let lock = QueenLock::take(folder.path()).unwrap();
        assert_eq!(running(folder.path()).unwrap(), Some(None));
        let record = QueenRecord { pid: 7, url: "http://127.0.0.1:1".to_owned(), version: "0".to_owned() };
        lock.write(&record).unwrap();
        assert_eq!(running(folder.path()).unwrap(), Some(Some(record)));
        let refused = QueenLock::take(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("process 7"), "{refused}");
        drop(lock);
        assert_eq!(running(folder.path()).unwrap(), None);
        assert!(!record_path(folder.path()).exists());
        QueenLock::take(folder.path()).unwrap();
    }

    #[test]
    fn what_a_killed_queen_left_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(record_path(folder.path()), r#"{"pid":1,"url":"http://127.0.0.1:1","version":"0"}"#).unwrap();
        fs::write(lock_path(folder.path()), "").unwrap();
        assert_eq!(running(folder.path()).unwrap(), None);
    }
}
