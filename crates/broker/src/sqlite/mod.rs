//! The broker inside the process: SQLite and a folder of files.
//!
//! One thread writes (`writer`), in transactions that whoever comes at the same time shares; readers have connections
//! of their own. `live` is what listeners and holders in this process are told without asking the disk.

mod ask;
mod attempts;
mod blobs;
mod core;
mod jobs;
mod live;
mod readers;
mod registry;
mod rows;
mod schema;
mod sweep;
#[cfg(test)]
mod tests;
mod watch;
mod work;
mod writer;

use self::blobs::{BlobDir, failed};
use self::core::Core;
use self::live::Live;
use self::readers::Readers;
use self::writer::Writer;
use crate::keyring::Keyring;
use crate::{BlobId, BrokerError, Clock};
use bytes::Bytes;
use operations_contract::QUEEN_JOBS;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const DATABASE: &str = "broker.sqlite";
const BLOBS: &str = "blobs";
const LOCK: &str = "broker.lock";

/// How a [`SqliteBroker`] keeps its jobs.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// Jobs that wait and run together; more are refused.
    pub limit: usize,
    /// How long a claim is held without being renewed.
    pub lease: Duration,
    /// How long a finished job is kept.
    pub keep_for: Duration,
    /// How much finished jobs may take on disk together.
    pub keep_bytes: u64,
    /// What time it is.
    pub clock: Clock,
    /// The hive that lives and dies with this process: what it claims it gets before that is synced.
    pub own_hive: Option<String>,
    /// So many pages of 4 KiB the database may have, and no more; `None` leaves it to the disk.
    pub most_pages: Option<u32>,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            limit: QUEEN_JOBS,
            lease: Duration::from_secs(30),
            keep_for: Duration::from_secs(7 * 24 * 3600),
            keep_bytes: 10_000_000_000,
            clock: Clock::default(),
            own_hive: None,
            most_pages: None,
        }
    }
}

/// What the writer needs of it.
#[derive(Debug, Clone)]
struct Options {
    limit: usize,
    lease: Duration,
    keep_for: Duration,
    keep_bytes: u64,
    clock: Clock,
    own_hive: Option<String>,
    blobs: BlobDir,
}

/// The broker inside the process. Dropping it waits until everything is written and lets the folder go.
#[derive(Debug)]
pub struct SqliteBroker {
    writer: Writer,
    live: Arc<Live>,
    readers: Arc<Readers>,
    blobs: BlobDir,
    keyring: Arc<Keyring>,
    options: SqliteOptions,
    /// Held for as long as this lives; the system lets it go when the process ends, however it ends.
    _lock: File,
}

/// Why something was not done: it may not be, or the database failed.
#[derive(Debug)]
enum Fault {
    No(BrokerError),
    Sql(rusqlite::Error),
}

impl From<BrokerError> for Fault {
    fn from(error: BrokerError) -> Self {
        Self::No(error)
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl Fault {
    fn at(self, path: &Path) -> BrokerError {
        match self {
            Fault::No(error) => error,
            Fault::Sql(error) => schema::storage(path, &error),
        }
    }
}

impl SqliteBroker {
    /// Opens the broker in a folder of its own, or makes it there. What was claimed stays claimed for one lease, so
    /// that hives that went on working can say so.
    ///
    /// # Errors
    /// [`BrokerError::Locked`], [`BrokerError::Corrupt`], [`BrokerError::Newer`], [`BrokerError::Storage`].
    pub async fn open(folder: impl Into<PathBuf>, options: SqliteOptions) -> Result<Self, BrokerError> {
        let folder = folder.into();
        let opening = tokio::task::spawn_blocking(move || Self::open_now(&folder, options));
        opening.await.map_err(|_| BrokerError::Stopping)?
    }

    fn open_now(folder: &Path, options: SqliteOptions) -> Result<Self, BrokerError> {
        make_private(folder)?;
        let lock = lock_folder(folder)?;
        let blobs = BlobDir::open(folder.join(BLOBS))?;
        let path = folder.join(DATABASE);
        let db = schema::open_writer(&path)?;
        let keyring = Arc::new(Keyring::new(registry::keys(&db).map_err(|fault| fault.at(&path))?));
        let live = Arc::new(Live::default());
        let SqliteOptions { limit, lease, keep_for, keep_bytes, clock, own_hive, most_pages } = options.clone();
        if let Some(most) = most_pages {
            db.pragma_update(None, "max_page_count", most).map_err(|error| schema::storage(&path, &error))?;
        }
        let writers = Options { limit, lease, keep_for, keep_bytes, clock, own_hive, blobs: blobs.clone() };
        let core = Core::new(db, path.clone(), writers, Arc::clone(&live))?;
        let writer = Writer::start(core, Arc::clone(&live)).map_err(|error| failed(&path, &error))?;
        Ok(Self { writer, live, readers: Arc::new(Readers::new(path)), blobs, keyring, options, _lock: lock })
    }

    /// The clock that it goes by.
    pub fn clock(&self) -> &Clock {
        &self.options.clock
    }

    async fn read_blob(&self, id: BlobId) -> Result<Bytes, BrokerError> {
        let blobs = self.blobs.clone();
        self.readers.read(move |db| blobs.read(db, &id)).await
    }
}

/// What people ask for is nobody else's to read.
fn make_private(folder: &Path) -> Result<(), BrokerError> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder).map_err(|error| failed(folder, &error))
}

fn lock_folder(folder: &Path) -> Result<File, BrokerError> {
    let path = folder.join(LOCK);
    let open = File::options().create(true).truncate(false).write(true).open(&path);
    let lock = open.map_err(|error| failed(&path, &error))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(BrokerError::Locked { path: folder.display().to_string() }),
        Err(TryLockError::Error(error)) => Err(failed(&path, &error)),
    }
}
