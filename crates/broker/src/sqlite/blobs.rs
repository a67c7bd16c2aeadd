//! Small blobs lie in the database, where they are synced with the job that refers to them. Larger ones are files beside
//! it, named by what is in them: written elsewhere, synced, then renamed, so that a name never stands for half a file.

use super::Fault;
use super::core::Core;
use crate::{BlobId, BrokerError};
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, params};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Where the files are.
#[derive(Debug, Clone)]
pub(super) struct BlobDir(PathBuf);

/// Bytes of the largest blob that lies in the database. SQLite reads and writes such faster than files.
pub(super) const SMALL: usize = 128 * 1024;

/// Where files are that are not whole yet.
const UNFINISHED: &str = "unfinished";

/// A file that is whole and has not got its name yet; it goes away if it never gets it.
#[derive(Debug)]
pub(super) struct Draft {
    path: PathBuf,
    pub(super) id: BlobId,
    pub(super) bytes: usize,
}

impl Drop for Draft {
    fn drop(&mut self) {
        // It was renamed, or the start of the next queen removes it.
        let _ = fs::remove_file(&self.path);
    }
}

impl BlobDir {
    /// Makes the folder, and removes what was never finished: nobody else writes here.
    pub(super) fn open(path: PathBuf) -> Result<Self, BrokerError> {
        let unfinished = path.join(UNFINISHED);
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(|error| failed(&unfinished, &error))?;
        }
        fs::create_dir_all(&unfinished).map_err(|error| failed(&unfinished, &error))?;
        Ok(Self(path))
    }

    pub(super) fn path(&self, id: &BlobId) -> PathBuf {
        self.0.join(&id.as_str()[..2]).join(id.as_str())
    }

    /// One of the 256 folders.
    pub(super) fn folder(&self, number: u8) -> PathBuf {
        self.0.join(format!("{number:02x}"))
    }

    /// Writes and syncs a file without a name.
    pub(super) fn draft(&self, bytes: &Bytes) -> Result<Draft, BrokerError> {
        if bytes.len() > BlobId::MAX_BYTES {
            let most = BlobId::MAX_BYTES;
            return Err(BrokerError::invalid(format!("a blob may have at most {most} bytes, got {}", bytes.len())));
        }
        let path = self.0.join(UNFINISHED).join(Uuid::new_v4().to_string());
        let draft = Draft { path, id: BlobId::of(bytes), bytes: bytes.len() };
        let write = || {
            let mut file = File::create_new(&draft.path)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(|error| failed(&draft.path, &error))?;
        Ok(draft)
    }

    /// The bytes of a blob, wherever they lie.
    pub(super) fn read(&self, db: &Connection, id: &BlobId) -> Result<Bytes, Fault> {
        let small = db
            .prepare_cached("SELECT bytes FROM blob_bytes WHERE blob = ?1")?
            .query_row([id.as_str()], |row| row.get::<_, Vec<u8>>(0))
            .optional()?;
        let path = self.path(id);
        let bytes = match small.map_or_else(|| fs::read(&path), Ok) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(BrokerError::NoBlob { blob: id.clone() }.into());
            }
            Err(error) => return Err(failed(&path, &error).into()),
        };
        if BlobId::of(&bytes) != *id {
            let reason = format!("the bytes of {id} are not those that were put");
            return Err(BrokerError::Corrupt { path: path.display().to_string(), reason }.into());
        }
        Ok(bytes.into())
    }

    /// Gives a draft its name. It holds after a power cut, too.
    fn adopt(&self, draft: &Draft) -> Result<(), BrokerError> {
        let path = self.path(&draft.id);
        let folder = path.parent().unwrap_or(&self.0);
        let rename = || {
            if !folder.exists() {
                fs::create_dir_all(folder)?;
                sync_folder(&self.0)?;
            }
            // The second time, after a transaction that failed, it has its name already.
            if draft.path.exists() {
                fs::rename(&draft.path, &path)?;
            }
            sync_folder(folder)
        };
        rename().map_err(|error| failed(&path, &error))
    }
}

impl Core {
    pub(super) fn adopt(&mut self, dir: &BlobDir, draft: &Draft) -> Result<BlobId, Fault> {
        dir.adopt(draft)?;
        self.know(&draft.id, draft.bytes)?;
        Ok(draft.id.clone())
    }

    /// Keeps a small blob.
    pub(super) fn keep(&mut self, id: &BlobId, bytes: &Bytes) -> Result<(), Fault> {
        self.db
            .prepare_cached("INSERT OR IGNORE INTO blob_bytes (blob, bytes) VALUES (?1, ?2)")?
            .execute(params![id.as_str(), &bytes[..]])?;
        self.know(id, bytes.len())
    }

    fn know(&self, id: &BlobId, bytes: usize) -> Result<(), Fault> {
        self.db
            .prepare_cached(
                "INSERT INTO blobs (id, bytes, put_ms) VALUES (?1, ?2, ?3) ON CONFLICT (id) DO UPDATE SET put_ms = ?3",
            )?
            .execute(params![id.as_str(), bytes, self.now_ms()])?;
        Ok(())
    }
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A folder cannot be opened as a file there, and needs no sync.
#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

pub(super) fn failed(path: &Path, error: &io::Error) -> BrokerError {
    let path = path.display().to_string();
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => BrokerError::DiskFull { path },
        _ => BrokerError::Storage { path, reason: error.to_string() },
    }
}
