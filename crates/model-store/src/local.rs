//! Models that lie on this machine already: in a folder of the user's, or in the Hugging Face cache.

use crate::cache::{self, Cached};
use crate::error::{Error, Result};
use crate::listing;
use crate::select::{Digest, Listed, MODEL_INDEX};
use crate::source::{Source, ending, is_pickle};
use operations_contract::{ModelEntry, ModelFile, ModelKind};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The entry of the model at `path`, which stays where it is.
pub(crate) fn describe(path: &Path) -> Result<ModelEntry> {
    let refuse = |reason: &str| Error::NotAModel { path: path.to_owned(), reason: reason.to_owned() };
    let real = path.canonicalize().map_err(|_| refuse("there is nothing"))?;
    // A file in the Hugging Face cache is called so only by the link to it.
    let real = if real.is_file() && real.extension().is_none() { path.to_owned() } else { real };
    let name = real.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let (kind, files) = if real.is_dir() {
        if !real.join(MODEL_INDEX).is_file() {
            return Err(refuse("the folder holds no model_index.json and so is no model in diffusers' layout"));
        }
        (ModelKind::ImageFolder, listing::list(&real).map_err(|source| Error::io(&real, source))?)
    } else {
        let kind = match ending(name).as_str() {
            "safetensors" => ModelKind::ImageFile,
            "gguf" => ModelKind::Language,
            _ if is_pickle(name) => return Err(refuse("pickle files can run any program and are refused")),
            _ => return Err(refuse("is neither a folder in diffusers' layout nor a .safetensors or .gguf file")),
        };
        let size = real.metadata().map_err(|source| Error::io(&real, source))?.len();
        (kind, vec![Listed { path: name.to_owned(), size, digest: None }])
    };
    entry(&Source::Path(real.clone()), kind, &real, None, files)
}

/// The entry of a model in the Hugging Face cache, where it is whole there.
pub(crate) fn cached(folder: Option<&Path>, source: &Source) -> Option<ModelEntry> {
    let Cached { folder, revision, selection } = cache::find(folder?, source)?;
    let path = place(&folder, selection.kind, &selection.files);
    entry(source, selection.kind, &path, Some(revision), selection.files).ok()
}

/// What is to be loaded: the folder, or its first file.
pub(crate) fn place(folder: &Path, kind: ModelKind, files: &[Listed]) -> PathBuf {
    match (kind, files.first()) {
        (ModelKind::ImageFile | ModelKind::Language, Some(first)) => folder.join(&first.path),
        (ModelKind::ImageFolder, _) | (_, None) => folder.to_owned(),
    }
}

fn entry(
    source: &Source,
    kind: ModelKind,
    path: &Path,
    revision: Option<String>,
    files: Vec<Listed>,
) -> Result<ModelEntry> {
    // What is no UTF-8 could not be told to anyone over JSON.
    let unnamed = || Error::NotAModel { path: path.to_owned(), reason: "its path is not UTF-8; rename it".to_owned() };
    Ok(ModelEntry {
        id: source.id(),
        name: source.name(),
        source: source.to_string(),
        repository: source.repository().map(str::to_owned),
        revision,
        kind,
        path: path.to_str().ok_or_else(unnamed)?.to_owned(),
        bytes: files.iter().map(|file| file.size).sum(),
        files: files.into_iter().map(model_file).collect(),
        added_ms: now_ms(),
        owned: false,
    })
}

fn model_file(file: Listed) -> ModelFile {
    let sha256 = match file.digest {
        Some(Digest::Sha256(sum)) => Some(sum),
        Some(Digest::GitBlob(_)) | None => None,
    };
    ModelFile { path: file.path, bytes: file.size, sha256 }
}

/// Milliseconds since 1970 UTC.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
