use crate::Model;
use broker::{WorkKind, WorkerRecord, WorkerState};
use job_server::client::{Client, ClientError};
use model_store::Lease;
use operations_contract::WorkerKind;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{Notify, watch};

/// What a worker is to be started with.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerSpec {
    /// What it serves: pictures or text.
    pub serves: WorkKind,
    /// The model that it loads.
    pub model: Model,
    /// What it computes with.
    pub kind: WorkerKind,
    /// Which of the devices of that kind.
    pub device: u32,
    /// Its port; absent: the first free one, which it finds itself.
    pub port: Option<u16>,
    /// More flags, each with its value where it has one.
    pub flags: Vec<String>,
}

impl WorkerSpec {
    /// A worker on the CPU.
    pub fn for_model(serves: WorkKind, model: Model) -> Self {
        Self { serves, model, kind: WorkerKind::Cpu, device: 0, port: None, flags: Vec::new() }
    }
}

/// Where a worker stands.
#[derive(Debug, Clone)]
pub(crate) enum Phase {
    Starting,
    Ready(Served),
    Ended(Arc<End>),
}

/// What a ready worker told about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Served {
    pub(crate) url: String,
    pub(crate) model: String,
    pub(crate) device: String,
}

/// How a worker ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// How its process ended, in words.
    pub how: String,
    /// Its last words, from its log.
    pub last_words: String,
    /// Whether it was asked to.
    pub asked: bool,
    /// Whether it ended by its own decision (`exit`), not by a signal.
    pub exited: bool,
}

impl End {
    pub(crate) fn of_process(status: std::io::Result<ExitStatus>, asked: bool, last_words: String) -> Self {
        let (how, exited) = match status {
            Ok(status) => (describe(status), status.code().is_some()),
            Err(error) => (format!("it could not be waited for: {error}"), false),
        };
        Self { how, last_words, asked, exited }
    }

    /// How it ended and what it said last.
    pub fn reason(&self) -> String {
        if self.last_words.is_empty() { self.how.clone() } else { format!("{}: {}", self.how, self.last_words) }
    }
}

#[cfg(unix)]
fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it ended with exit code {code}"),
        (None, Some(9)) => "it was killed by signal 9 (SIGKILL; the system does that when memory runs out)".to_owned(),
        (None, Some(signal)) => format!("it was killed by signal {signal}"),
        (None, None) => "it ended".to_owned(),
    }
}

#[cfg(not(unix))]
fn describe(status: ExitStatus) -> String {
    status.to_string()
}

/// One worker process that the hive knows.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) id: String,
    /// What it serves.
    pub(crate) serves: WorkKind,
    /// Asked for when it was spawned here; what it reported when it was started by hand.
    pub(crate) model: String,
    pub(crate) kind: Option<WorkerKind>,
    pub(crate) spawned: bool,
    pub(crate) log: Option<PathBuf>,
    /// Keeps its model from being deleted.
    _lease: Option<Lease>,
    /// What it will hold at its peak, as far as its files tell.
    pub(crate) foreseen: u64,
    /// The most that it was seen to hold.
    pub(crate) measured: AtomicU64,
    pub(crate) started: SystemTime,
    /// 0 while there is no process yet.
    pub(crate) pid: AtomicU32,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) stop: Notify,
    /// The way to it, kept open between two jobs.
    client: OnceLock<Client>,
    in_use: AtomicUsize,
    /// Jobs that ended on it.
    used: AtomicUsize,
    last_used: Mutex<Instant>,
}

impl Worker {
    /// One that this hive is about to spawn.
    pub(crate) fn spawned(id: String, spec: &WorkerSpec, log: PathBuf, foreseen: u64, lease: Option<Lease>) -> Self {
        let (model, kind) = (spec.model.to_string(), Some(spec.kind));
        Self { kind, spawned: true, log: Some(log), foreseen, _lease: lease, ..Self::by_hand(id, spec.serves, model) }
    }

    /// One that somebody started by hand.
    pub(crate) fn by_hand(id: String, serves: WorkKind, model: String) -> Self {
        Self {
            id,
            serves,
            model,
            kind: None,
            spawned: false,
            log: None,
            _lease: None,
            foreseen: 0,
            measured: AtomicU64::new(0),
            started: SystemTime::now(),
            pid: AtomicU32::new(0),
            phase: watch::Sender::new(Phase::Starting),
            stop: Notify::new(),
            client: OnceLock::new(),
            in_use: AtomicUsize::new(0),
            used: AtomicUsize::new(0),
            last_used: Mutex::new(Instant::now()),
        }
    }

    pub(crate) fn served(&self) -> Option<Served> {
        match &*self.phase.borrow() {
            Phase::Ready(served) => Some(served.clone()),
            Phase::Starting | Phase::Ended(_) => None,
        }
    }

    pub(crate) fn end(&self) -> Option<Arc<End>> {
        match &*self.phase.borrow() {
            Phase::Ended(end) => Some(end.clone()),
            Phase::Starting | Phase::Ready(_) => None,
        }
    }

    /// Whether it had work, so that what it holds says what it needs.
    pub(crate) fn has_worked(&self) -> bool {
        self.used.load(Ordering::Acquire) > 0
    }

    /// When it last had work; `None` while it has some.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        let last_used = *self.last_used.lock().unwrap_or_else(PoisonError::into_inner);
        (self.in_use.load(Ordering::Acquire) == 0).then_some(last_used)
    }

    pub(crate) fn status(&self) -> WorkerStatus {
        let phase = self.phase.borrow().clone();
        let (state, served) = match phase {
            Phase::Starting => ("starting", None),
            Phase::Ready(served) => {
                (if self.in_use.load(Ordering::Acquire) > 0 { "busy" } else { "idle" }, Some(served))
            }
            Phase::Ended(_) => ("ended", None),
        };
        let device = served.as_ref().map(|served| served.device.clone());
        WorkerStatus {
            serves: self.serves,
            worker_id: self.id.clone(),
            model: self.model.clone(),
            state,
            pid: Some(self.pid.load(Ordering::Acquire)).filter(|pid| *pid != 0),
            url: served.map(|served| served.url),
            device: device.or_else(|| self.kind.map(|kind| kind.as_str().to_owned())),
            spawned: self.spawned,
            memory_bytes: Some(self.measured.load(Ordering::Acquire)).filter(|bytes| *bytes > 0),
            memory_foreseen_bytes: Some(self.foreseen).filter(|bytes| *bytes > 0),
            started_ms: self.started.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64),
            log: self.log.clone(),
        }
    }
}

/// A worker, as `status` and `worker_process_list` tell it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WorkerStatus {
    /// Its id.
    pub worker_id: String,
    /// What it serves: `image` or `infer`.
    pub serves: WorkKind,
    /// Its model.
    pub model: String,
    /// `starting`, `idle`, `busy` or `ended`.
    pub state: &'static str,
    /// Its process id, once there is a process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Where it listens, once it can serve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// What it computes with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Whether this hive started it; otherwise somebody did by hand.
    pub spawned: bool,
    /// The most memory that it was seen to hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// What it was foreseen to hold at its peak.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_foreseen_bytes: Option<u64>,
    /// When it was started, in milliseconds since 1970 UTC.
    pub started_ms: u64,
    /// Its log, where this hive started it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<PathBuf>,
}

impl From<WorkerStatus> for WorkerRecord {
    fn from(status: WorkerStatus) -> Self {
        Self {
            worker_id: status.worker_id,
            kind: status.serves,
            model: status.model,
            device: status.device.unwrap_or_default(),
            pid: status.pid.unwrap_or(0),
            url: status.url,
            state: match status.state {
                "starting" => WorkerState::Starting,
                "busy" => WorkerState::Busy,
                "idle" => WorkerState::Idle,
                _ => WorkerState::Stopping,
            },
        }
    }
}

/// A worker that can serve.
#[derive(Debug, Clone)]
pub struct WorkerHandle {
    pub(crate) worker: Arc<Worker>,
    pub(crate) served: Served,
}

impl WorkerHandle {
    /// Its id.
    pub fn id(&self) -> &str {
        &self.worker.id
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.served.url
    }

    /// The way to it.
    ///
    /// # Errors
    /// [`ClientError::Address`]
    pub(crate) fn client(&self) -> Result<Client, ClientError> {
        if let Some(client) = self.worker.client.get() {
            return Ok(client.clone());
        }
        let client = Client::new(self.url())?;
        Ok(self.worker.client.get_or_init(|| client).clone())
    }

    /// What it serves.
    pub fn kind(&self) -> WorkKind {
        self.worker.serves
    }

    /// The model that it says it has loaded.
    pub fn model(&self) -> &str {
        &self.served.model
    }

    /// The name by which jobs ask for its model.
    pub fn name(&self) -> &str {
        if self.worker.spawned { &self.worker.model } else { &self.served.model }
    }

    /// Its log, where this hive started it.
    pub fn log(&self) -> Option<&std::path::Path> {
        self.worker.log.as_deref()
    }

    /// Waits until it has ended.
    pub async fn ended(&self) -> Arc<End> {
        let mut phase = self.worker.phase.subscribe();
        loop {
            if let Some(end) = self.worker.end() {
                return end;
            }
            // The sender lives in the worker, which this handle keeps.
            if phase.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Keeps it from being unloaded as idle.
    pub fn in_use(&self) -> InUse {
        self.worker.in_use.fetch_add(1, Ordering::AcqRel);
        InUse(self.worker.clone())
    }
}

/// While this lives, its worker is not idle.
#[derive(Debug)]
pub struct InUse(Arc<Worker>);

impl Drop for InUse {
    fn drop(&mut self) {
        *self.0.last_used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.used.fetch_add(1, Ordering::AcqRel);
        self.0.in_use.fetch_sub(1, Ordering::AcqRel);
    }
}
