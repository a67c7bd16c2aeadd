use crate::{KeyId, PictureRef, StoredOperation, WorkKind};
use operations_contract::{ImageFormat, Job, JobState, Priority, same_model, well_known};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A job that is to be taken.
#[derive(Debug, Clone, PartialEq)]
pub struct NewJob {
    /// Its id, `job-<uuid>`, made by the one who submits, so that submitting again after a broken connection is harmless.
    pub job_id: String,
    /// What is to be done, with its seed drawn.
    pub operation: StoredOperation,
    /// Who may see it; `None` where keys are not asked for.
    pub owner: Option<KeyId>,
    /// How urgent it is.
    pub priority: Priority,
    /// Who can do it.
    pub want: Want,
    /// The client's own name for this request.
    pub idempotency: Option<Idempotency>,
}

impl NewJob {
    /// A job of nobody in particular, of normal priority, with an id of its own.
    pub fn new(operation: StoredOperation, want: Want) -> Self {
        Self {
            job_id: format!("job-{}", Uuid::new_v4()),
            operation,
            owner: None,
            priority: Priority::default(),
            want,
            idempotency: None,
        }
    }
}

/// Who can do a job.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Want {
    /// What kind of program.
    pub kind: WorkKind,
    /// The model, under its well-known name where it has one; empty for [`WorkKind::Hive`].
    pub model: String,
    /// Only this hive; needed for [`WorkKind::Hive`].
    pub hive_id: Option<String>,
    /// Only this worker.
    pub worker_id: Option<String>,
}

impl Want {
    /// Any worker of this kind that has the model.
    pub fn model(kind: WorkKind, model: &str) -> Self {
        Self { kind, model: canonical(model).to_owned(), hive_id: None, worker_id: None }
    }

    /// This hive itself.
    pub fn hive(hive_id: impl Into<String>) -> Self {
        Self { kind: WorkKind::Hive, model: String::new(), hive_id: Some(hive_id.into()), worker_id: None }
    }

    /// Whether a worker of this kind with this model would do.
    pub fn is_model(&self, kind: WorkKind, model: &str) -> bool {
        self.kind == kind && same_model(&self.model, model)
    }
}

/// One name for each model, so that equal wants are equal.
pub(crate) fn canonical(model: &str) -> &str {
    well_known(model).map_or(model, |known| known.name)
}

/// A client's own name for a request: the same name and the same body are the same job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// The header `Idempotency-Key`: 1 to [`Idempotency::KEY_BYTES`] bytes.
    pub key: String,
    /// The SHA-256 of the body, to tell another request under the same key.
    pub body_sha256: [u8; 32],
}

impl Idempotency {
    /// The most that a key may have.
    pub const KEY_BYTES: usize = 255;

    /// The key of a request with this body.
    pub fn new(key: impl Into<String>, body: &[u8]) -> Self {
        use sha2::{Digest, Sha256};
        Self { key: key.into(), body_sha256: Sha256::digest(body).into() }
    }
}

/// A job was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submitted {
    /// Its id.
    pub job_id: String,
    /// False where it was there already.
    pub new: bool,
}

/// A job as it stands, with what only the house needs to know.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRecord {
    /// What clients see. `running` from the claim on.
    pub job: Job,
    /// Who may see it.
    pub owner: Option<KeyId>,
    /// How urgent it is.
    pub priority: Priority,
    /// Who can do it.
    pub want: Want,
    /// How many attempts were lost because the worker died.
    pub crashes: u32,
    /// The hive that holds it, or held it last.
    pub hive_id: Option<String>,
    /// Somebody asked it to end.
    pub cancel_requested: bool,
    /// When it may be tried again, in milliseconds since 1970 UTC; while it waits after a crash.
    pub not_before_ms: Option<u64>,
    /// The id of its newest event.
    pub last_event_id: u64,
    /// Its pictures, once it is complete.
    pub pictures: Vec<PictureRef>,
    /// Their format.
    pub picture_format: ImageFormat,
}

/// Which jobs are listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// Only those in this state.
    pub state: Option<JobState>,
    /// Only those of this owner; `None` lists everybody's.
    pub owner: Option<KeyId>,
    /// At most so many.
    pub limit: usize,
}

/// How many jobs there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JobCounts {
    /// Jobs that wait.
    pub queued: usize,
    /// Jobs that are claimed.
    pub running: usize,
    /// Finished jobs that are still kept.
    pub kept: usize,
    /// How many may wait and run together.
    pub limit: usize,
}

/// A job that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Its id.
    pub job_id: String,
    /// Whose it is.
    pub owner: Option<KeyId>,
    /// How urgent it is.
    pub priority: Priority,
    /// What it waits for.
    pub want: Want,
    /// When it was admitted, in milliseconds since 1970 UTC.
    pub created_ms: u64,
    /// Not before this time, after a crash; 0 otherwise.
    pub not_before_ms: u64,
    /// How many attempts were lost because the worker died.
    pub crashes: u32,
    /// How many wait for the same before it, itself counted.
    pub position: u64,
}
