use crate::backoff::Backoff;
use crate::spawner::Spawner;
use crate::worker::{End, Phase, Served, Worker, WorkerHandle, WorkerSpec, WorkerStatus};
use crate::{DataDir, HiveError, Model, Programs, process};
use operations_contract::LOCALHOST;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Workers that one machine runs at once; asked for more, the one idle longest makes room.
const WORKERS: usize = 4;

/// What a hive is started with.
#[derive(Debug, Clone)]
pub struct HiveConfig {
    /// Its id, beside `localhost`.
    pub id: String,
    /// Where logs go.
    pub data_dir: DataDir,
    /// Where it finds worker programs.
    pub programs: Programs,
    /// Workers that were idle for so long are stopped; absent: never.
    pub idle_timeout: Option<Duration>,
}

/// Where a worker tells that it is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callback {
    /// The hive's address.
    pub url: String,
    /// The key that the hive wants, where it wants one.
    pub key: Option<String>,
}

/// The supervisor of one machine's worker processes. Clones are the same hive.
#[derive(Debug, Clone)]
pub struct Hive {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: HiveConfig,
    pub(crate) spawner: Spawner,
    workers: Mutex<HashMap<String, Arc<Worker>>>,
    pub(crate) backoff: Mutex<Backoff<String>>,
    /// Where workers call back to; known once the hive listens.
    callback: Mutex<Option<Callback>>,
    changed: watch::Sender<u64>,
    stopping: AtomicBool,
}

impl Hive {
    /// A hive without workers. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`HiveError::Spawn`] where no thread can be had.
    pub fn new(config: HiveConfig) -> Result<Self, HiveError> {
        let spawner = Spawner::start().map_err(|source| HiveError::Spawn { program: "a thread".into(), source })?;
        config.data_dir.sweep_logs();
        let shared = Arc::new(Shared {
            config,
            spawner,
            workers: Mutex::default(),
            backoff: Mutex::default(),
            callback: Mutex::default(),
            changed: watch::Sender::new(0),
            stopping: AtomicBool::new(false),
        });
        if let Some(timeout) = shared.config.idle_timeout {
            tokio::spawn(stop_idle(Arc::downgrade(&shared), timeout));
        }
        Ok(Self { shared })
    }

    /// Whether `hive_id` means this hive.
    pub fn is(&self, hive_id: &str) -> bool {
        hive_id == LOCALHOST || hive_id == self.shared.config.id
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.shared.config.id
    }

    /// Its folder.
    pub fn data_dir(&self) -> &DataDir {
        &self.shared.config.data_dir
    }

    /// Tells workers that are spawned from now on where to call back.
    pub fn set_callback(&self, callback: Callback) {
        *self.shared.callback.lock().unwrap_or_else(PoisonError::into_inner) = Some(callback);
    }

    /// Changes whenever a worker got ready or ended.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    /// Every worker that is known, the oldest first.
    pub fn workers(&self) -> Vec<WorkerStatus> {
        let mut workers: Vec<WorkerStatus> = self.shared.workers().values().map(|worker| worker.status()).collect();
        workers.sort_by(|a, b| (a.started_ms, &a.worker_id).cmp(&(b.started_ms, &b.worker_id)));
        workers
    }

    /// The workers that can serve now.
    pub fn ready_workers(&self) -> Vec<WorkerHandle> {
        let workers = self.shared.workers();
        let ready = workers
            .values()
            .filter_map(|worker| Some(WorkerHandle { served: worker.served()?, worker: worker.clone() }));
        ready.collect()
    }

    /// How long a worker for `model` would wait before it is started, because the last ones died.
    pub fn pause_before(&self, model: &Model) -> Duration {
        self.shared.backoff().pause(model.as_str())
    }

    /// A job on a worker for `model` worked: earlier deaths are forgiven.
    pub fn worked(&self, model: &str) {
        self.shared.backoff().forgive(model);
    }

    /// Starts a worker and waits until it can serve. Where as many run as may, the one idle longest is stopped first;
    /// where none is idle, this waits for one. The worker lives on when the waiting is given up.
    ///
    /// # Errors
    /// Everything that can go wrong until the worker is ready.
    pub async fn start_worker(&self, spec: WorkerSpec) -> Result<WorkerHandle, HiveError> {
        let mut changes = self.changes();
        let mut idle_check = tokio::time::interval(Duration::from_millis(200));
        let worker = loop {
            match self.begin(&spec) {
                Err(HiveError::TooManyWorkers { .. }) => {
                    self.stop_longest_idle();
                    tokio::select! {
                        _ = changes.changed() => {}
                        _ = idle_check.tick() => {}
                    }
                }
                begun => break begun?,
            }
        };
        wait_until_ready(worker).await
    }

    /// Starts a worker, and says no where as many run as may.
    ///
    /// # Errors
    /// As [`Hive::start_worker`].
    pub async fn start_worker_now(&self, spec: &WorkerSpec) -> Result<WorkerHandle, HiveError> {
        wait_until_ready(self.begin(spec)?).await
    }

    /// Stops a worker that this hive spawned, known by its process id, and waits for its end.
    ///
    /// # Errors
    /// [`HiveError::NoProcess`]
    pub async fn stop_worker(&self, pid: u32) -> Result<WorkerStatus, HiveError> {
        let worker = self.shared.spawned(pid).ok_or(HiveError::NoProcess(pid))?;
        worker.stop.notify_one();
        let mut phase = worker.phase.subscribe();
        let _ = phase.wait_for(|phase| matches!(phase, Phase::Ended(_))).await;
        Ok(worker.status())
    }

    /// A process that this hive spawned.
    ///
    /// # Errors
    /// [`HiveError::NoProcess`]
    pub fn worker_process(&self, pid: u32) -> Result<WorkerStatus, HiveError> {
        self.shared.spawned(pid).map(|worker| worker.status()).ok_or(HiveError::NoProcess(pid))
    }

    /// Stops every worker that this hive spawned, and waits for their ends. No worker is started any more.
    pub async fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        let spawned: Vec<Arc<Worker>> =
            self.shared.workers().values().filter(|worker| worker.spawned).cloned().collect();
        for worker in &spawned {
            worker.stop.notify_one();
        }
        for worker in spawned {
            let _ = worker.phase.subscribe().wait_for(|phase| matches!(phase, Phase::Ended(_))).await;
        }
    }

    fn begin(&self, spec: &WorkerSpec) -> Result<Arc<Worker>, HiveError> {
        let shared = &self.shared;
        let program = shared.config.programs.sd_worker(spec.kind)?;
        let id = format!("worker-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
        let log = shared.config.data_dir.worker_log(&id);
        let worker = Worker::new(id, spec.model.to_string(), Some(spec.kind), Some(log), Phase::Starting);
        let worker = Arc::new(worker);
        {
            let mut workers = shared.workers();
            if shared.stopping.load(Ordering::Acquire) {
                return Err(HiveError::Stopping);
            }
            if workers.values().filter(|worker| worker.spawned).count() >= WORKERS {
                return Err(HiveError::TooManyWorkers { limit: WORKERS });
            }
            workers.insert(worker.id.clone(), worker.clone());
        }
        let callback = shared.callback.lock().unwrap_or_else(PoisonError::into_inner).clone();
        tokio::spawn(process::supervise(shared.clone(), worker.clone(), spec.clone(), program, callback));
        Ok(worker)
    }

    fn stop_longest_idle(&self) {
        let workers = self.shared.workers();
        let idle = workers.values().filter(|worker| worker.spawned && worker.served().is_some());
        if let Some((_, worker)) =
            idle.filter_map(|worker| Some((worker.idle_since()?, worker))).min_by_key(|(since, _)| *since)
        {
            tracing::info!(worker = worker.id, model = worker.model, "stopping the worker that was idle longest");
            worker.stop.notify_one();
        }
    }
}

async fn wait_until_ready(worker: Arc<Worker>) -> Result<WorkerHandle, HiveError> {
    let mut phase = worker.phase.subscribe();
    let reached = phase.wait_for(|phase| !matches!(phase, Phase::Starting)).await.map(|phase| phase.clone());
    let model = worker.model.clone();
    match reached {
        Ok(Phase::Ready(served)) => Ok(WorkerHandle { worker, served }),
        Ok(Phase::Ended(end)) if end.exited && !end.asked => Err(HiveError::NotReady { model, reason: end.reason() }),
        Ok(Phase::Ended(end)) => Err(HiveError::DiedLoading { model, reason: end.reason() }),
        Ok(Phase::Starting) | Err(_) => Err(HiveError::Stopping),
    }
}

impl Shared {
    pub(crate) fn workers(&self) -> MutexGuard<'_, HashMap<String, Arc<Worker>>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn backoff(&self) -> MutexGuard<'_, Backoff<String>> {
        self.backoff.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawned(&self, pid: u32) -> Option<Arc<Worker>> {
        let workers = self.workers();
        workers.values().find(|worker| worker.spawned && worker.pid.load(Ordering::Acquire) == pid).cloned()
    }

    pub(crate) fn ready(&self, worker: &Worker, served: Served) {
        tracing::info!(worker = worker.id, url = served.url, model = served.model, "a worker is ready");
        // One that has ended stays so, however late its callback comes.
        worker.phase.send_if_modified(|phase| {
            let starting = matches!(phase, Phase::Starting);
            if starting {
                *phase = Phase::Ready(served);
            }
            starting
        });
        self.changed.send_modify(|version| *version += 1);
    }

    /// Forgets a worker, and tells everybody who waits for it.
    pub(crate) fn ended(&self, worker: &Worker, end: End) {
        if end.asked {
            tracing::info!(worker = worker.id, "a worker was stopped");
        } else {
            tracing::warn!(worker = worker.id, model = worker.model, reason = end.reason(), "a worker ended");
            if worker.spawned {
                self.backoff().failed(worker.model.clone());
            }
        }
        self.workers().remove(&worker.id);
        worker.phase.send_replace(Phase::Ended(Arc::new(end)));
        self.changed.send_modify(|version| *version += 1);
    }
}

async fn stop_idle(shared: std::sync::Weak<Shared>, timeout: Duration) {
    let mut tick = tokio::time::interval((timeout / 4).clamp(Duration::from_millis(50), Duration::from_secs(5)));
    loop {
        tick.tick().await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        for worker in shared.workers().values().filter(|worker| worker.spawned && worker.served().is_some()) {
            if worker.idle_since().is_some_and(|since| since.elapsed() >= timeout) {
                tracing::info!(worker = worker.id, model = worker.model, "stopping a worker that was idle");
                worker.stop.notify_one();
            }
        }
    }
}
