//! One attempt on a worker: an operation goes to it, and its events come back.

use crate::agent::Assignment;
use crate::worker::{End, WorkerHandle};
use broker::{BrokerError, Ending, GiveBack, Outcome, PictureRef};
use bytes::Bytes;
use job_server::client::{Client, ClientError};
use operations_contract::{ApiError, Completion, ErrorCode, ImageCompletion, JobEvent, Operation, Phase, Validated};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What an attempt came to.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// The job has ended, one way or the other.
    Ended(Ending),
    /// It goes back to the queue.
    Back(GiveBack),
    /// Likewise, because of the death of a worker that had not answered yet: it may not have heard of the job.
    Unheard { reason: String, last_words: String },
    /// It is another's by now.
    Lost,
}

/// What a worker wrote before it died still is on its way for so long.
const LAST_BYTES: Duration = Duration::from_millis(300);
/// A worker that lives and does not answer for so long is given up.
const PATIENCE: Duration = Duration::from_secs(20);
/// A worker may be full of jobs that others sent it directly.
const FULL_PAUSE: Duration = Duration::from_millis(500);
/// A cancelled worker stops between two steps; the slowest step is shorter than this.
const CANCELLING: Duration = Duration::from_secs(300);

/// Runs `operation` on `worker`, and adds what it tells to the job.
pub(crate) async fn attempt(
    assignment: &Assignment,
    worker: &WorkerHandle,
    operation: &Validated<Operation>,
) -> Attempt {
    let client = match worker.client() {
        Ok(client) => client.on_behalf_of(assignment.job_id()),
        Err(error) => return Attempt::Back(GiveBack::Refused { reason: error.to_string() }),
    };
    let answered = AtomicBool::new(false);
    let mut relay = Relay {
        assignment,
        worker,
        client,
        remote_id: String::new(),
        answered: &answered,
        deadline: None,
        stopwatch: Stopwatch::default(),
    };
    let attempt = tokio::select! {
        biased;
        attempt = relay.run(operation) => attempt,
        // The stream breaks too when a worker dies, but only its hive knows of what it died.
        end = async {
            let end = worker.ended().await;
            tokio::time::sleep(LAST_BYTES).await;
            end
        } => lost(worker, &end),
    };
    match attempt {
        Attempt::Back(GiveBack::WorkerDied { reason, last_words }) if !answered.load(Ordering::Relaxed) => {
            Attempt::Unheard { reason, last_words }
        }
        attempt => attempt,
    }
}

/// What the end of a worker means for the job that it ran: one that was asked to end has not died.
pub(crate) fn lost(worker: &WorkerHandle, end: &End) -> Attempt {
    Attempt::Back(if end.asked {
        GiveBack::Refused { reason: format!("the worker {} was stopped", worker.id()) }
    } else {
        GiveBack::WorkerDied {
            reason: format!("the worker {} was lost: {}", worker.id(), end.how),
            last_words: end.last_words.clone(),
        }
    })
}

struct Relay<'a> {
    assignment: &'a Assignment,
    worker: &'a WorkerHandle,
    client: Client,
    /// The job's id at the worker.
    remote_id: String,
    /// Whether the worker has taken the job.
    answered: &'a AtomicBool,
    /// When a cancelled job is given up.
    deadline: Option<tokio::time::Instant>,
    stopwatch: Stopwatch,
}

/// Times the phases of an attempt, for `/metrics`.
#[derive(Debug, Default)]
struct Stopwatch {
    phase: Option<(Phase, Instant)>,
    /// Denoising steps done.
    steps: u64,
}

impl Stopwatch {
    fn progress(&mut self, phase: Phase, step: u64) {
        if self.phase.is_none_or(|(current, _)| current != phase) {
            self.lap();
            self.phase = Some((phase, Instant::now()));
        }
        if phase == Phase::Denoising && step > self.steps {
            metrics::counter!("rbee_steps_total").increment(step - self.steps);
            self.steps = step;
        }
    }

    /// The phase that runs has ended.
    fn lap(&mut self) {
        let Some((phase, began)) = self.phase.take() else { return };
        let seconds = began.elapsed().as_secs_f64();
        let name = match phase {
            Phase::Downloading => "downloading",
            Phase::Loading => "loading",
            Phase::Encoding => "encoding",
            Phase::Denoising => "denoising",
            Phase::Decoding => "decoding",
        };
        metrics::histogram!("rbee_phase_seconds", "phase" => name).record(seconds);
        if phase == Phase::Denoising && self.steps > 0 && seconds > 0.0 {
            metrics::gauge!("rbee_steps_per_second").set(self.steps as f64 / seconds);
        }
    }
}

impl Drop for Stopwatch {
    fn drop(&mut self) {
        self.lap();
    }
}

impl Relay<'_> {
    async fn run(&mut self, operation: &Validated<Operation>) -> Attempt {
        let (cancelled, lost) = (self.assignment.cancelled(), self.assignment.lost());
        self.remote_id = loop {
            match self.client.create_job(operation).await {
                Ok(response) => {
                    self.answered.store(true, Ordering::Relaxed);
                    break response.job_id;
                }
                Err(ClientError::Refused(error)) if error.code == ErrorCode::QueueFull => {
                    tokio::select! {
                        () = tokio::time::sleep(FULL_PAUSE) => {}
                        () = cancelled.cancelled() => return Attempt::Ended(Ending::Cancelled),
                        () = lost.cancelled() => return Attempt::Lost,
                    }
                }
                Err(ClientError::Refused(error)) => return refused(error),
                Err(error) => return self.broken(error.to_string()).await,
            }
        };
        let mut events = self.client.events(&self.remote_id, 0).with_patience(PATIENCE);
        loop {
            let given_up = async {
                match self.deadline {
                    None => cancelled.cancelled().await,
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                }
            };
            let event = tokio::select! {
                biased;
                event = events.next() => event,
                () = lost.cancelled() => {
                    self.cancel().await;
                    return Attempt::Lost;
                }
                () = given_up => {
                    if self.deadline.is_some() {
                        return Attempt::Ended(Ending::Cancelled);
                    }
                    self.deadline = Some(tokio::time::Instant::now() + CANCELLING);
                    self.cancel().await;
                    continue;
                }
            };
            match event {
                Ok(Some((_, event))) => {
                    if let Some(attempt) = self.relay(event).await {
                        return attempt;
                    }
                }
                Ok(None) => return self.broken("its stream ended without a last event".to_owned()).await,
                Err(ClientError::Refused(error)) => return self.broken(error.message).await,
                Err(error) => return self.broken(error.to_string()).await,
            }
        }
    }

    /// Passes one event on; the last one ends the attempt.
    async fn relay(&mut self, event: JobEvent) -> Option<Attempt> {
        if let JobEvent::Progress { step, phase: Some(phase), .. } = &event {
            self.stopwatch.progress(*phase, *step);
        }
        Some(match event {
            // Where it waits at the worker is the worker's own count: the queue that clients see is the queen's.
            JobEvent::Queued { .. } => return None,
            JobEvent::Started { .. } => {
                let model = Some(self.worker.name().to_owned());
                let attempt = self.assignment.claim().attempt.number;
                self.assignment
                    .add(JobEvent::Started { model, worker_id: Some(self.worker.id().to_owned()), attempt })
                    .await;
                return None;
            }
            JobEvent::Complete(Completion::Image(completion)) => match self.pictures(&completion).await {
                Ok(pictures) => Attempt::Ended(Ending::Complete(Outcome::Images {
                    pictures,
                    format: completion.format,
                    width: completion.width,
                    height: completion.height,
                    model: completion.model,
                })),
                Err(NoPicture::Worker(error)) => self.broken(error.to_string()).await,
                Err(NoPicture::Broker(error)) => Attempt::Ended(Ending::Error(error.into())),
            },
            JobEvent::Complete(Completion::Text(completion)) => {
                Attempt::Ended(Ending::Complete(Outcome::Text(completion)))
            }
            JobEvent::Complete(Completion::Result { result }) => {
                Attempt::Ended(Ending::Complete(Outcome::Result { result }))
            }
            JobEvent::Error { code, message, param } => refused(ApiError { code, message, param }),
            JobEvent::Cancelled {} => Attempt::Ended(Ending::Cancelled),
            event @ (JobEvent::Progress { .. }
            | JobEvent::Preview { .. }
            | JobEvent::Token { .. }
            | JobEvent::Narration { .. }) => {
                self.assignment.add(event).await;
                return None;
            }
        })
    }

    /// The first picture is in the event, the others are fetched.
    async fn pictures(&self, completion: &ImageCompletion) -> Result<Vec<PictureRef>, NoPicture> {
        let store = async |file: Bytes, seed| {
            let blob = self.assignment.put_blob(file).await.map_err(NoPicture::Broker)?;
            Ok(PictureRef { blob, seed })
        };
        let mut pictures = vec![store(completion.image.bytes().clone(), completion.seed).await?];
        for link in completion.images.iter().skip(1) {
            let file = self.client.image(&self.remote_id, link.index).await.map_err(NoPicture::Worker)?;
            pictures.push(store(file.into(), link.seed).await?);
        }
        Ok(pictures)
    }

    async fn cancel(&self) {
        if let Err(error) = self.client.cancel_job(&self.remote_id).await {
            tracing::warn!(worker = self.worker.id(), "cannot cancel at the worker: {error}");
        }
    }

    /// A broken connection mostly is a dead worker, and its end says more.
    async fn broken(&self, reason: String) -> Attempt {
        match tokio::time::timeout(Duration::from_secs(1), self.worker.ended()).await {
            Ok(end) => lost(self.worker, &end),
            Err(_) => {
                // It lives: what it may still be painting for us is wanted no more.
                if !self.remote_id.is_empty() {
                    let _ = tokio::time::timeout(Duration::from_secs(1), self.cancel()).await;
                }
                let reason = format!("the worker {} was lost: {reason}", self.worker.id());
                Attempt::Back(GiveBack::WorkerDied { reason, last_words: String::new() })
            }
        }
    }
}

/// Why a picture cannot be stored.
enum NoPicture {
    Worker(ClientError),
    Broker(BrokerError),
}

/// A worker that stops, or was loaded with something else, is no fault of the job; every other refusal is the same
/// everywhere.
fn refused(error: ApiError) -> Attempt {
    match error.code {
        ErrorCode::ShuttingDown | ErrorCode::Unavailable | ErrorCode::ModelMismatch | ErrorCode::Expired => {
            Attempt::Back(GiveBack::Refused { reason: error.message })
        }
        _ => Attempt::Ended(Ending::Error(error)),
    }
}
