use broker::{AttemptId, BlobId, BrokerError, Claim, Ending, GiveBack, WorkSource};
use bytes::Bytes;
use job_server::CancellationToken;
use operations_contract::{JobEvent, Level, Phase};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::Instrument as _;

/// One attempt at a job, held by this process: its lease is renewed, its events go to the broker in order, and it hears
/// when somebody cancels the job. Clones are the same attempt.
#[derive(Debug, Clone)]
pub struct Assignment(Arc<Held>);

#[derive(Debug)]
struct Held {
    claim: Claim,
    source: Arc<dyn WorkSource>,
    events: mpsc::Sender<Item>,
    cancelled: CancellationToken,
    lost: CancellationToken,
    tasks: [JoinHandle<()>; 3],
}

#[derive(Debug)]
enum Item {
    Event(JobEvent),
    /// Answered when everything before it is with the broker.
    Flush(oneshot::Sender<()>),
}

/// Events that may wait for the broker; a worker that is faster than that waits.
const BACKLOG: usize = 1024;
/// So many events go in one call.
const BATCH: usize = 128;
/// How long one question about cancelling waits for an answer.
const LISTEN: Duration = Duration::from_secs(25);
/// Pauses between two tries to reach a broker that is away.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

impl Assignment {
    /// Holds what was claimed. Must be called inside a tokio runtime.
    pub fn hold(claim: Claim, source: Arc<dyn WorkSource>) -> Self {
        let (events, items) = mpsc::channel(BACKLOG);
        let (cancelled, lost) = (CancellationToken::new(), CancellationToken::new());
        let keeper = Keeper {
            attempt: claim.attempt.clone(),
            source: source.clone(),
            cancelled: cancelled.clone(),
            lost: lost.clone(),
        };
        let span = claim_span(&claim);
        let tasks = [
            tokio::spawn(keeper.clone().write(items).instrument(span.clone())),
            tokio::spawn(keeper.clone().renew(claim.lease / 3).instrument(span.clone())),
            tokio::spawn(keeper.listen().instrument(span)),
        ];
        Self(Arc::new(Held { claim, source, events, cancelled, lost, tasks }))
    }

    /// What was claimed.
    pub fn claim(&self) -> &Claim {
        &self.0.claim
    }

    /// The job's id.
    pub fn job_id(&self) -> &str {
        &self.0.claim.attempt.job_id
    }

    /// Where blobs are.
    pub fn source(&self) -> &Arc<dyn WorkSource> {
        &self.0.source
    }

    /// Becomes true when somebody cancels the job.
    pub fn cancelled(&self) -> &CancellationToken {
        &self.0.cancelled
    }

    /// Becomes true when the job is another's: what is done here is wanted no more.
    pub fn lost(&self) -> &CancellationToken {
        &self.0.lost
    }

    /// Adds an event, waiting while too many wait for the broker.
    pub async fn add(&self, event: JobEvent) {
        // The writer is gone only with the attempt.
        let _ = self.0.events.send(Item::Event(event)).await;
    }

    /// Adds an event where nothing can wait; in a crowd of events it is left out.
    pub fn tell(&self, event: JobEvent) {
        if self.0.events.try_send(Item::Event(event)).is_err() {
            tracing::debug!(job = self.job_id(), "an event was left out: the broker is behind");
        }
    }

    /// Something worth telling, in the job's stream and in the log.
    pub fn narrate(&self, level: Level, target: &str, message: impl Into<String>) {
        let message = message.into();
        claim_span(self.claim()).in_scope(|| job_server::log(level, &message));
        self.tell(JobEvent::Narration { level, target: target.to_owned(), message });
    }

    /// It got further.
    pub fn progress(&self, step: u64, total: u64, phase: Phase, eta_ms: Option<u64>) {
        self.tell(JobEvent::Progress { step, total, phase: Some(phase), eta_ms, bytes_per_second: None });
    }

    /// Stores a file that the job's ending refers to.
    ///
    /// # Errors
    /// As [`WorkSource::put_blob`], once trying again does not help.
    pub async fn put_blob(&self, bytes: Bytes) -> Result<BlobId, BrokerError> {
        self.0.persist(|| self.0.source.put_blob(bytes.clone())).await
    }

    /// Ends the job, after all events that were added.
    pub async fn finish(&self, ending: Ending) {
        self.flush().await;
        let held = &self.0;
        let done = held.persist(|| held.source.finish(&held.claim.attempt, ending.clone())).await;
        held.settled("finished", done);
    }

    /// Gives the job back, after all events that were added.
    pub async fn give_back(&self, why: GiveBack) {
        self.flush().await;
        let held = &self.0;
        let done = held.persist(|| held.source.give_back(&held.claim.attempt, why.clone())).await;
        held.settled("given back", done);
    }

    async fn flush(&self) {
        let (flushed, waiting) = oneshot::channel();
        if self.0.events.send(Item::Flush(flushed)).await.is_ok() {
            let _ = waiting.await;
        }
    }
}

/// Of the highest level, so that a log that shows only warnings says whose they are.
pub(super) fn claim_span(claim: &Claim) -> tracing::Span {
    tracing::error_span!("job", id = claim.attempt.job_id, attempt = claim.attempt.number)
}

impl Held {
    /// Repeats a call while the broker is away, but not beyond the loss of the attempt.
    async fn persist<T, F: Future<Output = Result<T, BrokerError>>>(
        &self,
        call: impl FnMut() -> F,
    ) -> Result<T, BrokerError> {
        persist(&self.lost, call).await
    }

    fn settled(&self, what: &str, result: Result<(), BrokerError>) {
        match result {
            Ok(()) => {}
            // Another attempt has the job, and its word counts.
            Err(BrokerError::Stale { reason, .. }) => {
                tracing::info!("{} could not be {what}: {reason}", self.claim.attempt);
            }
            Err(error) => tracing::error!("{} could not be {what}: {error}", self.claim.attempt),
        }
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// What goes on beside the work itself.
#[derive(Debug, Clone)]
struct Keeper {
    attempt: AttemptId,
    source: Arc<dyn WorkSource>,
    cancelled: CancellationToken,
    lost: CancellationToken,
}

impl Keeper {
    /// The one writer of this attempt's events.
    async fn write(self, mut items: mpsc::Receiver<Item>) {
        let mut sequence = 1;
        let mut read = Vec::new();
        while items.recv_many(&mut read, BATCH).await > 0 {
            let mut events = Vec::new();
            let mut flushes = Vec::new();
            for item in read.drain(..) {
                match item {
                    Item::Event(event) => events.push(event),
                    Item::Flush(flushed) => flushes.push(flushed),
                }
            }
            sequence += self.append(sequence, events).await;
            for flushed in flushes {
                let _ = flushed.send(());
            }
        }
    }

    /// Appends, and says how many the broker has taken.
    async fn append(&self, sequence: u64, events: Vec<JobEvent>) -> u64 {
        let count = events.len();
        if count == 0 || self.lost.is_cancelled() {
            return 0;
        }
        match persist(&self.lost, || self.source.append(&self.attempt, sequence, events.clone())).await {
            Ok(appended) => {
                if appended.cancelled {
                    self.cancelled.cancel();
                }
                count as u64
            }
            Err(error) => {
                self.heard(&error);
                if count > 1 && !self.lost.is_cancelled() {
                    // One of them is to blame; the others are not to be missed.
                    let mut taken = 0;
                    for event in events {
                        taken += Box::pin(self.append(sequence + taken, vec![event])).await;
                    }
                    return taken;
                }
                0
            }
        }
    }

    async fn renew(self, every: Duration) {
        loop {
            tokio::time::sleep(every).await;
            match self.source.renew(&self.attempt).await {
                Ok(lease) if lease.cancelled => self.cancelled.cancel(),
                Ok(_) => {}
                Err(error) => self.heard(&error),
            }
        }
    }

    async fn listen(self) {
        loop {
            match self.source.cancelled(&self.attempt, LISTEN).await {
                Ok(true) => return self.cancelled.cancel(),
                Ok(false) => {}
                Err(error) => {
                    self.heard(&error);
                    tokio::time::sleep(LONGEST_PAUSE).await;
                }
            }
        }
    }

    fn heard(&self, error: &BrokerError) {
        match error {
            BrokerError::Stale { .. } => self.lost.cancel(),
            error if error.is_passing() => tracing::debug!("{}: {error}", self.attempt),
            error => tracing::warn!("{}: {error}", self.attempt),
        }
    }
}

async fn persist<T, F: Future<Output = Result<T, BrokerError>>>(
    lost: &CancellationToken,
    mut call: impl FnMut() -> F,
) -> Result<T, BrokerError> {
    let mut pause = FIRST_PAUSE;
    loop {
        match call().await {
            Err(error) if error.is_passing() && !lost.is_cancelled() => {
                tracing::warn!("trying again in {} ms: {error}", pause.as_millis());
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = lost.cancelled() => return Err(error),
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            result => return result,
        }
    }
}
