use crate::backoff::Backoff;
use crate::ledger::Ledger;
use crate::spawner::Spawner;
use crate::worker::{End, Phase, Served, Worker, WorkerHandle, WorkerSpec, WorkerStatus};
use crate::{DataDir, HiveError, Model, Programs, process};
use broker::{HiveRecord, WorkKind};
use model_store::ModelStore;
use operations_contract::{LOCALHOST, WorkerKind};
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Workers that one machine runs at once; asked for more, the one idle longest makes room.
pub(crate) const WORKERS: usize = 4;

/// What a hive is started with.
#[derive(Debug, Clone)]
pub struct HiveConfig {
    /// Its id, beside `localhost`.
    pub id: String,
    /// Where logs go.
    pub data_dir: DataDir,
    /// Its models.
    pub store: ModelStore,
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
    pub(crate) ledger: Ledger,
    /// The most that workers for a model were seen to hold.
    pub(crate) measured: Mutex<HashMap<(WorkKind, String), u64>>,
    /// What their program said that they will, by model and flags.
    pub(crate) estimated: Mutex<HashMap<(String, Vec<String>), u64>>,
    workers: Mutex<HashMap<String, Arc<Worker>>>,
    pub(crate) backoff: Mutex<Backoff<String>>,
    /// Where workers call back to; known once the hive listens.
    callback: Mutex<Option<Callback>>,
    changed: watch::Sender<u64>,
    stopping: AtomicBool,
}

impl Hive {
    /// A hive without workers; those that an earlier one left behind are ended first, which may block for a moment.
    /// Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`HiveError::Spawn`] where no thread can be had.
    pub fn new(config: HiveConfig) -> Result<Self, HiveError> {
        let spawner = Spawner::start().map_err(|source| HiveError::Spawn { program: "a thread".into(), source })?;
        config.data_dir.sweep_logs();
        let ledger = Ledger::open(&config.data_dir);
        ledger.end_orphans();
        let shared = Arc::new(Shared {
            config,
            spawner,
            ledger,
            measured: Mutex::default(),
            estimated: Mutex::default(),
            workers: Mutex::default(),
            backoff: Mutex::default(),
            callback: Mutex::default(),
            changed: watch::Sender::new(0),
            stopping: AtomicBool::new(false),
        });
        tokio::spawn(crate::logs::rotate(shared.config.data_dir.worker_logs()));
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

    /// As it enlists at a broker.
    pub fn record(&self, incarnation: u64, url: Option<String>) -> HiveRecord {
        HiveRecord {
            hive_id: self.id().to_owned(),
            incarnation,
            url,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            workers: self.workers().into_iter().map(Into::into).collect(),
            models: self.catalogue().unwrap_or_default().iter().map(crate::model::name_of).collect(),
            kinds: self.kinds(),
            devices: serde_json::to_value(crate::devices::devices()).unwrap_or_default(),
        }
    }

    /// What this hive can start workers for.
    pub fn kinds(&self) -> Vec<WorkKind> {
        let programs = &self.shared.config.programs;
        let kinds = [WorkKind::Image, WorkKind::Infer];
        kinds.into_iter().filter(|kind| programs.worker(*kind, WorkerKind::Cpu).is_ok()).collect()
    }

    /// The models of which a worker runs or starts.
    pub fn models_with_a_worker(&self, kind: WorkKind) -> Vec<String> {
        let workers = self.shared.workers();
        let models: BTreeSet<&String> =
            workers.values().filter(|worker| worker.serves == kind).map(|worker| &worker.model).collect();
        models.into_iter().cloned().collect()
    }

    pub(crate) fn spawned_workers(&self) -> Vec<Arc<Worker>> {
        self.shared.workers().values().filter(|worker| worker.spawned).cloned().collect()
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.shared.stopping.load(Ordering::Acquire)
    }

    /// Wakes those who wait for a change.
    pub(crate) fn changed(&self) {
        self.shared.changed.send_modify(|version| *version += 1);
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

    /// Starts a worker and waits until it can serve; says no where there is no room for it. The worker lives on when
    /// the waiting is given up.
    ///
    /// # Errors
    /// Everything that can go wrong until the worker is ready.
    pub async fn start_worker(&self, spec: &WorkerSpec) -> Result<WorkerHandle, HiveError> {
        self.foresee(spec).await;
        self.wait_until_ready(self.begin(spec)?).await
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
        let spawned = self.spawned_workers();
        for worker in &spawned {
            worker.stop.notify_one();
        }
        for worker in spawned {
            let _ = worker.phase.subscribe().wait_for(|phase| matches!(phase, Phase::Ended(_))).await;
        }
    }

    pub(crate) fn begin(&self, spec: &WorkerSpec) -> Result<Arc<Worker>, HiveError> {
        let shared = &self.shared;
        let program = shared.config.programs.worker(spec.serves, spec.kind)?;
        let id = format!("worker-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
        let log = shared.config.data_dir.worker_log(&id);
        let foreseen = self.foreseen(spec);
        let lease = spec.model.lease(&shared.config.store);
        let worker = Arc::new(Worker::spawned(id, spec, log, foreseen, lease));
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
        metrics::counter!("rbee_worker_starts_total").increment(1);
        tokio::spawn(process::supervise(shared.clone(), worker.clone(), spec.clone(), program, callback));
        Ok(worker)
    }

    pub(crate) async fn wait_until_ready(&self, worker: Arc<Worker>) -> Result<WorkerHandle, HiveError> {
        let mut phase = worker.phase.subscribe();
        let reached = phase.wait_for(|phase| !matches!(phase, Phase::Starting)).await.map(|phase| phase.clone());
        let (worker_id, model) = (worker.id.clone(), worker.model.clone());
        match reached {
            Ok(Phase::Ready(served)) => {
                let handle = WorkerHandle { worker, served };
                self.measure(&handle).await;
                Ok(handle)
            }
            Ok(Phase::Ended(end)) if end.asked => Err(HiveError::StoppedLoading { model }),
            Ok(Phase::Ended(end)) if end.exited => Err(HiveError::NotReady { model, reason: end.reason() }),
            Ok(Phase::Ended(end)) => Err(HiveError::DiedLoading { worker_id, model, reason: end.reason() }),
            Ok(Phase::Starting) | Err(_) => Err(HiveError::Stopping),
        }
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
            metrics::counter!("rbee_worker_deaths_total").increment(1);
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
