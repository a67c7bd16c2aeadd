use crate::{
    Appended, AttemptId, BlobId, BrokerError, Claim, ClaimRequest, Ending, GiveBack, HiveRecord, JobCounts, JobFilter,
    JobRecord, KeyId, KeyRecord, Lease, NewJob, NewKey, Role, Submitted, Waiting,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use operations_contract::{ApiError, JobEvent};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

/// A job's events with their ids, in order.
pub type EventStream = BoxStream<'static, Result<(u64, Arc<JobEvent>), BrokerError>>;

/// What a hive asks: where its work comes from and where it tells what came of it.
///
/// Every call but `claim` and `cancelled` answers at once; each may fail with [`BrokerError::Storage`] and, over a
/// network, with [`BrokerError::Unreachable`], after which the same call can be repeated.
#[async_trait]
pub trait WorkSource: Send + Sync + Debug {
    /// Puts the hive into the registry for `ttl`, or renews it. The first time that a new incarnation enlists, all
    /// that the older one held goes back to the queue, without counting as a crash.
    ///
    /// # Errors
    /// [`BrokerError::Superseded`] where a younger incarnation is enlisted and has not expired.
    async fn enlist(&self, hive: HiveRecord, ttl: Duration) -> Result<(), BrokerError>;

    /// Takes the hive out of the registry and gives back what this incarnation holds. Asking twice is no error.
    async fn retire(&self, hive_id: &str, incarnation: u64) -> Result<(), BrokerError>;

    /// Waits up to the request's patience for a job that one of the offers fits. The order is: priority, then fair
    /// between owners (fewest running, then least recently served), then arrival; a ready worker is preferred to one
    /// that would have to be started.
    ///
    /// Repeated with the same [`ClaimRequest::id`], it gives the same claim for as long as that is held. Dropping the
    /// future gives back what was claimed meanwhile, over a network as soon as the queen is reached.
    ///
    /// # Errors
    /// [`BrokerError::NotEnlisted`] where this incarnation is not in the registry (any more).
    async fn claim(&self, request: ClaimRequest) -> Result<Option<Claim>, BrokerError>;

    /// Holds the claim for another lease. Whoever does not renew in time loses it.
    ///
    /// # Errors
    /// [`BrokerError::Stale`]: the job is not this attempt's any more; what it does is wanted no more.
    async fn renew(&self, attempt: &AttemptId) -> Result<Lease, BrokerError>;

    /// Comes back with `true` as soon as somebody cancels the job, with `false` after `patience`.
    ///
    /// # Errors
    /// [`BrokerError::Stale`], also when the attempt is lost while waiting.
    async fn cancelled(&self, attempt: &AttemptId, patience: Duration) -> Result<bool, BrokerError>;

    /// Appends events. `sequence` is the number of the first one within this attempt, from 1; what was appended
    /// already is skipped, so that repeating is harmless. Renews the lease as well.
    ///
    /// # Errors
    /// [`BrokerError::Stale`]; [`BrokerError::Invalid`] for an event that ends the job (see
    /// [`WorkSource::finish`]), for `queued`, which the broker writes, for a gap in the sequence, and for an event
    /// that is too large.
    async fn append(&self, attempt: &AttemptId, sequence: u64, events: Vec<JobEvent>) -> Result<Appended, BrokerError>;

    /// Ends the job; its last event is on disk when this returns. Repeated by the same attempt it changes nothing.
    ///
    /// # Errors
    /// [`BrokerError::Stale`]; [`BrokerError::NoBlob`] where a picture was not [put](WorkSource::put_blob) before.
    async fn finish(&self, attempt: &AttemptId, ending: Ending) -> Result<(), BrokerError>;

    /// Gives the job back to the queue, or, where it was cancelled or [`GiveBack::WorkerDied`] came a third time,
    /// ends it. Giving back what went back already is no error.
    ///
    /// # Errors
    /// [`BrokerError::Stale`] where a later attempt holds the job, or it has ended.
    async fn give_back(&self, attempt: &AttemptId, why: GiveBack) -> Result<(), BrokerError>;

    /// Stores bytes under their SHA-256. They outlive the process when it returns, and a power cut when a job that refers
    /// to them was submitted or has ended. What no job refers to is swept after an hour.
    ///
    /// # Errors
    /// [`BrokerError::Invalid`] where they are more than [`BlobId::MAX_BYTES`].
    async fn put_blob(&self, bytes: Bytes) -> Result<BlobId, BrokerError>;

    /// The bytes of a blob.
    ///
    /// # Errors
    /// [`BrokerError::NoBlob`]; [`BrokerError::Corrupt`] where its bytes are not what was put.
    async fn blob(&self, id: &BlobId) -> Result<Bytes, BrokerError>;
}

/// Everything: what a queen asks, too.
#[async_trait]
pub trait Broker: WorkSource {
    /// Takes a job; it is on disk when this returns, with its event `queued`.
    ///
    /// The same job id, or the same idempotency key of the same owner with the same body, gives the same job.
    ///
    /// # Errors
    /// [`BrokerError::Full`]; [`BrokerError::Conflict`] where the idempotency key came with another body before;
    /// [`BrokerError::NoBlob`] where an image was not put before; [`BrokerError::Invalid`].
    async fn submit(&self, job: NewJob) -> Result<Submitted, BrokerError>;

    /// The job as it stands, with its result.
    ///
    /// # Errors
    /// [`BrokerError::NotFound`], [`BrokerError::Expired`].
    async fn job(&self, job_id: &str) -> Result<JobRecord, BrokerError>;

    /// What was asked for.
    ///
    /// # Errors
    /// As [`Broker::job`].
    async fn operation(&self, job_id: &str) -> Result<crate::StoredOperation, BrokerError>;

    /// Jobs as they stand, newest first, without their results.
    async fn list(&self, filter: JobFilter) -> Result<Vec<JobRecord>, BrokerError>;

    /// How many jobs there are.
    async fn counts(&self) -> Result<JobCounts, BrokerError>;

    /// The jobs that wait, in the order in which they would be claimed if everything were offered, at most `limit`.
    async fn waiting(&self, limit: usize) -> Result<Vec<Waiting>, BrokerError>;

    /// The job's events after the one numbered `after` (0: all), from disk and then live, until the last one. An item
    /// that is an error ends the stream; who goes on reads from the last id that he has seen.
    ///
    /// Previews are live only: a replay has none, and their ids are not given to others.
    ///
    /// # Errors
    /// [`BrokerError::NotFound`], [`BrokerError::Expired`], or [`BrokerError::Beyond`] where no event has that number
    /// yet.
    async fn watch(&self, job_id: &str, after: u64) -> Result<EventStream, BrokerError>;

    /// Asks a job to end. One that waits ends at once; the holder of one that runs is told; one that has ended stays
    /// as it is.
    ///
    /// # Errors
    /// [`BrokerError::NotFound`], [`BrokerError::Expired`].
    async fn cancel(&self, job_id: &str) -> Result<(), BrokerError>;

    /// Ends a job that waits with an error, because nobody will ever serve it (the worker that it named is gone).
    /// Says whether it did: a job that runs or has ended is left alone.
    ///
    /// # Errors
    /// [`BrokerError::NotFound`], [`BrokerError::Expired`].
    async fn refuse(&self, job_id: &str, error: ApiError) -> Result<bool, BrokerError>;

    /// Waits until the job has ended, but not longer than `patience`; says whether it has.
    ///
    /// # Errors
    /// [`BrokerError::NotFound`], [`BrokerError::Expired`].
    async fn settled(&self, job_id: &str, patience: Duration) -> Result<bool, BrokerError>;

    /// The hives whose time has not run out.
    async fn hives(&self) -> Result<Vec<HiveRecord>, BrokerError>;

    /// Whose token a hive's id belongs to; `None` while it is free.
    async fn hive_owner(&self, hive_id: &str) -> Result<Option<KeyId>, BrokerError>;

    /// From now on the hive's id belongs to this key, until it is released or the key is revoked.
    ///
    /// # Errors
    /// [`BrokerError::NotIts`] where it belongs to another.
    async fn bind_hive(&self, hive_id: &str, key: &KeyId) -> Result<(), BrokerError>;

    /// The hive's id belongs to nobody from now on.
    async fn release_hive(&self, hive_id: &str) -> Result<(), BrokerError>;

    /// Makes a key. Its secret is in the answer and nowhere else.
    ///
    /// # Errors
    /// [`BrokerError::NameTaken`], [`BrokerError::Invalid`].
    async fn create_key(&self, name: &str, role: Role) -> Result<NewKey, BrokerError>;

    /// The keys, oldest first.
    async fn keys(&self) -> Result<Vec<KeyRecord>, BrokerError>;

    /// Takes a key's rights away at once. Says whether there was one with that name or id.
    async fn revoke_key(&self, name_or_id: &str) -> Result<bool, BrokerError>;

    /// Whose secret this is; `None` for one that is nobody's. Takes the same time wherever a wrong one differs, and
    /// touches no disk.
    async fn check_key(&self, secret: &str) -> Result<Option<(KeyId, Role)>, BrokerError>;
}
