//! Jobs that wait for a model that no worker here has: a worker is started for it.

use super::{Agent, Holding, Shared};
use crate::error::HiveError;
use crate::worker::{WorkerHandle, WorkerSpec};
use broker::{Ending, GiveBack, Offer, WorkKind};
use operations_contract::{ApiError, Level, Phase};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// So many models are brought up at once; what else waits stays in the queue, where it can still be reordered.
const LOADING: usize = 4;

/// So many jobs hear of a download at once; what else waits for it waits silently.
const COMPANIONS: usize = 64;

/// Counts one that hears of a download.
struct Companion(Arc<Shared>);

impl Companion {
    fn new(shared: Arc<Shared>) -> Self {
        shared.companions.fetch_add(1, Ordering::AcqRel);
        Self(shared)
    }
}

impl Drop for Companion {
    fn drop(&mut self) {
        self.0.companions.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A worker that nobody else serves, because the job for which it was started is its first. Where that job does not wait
/// for it any more, it is as good as any other.
struct Reserved {
    shared: Arc<Shared>,
    worker_id: Option<String>,
}

impl Reserved {
    fn new(shared: Arc<Shared>, worker_id: String) -> Self {
        shared.served().insert(worker_id.clone());
        Self { shared, worker_id: Some(worker_id) }
    }

    /// The job has it now.
    fn keep(mut self) {
        self.worker_id = None;
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Some(worker_id) = self.worker_id.take() {
            self.shared.served().remove(&worker_id);
            self.shared.hive.changed();
        }
    }
}

/// Why there is no worker for a job.
enum NoWorker {
    Refused(ApiError),
    Back(GiveBack),
}

/// While it lives, nobody else starts a worker for the model.
struct Mark {
    shared: Arc<Shared>,
    model: (WorkKind, String),
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.shared.loading().remove(&self.model);
        self.shared.hive.changed();
    }
}

impl Agent {
    pub(super) async fn load(self) {
        let mut changes = self.0.hive.changes();
        loop {
            changes.mark_unchanged();
            let offers = self.offers();
            if offers.is_empty() {
                // The sender lives in the hive, which this agent keeps.
                let _ = changes.changed().await;
                continue;
            }
            let claim = tokio::select! {
                biased;
                claim = self.claim(offers) => claim,
                _ = changes.changed() => None,
            };
            let Some(claim) = claim else { continue };
            let model = (claim.want.kind, claim.want.model.clone());
            if self.0.loading().insert(model.clone()) {
                let mark = Mark { shared: self.0.clone(), model };
                self.0.tasks.spawn(self.clone().bring(self.hold(claim), mark));
            } else {
                self.0.tasks.spawn(self.clone().accompany(self.hold(claim)));
            }
        }
    }

    /// A job that waits for a download which another job has begun hears how it goes, and then waits on in the queue.
    async fn accompany(self, holding: Holding) {
        let shared = self.0.clone();
        let job = &holding.assignment;
        let want = job.claim().want.clone();
        let _count = Companion::new(shared.clone());
        let obtained = tokio::select! {
            biased;
            () = job.cancelled().cancelled() => return job.finish(Ending::Cancelled).await,
            () = job.lost().cancelled() => return,
            () = shared.leaving.cancelled() => return job.give_back(shared.why()).await,
            obtained = shared.hive.obtain(want.kind, &want.model, job) => obtained,
        };
        match obtained {
            Ok(_) => job.give_back(GiveBack::Unused).await,
            Err(error) => job.finish(Ending::Error(error)).await,
        }
    }

    /// What a new worker could be started for: every model but those for which there is one or soon will be.
    fn offers(&self) -> Vec<Offer> {
        let loading: Vec<_> = self.0.loading().iter().cloned().collect();
        if loading.len() >= LOADING {
            return Vec::new();
        }
        let kinds = self.0.hive.kinds();
        let offer = |kind: WorkKind| {
            let mut except = self.0.hive.models_with_a_worker(kind);
            except.extend(loading.iter().filter(|(other, _)| *other == kind).map(|(_, model)| model.clone()));
            Offer::LoadAny { kind, except }
        };
        let mut offers: Vec<Offer> = kinds.into_iter().map(offer).collect();
        if self.0.companions.load(Ordering::Acquire) < COMPANIONS {
            let downloading = loading
                .into_iter()
                .filter(|(kind, model)| self.0.hive.model(*kind, model).is_ok_and(|model| model.is_missing()));
            offers.extend(downloading.map(|(kind, model)| Offer::Load { kind, model }));
        }
        offers
    }

    /// Starts a worker for the job, which is the first that it does.
    async fn bring(self, holding: Holding, mark: Mark) {
        let shared = self.0.clone();
        let job = &holding.assignment;
        let started = tokio::select! {
            biased;
            () = job.cancelled().cancelled() => return job.finish(Ending::Cancelled).await,
            () = job.lost().cancelled() => return,
            () = shared.leaving.cancelled() => return job.give_back(shared.why()).await,
            started = self.start_worker(&holding, mark) => started,
        };
        match started {
            Ok(worker) => self.serve(worker, Some(holding)).await,
            Err(NoWorker::Refused(error)) => job.finish(Ending::Error(error)).await,
            Err(NoWorker::Back(why)) => job.give_back(why).await,
        }
    }

    async fn start_worker(&self, holding: &Holding, mark: Mark) -> Result<WorkerHandle, NoWorker> {
        let (hive, job) = (&self.0.hive, &holding.assignment);
        let want = &job.claim().want;
        let model = hive.obtain(want.kind, &want.model, job).await.map_err(NoWorker::Refused)?;
        let pause = hive.pause_before(&model);
        if !pause.is_zero() {
            let message =
                format!("the last worker for {model} died; the next one is started in {:.1} s", pause.as_secs_f64());
            job.narrate(Level::Info, "hive", message);
        }
        job.progress(0, 1, Phase::Loading, None);
        let spec = WorkerSpec::for_model(want.kind, model);
        let (begun, reserved) = {
            let _room = self.0.room.lock().await;
            hive.make_room(&spec, |message| job.narrate(Level::Info, "hive", message)).await.map_err(no_worker)?;
            let begun = hive.begin(&spec).map_err(no_worker)?;
            let reserved = Reserved::new(self.0.clone(), begun.id.clone());
            (begun, reserved)
        };
        drop(mark);
        let worker = hive.wait_until_ready(begun).await.map_err(no_worker)?;
        reserved.keep();
        Ok(worker)
    }
}

/// A worker that died of itself while it loaded counts against the job; one that says what is wrong with its model
/// ends it.
fn no_worker(error: HiveError) -> NoWorker {
    match error {
        HiveError::DiedLoading { .. } => {
            NoWorker::Back(GiveBack::WorkerDied { reason: error.to_string(), last_words: String::new() })
        }
        HiveError::StoppedLoading { .. } => NoWorker::Back(GiveBack::Refused { reason: error.to_string() }),
        HiveError::Stopping => NoWorker::Back(GiveBack::HiveStopping),
        error => NoWorker::Refused(error.into()),
    }
}
