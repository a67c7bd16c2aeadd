//! The user's Hugging Face cache, which Python's tools fill: `models--owner--name/{refs,snapshots,blobs}`.

use crate::listing;
use crate::select::{self, Digest, MODEL_INDEX, Selection};
use crate::source::{Precision, Source};
use std::path::{Path, PathBuf};

/// A model that lies whole in the cache.
pub(crate) struct Cached {
    /// The folder of its snapshot.
    pub folder: PathBuf,
    /// The commit that it is of.
    pub revision: String,
    /// Its files.
    pub selection: Selection,
}

/// Looks for the newest snapshot of `main` that has every file that is needed.
pub(crate) fn find(cache: &Path, source: &Source) -> Option<Cached> {
    let Source::Hub { repository, file, precision } = source else { return None };
    let folder = cache.join(format!("models--{}", repository.replace('/', "--")));
    let revision = std::fs::read_to_string(folder.join("refs/main")).ok()?.trim().to_owned();
    if !is_commit(&revision) {
        return None;
    }
    let folder = folder.join("snapshots").join(&revision);
    let mut selection = select_in(&folder, file.as_deref(), *precision).ok()?;
    for listed in &mut selection.files {
        listed.digest = blob_sum(&folder.join(&listed.path)).map(Digest::Sha256);
    }
    Some(Cached { folder, revision, selection })
}

/// The files of a model in a folder on this machine.
pub(crate) fn select_in(folder: &Path, file: Option<&str>, precision: Precision) -> Result<Selection, String> {
    let listing = listing::list(folder).map_err(|error| error.to_string())?;
    match (file, std::fs::read(folder.join(MODEL_INDEX))) {
        (Some(file), _) => select::file(&listing, file),
        (None, Ok(index)) => select::diffusers(&index, &listing, precision),
        (None, Err(_)) => select::only(&listing),
    }
}

/// Large files in a snapshot are links to blobs that are called by their SHA-256.
fn blob_sum(path: &Path) -> Option<String> {
    let blob = std::fs::read_link(path).ok()?;
    let name = blob.file_name()?.to_str()?;
    (name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| name.to_ascii_lowercase())
}

/// Forty hexadecimal digits.
pub(crate) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}
