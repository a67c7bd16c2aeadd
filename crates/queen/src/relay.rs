//! One attempt: an operation goes to a worker, and its events come back.

use bytes::Bytes;
use job_server::client::{Client, ClientError};
use job_server::{CancellationToken, Ending, JobHandle, Ongoing, Outcome, Picture};
use operations_contract::{ApiError, Completion, ErrorCode, ImageCompletion, JobEvent, Operation, Validated};
use rbee_hive::WorkerHandle;
use std::time::Duration;

/// How an attempt ended.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// The job has ended, one way or the other.
    Ended(Ending),
    /// The worker was lost; another may try.
    Lost(String),
}

/// What a worker wrote before it died still is on its way for so long.
const LAST_BYTES: Duration = Duration::from_millis(300);
/// A worker that lives and does not answer for so long is given up.
const PATIENCE: Duration = Duration::from_secs(20);
/// A worker may be full of jobs that others sent it directly.
const FULL_PAUSE: Duration = Duration::from_millis(500);
/// A cancelled worker stops between two steps; the slowest step is shorter than this.
const CANCELLING: Duration = Duration::from_secs(300);

/// Runs `operation` on `worker`, and writes what it tells to `job`.
pub(crate) async fn attempt(
    job: &JobHandle,
    worker: &WorkerHandle,
    operation: &Validated<Operation>,
    number: u32,
) -> Attempt {
    let cancellation = job.cancellation();
    let client = match Client::new(worker.url()) {
        Ok(client) => client,
        Err(error) => return Attempt::Lost(error.to_string()),
    };
    let mut relay = Relay { job, worker, client, number, remote_id: String::new(), deadline: None };
    tokio::select! {
        biased;
        attempt = relay.run(operation, &cancellation) => attempt,
        // The stream breaks too when a worker dies, but only its hive knows of what it died.
        end = async {
            let end = worker.ended().await;
            tokio::time::sleep(LAST_BYTES).await;
            end
        } => Attempt::Lost(end.reason()),
    }
}

struct Relay<'a> {
    job: &'a JobHandle,
    worker: &'a WorkerHandle,
    client: Client,
    number: u32,
    /// The job's id at the worker.
    remote_id: String,
    /// When a cancelled job is given up.
    deadline: Option<tokio::time::Instant>,
}

impl Relay<'_> {
    async fn run(&mut self, operation: &Validated<Operation>, cancellation: &CancellationToken) -> Attempt {
        self.remote_id = loop {
            match self.client.create_job(operation).await {
                Ok(response) => break response.job_id,
                Err(ClientError::Refused(error)) if error.code == ErrorCode::QueueFull => {
                    tokio::select! {
                        () = tokio::time::sleep(FULL_PAUSE) => {}
                        () = cancellation.cancelled() => return Attempt::Ended(Ending::Cancelled),
                    }
                }
                Err(ClientError::Refused(error)) => return refused(error),
                Err(error) => return self.lost(error.to_string()).await,
            }
        };
        let mut events = self.client.events(&self.remote_id, 0).with_patience(PATIENCE);
        loop {
            let cancelled = async {
                match self.deadline {
                    None => cancellation.cancelled().await,
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                }
            };
            let event = tokio::select! {
                biased;
                event = events.next() => event,
                () = cancelled => {
                    if self.deadline.is_some() {
                        return Attempt::Ended(Ending::Cancelled);
                    }
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
                Ok(None) => return self.lost("its stream ended without a last event".to_owned()).await,
                Err(ClientError::Refused(error)) => return self.lost(error.message).await,
                Err(error) => return self.lost(error.to_string()).await,
            }
        }
    }

    /// Passes one event on; the last one ends the attempt.
    async fn relay(&self, event: JobEvent) -> Option<Attempt> {
        Some(match event {
            // Where it waits at the worker is the worker's own count: the queue that clients see is the queen's.
            JobEvent::Queued { .. } => return None,
            JobEvent::Started { model, .. } => {
                let model = model.or_else(|| Some(self.worker.model().to_owned()));
                self.job.started(model, Some(self.worker.id().to_owned()), self.number);
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
                Err(error) => self.lost(error.to_string()).await,
            },
            JobEvent::Complete(Completion::Text(completion)) => {
                Attempt::Ended(Ending::Complete(Outcome::Text(completion)))
            }
            JobEvent::Complete(Completion::Result { result }) => {
                Attempt::Ended(Ending::Complete(Outcome::Result(result)))
            }
            JobEvent::Error { code, message, param } => refused(ApiError { code, message, param }),
            JobEvent::Cancelled {} => Attempt::Ended(Ending::Cancelled),
            event @ (JobEvent::Progress { .. }
            | JobEvent::Preview { .. }
            | JobEvent::Token { .. }
            | JobEvent::Narration { .. }) => {
                Ongoing::new(event).into_iter().for_each(|event| self.job.emit(event));
                return None;
            }
        })
    }

    /// The first picture is in the event, the others are fetched.
    async fn pictures(&self, completion: &ImageCompletion) -> Result<Vec<Picture>, ClientError> {
        let mut pictures = vec![Picture { file: completion.image.bytes().clone(), seed: completion.seed }];
        for link in completion.images.iter().skip(1) {
            let file = Bytes::from(self.client.image(&self.remote_id, link.index).await?);
            pictures.push(Picture { file, seed: link.seed });
        }
        Ok(pictures)
    }

    async fn cancel(&mut self) {
        self.deadline = Some(tokio::time::Instant::now() + CANCELLING);
        if let Err(error) = self.client.cancel_job(&self.remote_id).await {
            tracing::warn!(job = self.job.id(), worker = self.worker.id(), "cannot cancel at the worker: {error}");
        }
    }

    /// A broken connection mostly is a dead worker, and its end says more.
    async fn lost(&self, reason: String) -> Attempt {
        match tokio::time::timeout(Duration::from_secs(1), self.worker.ended()).await {
            Ok(end) => Attempt::Lost(end.reason()),
            Err(_) => {
                // It lives: what it may still be painting for us is wanted no more.
                if !self.remote_id.is_empty() {
                    let _ = tokio::time::timeout(Duration::from_secs(1), self.client.cancel_job(&self.remote_id)).await;
                }
                Attempt::Lost(reason)
            }
        }
    }
}

/// A worker that stops is a lost one; every other refusal is the request's own fault and is the same everywhere.
fn refused(error: ApiError) -> Attempt {
    match error.code {
        ErrorCode::ShuttingDown | ErrorCode::Unavailable | ErrorCode::ModelMismatch | ErrorCode::Expired => {
            Attempt::Lost(error.message)
        }
        _ => Attempt::Ended(Ending::Error(error)),
    }
}
