use crate::{AttemptId, BlobId};
use operations_contract::{ApiError, ErrorCode};
use serde::{Deserialize, Serialize};

/// Why the broker says no. It can be cloned and sent over a wire, so that a hive on another machine gets what one in
/// this process gets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum BrokerError {
    /// There never was such a job.
    #[error("there is no job {job_id:?}")]
    NotFound {
        /// What was asked for.
        job_id: String,
    },
    /// There was such a job.
    #[error("{job_id} ended a while ago and is no longer kept")]
    Expired {
        /// The job.
        job_id: String,
    },
    /// As many jobs as are admitted wait or run.
    #[error("{limit} jobs are waiting or running already; try again later")]
    Full {
        /// How many that is.
        limit: usize,
    },
    /// The idempotency key came with another body before.
    #[error("the Idempotency-Key {key:?} was used for another request, {job_id}; use a new key for a new request")]
    Conflict {
        /// The key.
        key: String,
        /// The job that it was used for.
        job_id: String,
    },
    /// The job is not this attempt's any more.
    #[error("{attempt} is over: {reason}")]
    Stale {
        /// The attempt.
        attempt: AttemptId,
        /// What happened.
        reason: String,
    },
    /// The hive has to enlist first, or again: its time ran out.
    #[error("the hive {hive_id} is not enlisted with the incarnation {incarnation}; enlist, then ask again")]
    NotEnlisted {
        /// The hive.
        hive_id: String,
        /// What it said.
        incarnation: u64,
    },
    /// A younger process runs under this hive's id.
    #[error("another process runs as the hive {hive_id}; stop one of the two, or give one another id")]
    Superseded {
        /// The hive.
        hive_id: String,
    },
    /// The hive's id belongs to another token.
    #[error("the hive id {hive_id} belongs to another token; give this hive another --hive-id, or revoke that token")]
    NotIts {
        /// The id.
        hive_id: String,
    },
    /// No event has that number yet.
    #[error("Last-Event-ID {after} is beyond the last event, {last}")]
    Beyond {
        /// What was asked for.
        after: u64,
        /// The newest event.
        last: u64,
    },
    /// A value that cannot be taken.
    #[error("{message}")]
    Invalid {
        /// What is wrong with it.
        message: String,
    },
    /// There are no such bytes.
    #[error("there is no blob {blob}")]
    NoBlob {
        /// What was asked for.
        blob: BlobId,
    },
    /// Another key has this name.
    #[error("a key named {name:?} exists; revoke it, or choose another name")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// Another process has the folder open.
    #[error("{path} is in use by another queen; stop it, or give this one a --data-dir of its own")]
    Locked {
        /// The folder.
        path: String,
    },
    /// What is on disk is not what was written.
    #[error("{path} is damaged: {reason}; move it away to begin anew, or put a backup in its place")]
    Corrupt {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A newer rbee has written it.
    #[error("{path} was written by a newer rbee (schema {found}, this one knows {known}); update, or use a new folder")]
    Newer {
        /// The file.
        path: String,
        /// Its version.
        found: i64,
        /// The newest that is known here.
        known: i64,
    },
    /// The disk is full.
    #[error("the disk that holds {path} is full; nothing was taken or lost")]
    DiskFull {
        /// The folder.
        path: String,
    },
    /// The disk or the database failed.
    #[error("{path}: {reason}")]
    Storage {
        /// The file or folder.
        path: String,
        /// What failed.
        reason: String,
    },
    /// The broker on the other machine did not answer. Whether it has heard is not known; every call can be repeated.
    #[error("the queen at {url} cannot be reached: {reason}")]
    Unreachable {
        /// Where it should be.
        url: String,
        /// What failed.
        reason: String,
    },
    /// The token is none, or not one that may do this.
    #[error("{message}")]
    Unauthorized {
        /// What is wrong with it.
        message: String,
    },
    /// It stops.
    #[error("the broker is stopping")]
    Stopping,
}

impl BrokerError {
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid { message: message.into() }
    }

    /// Whether the same call may work a little later.
    pub const fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Stopping | Self::DiskFull { .. } | Self::Storage { .. })
    }

    /// The word and the status that it is answered with.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::NotFound { .. } | Self::NoBlob { .. } => ErrorCode::NotFound,
            Self::Expired { .. } => ErrorCode::Expired,
            Self::Full { .. } => ErrorCode::QueueFull,
            Self::Conflict { .. }
            | Self::Stale { .. }
            | Self::NotEnlisted { .. }
            | Self::Superseded { .. }
            | Self::NotIts { .. }
            | Self::NameTaken { .. } => ErrorCode::Conflict,
            Self::Beyond { .. } => ErrorCode::Malformed,
            Self::Invalid { .. } => ErrorCode::InvalidRequest,
            Self::Unauthorized { .. } => ErrorCode::Unauthorized,
            Self::Unreachable { .. } => ErrorCode::BadGateway,
            Self::DiskFull { .. } | Self::Locked { .. } => ErrorCode::Unavailable,
            Self::Stopping => ErrorCode::ShuttingDown,
            Self::Corrupt { .. } | Self::Newer { .. } | Self::Storage { .. } => ErrorCode::Internal,
        }
    }
}

impl From<BrokerError> for ApiError {
    fn from(error: BrokerError) -> Self {
        let api = ApiError::new(error.code(), error.to_string());
        match error {
            BrokerError::Beyond { .. } => api.with_param("Last-Event-ID"),
            BrokerError::Conflict { .. } => api.with_param("Idempotency-Key"),
            BrokerError::NameTaken { .. } => api.with_param("name"),
            _ => api,
        }
    }
}
