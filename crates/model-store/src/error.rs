use operations_contract::{ApiError, ErrorCode};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why the store cannot do what it is asked. Cloned to everybody who waits for the same download.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Nobody says where data may lie.
    #[error("neither HOME nor XDG_DATA_HOME is set; set RBEE_DATA_DIR to a folder that can be written to")]
    NoHome,
    /// A file or folder of the store cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: Arc<io::Error>,
    },
    /// It is no name, repository, URL or path.
    #[error(
        "{0:?} is no model: give a well-known name, a hub repository (owner/name), one file of it \
         (owner/name:file.gguf), the URL of a .safetensors or .gguf file, or the absolute path of a model"
    )]
    Unknown(String),
    /// It ships inside the program and is on no disk.
    #[error("{0} is inside the program; there is nothing to download or to delete")]
    BuiltIn(String),
    /// The catalogue knows no such id.
    #[error("there is no model {0:?} in the catalogue; model_list tells the ids of those that are")]
    NoEntry(String),
    /// A process uses the model.
    #[error("the model {0} is in use; stop the workers that have loaded it first")]
    InUse(String),
    /// What lies at a path is no model.
    #[error("{path}: {reason}")]
    NotAModel {
        /// The path.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It would have to be downloaded, and nothing may be.
    #[error("{0} is not on this machine, and --offline forbids to download it")]
    Offline(String),
    /// The hub has no such repository or file.
    #[error("{what} is not at {host}: {reason}")]
    NotFound {
        /// What was asked for.
        what: String,
        /// Where.
        host: String,
        /// What was answered.
        reason: String,
    },
    /// The hub wants to know who asks.
    #[error("{host} does not give out {what}: {hint}")]
    Refused {
        /// What was asked for.
        what: String,
        /// Where.
        host: String,
        /// What to do.
        hint: String,
    },
    /// The repository holds nothing that rbee loads.
    #[error("{repository}: {reason}")]
    Unusable {
        /// The repository, or the address.
        repository: String,
        /// Why.
        reason: String,
    },
    /// The server did not answer, broke off too often, or is overloaded.
    #[error("{host} cannot be reached: {reason}; is this machine online? What has arrived is kept, so try again")]
    Unreachable {
        /// Where.
        host: String,
        /// How it failed the last time.
        reason: String,
    },
    /// The server answered with nonsense.
    #[error("{host} answered what cannot be right: {reason}")]
    BadAnswer {
        /// Where.
        host: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What arrived is not what the server announced, twice.
    #[error("{file} arrived damaged twice: its {digest} is {got}, not {expected}")]
    Checksum {
        /// The file.
        file: String,
        /// Which sum.
        digest: &'static str,
        /// What it should be.
        expected: String,
        /// What it is.
        got: String,
    },
    /// The disk is too small.
    #[error("{path} has room for {free} bytes and {needed} are needed; delete a model that is not used any more")]
    NoSpace {
        /// The folder of the models.
        path: PathBuf,
        /// Bytes that are still to come.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// Nobody waits for it any more.
    #[error("the download was cancelled; what has arrived is kept")]
    Cancelled,
}

/// What the store's functions return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source: Arc::new(source) }
    }

    /// The error as clients see it.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => ErrorCode::InsufficientStorage,
            Self::NoHome | Self::Io { .. } => ErrorCode::Internal,
            Self::Unknown(_) | Self::NoEntry(_) | Self::Offline(_) | Self::NotFound { .. } => ErrorCode::ModelNotFound,
            Self::BuiltIn(_) | Self::NotAModel { .. } | Self::Unusable { .. } => ErrorCode::InvalidRequest,
            Self::InUse(_) => ErrorCode::Conflict,
            // Not 401: the client's own key is fine, it is the hub that wants one of this machine.
            Self::Refused { .. } => ErrorCode::Forbidden,
            Self::Unreachable { .. } => ErrorCode::Unavailable,
            Self::BadAnswer { .. } | Self::Checksum { .. } => ErrorCode::BadGateway,
            Self::NoSpace { .. } => ErrorCode::InsufficientStorage,
            Self::Cancelled => ErrorCode::Cancelled,
        }
    }
}

impl From<&Error> for ApiError {
    fn from(error: &Error) -> Self {
        let api = ApiError::new(error.code(), error.to_string());
        match error {
            Error::NoEntry(_) | Error::InUse(_) => api.with_param("id"),
            Error::NoHome | Error::Io { .. } | Error::NoSpace { .. } | Error::Cancelled => api,
            _ => api.with_param("model"),
        }
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        Self::from(&error)
    }
}
