use crate::{BlobId, StoredOperation, Want};
use operations_contract::{ApiError, ImageFormat, Priority, TextCompletion};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::time::Duration;
use uuid::Uuid;

/// What kind of program serves a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkKind {
    /// An image worker.
    Image,
    /// A language worker.
    Infer,
    /// A hive itself: models and worker processes.
    Hive,
}

/// What a hive could serve now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "offer", rename_all = "snake_case")]
pub enum Offer {
    /// A ready worker with nothing to do.
    Worker {
        /// Its id.
        worker_id: String,
        /// What it serves.
        kind: WorkKind,
        /// The model that it loaded.
        model: String,
    },
    /// It would start a worker for this model.
    Load {
        /// What the worker would serve.
        kind: WorkKind,
        /// The model.
        model: String,
    },
    /// It would start a worker for whatever model is asked for.
    LoadAny {
        /// What the worker would serve.
        kind: WorkKind,
        /// But not for these: a worker for one is starting, or it cannot be loaded here.
        #[serde(default)]
        except: Vec<String>,
    },
    /// It would do what is asked of itself.
    Hive,
}

/// A hive asks for work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimRequest {
    /// Names this request: repeated after a broken connection, it gets what it got.
    pub id: String,
    /// Who asks.
    pub hive_id: String,
    /// Which start of that hive, as it is enlisted.
    pub incarnation: u64,
    /// What it could serve; the first one that fits a job is taken.
    pub offers: Vec<Offer>,
    /// How long to wait for a job; zero is answered at once.
    #[serde(rename = "patience_ms", with = "millis")]
    pub patience: Duration,
}

impl ClaimRequest {
    /// A request with an id of its own.
    pub fn new(hive_id: impl Into<String>, incarnation: u64, offers: Vec<Offer>, patience: Duration) -> Self {
        Self { id: Uuid::new_v4().to_string(), hive_id: hive_id.into(), incarnation, offers, patience }
    }
}

/// One attempt at a job: the job, and the how-manieth claim of it. Fences off whoever holds an older one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttemptId {
    /// The job.
    pub job_id: String,
    /// From 1, and one more with every claim.
    pub number: u32,
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "attempt {} at {}", self.number, self.job_id)
    }
}

/// A job that was claimed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    /// What the holder shows with every call.
    pub attempt: AttemptId,
    /// What is to be done; its images are blobs.
    pub operation: StoredOperation,
    /// Where it may be done.
    pub want: Want,
    /// How urgent it is.
    pub priority: Priority,
    /// The ready worker that fits; without one, a worker for the model has to be started (or the hive does it itself).
    pub worker_id: Option<String>,
    /// How many attempts were lost because the worker died.
    pub crashes: u32,
    /// How long the claim is held without being renewed.
    #[serde(rename = "lease_ms", with = "millis")]
    pub lease: Duration,
}

/// A lease that was renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Somebody asked the job to end.
    pub cancelled: bool,
}

/// Events that were appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Appended {
    /// The id of the job's newest event.
    pub last_event_id: u64,
    /// Somebody asked the job to end.
    pub cancelled: bool,
}

/// Why a job goes back to the queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum GiveBack {
    /// The attempt's own worker died by itself. This alone counts: the third time, the job ends as `worker_crashed`.
    WorkerDied {
        /// Of what it died.
        reason: String,
        /// The last lines of its log.
        last_words: String,
    },
    /// The hive stops, and its workers with it.
    HiveStopping,
    /// The queen stops, and her own hive with her.
    QueenStopping,
    /// The worker would not or could not take it now: it is full, stops, or has loaded another model.
    Refused {
        /// What it said.
        reason: String,
    },
    /// Nothing was begun.
    Unused,
}

/// How a job ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ending", content = "of", rename_all = "snake_case")]
pub enum Ending {
    /// It worked.
    Complete(Outcome),
    /// It did not work.
    Error(ApiError),
    /// Somebody cancelled it.
    Cancelled,
}

/// What a job that worked came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// Pictures; at least one.
    Images {
        /// Their files, in order.
        pictures: Vec<PictureRef>,
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
    Result {
        /// The answer.
        result: Value,
    },
}

/// One picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PictureRef {
    /// Its file.
    pub blob: BlobId,
    /// Its seed.
    pub seed: u64,
}

/// Times go over the wire in milliseconds.
mod millis {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::time::Duration;

    pub(super) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}
