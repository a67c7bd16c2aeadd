use crate::registry::{Entry, JobRegistry};
use bytes::Bytes;
use operations_contract::{
    ApiError, Base64Bytes, Completion, ImageCompletion, ImageFormat, ImageLink, JobEvent, JobResponse, Level, Phase,
    TextCompletion,
};
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

/// The one hand that writes a job's log. It holds the job's permit, and dropping it without an ending is an error
/// event: exactly one last event, whatever happens.
#[derive(Debug)]
pub struct JobHandle {
    pub(crate) entry: Arc<Entry>,
    pub(crate) registry: JobRegistry,
    pub(crate) _permit: OwnedSemaphorePermit,
}

/// An event after which others may come.
#[derive(Debug, Clone, PartialEq)]
pub struct Ongoing(pub(crate) JobEvent);

/// How a job ends.
#[derive(Debug, Clone, PartialEq)]
pub enum Ending {
    /// It worked.
    Complete(Outcome),
    /// It did not work.
    Error(ApiError),
    /// Somebody cancelled it.
    Cancelled,
}

/// What a job that worked came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Pictures; at least one.
    Images {
        /// The files, in order.
        pictures: Vec<Picture>,
        /// Their format.
        format: ImageFormat,
        /// Width in pixels.
        width: Option<u32>,
        /// Height in pixels.
        height: Option<u32>,
        /// The model that painted.
        model: Option<String>,
    },
    /// Text.
    Text(TextCompletion),
    /// What another operation was asked for.
    Result(Value),
}

/// One picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Its file.
    pub file: Bytes,
    /// Its seed.
    pub seed: u64,
}

impl JobHandle {
    /// The job's id.
    pub fn id(&self) -> &str {
        &self.entry.id
    }

    /// The answer to the one who asked for the job.
    pub fn response(&self) -> JobResponse {
        JobResponse::new(self.id())
    }

    /// Becomes true when somebody cancels the job, or the server stops.
    pub fn cancellation(&self) -> CancellationToken {
        self.entry.cancellation.clone()
    }

    /// Appends an event.
    pub fn emit(&self, event: Ongoing) {
        self.entry.append(event);
    }

    /// It waits; `position` counts from 1, which is the next one to run.
    pub fn queued(&self, position: u64) {
        self.emit(Ongoing(JobEvent::Queued { position }));
    }

    /// It runs for the `attempt`th time.
    pub fn started(&self, model: Option<String>, worker_id: Option<String>, attempt: u32) {
        self.emit(Ongoing(JobEvent::Started { model, worker_id, attempt }));
    }

    /// It got further.
    pub fn progress(&self, step: u64, total: u64, phase: Option<Phase>, eta_ms: Option<u64>) {
        self.emit(Ongoing(JobEvent::Progress { step, total, phase, eta_ms, bytes_per_second: None }));
    }

    /// Its model is downloaded: `bytes` of `total` are here.
    pub fn downloading(&self, bytes: u64, total: u64, eta_ms: Option<u64>, bytes_per_second: Option<u64>) {
        let phase = Some(Phase::Downloading);
        self.emit(Ongoing(JobEvent::Progress { step: bytes, total, phase, eta_ms, bytes_per_second }));
    }

    /// What the picture looks like so far.
    pub fn preview(&self, step: u64, image: Base64Bytes, format: ImageFormat) {
        self.emit(Ongoing(JobEvent::Preview { step, image, format }));
    }

    /// The piece of text with the index `i`.
    pub fn token(&self, t: String, i: u64) {
        self.emit(Ongoing(JobEvent::Token { t, i }));
    }

    /// Something worth telling.
    pub fn narrate(&self, level: Level, target: &str, message: impl Into<String>) {
        let (target, message) = (target.to_owned(), message.into());
        self.emit(Ongoing(JobEvent::Narration { level, target, message }));
    }

    /// Ends the job.
    pub fn finish(self, ending: Ending) {
        self.registry.finish(&self.entry, ending);
    }
}

impl Drop for JobHandle {
    fn drop(&mut self) {
        let error = ApiError::internal("the job ended without a result; the server's log says why");
        if self.registry.finish(&self.entry, Ending::Error(error)) {
            tracing::error!(job = %self.entry.id, "a job was dropped without an ending");
        }
    }
}

impl Ongoing {
    /// The event, if others may follow it; a job's last one is an [`Ending`].
    pub fn new(event: JobEvent) -> Option<Self> {
        (!event.is_terminal()).then_some(Self(event))
    }
}

impl Outcome {
    /// What stands in the event, and the pictures.
    pub(crate) fn into_parts(self, job_id: &str, duration_ms: Option<u64>) -> (Completion, Vec<Bytes>, ImageFormat) {
        match self {
            Outcome::Images { pictures, format, width, height, model } => {
                let images = match pictures.len() {
                    0 | 1 => Vec::new(),
                    _ => (0..).zip(&pictures).map(|(index, picture)| link(job_id, index, picture.seed)).collect(),
                };
                let first = pictures.first();
                let completion = ImageCompletion {
                    image: first.map(|picture| picture.file.clone()).unwrap_or_default().into(),
                    format,
                    seed: first.map_or(0, |picture| picture.seed),
                    width,
                    height,
                    model,
                    duration_ms,
                    images,
                };
                let files = pictures.into_iter().map(|picture| picture.file).collect();
                (Completion::Image(completion), files, format)
            }
            Outcome::Text(completion) => (Completion::Text(completion), Vec::new(), ImageFormat::Png),
            Outcome::Result(result) => (Completion::Result { result }, Vec::new(), ImageFormat::Png),
        }
    }
}

fn link(job_id: &str, index: u32, seed: u64) -> ImageLink {
    ImageLink { index, seed, url: format!("/v1/jobs/{job_id}/images/{index}") }
}
