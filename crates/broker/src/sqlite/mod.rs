//! The broker inside the process: SQLite and a folder of files.
//!
//! One thread writes (`writer`), in transactions that whoever comes at the same time shares; readers have connections
//! of their own. `live` is what listeners and holders in this process are told without asking the disk.

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
mod watch;
mod writer;

use self::blobs::{BlobDir, failed};
use self::core::Core;
use self::live::Live;
use self::readers::Readers;
use self::watch::{Watcher, with_picture};
use self::writer::{Durability, Waiter, Writer};
use crate::keyring::{self, Keyring};
use crate::{
    Appended, AttemptId, BlobId, Broker, BrokerError, Claim, ClaimRequest, Clock, Ending, EventStream, GiveBack,
    HiveRecord, JobCounts, JobFilter, JobRecord, KeyId, KeyRecord, Lease, NewJob, NewKey, Outcome, Role,
    StoredOperation, Submitted, Waiting, WorkSource,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use operations_contract::{ApiError, Base64Bytes, JobEvent, JobState, QUEEN_JOBS};
use std::collections::VecDeque;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

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
        let SqliteOptions { limit, lease, keep_for, keep_bytes, clock, most_pages } = options.clone();
        if let Some(most) = most_pages {
            db.pragma_update(None, "max_page_count", most).map_err(|error| schema::storage(&path, &error))?;
        }
        let writers = Options { limit, lease, keep_for, keep_bytes, clock, blobs: blobs.clone() };
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
        let reading = tokio::task::spawn_blocking(move || blobs.read(&id));
        reading.await.map_err(|_| BrokerError::Stopping)?
    }
}

/// A claim that is on its way to the one who asked; if he goes, it goes back.
struct Delivery<'a> {
    answer: oneshot::Receiver<Result<Option<Claim>, BrokerError>>,
    writer: &'a Writer,
}

impl Drop for Delivery<'_> {
    fn drop(&mut self) {
        self.answer.close();
        if let Ok(Ok(Some(claim))) = self.answer.try_recv() {
            self.writer.write_later(move |core| core.return_unused(&claim.attempt));
        }
    }
}

#[async_trait]
impl WorkSource for SqliteBroker {
    async fn enlist(&self, hive: HiveRecord, ttl: Duration) -> Result<(), BrokerError> {
        self.writer.write(Durability::Synced, move |core| core.enlist(&hive, ttl)).await
    }

    async fn retire(&self, hive_id: &str, incarnation: u64) -> Result<(), BrokerError> {
        let hive_id = hive_id.to_owned();
        self.writer.write(Durability::Synced, move |core| core.retire(&hive_id, incarnation)).await
    }

    async fn claim(&self, request: ClaimRequest) -> Result<Option<Claim>, BrokerError> {
        let patience = request.patience;
        let (reply, answer) = oneshot::channel();
        self.writer.wait(Waiter { request, reply })?;
        let mut delivery = Delivery { answer, writer: &self.writer };
        // Who would not wait is answered at once; others are forgotten when they go.
        let most = if patience.is_zero() { Duration::MAX } else { patience };
        match tokio::time::timeout(most, &mut delivery.answer).await {
            Ok(Ok(claim)) => claim,
            Ok(Err(_)) => Err(BrokerError::Stopping),
            Err(_) => {
                // What came in the last moment is taken.
                delivery.answer.close();
                delivery.answer.try_recv().unwrap_or(Ok(None))
            }
        }
    }

    async fn renew(&self, attempt: &AttemptId) -> Result<Lease, BrokerError> {
        let until = self.options.clock.elapsed() + self.options.lease;
        self.live.holding(attempt, |held| {
            held.until = until;
            Lease { cancelled: held.cancelled }
        })
    }

    async fn cancelled(&self, attempt: &AttemptId, patience: Duration) -> Result<bool, BrokerError> {
        let mut changed = self.live.holders_told();
        let cancelled = async {
            loop {
                changed.mark_unchanged();
                if self.live.is_stopped() {
                    return Err(BrokerError::Stopping);
                }
                if self.live.holding(attempt, |held| held.cancelled)? {
                    return Ok(true);
                }
                if changed.changed().await.is_err() {
                    return Err(BrokerError::Stopping);
                }
            }
        };
        tokio::time::timeout(patience, cancelled).await.unwrap_or(Ok(false))
    }

    async fn append(&self, attempt: &AttemptId, sequence: u64, events: Vec<JobEvent>) -> Result<Appended, BrokerError> {
        attempts::check(&events, sequence)?;
        let attempt = attempt.clone();
        self.writer.write(Durability::Written, move |core| core.append(&attempt, sequence, &events)).await
    }

    async fn finish(&self, attempt: &AttemptId, ending: Ending) -> Result<(), BrokerError> {
        attempts::check_ending(attempt, &ending)?;
        let attempt = attempt.clone();
        let first = match &ending {
            Ending::Complete(Outcome::Images { pictures, .. }) if self.live.is_heard(&attempt.job_id) => {
                match pictures.first() {
                    Some(first) => self.read_blob(first.blob.clone()).await?.into(),
                    None => Base64Bytes::default(),
                }
            }
            _ => Base64Bytes::default(),
        };
        self.writer.write(Durability::Synced, move |core| core.finish(&attempt, &ending, &first)).await
    }

    async fn give_back(&self, attempt: &AttemptId, why: GiveBack) -> Result<(), BrokerError> {
        let attempt = attempt.clone();
        self.writer.write(Durability::Synced, move |core| core.give_back(&attempt, &why)).await
    }

    async fn put_blob(&self, bytes: Bytes) -> Result<BlobId, BrokerError> {
        let blobs = self.blobs.clone();
        let drafting = tokio::task::spawn_blocking(move || blobs.draft(&bytes));
        let draft = drafting.await.map_err(|_| BrokerError::Stopping)??;
        let blobs = self.blobs.clone();
        self.writer.write(Durability::Synced, move |core| core.adopt(&blobs, &draft)).await
    }

    async fn blob(&self, id: &BlobId) -> Result<Bytes, BrokerError> {
        self.read_blob(id.clone()).await
    }
}

#[async_trait]
impl Broker for SqliteBroker {
    async fn submit(&self, job: NewJob) -> Result<Submitted, BrokerError> {
        jobs::check(&job)?;
        let operation = serde_json::to_string(&job.operation)
            .map_err(|error| BrokerError::invalid(format!("the operation cannot be stored: {error}")))?;
        self.writer.write(Durability::Synced, move |core| core.submit(&job, &operation)).await
    }

    async fn job(&self, job_id: &str) -> Result<JobRecord, BrokerError> {
        let (job_id, blobs, live) = (job_id.to_owned(), self.blobs.clone(), Arc::clone(&self.live));
        self.readers
            .read(move |db| {
                let row = rows::job(db, &job_id)?;
                let (result, error) = rows::ending(db, &row)?;
                let position = (row.state == JobState::Queued).then(|| live.queue().position(row.number)).flatten();
                let mut record = row.into_record(position);
                if let Some(completion) = result {
                    let whole = with_picture(JobEvent::Complete(completion), &record.pictures, &blobs)?;
                    if let JobEvent::Complete(completion) = whole {
                        record.job.result = Some(completion);
                    }
                }
                record.job.error = error;
                Ok(record)
            })
            .await
    }

    async fn operation(&self, job_id: &str) -> Result<StoredOperation, BrokerError> {
        let job_id = job_id.to_owned();
        self.readers.read(move |db| rows::operation(db, rows::job(db, &job_id)?.number)).await
    }

    async fn list(&self, filter: JobFilter) -> Result<Vec<JobRecord>, BrokerError> {
        let live = Arc::clone(&self.live);
        self.readers
            .read(move |db| {
                let listed = rows::list(db, &filter)?.into_iter().map(|row| {
                    let (_, error) = if row.state == JobState::Error { rows::ending(db, &row)? } else { (None, None) };
                    let position = (row.state == JobState::Queued).then(|| live.queue().position(row.number)).flatten();
                    let mut record = row.into_record(position);
                    record.job.error = error;
                    Ok(record)
                });
                listed.collect()
            })
            .await
    }

    async fn counts(&self) -> Result<JobCounts, BrokerError> {
        let (queued, running) = {
            let queue = self.live.queue();
            (queue.len(), queue.running())
        };
        let kept = self
            .readers
            .read(|db| {
                let sql = "SELECT count(*) FROM jobs WHERE finished_ms IS NOT NULL";
                Ok(db.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
            })
            .await?;
        Ok(JobCounts { queued, running, kept, limit: self.options.limit })
    }

    async fn waiting(&self, limit: usize) -> Result<Vec<Waiting>, BrokerError> {
        Ok(self.live.queue().waiting(limit))
    }

    async fn watch(&self, job_id: &str, after: u64) -> Result<EventStream, BrokerError> {
        // Before the row is read: what is told from here on is not missed.
        let channel = self.live.channel(job_id);
        let changed = channel.subscribe();
        let job_id = job_id.to_owned();
        let id = job_id.clone();
        let row = self.readers.read(move |db| rows::job(db, &id)).await?;
        if after > row.last_event_id {
            return Err(BrokerError::Beyond { after, last: row.last_event_id });
        }
        let watcher = Watcher {
            job_id,
            number: row.number,
            after,
            channel,
            changed,
            live: Arc::clone(&self.live),
            readers: Arc::clone(&self.readers),
            blobs: self.blobs.clone(),
            read: VecDeque::new(),
            ended: row.state.is_terminal() && after == row.last_event_id,
        };
        Ok(watcher.stream())
    }

    async fn cancel(&self, job_id: &str) -> Result<(), BrokerError> {
        let job_id = job_id.to_owned();
        self.writer.write(Durability::Synced, move |core| core.cancel(&job_id)).await
    }

    async fn refuse(&self, job_id: &str, error: ApiError) -> Result<bool, BrokerError> {
        let job_id = job_id.to_owned();
        self.writer.write(Durability::Synced, move |core| core.refuse(&job_id, &error)).await
    }

    async fn settled(&self, job_id: &str, patience: Duration) -> Result<bool, BrokerError> {
        let id = job_id.to_owned();
        let seen = self.readers.read(move |db| Ok(rows::job(db, &id)?.last_event_id)).await?;
        let mut events = self.watch(job_id, seen).await?;
        let ended = async {
            while let Some(event) = events.next().await {
                if event?.1.is_terminal() {
                    break;
                }
            }
            Ok(true)
        };
        tokio::time::timeout(patience, ended).await.unwrap_or(Ok(false))
    }

    async fn hives(&self) -> Result<Vec<HiveRecord>, BrokerError> {
        let now_ms = self.options.clock.unix_ms();
        self.readers.read(move |db| registry::hives(db, now_ms)).await
    }

    async fn create_key(&self, name: &str, role: Role) -> Result<NewKey, BrokerError> {
        let (row, secret) = keyring::draw(name, role, self.options.clock.unix_ms())?;
        let (id, keyring) = (row.record.id.clone(), Arc::clone(&self.keyring));
        let stored = row.clone();
        self.writer.write(Durability::Synced, move |core| core.insert_key(&stored.record, &stored.sha256)).await?;
        keyring.insert(row);
        Ok(NewKey { id, secret })
    }

    async fn keys(&self) -> Result<Vec<KeyRecord>, BrokerError> {
        Ok(self.keyring.list())
    }

    async fn revoke_key(&self, name_or_id: &str) -> Result<bool, BrokerError> {
        let name_or_id = name_or_id.to_owned();
        let revoked = self.writer.write(Durability::Synced, move |core| core.revoke_key(&name_or_id)).await?;
        if let Some(id) = &revoked {
            self.keyring.remove(id);
        }
        Ok(revoked.is_some())
    }

    async fn check_key(&self, secret: &str) -> Result<Option<(KeyId, Role)>, BrokerError> {
        let now_ms = self.options.clock.unix_ms();
        let Some(known) = self.keyring.check(secret, now_ms) else { return Ok(None) };
        if known.note {
            let id = known.id.clone();
            self.writer.write_later(move |core| core.key_used(&id, now_ms));
        }
        Ok(Some((known.id, known.role)))
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
