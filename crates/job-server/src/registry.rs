use crate::caller::Caller;
use crate::handle::{Ending, JobHandle, Ongoing};
use crate::jobs::{Events, Idempotency, JobTotals, Jobs};
use crate::log::Log;
use crate::stream::EventStream;
use bytes::Bytes;
use futures_util::stream::unfold;
use operations_contract::{ApiError, ErrorCode, ImageFormat, Job, JobResponse, JobState, OperationKind};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How many jobs there may be.
#[derive(Debug, Clone, Copy)]
pub struct RegistryLimits {
    /// Jobs that wait or run at once; more are refused with 429.
    pub admitted: usize,
    /// Finished jobs that are kept.
    pub finished: usize,
    /// How long they are kept.
    pub age: Duration,
    /// The memory that they may hold together.
    pub bytes: usize,
}

impl RegistryLimits {
    /// The limits of a process that keeps its jobs in memory and admits `admitted` of them.
    pub const fn in_memory(admitted: usize) -> Self {
        Self { admitted, finished: 10_000, age: Duration::from_secs(7 * 24 * 3600), bytes: 512 * 1024 * 1024 }
    }
}

/// The jobs of this process, in memory. Cloning it shares them. They belong to no key: whoever may ask a process that
/// keeps its jobs so may see them all.
#[derive(Debug, Clone)]
pub struct JobRegistry(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limits: RegistryLimits,
    permits: Arc<Semaphore>,
    closed: AtomicBool,
    jobs: Mutex<Known>,
    totals: Totals,
    /// Jobs by their idempotency keys. Held while a job with a key is made, so that two requests make one job.
    keys: tokio::sync::Mutex<HashMap<KeyOf, ([u8; 32], String)>>,
    listeners: Arc<AtomicUsize>,
    /// Rises with every job that ends, for those who wait until none runs.
    ended: watch::Sender<u64>,
}

/// Whose idempotency key, and which.
type KeyOf = (Option<String>, String);

/// What is counted up.
#[derive(Debug, Default)]
struct Totals {
    admitted: AtomicU64,
    refused: AtomicU64,
    complete: AtomicU64,
    error: AtomicU64,
    cancelled: AtomicU64,
    run_ms: AtomicU64,
}

#[derive(Debug, Default)]
struct Known {
    next: u64,
    /// In order of creation.
    entries: BTreeMap<u64, Arc<Entry>>,
    by_id: HashMap<String, u64>,
    /// In order of ending: creation number, when, bytes.
    finished: VecDeque<(u64, Instant, usize)>,
    finished_bytes: usize,
    /// Ids of jobs that were dropped, so that they can be told from ids that never were.
    expired: VecDeque<String>,
    expired_ids: HashSet<String>,
}

/// One job.
#[derive(Debug)]
pub(crate) struct Entry {
    number: u64,
    pub(crate) id: String,
    pub(crate) cancellation: CancellationToken,
    log: Mutex<Log>,
    changed: watch::Sender<()>,
}

/// So many ids of dropped jobs are remembered.
const EXPIRED_IDS: usize = 100_000;

/// How long a cancelled job gets to end before the answer says how it stands.
const SETTLE: Duration = Duration::from_millis(250);

impl JobRegistry {
    /// An empty registry.
    pub fn new(limits: RegistryLimits) -> Self {
        Self(Arc::new(Shared {
            limits,
            permits: Arc::new(Semaphore::new(limits.admitted.min(Semaphore::MAX_PERMITS))),
            closed: AtomicBool::new(false),
            jobs: Mutex::default(),
            totals: Totals::default(),
            keys: tokio::sync::Mutex::default(),
            listeners: Arc::default(),
            ended: watch::Sender::new(0),
        }))
    }

    /// Admits a job, which then waits until its handle says otherwise.
    ///
    /// # Errors
    /// `queue_full` when as many as may are waiting and running, `shutting_down` when the server stops.
    pub fn create_job(&self, operation: OperationKind) -> Result<JobHandle, ApiError> {
        self.admits()?;
        let permit = Arc::clone(&self.0.permits).try_acquire_owned().map_err(|_| self.full())?;
        let id = format!("job-{}", Uuid::new_v4());
        let log = Log::new(id.clone(), JobResponse::new(&id).sse_url, operation);
        let mut jobs = lock(&self.0.jobs);
        jobs.expire(&self.0.limits);
        let number = jobs.next;
        jobs.next += 1;
        let entry = Arc::new(Entry {
            number,
            id: id.clone(),
            cancellation: CancellationToken::new(),
            log: Mutex::new(log),
            changed: watch::Sender::new(()),
        });
        jobs.entries.insert(number, Arc::clone(&entry));
        jobs.by_id.insert(id, number);
        self.0.totals.admitted.fetch_add(1, Ordering::Relaxed);
        Ok(JobHandle { entry, registry: self.clone(), _permit: permit })
    }

    /// Whether a job would be admitted now: what a server asks before it reads a large body.
    ///
    /// # Errors
    /// As [`JobRegistry::create_job`].
    pub fn admits(&self) -> Result<(), ApiError> {
        if Jobs::is_closed(self) {
            return Err(ApiError::new(ErrorCode::ShuttingDown, "the server is stopping and takes no more jobs"));
        }
        if self.0.permits.available_permits() == 0 {
            return Err(self.full());
        }
        Ok(())
    }

    /// The job as it stands.
    ///
    /// # Errors
    /// `expired` or `not_found`.
    pub fn job(&self, id: &str) -> Result<Job, ApiError> {
        Ok(self.entry(id)?.log().job())
    }

    /// Jobs as they stand, newest first, without their results.
    pub fn list(&self, state: Option<JobState>, limit: usize) -> Vec<Job> {
        let entries: Vec<_> = {
            let mut jobs = lock(&self.0.jobs);
            jobs.expire(&self.0.limits);
            jobs.entries.values().rev().cloned().collect()
        };
        entries
            .iter()
            .map(|entry| entry.log().summary())
            .filter(|job| state.is_none_or(|state| job.state == state))
            .take(limit)
            .collect()
    }

    /// Asks a job to end; one that has ended stays as it is.
    ///
    /// # Errors
    /// `expired` or `not_found`.
    pub fn cancel(&self, id: &str) -> Result<(), ApiError> {
        let entry = self.entry(id)?;
        if !entry.log().state().is_terminal() {
            entry.cancellation.cancel();
        }
        Ok(())
    }

    /// Waits until the job has ended, but not longer than `most`.
    async fn settled(&self, id: &str, most: Duration) {
        let Ok(entry) = self.entry(id) else { return };
        let mut changed = entry.subscribe();
        let ended = async {
            while !entry.log().state().is_terminal() {
                if changed.changed().await.is_err() {
                    break;
                }
            }
        };
        // Not having ended in time is as good an answer.
        let _ = tokio::time::timeout(most, ended).await;
    }

    /// The job's events after the one numbered `after`, until its last; `None` where the last one is `after`.
    ///
    /// # Errors
    /// `expired`, `not_found`, or 400 where no event has that number yet.
    pub fn events(&self, id: &str, after: u64) -> Result<Option<EventStream>, ApiError> {
        let entry = self.entry(id)?;
        let (last_id, ended) = {
            let log = entry.log();
            (log.last_id(), log.state().is_terminal())
        };
        if after > last_id {
            let message = format!("Last-Event-ID {after} is beyond the last event, {last_id}");
            return Err(ApiError::malformed(message).with_param("Last-Event-ID"));
        }
        if ended && after == last_id {
            return Ok(None);
        }
        Ok(Some(EventStream::new(entry, after, Arc::clone(&self.0.listeners))))
    }

    /// A picture of a job that is complete.
    ///
    /// # Errors
    /// `expired`, `not_found`, or `conflict` where the job is not complete.
    pub fn picture(&self, id: &str, index: usize) -> Result<(Bytes, ImageFormat), ApiError> {
        let entry = self.entry(id)?;
        let log = entry.log();
        if log.state() != JobState::Complete {
            let message = format!("the job is {}; only a complete job has pictures", log.state());
            return Err(ApiError::new(ErrorCode::Conflict, message));
        }
        log.picture(index).ok_or_else(|| {
            let message = format!("the job has {} pictures, none with the index {index}", log.picture_count());
            ApiError::new(ErrorCode::NotFound, message)
        })
    }

    /// Takes no more jobs.
    pub fn close(&self) {
        self.0.closed.store(true, Ordering::Release);
    }

    /// Writes a job's last event, if it has none yet.
    pub(crate) fn finish(&self, entry: &Entry, ending: Ending) -> bool {
        let (bytes, state, duration) = {
            let mut log = entry.log();
            if !log.finish(ending) {
                return false;
            }
            (log.bytes(), log.state(), log.duration_ms())
        };
        let totals = &self.0.totals;
        match state {
            JobState::Complete => totals.complete.fetch_add(1, Ordering::Relaxed),
            JobState::Cancelled => totals.cancelled.fetch_add(1, Ordering::Relaxed),
            JobState::Error | JobState::Queued | JobState::Running => totals.error.fetch_add(1, Ordering::Relaxed),
        };
        totals.run_ms.fetch_add(duration.unwrap_or(0), Ordering::Relaxed);
        entry.changed.send_replace(());
        {
            let mut jobs = lock(&self.0.jobs);
            jobs.finished.push_back((entry.number, Instant::now(), bytes));
            jobs.finished_bytes += bytes;
            jobs.expire(&self.0.limits);
        }
        self.0.ended.send_modify(|ended| *ended += 1);
        true
    }

    fn entry(&self, id: &str) -> Result<Arc<Entry>, ApiError> {
        let mut jobs = lock(&self.0.jobs);
        jobs.expire(&self.0.limits);
        if let Some(entry) = jobs.by_id.get(id).and_then(|number| jobs.entries.get(number)) {
            return Ok(Arc::clone(entry));
        }
        if jobs.expired_ids.contains(id) {
            return Err(ApiError::new(ErrorCode::Expired, format!("{id} ended a while ago and is no longer kept")));
        }
        let id: String = id.chars().take(64).collect();
        Err(ApiError::new(ErrorCode::NotFound, format!("there is no job {id:?}")))
    }

    fn unfinished(&self) -> Vec<Arc<Entry>> {
        let entries: Vec<_> = lock(&self.0.jobs).entries.values().cloned().collect();
        entries.into_iter().filter(|entry| !entry.log().state().is_terminal()).collect()
    }

    fn full(&self) -> ApiError {
        self.0.totals.refused.fetch_add(1, Ordering::Relaxed);
        let message = format!("{} jobs are waiting or running already; try again later", self.0.limits.admitted);
        ApiError::new(ErrorCode::QueueFull, message)
    }
}

impl Jobs for JobRegistry {
    async fn admits(&self) -> Result<(), ApiError> {
        self.admits()
    }

    async fn once(
        &self,
        caller: &Caller,
        idempotency: Option<&Idempotency>,
        create: impl Future<Output = Result<JobResponse, ApiError>> + Send,
    ) -> Result<JobResponse, ApiError> {
        let Some(idempotency) = idempotency else { return create.await };
        let key = (caller.key_id().map(str::to_owned), idempotency.key.clone());
        let mut keys = self.0.keys.lock().await;
        if let Some((body_sha256, id)) = keys.get(&key)
            && self.entry(id).is_ok()
        {
            let same = *body_sha256 == idempotency.body_sha256;
            return if same { Ok(JobResponse::new(id)) } else { Err(idempotency.conflict()) };
        }
        let response = create.await?;
        // Keys of jobs that are no longer known go when there are twice as many as there can be jobs.
        if keys.len() > 2 * (self.0.limits.admitted + self.0.limits.finished) {
            keys.retain(|_, (_, id)| self.entry(id).is_ok());
        }
        keys.insert(key, (idempotency.body_sha256, response.job_id.clone()));
        Ok(response)
    }

    async fn job(&self, _: &Caller, id: &str) -> Result<Job, ApiError> {
        self.job(id)
    }

    async fn list(&self, _: &Caller, state: Option<JobState>, limit: usize) -> Result<Vec<Job>, ApiError> {
        Ok(self.list(state, limit))
    }

    async fn cancel(&self, _: &Caller, id: &str) -> Result<Job, ApiError> {
        self.cancel(id)?;
        self.settled(id, SETTLE).await;
        self.job(id)
    }

    async fn events(&self, _: &Caller, id: &str, after: u64) -> Result<Option<Events>, ApiError> {
        let events = self.events(id, after)?;
        Ok(events.map(|events| -> Events {
            Box::pin(unfold(events, |mut events| async move { Some((events.next().await?, events)) }))
        }))
    }

    async fn picture(&self, _: &Caller, id: &str, index: usize) -> Result<(Bytes, ImageFormat), ApiError> {
        self.picture(id, index)
    }

    async fn totals(&self) -> JobTotals {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let totals = &self.0.totals;
        let mut sum = JobTotals {
            admitted: read(&totals.admitted),
            refused: read(&totals.refused),
            complete: read(&totals.complete),
            error: read(&totals.error),
            cancelled: read(&totals.cancelled),
            run: Duration::from_millis(read(&totals.run_ms)),
            listeners: self.0.listeners.load(Ordering::Relaxed),
            ..JobTotals::default()
        };
        let entries: Vec<_> = lock(&self.0.jobs).entries.values().cloned().collect();
        for entry in entries {
            match entry.log().state() {
                JobState::Queued => sum.queued += 1,
                JobState::Running => sum.running += 1,
                JobState::Complete | JobState::Error | JobState::Cancelled => sum.kept += 1,
            }
        }
        sum
    }

    fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Acquire)
    }

    /// Ends those that wait, gives those that run `grace`, and then ends them too: each with an event that says so.
    async fn drain(&self, grace: Duration) {
        self.close();
        let stopping = |what: &str| {
            let message = format!("the server was stopped {what}; ask again when it is back");
            Ending::Error(ApiError::new(ErrorCode::ShuttingDown, message))
        };
        for entry in self.unfinished() {
            if entry.log().state() == JobState::Queued {
                self.finish(&entry, stopping("before the job began"));
                entry.cancellation.cancel();
            }
        }
        let mut ended = self.0.ended.subscribe();
        let idle = async {
            while !self.unfinished().is_empty() {
                if ended.changed().await.is_err() {
                    break;
                }
            }
        };
        if tokio::time::timeout(grace, idle).await.is_ok() {
            return;
        }
        for entry in self.unfinished() {
            self.finish(&entry, stopping("while the job ran"));
            entry.cancellation.cancel();
        }
    }
}

impl Known {
    /// Drops finished jobs, the oldest first, until the limits hold.
    fn expire(&mut self, limits: &RegistryLimits) {
        while let Some(&(number, ended, bytes)) = self.finished.front() {
            let too_many = self.finished.len() > limits.finished || self.finished_bytes > limits.bytes;
            if !too_many && ended.elapsed() <= limits.age {
                break;
            }
            self.finished.pop_front();
            self.finished_bytes -= bytes;
            let Some(entry) = self.entries.remove(&number) else { continue };
            self.by_id.remove(&entry.id);
            self.expired_ids.insert(entry.id.clone());
            self.expired.push_back(entry.id.clone());
            if self.expired.len() > EXPIRED_IDS
                && let Some(oldest) = self.expired.pop_front()
            {
                self.expired_ids.remove(&oldest);
            }
        }
    }
}

impl Entry {
    pub(crate) fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.log)
    }

    pub(crate) fn append(&self, event: Ongoing) {
        if self.log().append(event) {
            self.changed.send_replace(());
        }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

/// A panic while the lock was held leaves whole events behind: every change to the data is made after what may fail.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
