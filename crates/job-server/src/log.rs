use crate::clock::now_ms;
use crate::handle::{Ending, Ongoing};
use bytes::Bytes;
use operations_contract::{ApiError, Completion, ImageFormat, Job, JobEvent, JobProgress, JobState, OperationKind};
use std::sync::Arc;

/// What happened to one job so far, and where that leaves it. Plain data: whoever owns it locks it.
#[derive(Debug)]
pub(crate) struct Log {
    events: Vec<(u64, Arc<JobEvent>)>,
    last_id: u64,
    job: Job,
    completion: Option<Completion>,
    pictures: Vec<Bytes>,
    picture_format: ImageFormat,
}

impl Log {
    pub(crate) fn new(job_id: String, sse_url: String, operation: OperationKind) -> Self {
        Self {
            events: Vec::new(),
            last_id: 0,
            job: Job {
                job_id,
                operation: operation.name().to_owned(),
                state: JobState::Queued,
                sse_url,
                position: None,
                progress: None,
                attempt: 0,
                model: None,
                worker_id: None,
                created_ms: now_ms(),
                started_ms: None,
                finished_ms: None,
                result: None,
                error: None,
            },
            completion: None,
            pictures: Vec::new(),
            picture_format: ImageFormat::Png,
        }
    }

    pub(crate) fn state(&self) -> JobState {
        self.job.state
    }

    pub(crate) fn last_id(&self) -> u64 {
        self.last_id
    }

    /// How long it ran, once it began and ended.
    pub(crate) fn duration_ms(&self) -> Option<u64> {
        Some(self.job.finished_ms?.saturating_sub(self.job.started_ms?))
    }

    /// The job as it stands, without its result.
    pub(crate) fn summary(&self) -> Job {
        self.job.clone()
    }

    /// The job as it stands.
    pub(crate) fn job(&self) -> Job {
        Job { result: self.completion.clone(), ..self.job.clone() }
    }

    pub(crate) fn picture(&self, index: usize) -> Option<(Bytes, ImageFormat)> {
        Some((self.pictures.get(index)?.clone(), self.picture_format))
    }

    pub(crate) fn picture_count(&self) -> usize {
        self.pictures.len()
    }

    /// The events after the one numbered `id`, oldest first.
    pub(crate) fn after(&self, id: u64) -> &[(u64, Arc<JobEvent>)] {
        let first = self.events.partition_point(|(event_id, _)| *event_id <= id);
        &self.events[first..]
    }

    /// Appends an event; after the last one nothing is.
    pub(crate) fn append(&mut self, Ongoing(event): Ongoing) -> bool {
        if self.job.state.is_terminal() {
            return false;
        }
        let job = &mut self.job;
        match &event {
            JobEvent::Queued { position } => {
                job.state = JobState::Queued;
                job.position = Some(*position);
            }
            JobEvent::Started { model, worker_id, attempt } => {
                job.state = JobState::Running;
                job.position = None;
                job.progress = None;
                job.attempt = *attempt;
                job.model.clone_from(model);
                job.worker_id.clone_from(worker_id);
                job.started_ms = Some(now_ms());
            }
            JobEvent::Progress { step, total, phase, eta_ms, bytes_per_second } => {
                job.progress = Some(JobProgress {
                    step: *step,
                    total: *total,
                    phase: *phase,
                    eta_ms: *eta_ms,
                    bytes_per_second: *bytes_per_second,
                });
            }
            JobEvent::Preview { .. } => self.drop_previews(),
            JobEvent::Token { .. }
            | JobEvent::Narration { .. }
            | JobEvent::Complete(_)
            | JobEvent::Error { .. }
            | JobEvent::Cancelled {} => {}
        }
        self.push(event);
        true
    }

    /// Writes the last event; there is exactly one, so that a second call changes nothing.
    pub(crate) fn finish(&mut self, ending: Ending) -> bool {
        if self.job.state.is_terminal() {
            return false;
        }
        self.job.position = None;
        self.job.finished_ms = Some(now_ms());
        let event = match ending {
            Ending::Complete(outcome) => {
                self.job.state = JobState::Complete;
                let (completion, pictures, format) = outcome.into_parts(&self.job.job_id, self.duration_ms());
                self.pictures = pictures;
                self.picture_format = format;
                self.completion = Some(completion.clone());
                JobEvent::Complete(completion)
            }
            Ending::Error(error) => {
                self.job.state = JobState::Error;
                self.job.error = Some(error.clone());
                error.into()
            }
            Ending::Cancelled => {
                self.job.state = JobState::Cancelled;
                JobEvent::Cancelled {}
            }
        };
        self.drop_previews();
        self.push(event);
        self.events.shrink_to_fit();
        true
    }

    /// An estimate of the memory that it holds, for the bound on finished jobs.
    pub(crate) fn bytes(&self) -> usize {
        const EVENT: usize = 200;
        let pictures: usize = self.pictures.iter().map(Bytes::len).sum();
        let error = self.job.error.as_ref().map_or(0, |ApiError { message, .. }| message.len());
        let text = match &self.completion {
            Some(Completion::Text(completion)) => completion.text.len(),
            Some(Completion::Result { result }) => result.to_string().len(),
            Some(Completion::Image(_)) | None => 0,
        };
        pictures + error + text + self.events.len() * EVENT + size_of::<Self>()
    }

    fn push(&mut self, event: JobEvent) {
        self.last_id += 1;
        self.events.push((self.last_id, Arc::new(event)));
    }

    /// A preview is of use while it is the newest: who listens live sees each, a replay has none that is outdated.
    fn drop_previews(&mut self) {
        self.events.retain(|(_, event)| !matches!(**event, JobEvent::Preview { .. }));
    }
}
