use crate::HiveError;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Logs of workers that ended are kept for so long.
const LOG_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// The folder in which rbee keeps what outlives a process: `RBEE_DATA_DIR`, or `rbee` in the XDG data folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDir(PathBuf);

impl DataDir {
    /// The folder at `given`, or the user's own; made where it does not exist, for this user alone.
    ///
    /// # Errors
    /// [`HiveError::DataDir`] where it cannot be made or written to.
    pub fn open(given: Option<&Path>) -> Result<Self, HiveError> {
        let path = match given {
            Some(path) => {
                std::path::absolute(path).map_err(|source| HiveError::DataDir { path: path.into(), source })?
            }
            None => model_store::default_data_dir().ok_or(HiveError::NoHome)?,
        };
        let data_dir = Self(path);
        for folder in [data_dir.0.clone(), data_dir.worker_logs()] {
            make(&folder).map_err(|source| HiveError::DataDir { path: folder, source })?;
        }
        let probe = data_dir.0.join(format!(".writable-{}", std::process::id()));
        fs::write(&probe, b"").map_err(|source| HiveError::DataDir { path: data_dir.0.clone(), source })?;
        let _ = fs::remove_file(probe);
        Ok(data_dir)
    }

    /// Where the folder is, whether or not it exists.
    ///
    /// # Errors
    /// [`HiveError::NoHome`]
    pub fn locate(given: Option<&Path>) -> Result<PathBuf, HiveError> {
        match given {
            Some(path) => std::path::absolute(path).map_err(|source| HiveError::DataDir { path: path.into(), source }),
            None => model_store::default_data_dir().ok_or(HiveError::NoHome),
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where models lie: the folder of a [`model_store::ModelStore`].
    pub fn models(&self) -> PathBuf {
        model_store::models_dir(&self.0)
    }

    /// Where daemons and workers write what they have to say.
    pub fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }

    pub(crate) fn worker_logs(&self) -> PathBuf {
        self.logs().join("workers")
    }

    /// The log of one worker.
    pub fn worker_log(&self, worker_id: &str) -> PathBuf {
        self.worker_logs().join(format!("{worker_id}.log"))
    }

    /// Removes the logs of workers that ended long ago.
    pub(crate) fn sweep_logs(&self) {
        let Ok(entries) = fs::read_dir(self.worker_logs()) else {
            return;
        };
        for entry in entries.flatten() {
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            let age = modified.ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
            if age.is_some_and(|age| age > LOG_AGE) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

#[cfg(unix)]
fn make(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(not(unix))]
fn make(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_folder_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = DataDir::open(Some(&file.path().join("data"))).unwrap_err().to_string();
        assert!(error.contains(file.path().to_str().unwrap()), "{error}");
        assert!(error.contains("RBEE_DATA_DIR"), "{error}");
    }
}
