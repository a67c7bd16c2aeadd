//! What the store has, on disk:
//!
//! ```text
//! catalogue/ID/entry.json   one model; whatever stands here is whole
//! catalogue/ID/files/…      its files, where they are the store's own
//! staging/ID/…              what is being downloaded, or was when something broke off
//! locks/ID.download         held by the process that downloads
//! locks/ID.use              shared by those that use the model, held alone by the one that deletes it
//! ```
//!
//! A model appears and goes by one rename, so that nobody ever sees half of it, and processes need no lock to read.

use crate::error::{Error, Result};
use crate::lock::FileLock;
use crate::source::is_safe_path;
use operations_contract::{ID_BYTES, ModelEntry};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The file that describes a model.
const ENTRY: &str = "entry.json";
/// The folder of a model's own files.
pub(crate) const FILES: &str = "files";
/// An entry lists a few dozen files.
const MAX_ENTRY: u64 = 16 << 20;
/// What somebody began to download and never came back for.
const STALE: Duration = Duration::from_secs(30 * 24 * 3600);
/// How what is being deleted is called.
const TRASH: &str = ".trash-";

#[derive(Debug)]
pub(crate) struct Catalogue {
    folder: PathBuf,
}

impl Catalogue {
    /// The catalogue in `folder`, made where there is none, for this user alone.
    pub(crate) fn open(folder: PathBuf) -> Result<Self> {
        let catalogue = Self { folder };
        for part in ["catalogue", "staging", "locks"] {
            make(&catalogue.folder.join(part))?;
        }
        catalogue.sweep();
        Ok(catalogue)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn staging(&self, id: &str) -> PathBuf {
        self.folder.join("staging").join(id)
    }

    /// Held while the model `id` comes; `None` where somebody else holds it.
    pub(crate) fn lock_download(&self, id: &str) -> Result<Option<FileLock>> {
        FileLock::exclusive(&self.folder.join("locks").join(format!("{id}.download")))
    }

    /// Shared by everybody who uses the model; `None` while it is being deleted.
    pub(crate) fn share_use(&self, id: &str) -> Result<Option<FileLock>> {
        FileLock::shared(&self.folder.join("locks").join(format!("{id}.use")))
    }

    /// `None` while somebody uses the model.
    pub(crate) fn lock_use(&self, id: &str) -> Result<Option<FileLock>> {
        FileLock::exclusive(&self.folder.join("locks").join(format!("{id}.use")))
    }

    /// Every model, the oldest first. An entry that cannot be read is left out, with a warning.
    pub(crate) fn list(&self) -> Result<Vec<ModelEntry>> {
        let folder = self.folder.join("catalogue");
        let ids = fs::read_dir(&folder).map_err(|source| Error::io(&folder, source))?;
        let ids = ids.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).filter(|id| is_id(id));
        let mut entries: Vec<ModelEntry> = ids
            .filter_map(|id| match self.get(&id) {
                Ok(entry) => Some(entry),
                // It was deleted meanwhile.
                Err(Error::NoEntry(_)) => None,
                Err(error) => {
                    tracing::warn!("a model is left out of the catalogue: {error}");
                    None
                }
            })
            .collect();
        entries.sort_by(|a, b| (a.added_ms, &a.id).cmp(&(b.added_ms, &b.id)));
        Ok(entries)
    }

    /// The model `id`. What is no plain word is no id and reaches no disk.
    pub(crate) fn get(&self, id: &str) -> Result<ModelEntry> {
        let unknown = || Error::NoEntry(id.chars().take(ID_BYTES).collect());
        if !is_id(id) {
            return Err(unknown());
        }
        let folder = self.folder.join("catalogue").join(id);
        let path = folder.join(ENTRY);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(unknown()),
            Err(error) => return Err(Error::io(&path, error)),
        };
        let mut text = Vec::new();
        file.take(MAX_ENTRY).read_to_end(&mut text).map_err(|source| Error::io(&path, source))?;
        let broken = |reason: String| Error::io(&path, io::Error::new(io::ErrorKind::InvalidData, reason));
        let mut entry: ModelEntry = serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
        if entry.id != id {
            return Err(broken(format!("is the entry of {:?}", entry.id)));
        }
        if entry.owned {
            // Stored relative, so that the folder of all models can be moved.
            if !is_safe_path(&entry.path) {
                return Err(broken(format!("its files lie at {:?}", entry.path)));
            }
            let path = folder.join(&entry.path);
            entry.path = path.to_str().ok_or_else(|| broken("its path is no UTF-8".to_owned()))?.to_owned();
        }
        Ok(entry)
    }

    /// Makes the model visible whose files, where they are the store's own, lie in `staged`; its `path` then is relative
    /// to that.
    pub(crate) fn publish(&self, staged: &Path, entry: &ModelEntry) -> Result<ModelEntry> {
        let path = staged.join(ENTRY);
        let text = serde_json::to_vec_pretty(entry).map_err(|error| Error::io(&path, error.into()))?;
        let written = File::create(&path).and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_all()
        });
        written.map_err(|source| Error::io(&path, source))?;
        sync_folders(staged)?;
        let place = self.folder.join("catalogue").join(&entry.id);
        // One that is there already is broken, or stands for files that are gone.
        self.discard(&entry.id)?;
        fs::rename(staged, &place).map_err(|source| Error::io(&place, source))?;
        sync_folder(&self.folder.join("catalogue"))?;
        self.get(&entry.id)
    }

    /// Takes the model `id` out of sight, and then off the disk.
    pub(crate) fn discard(&self, id: &str) -> Result<()> {
        let place = self.folder.join("catalogue").join(id);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let trash = self.staging(&format!("{TRASH}{id}-{}-{now}", std::process::id()));
        match fs::rename(&place, &trash) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Error::io(&place, error)),
        }
        sync_folder(&self.folder.join("catalogue"))?;
        match fs::remove_dir_all(&trash) {
            // Another process that opened the store has swept it.
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(&trash, error)),
            _ => Ok(()),
        }
    }

    /// Removes what a delete that was interrupted has left, and downloads that nobody came back for.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(self.folder.join("staging")) else { return };
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            if name.starts_with(TRASH) {
                let _ = fs::remove_dir_all(entry.path());
                continue;
            }
            let modified = entry.metadata().and_then(|about| about.modified());
            let age = modified.ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
            if age.is_some_and(|age| age > STALE)
                && let Ok(Some(_lock)) = self.lock_download(&name)
            {
                tracing::info!("removing what was downloaded of {name} more than 30 days ago and never completed");
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// A folder and all above it, for this user alone.
pub(crate) fn make(folder: &Path) -> Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(folder).map_err(|source| Error::io(folder, source))
}

fn is_id(id: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    id.len() <= ID_BYTES && !id.starts_with('.') && is_safe_path(id) && id.bytes().all(plain)
}

/// A rename is only as lasting as the folder that it happens in.
fn sync_folder(folder: &Path) -> Result<()> {
    #[cfg(unix)]
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|source| Error::io(folder, source))?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}

fn sync_folders(folder: &Path) -> Result<()> {
    let entries = fs::read_dir(folder).map_err(|source| Error::io(folder, source))?;
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            sync_folders(&entry.path())?;
        }
    }
    sync_folder(folder)
}
