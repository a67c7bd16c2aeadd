//! What workers need of this machine's memory: foreseen before by the program of the worker, measured after.

use crate::devices::memory;
use crate::hive::{Hive, WORKERS};
use crate::room::{Room, Tenant, Verdict, decide};
use crate::worker::{Phase, Worker, WorkerHandle, WorkerSpec};
use crate::{HiveError, Model, process};
use broker::WorkKind;
use operations_contract::WorkerKind;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a worker without a model holds, and the buffers of a picture of a small model's size.
const BASE: u64 = 256 << 20;
/// How often those who wait for room look again.
const LOOK: Duration = Duration::from_millis(200);
/// A program that has not said by then what a model takes is not waited for.
const ESTIMATING: Duration = Duration::from_secs(20);
/// A worker tells what it holds at once, or it has something better to do.
const PATIENCE: Duration = Duration::from_secs(2);

impl Hive {
    /// Bytes that such a worker holds at its peak: what was seen before, or else what its program has said, or else an
    /// estimate from its files.
    pub(crate) fn foreseen(&self, spec: &WorkerSpec) -> u64 {
        self.known(spec).unwrap_or_else(|| estimate(spec.serves, weight_bytes(spec.model.files())))
    }

    fn known(&self, spec: &WorkerSpec) -> Option<u64> {
        let seen = lock(&self.shared.measured).get(&(spec.serves, spec.model.as_str().to_owned())).copied();
        seen.or_else(|| lock(&self.shared.estimated).get(&estimated_as(spec)).copied())
    }

    /// As [`Hive::foreseen`], after the program of the worker was asked, once, where nothing is known yet.
    pub(crate) async fn foresee(&self, spec: &WorkerSpec) -> u64 {
        if self.known(spec).is_none() {
            match self.ask_program(spec).await {
                Ok(bytes) => {
                    tracing::info!("a worker for {} is foreseen to hold {} MiB", spec.model, bytes >> 20);
                    lock(&self.shared.estimated).insert(estimated_as(spec), bytes);
                }
                Err(reason) => tracing::debug!("what {} takes is estimated from its files: {reason}", spec.model),
            }
        }
        self.foreseen(spec)
    }

    /// What `--estimate` says, which reads configs and headers and no weights.
    async fn ask_program(&self, spec: &WorkerSpec) -> Result<u64, String> {
        // What ships inside the program is small, and not worth the start of a process.
        if (spec.serves, spec.kind) != (WorkKind::Image, WorkerKind::Cpu) || spec.model.files().is_none() {
            return Err("only image workers on the processor are asked, of files".to_owned());
        }
        let program = self.shared.config.programs.worker(spec.serves, spec.kind).map_err(|error| error.to_string())?;
        let output = tokio::time::timeout(ESTIMATING, process::estimating(spec, &program).output()).await;
        let output = output.map_err(|_| "it took too long".to_owned())?.map_err(|error| error.to_string())?;
        let said: Value = serde_json::from_slice(&output.stdout).map_err(|_| {
            let said = String::from_utf8_lossy(&output.stderr);
            said.lines().last().unwrap_or_default().to_owned()
        })?;
        said["peak_bytes"].as_u64().ok_or_else(|| format!("it said {said}"))
    }

    /// Asks a worker what it holds, and remembers the most that it told.
    pub(crate) async fn measure(&self, handle: &WorkerHandle) {
        let Ok(client) = handle.client() else { return };
        let Ok(Ok(info)) = tokio::time::timeout(PATIENCE, client.info()).await else { return };
        let Some(used) = info.memory.map(|memory| memory.used_bytes) else { return };
        let most = handle.worker.measured.fetch_max(used, Ordering::AcqRel).max(used);
        metrics::gauge!("rbee_worker_memory_bytes", "model" => handle.name().to_owned()).set(used as f64);
        if handle.worker.has_worked() {
            let mut measured = lock(&self.shared.measured);
            let known = measured.entry((handle.kind(), handle.name().to_owned())).or_default();
            *known = most.max(*known);
        }
    }

    /// Returns when a worker for `spec` fits into memory. For that the workers that were idle longest are stopped, and
    /// those that work are waited for; `tell` hears of it.
    ///
    /// # Errors
    /// [`HiveError::NoRoom`] where it never would fit, [`HiveError::Stopping`].
    pub(crate) async fn make_room(&self, spec: &WorkerSpec, tell: impl Fn(String)) -> Result<(), HiveError> {
        let needed = self.foresee(spec).await;
        let mut changes = self.changes();
        let mut told = false;
        loop {
            if self.is_stopping() {
                return Err(HiveError::Stopping);
            }
            let tenants: Vec<Tenant> = self.spawned_workers().iter().map(tenant).collect();
            let memory = memory();
            let room = Room { needed, free: memory.free, total: memory.total, places: WORKERS };
            match decide(room, &tenants) {
                Verdict::Fits => return Ok(()),
                Verdict::Unload(id) => self.unload(&id, &spec.model).await,
                Verdict::Wait => {
                    if !std::mem::replace(&mut told, true) {
                        let model = &spec.model;
                        tell(format!("{model} has to wait until the workers that run now have made room for it"));
                    }
                    tokio::select! {
                        _ = changes.changed() => {}
                        () = tokio::time::sleep(LOOK) => {}
                    }
                }
                Verdict::Never { most } => {
                    return Err(HiveError::NoRoom { model: spec.model.to_string(), needed, most });
                }
            }
        }
    }

    async fn unload(&self, id: &str, model: &Model) {
        let Some(worker) = self.shared.workers().get(id).cloned() else { return };
        tracing::info!(worker = worker.id, model = worker.model, "it was idle longest and makes room for {model}");
        worker.stop.notify_one();
        let _ = worker.phase.subscribe().wait_for(|phase| matches!(phase, Phase::Ended(_))).await;
    }
}

/// One estimate is good for all workers that are started alike.
fn estimated_as(spec: &WorkerSpec) -> (String, Vec<String>) {
    (spec.model.as_str().to_owned(), spec.flags.clone())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tenant(worker: &Arc<Worker>) -> Tenant {
    let measured = worker.measured.load(Ordering::Acquire);
    let settled = worker.has_worked();
    Tenant {
        worker_id: worker.id.clone(),
        bytes: if settled { measured } else { measured.max(worker.foreseen) },
        outstanding: if settled { 0 } else { worker.foreseen.saturating_sub(measured) },
        idle_since: worker.served().and_then(|_| worker.idle_since()),
    }
}

/// What is taken for granted of a program that does not say. On a CPU weights stay in memory as they lie in their files, and those of 3 × 3 convolutions, somewhat more than half
/// of a U-Net and an autoencoder, a second time in float32 and transformed: 16/9 of their number. That is twice the
/// files where they are in float32 and three times where they are in 16 bits; a language model has no such copies, but
/// a context.
fn estimate(kind: WorkKind, weight_bytes: u64) -> u64 {
    BASE + match kind {
        WorkKind::Image | WorkKind::Hive => weight_bytes.saturating_mul(5) / 2,
        WorkKind::Infer => weight_bytes.saturating_mul(5) / 4,
    }
}

/// Bytes of the weight files at `path`, a file or a folder.
fn weight_bytes(path: Option<&Path>) -> u64 {
    let Some(path) = path else { return 0 };
    let Ok(metadata) = fs::metadata(path) else { return 0 };
    if metadata.is_file() {
        let is_weights = path.extension().is_some_and(|extension| extension == "safetensors" || extension == "gguf");
        return if is_weights { metadata.len() } else { 0 };
    }
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    entries.flatten().map(|entry| weight_bytes(Some(&entry.path()))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_found_wherever_they_lie() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("unet")).unwrap();
        fs::write(folder.path().join("unet/a.safetensors"), [0; 1000]).unwrap();
        fs::write(folder.path().join("b.gguf"), [0; 10]).unwrap();
        fs::write(folder.path().join("model_index.json"), "{}").unwrap();
        assert_eq!(weight_bytes(Some(folder.path())), 1010);
        assert_eq!(weight_bytes(Some(&folder.path().join("nothing"))), 0);
        assert_eq!(estimate(WorkKind::Image, 1000), BASE + 2500);
    }
}
