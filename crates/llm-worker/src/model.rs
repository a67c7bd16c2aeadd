//! Which model a worker serves, by its flags, and how it gets here.

use std::io;
use std::path::{Path, PathBuf};

use model_store::{Progress, StoreArgs, Wanted};
use operations_contract::{ApiError, DEFAULT_TEXT_MODEL, ErrorCode, ModelEntry, ModelKind, same_model};
use tokio::runtime::Handle;
use worker_engine::{DownloadProgress, LoadReporter};

use crate::embedded::{self, ModelFile};

/// A model, and the names by which requests may mean it.
#[derive(Debug)]
pub(crate) struct Model {
    pub origin: Origin,
    pub name: String,
    pub names: Vec<String>,
}

/// Where the file of a model is.
#[derive(Debug)]
pub(crate) enum Origin {
    /// In the program.
    Embedded(StoreArgs),
    /// Where `--model` says.
    Given(PathBuf),
    /// In the store, or on its way there.
    Stored(Box<Wanted>),
}

/// Why a model cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ModelError {
    /// The store cannot be used, or may not download.
    #[error(transparent)]
    Store(#[from] model_store::Error),
    /// Nothing is called so.
    #[error(
        "there is no model {0:?}; give --model a hub repository (owner/name, or owner/name:FILE.gguf where it has several), the path of a GGUF file or its URL, or leave it out for the embedded {DEFAULT_TEXT_MODEL}"
    )]
    Unknown(String),
    /// There is no such file.
    #[error("{0}: there is no such file; give --model the path of a GGUF file")]
    NoFile(String),
    /// It paints.
    #[error("{0} does not write text; an image model is served by sd-worker-cpu")]
    NoTextModel(String),
    /// A folder with no GGUF file.
    #[error("{0} holds no GGUF file; give --model the path of a GGUF file")]
    EmptyFolder(String),
    /// A folder with several.
    #[error("{0} holds {1} GGUF files; name one of them")]
    FullFolder(String, usize),
    /// The embedded model cannot be put where llama.cpp reads it.
    #[error("the embedded {DEFAULT_TEXT_MODEL} cannot be laid out for llama.cpp: {0}")]
    Embedded(io::Error),
}

impl From<&ModelError> for ApiError {
    fn from(error: &ModelError) -> Self {
        match error {
            ModelError::Store(model_store::Error::Cancelled) => {
                ApiError::new(ErrorCode::ShuttingDown, "the worker stopped while its model was downloaded")
            }
            ModelError::Store(error) => error.into(),
            ModelError::Embedded(_) => ApiError::internal(error.to_string()),
            ModelError::Unknown(_)
            | ModelError::NoFile(_)
            | ModelError::EmptyFolder(_)
            | ModelError::FullFolder(..) => {
                ApiError::new(ErrorCode::ModelNotFound, error.to_string()).with_param("model")
            }
            ModelError::NoTextModel(_) => ApiError::invalid("model", error.to_string()),
        }
    }
}

/// The model that `--model` names, or the embedded one. A path that exists comes before a name; a folder may hold the one
/// file.
pub(crate) fn find(model: Option<&str>, store: &StoreArgs) -> Result<Model, ModelError> {
    let Some(given) = model.filter(|given| !same_model(given, embedded::NAME)) else {
        let name = embedded::NAME.to_owned();
        return Ok(Model { origin: Origin::Embedded(store.clone()), names: vec![name.clone()], name });
    };
    let path = Path::new(given);
    if path.exists() {
        let file = if path.is_dir() { only_gguf(path)? } else { path.to_path_buf() };
        let mut names = vec![given.to_owned()];
        names.extend(file.canonicalize().ok().and_then(|path| path.to_str().map(str::to_owned)));
        names.extend(file_names(path).chain(file_names(&file)));
        names.dedup();
        return Ok(Model { origin: Origin::Given(file), name: given.to_owned(), names });
    }
    if path.is_absolute() {
        return Err(ModelError::NoFile(given.to_owned()));
    }
    let wanted = store.open()?.want(given).map_err(|error| match error {
        model_store::Error::BuiltIn(name) => ModelError::NoTextModel(name),
        model_store::Error::Unknown(name) => ModelError::Unknown(name),
        error => ModelError::Store(error),
    })?;
    // What is here and does not write is told at once.
    wanted.entry().map(gguf).transpose()?;
    let names = wanted.names().to_vec();
    Ok(Model { origin: Origin::Stored(Box::new(wanted)), name: given.to_owned(), names })
}

impl Origin {
    /// The file of the model, which is downloaded first where it is not here. It blocks, and so is for the engine's thread.
    pub(crate) fn obtain(&mut self, runtime: &Handle, reporter: &LoadReporter) -> Result<ModelFile, ModelError> {
        match self {
            Self::Embedded(store) => embedded::tiny_words(store).map_err(ModelError::Embedded),
            Self::Given(file) => Ok(ModelFile::at(file.clone())),
            Self::Stored(wanted) => {
                let telling = reporter.clone();
                let tell = move |progress: Progress| {
                    let eta_ms = progress.eta_ms();
                    let Progress { bytes, total, bytes_per_second, .. } = progress;
                    telling.downloading(DownloadProgress { bytes, total, bytes_per_second, eta_ms });
                };
                let file = gguf(wanted.obtain(runtime, tell)?)?;
                reporter.loading();
                Ok(ModelFile::at(file))
            }
        }
    }
}

/// The file of a model of the catalogue or of the Hugging Face cache; of several shards the first.
fn gguf(entry: &ModelEntry) -> Result<PathBuf, ModelError> {
    if entry.kind != ModelKind::Language {
        return Err(ModelError::NoTextModel(entry.source.clone()));
    }
    Ok(PathBuf::from(&entry.path))
}

/// The last part of a path, with and without its ending.
fn file_names(path: &Path) -> impl Iterator<Item = String> {
    [path.file_name(), path.file_stem()].into_iter().flatten().filter_map(|name| name.to_str().map(str::to_owned))
}

fn only_gguf(folder: &Path) -> Result<PathBuf, ModelError> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<_> = entries
        .filter(|path| path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")))
        .collect();
    let shown = folder.display().to_string();
    match (found.pop(), found.len()) {
        (Some(file), 0) => Ok(file),
        (None, _) => Err(ModelError::EmptyFolder(shown)),
        (Some(_), more) => Err(ModelError::FullFolder(shown, more + 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offline(folder: &tempfile::TempDir) -> StoreArgs {
        StoreArgs { offline: true, data_dir: Some(folder.path().to_owned()) }
    }

    #[test]
    fn without_a_name_it_is_the_embedded_model() {
        let folder = tempfile::tempdir().unwrap();
        for given in [None, Some("tiny-words"), Some("Tiny-Words")] {
            let model = find(given, &offline(&folder)).unwrap();
            assert_eq!((&*model.name, matches!(model.origin, Origin::Embedded(_))), ("tiny-words", true));
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "that needs no folder");
    }

    #[test]
    fn what_cannot_be_served_is_refused_with_what_to_give_instead() {
        let folder = tempfile::tempdir().unwrap();
        let check = |given: &str, code: ErrorCode, said: &str| {
            let error = find(Some(given), &offline(&folder)).unwrap_err();
            assert_eq!(ApiError::from(&error).code, code, "{error}");
            let text = error.to_string();
            assert!(text.contains(given) && text.contains(said), "{text}");
        };
        check("someone/something-that-no-cache-has", ErrorCode::ModelNotFound, "--offline");
        check("someone/something:x.gguf", ErrorCode::ModelNotFound, "--offline");
        check("/nowhere/model.gguf", ErrorCode::ModelNotFound, "no such file");
        check("nonsense", ErrorCode::ModelNotFound, "--model a hub repository");
        check("tiny-scenes", ErrorCode::InvalidRequest, "does not write");
    }

    #[test]
    fn a_model_elsewhere_is_known_by_all_its_names() {
        let folder = tempfile::tempdir().unwrap();
        let args = StoreArgs { offline: false, ..offline(&folder) };
        let model = find(Some("someone/texts-that-no-cache-has:q4.gguf"), &args).unwrap();
        assert!(matches!(model.origin, Origin::Stored(wanted) if wanted.entry().is_none()));
        assert!(model.names.iter().any(|name| name == "q4.gguf"), "{:?}", model.names);
    }

    #[test]
    fn a_folder_with_one_file_is_that_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        let find = || find(Some(path), &offline(&folder));
        assert!(matches!(find().unwrap_err(), ModelError::EmptyFolder(_)));
        std::fs::write(folder.path().join("a.gguf"), b"").unwrap();
        let model = find().unwrap();
        assert!(model.names.iter().any(|name| name == "a"), "{:?}", model.names);
        std::fs::write(folder.path().join("b.GGUF"), b"").unwrap();
        assert!(matches!(find().unwrap_err(), ModelError::FullFolder(_, 2)));
    }
}
