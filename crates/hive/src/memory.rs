//! What workers need of this machine's memory: foreseen from the files before, measured after.

use crate::devices::memory;
use crate::hive::{Hive, WORKERS};
use crate::room::{Room, Tenant, Verdict, decide};
use crate::worker::{Phase, Worker, WorkerHandle, WorkerSpec};
use crate::{HiveError, Model};
use broker::WorkKind;
use job_server::client::Client;
use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// What a worker without a model holds, and the buffers of a picture of a small model's size.
const BASE: u64 = 256 << 20;
/// How often those who wait for room look again.
const LOOK: Duration = Duration::from_millis(200);
/// A worker tells what it holds at once, or it has something better to do.
const PATIENCE: Duration = Duration::from_secs(2);

impl Hive {
    /// Bytes that a worker for the model holds at its peak: what was seen before, or else an estimate from its files.
    pub(crate) fn foreseen(&self, kind: WorkKind, model: &Model) -> u64 {
        let measured = self.shared.measured.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = measured.get(&(kind, model.as_str().to_owned())).copied();
        seen.unwrap_or_else(|| estimate(kind, weight_bytes(model.files())))
    }

    /// Asks a worker what it holds, and remembers the most that it told.
    pub(crate) async fn measure(&self, handle: &WorkerHandle) {
        let Ok(client) = Client::new(handle.url()) else { return };
        let Ok(Ok(info)) = tokio::time::timeout(PATIENCE, client.info()).await else { return };
        let Some(used) = info.memory.map(|memory| memory.used_bytes) else { return };
        let most = handle.worker.measured.fetch_max(used, Ordering::AcqRel).max(used);
        metrics::gauge!("rbee_worker_memory_bytes", "model" => handle.name().to_owned()).set(used as f64);
        if handle.worker.has_worked() {
            let mut measured = self.shared.measured.lock().unwrap_or_else(PoisonError::into_inner);
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
        let needed = self.foreseen(spec.serves, &spec.model);
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

/// On a CPU weights stay in memory as they lie in their files, and those of 3 × 3 convolutions, somewhat more than half
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
