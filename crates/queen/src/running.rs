//! A job that a route of this process has asked for and answers with, in whatever form.

use job_server::{Caller, Events, JobServer, Jobs as _, Submission};
use operations_contract::{ApiError, Completion, ErrorCode, JobEvent, Operation};
use std::future::Future;
use std::sync::Arc;
use tokio_stream::StreamExt as _;

/// What a server knows of its models, for routes that tell it in other forms.
pub(crate) trait Models: JobServer {
    /// Every model that can be named here without a download.
    fn models(&self) -> impl Future<Output = Result<Vec<ModelCard>, ApiError>> + Send;

    /// Where a worker listens that has this language model loaded, if one does; the default model where none is named.
    fn language_worker(&self, model: Option<&str>) -> impl Future<Output = Result<Option<String>, ApiError>> + Send;
}

/// One model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModelCard {
    /// By which it is asked for.
    pub(crate) name: String,
    /// Whether it writes text; otherwise it paints.
    pub(crate) writes: bool,
    /// When it came, in seconds since 1970 UTC; 0 for what ships in the program.
    pub(crate) created_s: u64,
    /// Bytes on disk, where they are known.
    pub(crate) bytes: Option<u64>,
}

/// A job and its events. Dropped before the last event, because the client has gone, it cancels the job.
pub(crate) struct Running<S: JobServer> {
    server: S,
    caller: Caller,
    id: String,
    events: Events,
    ended: bool,
}

impl<S: JobServer> Running<S> {
    /// Asks for the job.
    ///
    /// # Errors
    /// The operation is not valid or not served here, or the job is not admitted.
    pub(crate) async fn start(server: &S, caller: &Caller, operation: Operation) -> Result<Self, ApiError> {
        let kind = operation.kind();
        if !server.serves(kind) {
            let message = format!("{} is not served here", kind.name());
            return Err(ApiError::new(ErrorCode::UnsupportedOperation, message));
        }
        server.jobs().admits().await?;
        let submission = Submission::new(operation.validate()?, caller.clone());
        let id = server.create_job(submission).await?.job_id;
        let events = server.jobs().events(caller, &id, 0).await?;
        let events = events.ok_or_else(|| ApiError::internal(format!("{id} has no events")))?;
        Ok(Self { server: server.clone(), caller: caller.clone(), id, events, ended: false })
    }

    /// The job's id.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The next event; `None` after the last one. May be dropped while it waits and asked again.
    pub(crate) async fn next(&mut self) -> Option<Arc<JobEvent>> {
        let event = self.events.next().await.map(|(_, event)| event);
        self.ended |= event.as_ref().is_none_or(|event| event.is_terminal());
        event
    }

    /// Waits for the end; `seen` sees every event on the way.
    ///
    /// # Errors
    /// The job failed or was cancelled.
    pub(crate) async fn completion(&mut self, mut seen: impl FnMut(&JobEvent)) -> Result<Completion, ApiError> {
        while let Some(event) = self.next().await {
            seen(&event);
            if let Some(end) = end(&event) {
                return end;
            }
        }
        Err(ApiError::internal(format!("the events of {} ended without a last one", self.id)))
    }
}

impl<S: JobServer> Drop for Running<S> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let (server, caller, id) = (self.server.clone(), self.caller.clone(), self.id.clone());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = server.jobs().cancel(&caller, &id).await {
                    tracing::warn!(job = id, "cannot cancel the job of a client that has gone: {error}");
                }
            });
        }
    }
}

/// What a last event comes to; `None` for every other.
pub(crate) fn end(event: &JobEvent) -> Option<Result<Completion, ApiError>> {
    match event {
        JobEvent::Complete(completion) => Some(Ok(completion.clone())),
        JobEvent::Error { code, message, param } => {
            Some(Err(ApiError { code: *code, message: message.clone(), param: param.clone() }))
        }
        JobEvent::Cancelled {} => Some(Err(ApiError::new(ErrorCode::Cancelled, "the job was cancelled"))),
        JobEvent::Queued { .. }
        | JobEvent::Started { .. }
        | JobEvent::Progress { .. }
        | JobEvent::Preview { .. }
        | JobEvent::Token { .. }
        | JobEvent::Narration { .. } => None,
    }
}

/// What was told of a text that is streamed. A worker that is lost begins the text anew; with the same seed it writes
/// the same, and only what is new may be told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    told: String,
    /// Bytes of the text of this attempt.
    written: usize,
}

impl Told {
    /// Another attempt begins.
    pub(crate) fn again(&mut self) {
        self.written = 0;
    }

    /// What is new in the next piece.
    ///
    /// # Errors
    /// The text is another one than was told.
    pub(crate) fn push(&mut self, piece: &str) -> Result<String, ApiError> {
        let known = self.told.get(self.written..).unwrap_or_default();
        let common = known.len().min(piece.len());
        let (Some(again), Some(new)) = (piece.get(..common), piece.get(common..)) else {
            return Err(Self::diverged());
        };
        if !known.starts_with(again) {
            return Err(Self::diverged());
        }
        self.written += piece.len();
        self.told.push_str(new);
        Ok(new.to_owned())
    }

    /// What of the whole text was not told yet.
    ///
    /// # Errors
    /// The text is another one than was told.
    pub(crate) fn rest(&mut self, whole: &str) -> Result<String, ApiError> {
        self.again();
        self.push(whole)
    }

    fn diverged() -> ApiError {
        ApiError::new(ErrorCode::WorkerCrashed, "the worker was lost, and the next one writes another text; ask again")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_another_attempt_only_what_is_new_is_told() {
        let mut told = Told::default();
        assert_eq!(told.push("The se").unwrap(), "The se");
        told.again();
        assert_eq!(told.push("The").unwrap(), "");
        assert_eq!(told.push(" sea is").unwrap(), "a is");
        assert_eq!(told.rest("The sea is blue.").unwrap(), " blue.");
        told.again();
        assert!(told.push("A").is_err());
    }

    #[test]
    fn pieces_are_not_cut_inside_a_letter() {
        let mut told = Told::default();
        told.push("a").unwrap();
        told.again();
        assert!(told.push("ä").is_err());
    }
}
