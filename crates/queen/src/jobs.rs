use broker::{Broker, BrokerError, GiveBack, JobFilter, JobRecord, KeyId, NewJob};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::ready;
use job_server::{Caller, Events, Idempotency, JobTotals, Jobs};
use operations_contract::{ApiError, ErrorCode, ImageFormat, Job, JobResponse, JobState};
use rbee_hive::agent::Agent;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The queen's jobs, which are the broker's. Clones are the same jobs.
#[derive(Debug, Clone)]
pub struct QueenJobs(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    broker: Arc<dyn Broker>,
    /// The hive inside, which is stopped with her.
    agent: OnceLock<Agent>,
    closed: AtomicBool,
    admitted: AtomicU64,
    refused: AtomicU64,
    ended: Ended,
    listeners: Arc<AtomicUsize>,
}

/// Jobs that ended since she began, by how.
#[derive(Debug, Default)]
struct Ended {
    complete: AtomicU64,
    error: AtomicU64,
    cancelled: AtomicU64,
    run_ms: AtomicU64,
}

/// One question after the end of a job waits so long for the answer.
const LISTEN: Duration = Duration::from_secs(600);
/// Jobs of an earlier queen whose ends are counted.
const EARLIER: usize = 10_000;
/// How long a cancelled job gets to end before the answer says how it stands.
const SETTLE: Duration = Duration::from_millis(250);

impl QueenJobs {
    pub(crate) fn new(broker: Arc<dyn Broker>) -> Self {
        Self(Arc::new(Shared {
            broker,
            agent: OnceLock::new(),
            closed: AtomicBool::new(false),
            admitted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            ended: Ended::default(),
            listeners: Arc::default(),
        }))
    }

    pub(crate) fn broker(&self) -> &Arc<dyn Broker> {
        &self.0.broker
    }

    /// The agent that stops when the jobs are drained.
    pub(crate) fn set_agent(&self, agent: Agent) {
        // There is one hive inside a queen.
        let _ = self.0.agent.set(agent);
    }

    /// Counts the ends of jobs that an earlier queen took, too.
    pub(crate) async fn count_earlier(&self) {
        for state in [JobState::Running, JobState::Queued] {
            let filter = JobFilter { state: Some(state), owner: None, limit: EARLIER };
            for record in self.0.broker.list(filter).await.unwrap_or_default() {
                tokio::spawn(self.clone().count_end(record.job.job_id));
            }
        }
    }

    /// Waits for the end of a job, and counts it.
    async fn count_end(self, id: String) {
        while !self.0.broker.settled(&id, LISTEN).await.unwrap_or(true) {}
        let Ok(JobRecord { job, .. }) = self.0.broker.job(&id).await else { return };
        let Ended { complete, error, cancelled, run_ms } = &self.0.ended;
        match job.state {
            JobState::Complete => complete.fetch_add(1, Ordering::Relaxed),
            JobState::Cancelled => cancelled.fetch_add(1, Ordering::Relaxed),
            JobState::Error | JobState::Queued | JobState::Running => error.fetch_add(1, Ordering::Relaxed),
        };
        let (Some(started), Some(finished)) = (job.started_ms, job.finished_ms) else { return };
        let ran = finished.saturating_sub(started);
        run_ms.fetch_add(ran, Ordering::Relaxed);
        let seconds = |millis: u64| Duration::from_millis(millis).as_secs_f64();
        let operation = || job.operation.clone();
        metrics::histogram!("rbee_job_running_seconds", "operation" => operation()).record(seconds(ran));
        let waited = started.saturating_sub(job.created_ms);
        metrics::histogram!("rbee_job_waiting_seconds", "operation" => operation()).record(seconds(waited));
    }

    /// Takes a job; it is on disk when this returns.
    pub(crate) async fn submit(&self, job: NewJob) -> Result<JobResponse, ApiError> {
        self.open()?;
        match self.0.broker.submit(job).await {
            Ok(submitted) => {
                if submitted.new {
                    self.0.admitted.fetch_add(1, Ordering::Relaxed);
                    tokio::spawn(self.clone().count_end(submitted.job_id.clone()));
                }
                Ok(JobResponse::new(submitted.job_id))
            }
            Err(error) => {
                if matches!(error, BrokerError::Full { .. }) {
                    self.0.refused.fetch_add(1, Ordering::Relaxed);
                }
                Err(error.into())
            }
        }
    }

    /// The record of a job that the caller may reach.
    pub(crate) async fn record(&self, caller: &Caller, id: &str) -> Result<JobRecord, ApiError> {
        let record = self.0.broker.job(id).await?;
        if caller.may_reach(record.owner.as_ref().map(|owner| owner.0.as_str())) {
            return Ok(record);
        }
        Err(BrokerError::NotFound { job_id: id.to_owned() }.into())
    }

    fn open(&self) -> Result<(), ApiError> {
        if self.0.closed.load(Ordering::Acquire) {
            return Err(ApiError::new(ErrorCode::ShuttingDown, "the queen is stopping and takes no more jobs"));
        }
        Ok(())
    }
}

impl Jobs for QueenJobs {
    async fn admits(&self) -> Result<(), ApiError> {
        self.open()?;
        let counts = self.0.broker.counts().await?;
        if counts.queued + counts.running >= counts.limit {
            self.0.refused.fetch_add(1, Ordering::Relaxed);
            return Err(BrokerError::Full { limit: counts.limit }.into());
        }
        Ok(())
    }

    /// The broker sees to it when it takes the job.
    async fn once(
        &self,
        _: &Caller,
        _: Option<&Idempotency>,
        create: impl Future<Output = Result<JobResponse, ApiError>> + Send,
    ) -> Result<JobResponse, ApiError> {
        create.await
    }

    async fn job(&self, caller: &Caller, id: &str) -> Result<Job, ApiError> {
        Ok(self.record(caller, id).await?.job)
    }

    async fn list(&self, caller: &Caller, state: Option<JobState>, limit: usize) -> Result<Vec<Job>, ApiError> {
        let owner = match caller.key_id() {
            _ if caller.is_admin() => None,
            Some(key) => Some(KeyId(key.to_owned())),
            None => return Ok(Vec::new()),
        };
        let records = self.0.broker.list(JobFilter { state, owner, limit }).await?;
        Ok(records.into_iter().map(|record| record.job).collect())
    }

    async fn cancel(&self, caller: &Caller, id: &str) -> Result<Job, ApiError> {
        let record = self.record(caller, id).await?;
        if record.job.state.is_terminal() {
            return Ok(record.job);
        }
        self.0.broker.cancel(id).await?;
        self.0.broker.settled(id, SETTLE).await?;
        self.job(caller, id).await
    }

    async fn events(&self, caller: &Caller, id: &str, after: u64) -> Result<Option<Events>, ApiError> {
        let record = self.record(caller, id).await?;
        if record.job.state.is_terminal() && after == record.last_event_id {
            return Ok(None);
        }
        let events = self.0.broker.watch(id, after).await?;
        let listening = Listening::new(self.0.listeners.clone());
        let events = events
            .inspect(|event| {
                if let Err(error) = event {
                    tracing::warn!("a stream of events ends early: {error}");
                }
            })
            .take_while(|event| ready(event.is_ok()))
            .filter_map(|event| ready(event.ok()))
            .inspect(move |_| listening.still());
        Ok(Some(Box::pin(events)))
    }

    async fn picture(&self, caller: &Caller, id: &str, index: usize) -> Result<(Bytes, ImageFormat), ApiError> {
        let record = self.record(caller, id).await?;
        if record.job.state != JobState::Complete {
            let message = format!("the job is {}; only a complete job has pictures", record.job.state);
            return Err(ApiError::new(ErrorCode::Conflict, message));
        }
        let Some(picture) = record.pictures.get(index) else {
            let message = format!("the job has {} pictures, none with the index {index}", record.pictures.len());
            return Err(ApiError::new(ErrorCode::NotFound, message));
        };
        Ok((self.0.broker.blob(&picture.blob).await?, record.picture_format))
    }

    async fn totals(&self) -> JobTotals {
        let counts = self.0.broker.counts().await.unwrap_or_default();
        JobTotals {
            queued: counts.queued,
            running: counts.running,
            kept: counts.kept,
            admitted: self.0.admitted.load(Ordering::Relaxed),
            refused: self.0.refused.load(Ordering::Relaxed),
            complete: self.0.ended.complete.load(Ordering::Relaxed),
            error: self.0.ended.error.load(Ordering::Relaxed),
            cancelled: self.0.ended.cancelled.load(Ordering::Relaxed),
            run: Duration::from_millis(self.0.ended.run_ms.load(Ordering::Relaxed)),
            listeners: self.0.listeners.load(Ordering::Relaxed),
        }
    }

    fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Acquire)
    }

    /// Jobs that wait do so until her next start, and so do those that run longer than `grace`.
    async fn drain(&self, grace: Duration) {
        self.0.closed.store(true, Ordering::Release);
        if let Some(agent) = self.0.agent.get() {
            agent.stop(grace, GiveBack::QueenStopping).await;
        }
    }
}

/// A stream of events that is open.
#[derive(Debug)]
struct Listening(Arc<AtomicUsize>);

impl Listening {
    fn new(count: Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }

    /// Belongs to the stream that calls it, and ends with it.
    fn still(&self) {}
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
