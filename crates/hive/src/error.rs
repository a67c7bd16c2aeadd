use operations_contract::{ApiError, ErrorCode};
use std::io;
use std::path::PathBuf;

/// Why a hive cannot do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum HiveError {
    /// Nobody says where data may lie.
    #[error("neither HOME nor XDG_DATA_HOME is set; set RBEE_DATA_DIR to a folder that can be written to")]
    NoHome,
    /// The folder for data cannot be made or written to.
    #[error("cannot write to {path}: {source}; set RBEE_DATA_DIR to a folder that can be written to")]
    DataDir {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The port is taken, or the address is none of this machine's.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// There is no program for such workers.
    #[error("there is no {program} beside {beside} or on PATH; {how}")]
    NoProgram {
        /// Its name.
        program: String,
        /// The folder that was looked into.
        beside: PathBuf,
        /// How to get it.
        how: &'static str,
    },
    /// The worker's process could not be started.
    #[error("cannot start {program}: {source}")]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The worker ended before it could serve.
    #[error("the worker for {model} could not start: {reason}")]
    NotReady {
        /// The model that it was to load.
        model: String,
        /// How it ended, and what it said.
        reason: String,
    },
    /// The worker died of a signal before it could serve.
    #[error("the worker {worker_id} for {model} was lost while it loaded: {reason}")]
    DiedLoading {
        /// The worker.
        worker_id: String,
        /// The model that it was to load.
        model: String,
        /// How it ended, and what it said.
        reason: String,
    },
    /// Somebody stopped the worker before it could serve.
    #[error("the worker for {model} was stopped while it loaded")]
    StoppedLoading {
        /// The model that it was to load.
        model: String,
    },
    /// It does not fit, whatever else is unloaded.
    #[error(
        "{model} needs about {} of memory and {} can be had here; close other programs, or take a smaller model or --low-memory",
        gib(*.needed), gib(*.most)
    )]
    NoRoom {
        /// The model.
        model: String,
        /// Bytes that a worker for it is foreseen to need.
        needed: u64,
        /// Bytes that are free when every worker of this hive has ended.
        most: u64,
    },
    /// The worker did not get ready in time.
    #[error("the worker for {model} was not ready after {seconds} s; it was stopped (log: {log})")]
    TooSlow {
        /// The model that it was to load.
        model: String,
        /// How long it had.
        seconds: u64,
        /// Its log.
        log: PathBuf,
    },
    /// As many workers as one machine is meant to have.
    #[error("this hive runs {limit} workers already; stop one with worker_process_delete")]
    TooManyWorkers {
        /// How many that is.
        limit: usize,
    },
    /// No such worker.
    #[error("there is no worker {0}")]
    NoWorker(String),
    /// No such process, or none of this hive's.
    #[error("this hive has spawned no process {0}")]
    NoProcess(u32),
    /// The models cannot be reached.
    #[error(transparent)]
    Store(model_store::Error),
    /// The hive is stopping.
    #[error("the hive is stopping")]
    Stopping,
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

impl From<&HiveError> for ApiError {
    fn from(error: &HiveError) -> Self {
        let (code, param) = match error {
            HiveError::NoHome | HiveError::DataDir { .. } | HiveError::Listen { .. } | HiveError::Spawn { .. } => {
                (ErrorCode::Internal, None)
            }
            HiveError::NoProgram { .. } | HiveError::TooManyWorkers { .. } => (ErrorCode::Unavailable, None),
            HiveError::NotReady { .. } | HiveError::TooSlow { .. } => (ErrorCode::ModelLoadFailed, Some("model")),
            HiveError::DiedLoading { .. } => (ErrorCode::WorkerCrashed, None),
            HiveError::StoppedLoading { .. } => (ErrorCode::Unavailable, None),
            HiveError::NoRoom { .. } => (ErrorCode::OutOfMemory, Some("model")),
            HiveError::NoWorker(_) => (ErrorCode::NotFound, Some("worker_id")),
            HiveError::NoProcess(_) => (ErrorCode::NotFound, Some("pid")),
            HiveError::Store(error) => (error.code(), None),
            HiveError::Stopping => (ErrorCode::ShuttingDown, None),
        };
        let error = ApiError::new(code, error.to_string());
        match param {
            Some(param) => error.with_param(param),
            None => error,
        }
    }
}

impl From<HiveError> for ApiError {
    fn from(error: HiveError) -> Self {
        Self::from(&error)
    }
}
