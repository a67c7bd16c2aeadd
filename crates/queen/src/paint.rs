//! The life of one image job: wait, find or start a worker, try up to three times.

use crate::dispatcher::{Dispatcher, Grant, Lease, StartPermit, Ticket};
use crate::queue::{Place, Want};
use crate::relay::{self, Attempt};
use job_server::{Ending, JobHandle};
use operations_contract::{ApiError, ErrorCode, Level, Operation, Phase, Validated};
use rbee_hive::{Hive, HiveError, WorkerSpec};
use std::sync::Arc;

/// A job that lost so many workers is the one that kills them.
const ATTEMPTS: u32 = 3;
/// Beyond this place, moving up is not told: a listener is not waiting for it yet.
const TOLD_POSITIONS: u64 = 20;

/// What has to be painted, by whom, and in which place.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) operation: Validated<Operation>,
    pub(crate) want: Want,
    pub(crate) place: Place,
}

/// Runs a job to its end. `ticket` is its first place in line, taken before the client was answered.
pub(crate) async fn paint(hive: Hive, dispatcher: Arc<Dispatcher>, job: JobHandle, work: Work, ticket: Ticket) {
    let painter = Painter { hive, dispatcher, job: &job, work };
    let ending = painter.run(ticket).await;
    job.finish(ending);
}

struct Painter<'a> {
    hive: Hive,
    dispatcher: Arc<Dispatcher>,
    job: &'a JobHandle,
    work: Work,
}

/// Why there is no worker for the job.
enum NoWorker {
    Cancelled,
    Refused(ApiError),
    Lost(String),
}

impl Painter<'_> {
    async fn run(&self, ticket: Ticket) -> Ending {
        let mut ticket = Some(ticket);
        let mut reason = String::new();
        for number in 1..=ATTEMPTS {
            let waiting = ticket.take().unwrap_or_else(|| self.wait());
            reason = match self.worker(waiting).await {
                Ok(lease) => match relay::attempt(self.job, &lease.worker, &self.work.operation, number).await {
                    Attempt::Ended(ending) => {
                        if matches!(ending, Ending::Complete(_)) {
                            self.hive.worked(lease.worker.model());
                        }
                        return ending;
                    }
                    Attempt::Lost(reason) => format!("the worker {} was lost: {reason}", lease.worker.id()),
                },
                Err(NoWorker::Cancelled) => return Ending::Cancelled,
                Err(NoWorker::Refused(error)) => return Ending::Error(error),
                Err(NoWorker::Lost(reason)) => reason,
            };
            if self.job.cancellation().is_cancelled() {
                return Ending::Cancelled;
            }
            if number < ATTEMPTS {
                self.job.narrate(Level::Warn, "queen", format!("{reason}; trying again"));
            }
        }
        let message = format!("given up after {ATTEMPTS} attempts; {reason}");
        Ending::Error(ApiError::new(ErrorCode::WorkerCrashed, message))
    }

    fn wait(&self) -> Ticket {
        let ticket = self.dispatcher.wait(self.work.place, self.work.want.clone());
        self.job.queued(ticket.position());
        ticket
    }

    /// Waits for the turn, and starts the worker where there is none.
    async fn worker(&self, mut ticket: Ticket) -> Result<Lease, NoWorker> {
        let cancellation = self.job.cancellation();
        loop {
            let moved = |position| {
                if position <= TOLD_POSITIONS {
                    self.job.queued(position);
                }
            };
            let grant = tokio::select! {
                biased;
                () = cancellation.cancelled() => return Err(NoWorker::Cancelled),
                grant = ticket.turn(moved) => grant,
            };
            let started = match grant {
                Some(Grant::Worker(lease)) => return Ok(lease),
                Some(Grant::Start(permit)) => tokio::select! {
                    biased;
                    () = cancellation.cancelled() => return Err(NoWorker::Cancelled),
                    started = self.start(permit) => started?,
                },
                Some(Grant::Gone) => {
                    let id = self.work.want.worker_id.as_deref().unwrap_or("asked for");
                    let message = format!("the worker {id} has ended; leave worker_id away for any other");
                    let error = ApiError::new(ErrorCode::NotFound, message).with_param("worker_id");
                    return Err(NoWorker::Refused(error));
                }
                None => return Err(NoWorker::Refused(ApiError::internal("the queue is gone"))),
            };
            match started {
                Some(lease) => return Ok(lease),
                None => ticket = self.wait(),
            }
        }
    }

    async fn start(&self, permit: StartPermit) -> Result<Option<Lease>, NoWorker> {
        let model = permit.model().clone();
        let pause = self.hive.pause_before(&model);
        if !pause.is_zero() {
            let message =
                format!("the last worker for {model} died; the next one is started in {:.1} s", pause.as_secs_f64());
            self.job.narrate(Level::Info, "queen", message);
        }
        self.job.progress(0, 1, Some(Phase::Loading), None);
        match self.hive.start_worker(WorkerSpec::for_model(model)).await {
            Ok(worker) => Ok(permit.into_lease(worker)),
            Err(error @ HiveError::DiedLoading { .. }) => Err(NoWorker::Lost(error.to_string())),
            Err(error) => Err(NoWorker::Refused(error.into())),
        }
    }
}
