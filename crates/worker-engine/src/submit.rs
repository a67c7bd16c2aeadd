use crate::pipeline::GenerationResponse;
use crate::queue::{DownloadProgress, EngineStatus, GenerationRequest, RequestQueue};
use crate::worker::WorkerIdentity;
use job_server::{Ending, JobHandle, JobRegistry, job_span};
use operations_contract::{ApiError, JobResponse, OperationKind, Phase, Priority};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tracing::{Instrument as _, Span};

/// How often a job that waits for a download is told how far it is: the log of the job keeps every word.
const TELL: Duration = Duration::from_secs(1);

/// Makes a job of a request: admits it, queues it, and writes into its log what comes back. Has to be called on a
/// tokio runtime.
///
/// # Errors
/// `queue_full`, `shutting_down`, or `unavailable` when there is no engine; then there is no job.
pub fn submit<R: Send + 'static>(
    registry: &JobRegistry,
    queue: &RequestQueue<R>,
    identity: &Arc<WorkerIdentity>,
    operation: OperationKind,
    priority: Priority,
    request: R,
) -> Result<JobResponse, ApiError> {
    queue.admits()?;
    let job = registry.create_job(operation)?;
    let response = job.response();
    // A hive brings the span of the queen's job, whoever asks this worker himself gets one of its own.
    let span = Some(Span::current()).filter(|span| !span.is_none()).unwrap_or_else(|| job_span(&response.job_id));
    let _in_span = span.enter();
    let (span, cancel) = (span.clone(), job.cancellation());
    let (response_tx, responses) = mpsc::unbounded_channel();
    let position = queue.add_request(GenerationRequest { request, priority, span, cancel, response_tx })?;
    job.queued(position);
    tracing::info!(here = response.job_id, position, "{} waits", operation.name());
    let mut status = queue.statuses();
    tell_status(&job, &status.borrow_and_update());
    tokio::spawn(write_log(job, responses, status, Arc::clone(identity), position).in_current_span());
    Ok(response)
}

/// The one writer of a job's log. It returns at the last event, and the handle that it owns sees to it that there
/// is one.
async fn write_log(
    job: JobHandle,
    mut responses: mpsc::UnboundedReceiver<GenerationResponse>,
    mut status: watch::Receiver<EngineStatus>,
    identity: Arc<WorkerIdentity>,
    mut position: u64,
) {
    let cancellation = job.cancellation();
    let mut started = false;
    let begun = Instant::now();
    let mut told = begun;
    let ending = loop {
        let response = tokio::select! {
            // A job that waits ends at once; one that runs ends between two steps, and its pipeline says when.
            () = cancellation.cancelled(), if !started => break Ending::Cancelled,
            Ok(()) = status.changed(), if !started => {
                let status = status.borrow_and_update();
                if !matches!(*status, EngineStatus::Downloading(_)) || told.elapsed() >= TELL {
                    tell_status(&job, &status);
                    told = Instant::now();
                }
                continue;
            }
            response = responses.recv() => response,
        };
        use GenerationResponse as Response;
        match response {
            None => break Ending::Error(ApiError::internal("the worker's engine stopped before it answered")),
            Some(Response::Complete(outcome)) => break Ending::Complete(outcome),
            Some(Response::Error(error)) => break Ending::Error(error),
            Some(Response::Cancelled) => break Ending::Cancelled,
            Some(Response::Started) => {
                started = true;
                job.started(Some(identity.model.clone()), Some(identity.worker_id.clone()), 1);
            }
            Some(Response::Queued(now)) => {
                if now != position {
                    position = now;
                    job.queued(now);
                }
            }
            Some(Response::Progress { step, total, phase, eta_ms }) => job.progress(step, total, phase, eta_ms),
            Some(Response::Preview { step, image, format }) => job.preview(step, image, format),
            Some(Response::Token { t, i }) => job.token(t, i),
            Some(Response::Narration { level, message }) => job.narrate(level, &identity.worker_id, message),
        }
    };
    let ms = begun.elapsed().as_millis();
    match &ending {
        Ending::Complete(_) => tracing::info!(ms, "it is complete"),
        Ending::Error(error) => tracing::warn!(ms, "it failed: {error}"),
        Ending::Cancelled => tracing::info!(ms, "it was cancelled"),
    }
    job.finish(ending);
}

/// Why a job waits, where it waits for the model.
fn tell_status(job: &JobHandle, status: &EngineStatus) {
    match status {
        EngineStatus::Downloading(DownloadProgress { bytes, total, bytes_per_second, eta_ms }) => {
            job.downloading(*bytes, *total, *eta_ms, *bytes_per_second);
        }
        EngineStatus::Loading => job.progress(0, 1, Some(Phase::Loading), None),
        EngineStatus::Ready | EngineStatus::Failed(_) | EngineStatus::Stopped => {}
    }
}
