use job_server::{CancellationToken, Outcome};
use operations_contract::{ApiError, Base64Bytes, ImageFormat, Level, Phase};
use std::cell::Cell;
use std::time::Instant;
use tokio::sync::mpsc;

/// A model that is loaded and does what it is asked, one request after the other, on the thread that owns it.
pub trait InferencePipeline {
    /// What it can be asked.
    type Request: Send + 'static;

    /// Does it. `cancel` is looked at between steps: who sees it set returns [`PipelineError::Cancelled`].
    ///
    /// # Errors
    /// As [`PipelineError`] says. A panic is caught, and ends the request with an error too.
    fn run(
        &mut self,
        request: Self::Request,
        events: &Events,
        cancel: &CancellationToken,
    ) -> Result<Outcome, PipelineError>;

    /// Uses time in which nothing is asked: does a little of what the next request would have to wait for. Called again and
    /// again until it says that nothing is left, by false.
    fn prepare(&mut self) -> bool {
        false
    }

    /// Nothing was asked for a while: gives back to the system what the next request can have anew.
    fn rest(&mut self) {}
}

/// Why a pipeline did not get to the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PipelineError {
    /// It saw that it was cancelled.
    Cancelled,
    /// It failed.
    Failed(ApiError),
}

impl From<ApiError> for PipelineError {
    fn from(error: ApiError) -> Self {
        Self::Failed(error)
    }
}

/// What comes back for a request. The last three end it.
#[derive(Debug, Clone, PartialEq)]
pub enum GenerationResponse {
    /// It waits; 1 is the next one to run.
    Queued(u64),
    /// It runs.
    Started,
    /// It got further.
    Progress {
        /// Steps done.
        step: u64,
        /// Of so many.
        total: u64,
        /// What is being done.
        phase: Option<Phase>,
        /// How long the rest of the phase takes, in milliseconds.
        eta_ms: Option<u64>,
    },
    /// What the picture looks like so far.
    Preview {
        /// Steps done.
        step: u64,
        /// The picture's file.
        image: Base64Bytes,
        /// Its format.
        format: ImageFormat,
    },
    /// A piece of text.
    Token {
        /// The text.
        t: String,
        /// Its index from 0.
        i: u64,
    },
    /// Something worth telling.
    Narration {
        /// How much it matters.
        level: Level,
        /// What it is.
        message: String,
    },
    /// The end: it worked.
    Complete(Outcome),
    /// The end: it did not.
    Error(ApiError),
    /// The end: it was cancelled.
    Cancelled,
}

/// Where a pipeline tells how far it is. Telling never blocks and never fails: with nobody left to listen it is
/// dropped.
#[derive(Debug)]
pub struct Events {
    responses: mpsc::UnboundedSender<GenerationResponse>,
    /// The phase that runs, and when it had come to which step.
    phase: Cell<Option<(Phase, Instant, u64)>>,
}

impl Events {
    /// Events that go to `responses`.
    pub fn new(responses: mpsc::UnboundedSender<GenerationResponse>) -> Self {
        Self { responses, phase: Cell::new(None) }
    }

    /// `step` of `total` steps of `phase` are done. How long the rest takes is told from the steps before.
    pub fn progress(&self, step: u64, total: u64, phase: Phase) {
        let eta_ms = match self.phase.get() {
            Some((running, since, first)) if running == phase && step > first => {
                let per_step = since.elapsed().as_secs_f64() * 1000.0 / (step - first) as f64;
                Some((per_step * total.saturating_sub(step) as f64).round() as u64)
            }
            _ => {
                self.phase.set(Some((phase, Instant::now(), step)));
                None
            }
        };
        self.send(GenerationResponse::Progress { step, total, phase: Some(phase), eta_ms });
    }

    /// What the picture looks like after `step` steps.
    pub fn preview(&self, step: u64, image: impl Into<Base64Bytes>, format: ImageFormat) {
        self.send(GenerationResponse::Preview { step, image: image.into(), format });
    }

    /// The piece of text with the index `i`.
    pub fn token(&self, t: impl Into<String>, i: u64) {
        self.send(GenerationResponse::Token { t: t.into(), i });
    }

    /// Something worth telling, here and in the log.
    pub fn narrate(&self, level: Level, message: impl Into<String>) {
        let message = message.into();
        job_server::log(level, &message);
        self.send(GenerationResponse::Narration { level, message });
    }

    fn send(&self, response: GenerationResponse) {
        // Who cancelled does not listen any more.
        let _ = self.responses.send(response);
    }
}
