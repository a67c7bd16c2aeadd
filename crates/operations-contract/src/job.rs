use crate::{ApiError, Completion, Phase};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// It waits.
    Queued,
    /// It runs.
    Running,
    /// It worked.
    Complete,
    /// It did not work.
    Error,
    /// Somebody cancelled it.
    Cancelled,
}

impl JobState {
    /// All of them.
    pub const ALL: [JobState; 5] =
        [JobState::Queued, JobState::Running, JobState::Complete, JobState::Error, JobState::Cancelled];

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            JobState::Queued => "queued",
            JobState::Running => "running",
            JobState::Complete => "complete",
            JobState::Error => "error",
            JobState::Cancelled => "cancelled",
        }
    }

    /// Whether nothing happens to it any more.
    pub const fn is_terminal(self) -> bool {
        match self {
            JobState::Queued | JobState::Running => false,
            JobState::Complete | JobState::Error | JobState::Cancelled => true,
        }
    }

    /// The state whose word is `word`.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The answer to `POST /v1/jobs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobResponse {
    /// The job's id: `job-<uuid>`.
    pub job_id: String,
    /// Where its events are.
    pub sse_url: String,
}

impl JobResponse {
    /// The answer for the job `job_id`.
    pub fn new(job_id: impl Into<String>) -> Self {
        let job_id = job_id.into();
        let sse_url = format!("/v1/jobs/{job_id}/stream");
        Self { job_id, sse_url }
    }
}

/// A job as it stands: `GET /v1/jobs/{id}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Job {
    /// Its id: `job-<uuid>`.
    pub job_id: String,
    /// What was asked for.
    pub operation: String,
    /// Where it stands.
    pub state: JobState,
    /// Where its events are.
    pub sse_url: String,
    /// How many are to run before it, itself counted; while it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    /// How far it got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<JobProgress>,
    /// How many workers began it; 0 while it waits for the first.
    pub attempt: u32,
    /// The model that does it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The worker that does it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker_id: Option<String>,
    /// When it was admitted, in milliseconds since 1970 UTC; as are the other times.
    pub created_ms: u64,
    /// When the last attempt began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_ms: Option<u64>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_ms: Option<u64>,
    /// What it came to; not in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Completion>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<JobError>,
}

/// How far a job got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobProgress {
    /// Steps done.
    pub step: u64,
    /// Of so many.
    pub total: u64,
    /// What is being done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// How long the rest takes, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_ms: Option<u64>,
    /// How fast it comes, in bytes a second (while downloading).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
}

/// Why a job failed: as in answers over HTTP.
pub type JobError = ApiError;

/// The answer to `GET /v1/jobs`, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobList {
    /// The jobs, without their results.
    pub jobs: Vec<Job>,
}
