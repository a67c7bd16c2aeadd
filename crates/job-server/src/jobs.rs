use crate::caller::Caller;
use bytes::Bytes;
use futures_util::stream::Stream;
use operations_contract::{
    ApiError, ErrorCode, ImageFormat, Job, JobEvent, JobResponse, JobState, Operation, Validated,
};
use sha2::{Digest as _, Sha256};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// A job's events with their numbers, in order. It ends after the job's last event.
pub type Events = Pin<Box<dyn Stream<Item = (u64, Arc<JobEvent>)> + Send>>;

/// The jobs that a server knows, wherever they are kept: in memory ([`crate::JobRegistry`]), or on disk.
///
/// Every route of ours reads jobs through this trait, and so does any other route that makes one. A route that is not
/// `/v1/jobs` works inside the process, without a request to itself:
///
/// 1. it takes the [`Caller`] as an argument, and reads its own body into a [`Validated`] operation;
/// 2. `server.create_job(Submission::new(operation, caller.clone())).await?` admits the job, durably where jobs are
///    durable, and answers with its id ([`crate::JobServer::create_job`]); it runs from now on, whoever listens;
/// 3. `server.jobs().events(&caller, &job_id, 0).await?` gives its [`Events`] from the first on: the last one is
///    `complete`, `error` or `cancelled`. A picture is in `complete`; further ones are at [`Jobs::picture`];
/// 4. where the client goes away and nobody else can want the job, `server.jobs().cancel(&caller, &job_id).await`.
///
/// Every method refuses a job that the caller may not reach as one that does not exist.
pub trait Jobs: Send + Sync + 'static {
    /// Whether a job would be admitted now: what a server asks before it reads a large body.
    ///
    /// # Errors
    /// `queue_full` when as many as may are waiting and running, `shutting_down` when the server stops.
    fn admits(&self) -> impl Future<Output = Result<(), ApiError>> + Send;

    /// Makes the job of one `POST` at most once for each key of the caller's ([`Idempotency`]). Where the store itself
    /// sees to that when the job is written, `create` is all there is to do.
    ///
    /// # Errors
    /// Those of `create`; `conflict` where the key came with another body before.
    fn once(
        &self,
        caller: &Caller,
        idempotency: Option<&Idempotency>,
        create: impl Future<Output = Result<JobResponse, ApiError>> + Send,
    ) -> impl Future<Output = Result<JobResponse, ApiError>> + Send;

    /// The job as it stands.
    ///
    /// # Errors
    /// `not_found`, or `expired` for one that ended long ago.
    fn job(&self, caller: &Caller, id: &str) -> impl Future<Output = Result<Job, ApiError>> + Send;

    /// The caller's jobs as they stand, newest first, without their results.
    ///
    /// # Errors
    /// The store cannot be read.
    fn list(
        &self,
        caller: &Caller,
        state: Option<JobState>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Job>, ApiError>> + Send;

    /// Asks a job to end, gives it a moment to, and answers how it stands. One that has ended stays as it is.
    ///
    /// # Errors
    /// As [`Jobs::job`].
    fn cancel(&self, caller: &Caller, id: &str) -> impl Future<Output = Result<Job, ApiError>> + Send;

    /// The job's events after the one numbered `after`, until its last; `None` where the last one is `after`.
    ///
    /// # Errors
    /// As [`Jobs::job`]; 400 where no event has that number yet.
    fn events(
        &self,
        caller: &Caller,
        id: &str,
        after: u64,
    ) -> impl Future<Output = Result<Option<Events>, ApiError>> + Send;

    /// A picture of a job that is complete.
    ///
    /// # Errors
    /// As [`Jobs::job`]; `conflict` where the job is not complete.
    fn picture(
        &self,
        caller: &Caller,
        id: &str,
        index: usize,
    ) -> impl Future<Output = Result<(Bytes, ImageFormat), ApiError>> + Send;

    /// How many jobs there are and were.
    fn totals(&self) -> impl Future<Output = JobTotals> + Send;

    /// Whether no more jobs are taken.
    fn is_closed(&self) -> bool;

    /// Takes no more jobs, gives those that run `grace`, and returns when each job has come to its end or is where it
    /// outlives this process.
    fn drain(&self, grace: Duration) -> impl Future<Output = ()> + Send;
}

/// What somebody asks for, with all that a server has to know to admit it.
#[derive(Debug, Clone)]
pub struct Submission {
    /// What is to be done.
    pub operation: Validated<Operation>,
    /// Who asks.
    pub caller: Caller,
    /// Under which key of the caller's, if any.
    pub idempotency: Option<Idempotency>,
}

impl Submission {
    /// What `caller` asks for once.
    pub const fn new(operation: Validated<Operation>, caller: Caller) -> Self {
        Self { operation, caller, idempotency: None }
    }
}

/// The header `Idempotency-Key`: asked again under the same key with the same body, the answer is the same job; with
/// another body it is 409.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// What the client calls it.
    pub key: String,
    /// SHA-256 of the request's body.
    pub body_sha256: [u8; 32],
}

/// Bytes of an `Idempotency-Key`.
const KEY_BYTES: usize = 255;

impl Idempotency {
    /// The name of the header.
    pub const HEADER: &str = "idempotency-key";

    /// What the header says about a request with this body.
    ///
    /// # Errors
    /// 400 for a key that is empty, too long or not printable ASCII.
    pub fn new(key: &[u8], body: &[u8]) -> Result<Self, ApiError> {
        let text = str::from_utf8(key).unwrap_or_default();
        if text.is_empty() || text.len() > KEY_BYTES || !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            let message = format!("Idempotency-Key must be 1 to {KEY_BYTES} printable ASCII characters");
            return Err(ApiError::malformed(message).with_param("Idempotency-Key"));
        }
        Ok(Self { key: text.to_owned(), body_sha256: Sha256::digest(body).into() })
    }

    /// The answer to a key that came with another body before.
    pub fn conflict(&self) -> ApiError {
        let message = format!(
            "the Idempotency-Key {:?} came with another body before; use a new key for a new request",
            self.key
        );
        ApiError::new(ErrorCode::Conflict, message).with_param("Idempotency-Key")
    }
}

/// How many jobs there are and were: what `/metrics` tells of every server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JobTotals {
    /// Jobs that wait.
    pub queued: usize,
    /// Jobs that run.
    pub running: usize,
    /// Finished jobs that are still known.
    pub kept: usize,
    /// Jobs admitted since the process began, as are the numbers below.
    pub admitted: u64,
    /// Jobs refused because the queue was full.
    pub refused: u64,
    /// Jobs that worked.
    pub complete: u64,
    /// Jobs that did not.
    pub error: u64,
    /// Jobs that somebody cancelled.
    pub cancelled: u64,
    /// How long all of them ran together.
    pub run: Duration,
    /// Streams of events that are open.
    pub listeners: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_short_and_printable() {
        assert_eq!(Idempotency::new(b"a-1", b"x").unwrap(), Idempotency::new(b"a-1", b"x").unwrap());
        assert_ne!(Idempotency::new(b"a-1", b"x").unwrap(), Idempotency::new(b"a-1", b"y").unwrap());
        for wrong in [&b""[..], b"\xff", "ä".as_bytes(), b"a\tb", &[b'a'; 256]] {
            let error = Idempotency::new(wrong, b"").unwrap_err();
            assert_eq!((error.status(), error.param.as_deref()), (400, Some("Idempotency-Key")));
        }
    }
}
