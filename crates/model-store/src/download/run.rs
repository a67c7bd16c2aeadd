//! The whole of a download, from a source to an entry of the catalogue.

use super::file::{Place, blocking, fetch};
use super::meter::{Meter, Stage};
use super::space::free_bytes;
use crate::catalogue::{self, FILES};
use crate::error::{Error, Result};
use crate::hub::{Plan, Planned};
use crate::listing;
use crate::local::{self, now_ms};
use crate::lock::FileLock;
use crate::select::Listed;
use crate::source::Source;
use crate::store::Shared;
use operations_contract::{ModelEntry, ModelFile};
use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Files that come at once.
const AT_ONCE: usize = 4;
/// How often progress is told.
const TELL: Duration = Duration::from_millis(200);
/// Room that is left on the disk.
const SPARE: u64 = 64 << 20;

pub(super) async fn run(store: &Arc<Shared>, source: &Source, meter: Arc<Meter>) -> Result<ModelEntry> {
    let id = source.id();
    if let Some(entry) = store.usable(&id)?.filter(|_| !is_local(source)) {
        return Ok(entry);
    }
    let lock = Arc::new(wait_for_turn(store, &id, &meter).await?);
    // Whoever had it before may have brought the model.
    if let Some(entry) = store.usable(&id)?.filter(|_| !is_local(source)) {
        return Ok(entry);
    }
    let (here, from) = (Arc::clone(store), source.clone());
    if let Some(entry) = blocking(move || take_in(&here, &from)).await? {
        return Ok(entry);
    }
    if store.options.offline {
        return Err(Error::Offline(source.to_string()));
    }
    meter.tell(Stage::Asking);
    let plan = store.hub().plan(source).await?;
    let staging = store.catalogue.staging(&id);
    check_space(store.catalogue.folder(), &staging, &plan)?;
    tracing::info!("downloading {source}: {} files", plan.files.len());
    let files = fetch_all(store, &plan.files, &staging, &lock, &meter).await?;
    let (store, source, meter) = (Arc::clone(store), source.clone(), Arc::clone(&meter));
    blocking(move || {
        // Held to the end, also where nobody waits for the end.
        let _lock = lock;
        let entry = publish(&store, &source, plan, files)?;
        meter.tell(Stage::Downloading);
        tracing::info!("downloaded {}: {} bytes, as {}", entry.source, entry.bytes, entry.id);
        Ok(entry)
    })
    .await
}

/// Files of the user's own may have changed since they were catalogued.
fn is_local(source: &Source) -> bool {
    matches!(source, Source::Path(_))
}

/// The lock on the download of one model. While another process has it, its progress is told.
async fn wait_for_turn(store: &Arc<Shared>, id: &str, meter: &Meter) -> Result<FileLock> {
    let mut patience = tokio::time::interval(TELL);
    loop {
        patience.tick().await;
        if let Some(lock) = store.catalogue.lock_download(id)? {
            return Ok(lock);
        }
        let staging = store.catalogue.staging(id);
        let bytes = blocking(move || Ok(bytes_in(&staging))).await?;
        meter.tell_other(bytes);
    }
}

/// A model that is on this machine already comes into the catalogue as it lies.
fn take_in(store: &Shared, source: &Source) -> Result<Option<ModelEntry>> {
    let mut entry = match source {
        Source::Path(path) => local::describe(path)?,
        Source::Hub { .. } | Source::Url(_) => match store.cached(source) {
            Some(entry) => entry,
            None => return Ok(None),
        },
    };
    // A path by which it is called is not always the one where it lies; the entry is known by what was asked for.
    entry.id = source.id();
    if let Some(known) = store.usable(&entry.id)? {
        entry.added_ms = known.added_ms;
        if entry == known {
            return Ok(Some(known));
        }
    }
    let staged = store.catalogue.staging(&format!("{}.entry", entry.id));
    catalogue::make(&staged)?;
    store.catalogue.publish(&staged, &entry).map(Some)
}

/// Says no before the disk is full.
fn check_space(folder: &Path, staging: &Path, plan: &Plan) -> Result<()> {
    let mut needed = 0u64;
    for file in &plan.files {
        let left = file.size.unwrap_or(0).saturating_sub(Place::new(staging, &file.path).bytes());
        needed = needed.saturating_add(left);
    }
    match free_bytes(folder) {
        Some(free) if free < needed.saturating_add(SPARE) => {
            Err(Error::NoSpace { path: folder.to_owned(), needed, free })
        }
        _ => Ok(()),
    }
}

/// All files, several at once. The first that fails ends it, and the others keep what has arrived.
async fn fetch_all(
    store: &Arc<Shared>,
    files: &[Planned],
    staging: &Path,
    lock: &Arc<FileLock>,
    meter: &Arc<Meter>,
) -> Result<Vec<ModelFile>> {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut coming = JoinSet::new();
    for file in files {
        meter.announced(file.size.unwrap_or(0));
        let (store, places) = (Arc::clone(store), Arc::clone(&places));
        let (file, place) = (file.clone(), Place::new(staging, &file.path));
        let (lock, meter) = (Arc::clone(lock), Arc::clone(meter));
        coming.spawn(async move {
            let _place = places.acquire().await.map_err(|_| Error::Cancelled)?;
            fetch(store.hub(), &file, place, &lock, &meter).await
        });
    }
    let mut ticks = tokio::time::interval(TELL);
    let mut whole = Vec::with_capacity(files.len());
    loop {
        tokio::select! {
            joined = coming.join_next() => match joined {
                Some(file) => whole.push(file.unwrap_or(Err(Error::Cancelled))?),
                None => return Ok(whole),
            },
            _ = ticks.tick() => meter.tell(Stage::Downloading),
        }
    }
}

/// Makes what has arrived visible, whole.
fn publish(store: &Shared, source: &Source, plan: Plan, mut files: Vec<ModelFile>) -> Result<ModelEntry> {
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let id = source.id();
    let staging = store.catalogue.staging(&id);
    remove_strays(&staging, &files)?;
    let listed: Vec<Listed> =
        files.iter().map(|file| Listed { path: file.path.clone(), size: file.bytes, digest: None }).collect();
    let path = local::place(Path::new(FILES), plan.kind, &listed);
    let entry = ModelEntry {
        id,
        name: source.name(),
        source: source.to_string(),
        repository: source.repository().map(str::to_owned),
        revision: plan.revision,
        kind: plan.kind,
        // Made of parts that are text.
        path: path.to_string_lossy().replace('\\', "/"),
        bytes: files.iter().map(|file| file.bytes).sum(),
        files,
        added_ms: now_ms(),
        owned: true,
    };
    store.catalogue.publish(&staging, &entry)
}

/// What an earlier try for another revision or precision has left.
fn remove_strays(staging: &Path, files: &[ModelFile]) -> Result<()> {
    let folder = staging.join(FILES);
    let wanted: HashSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    for listed in listing::list(&folder).map_err(|source| Error::io(&folder, source))? {
        if !wanted.contains(listed.path.as_str()) {
            let path = folder.join(&listed.path);
            fs::remove_file(&path).map_err(|source| Error::io(&path, source))?;
        }
    }
    let parts = staging.join("parts");
    fs::remove_dir_all(&parts).map_err(|source| Error::io(&parts, source))
}

fn bytes_in(folder: &Path) -> u64 {
    listing::list(folder).map(|files| files.iter().map(|file| file.size).sum()).unwrap_or(0)
}
