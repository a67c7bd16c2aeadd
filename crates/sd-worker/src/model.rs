//! Which model a worker serves, by its flags, and how it gets here.

use std::path::Path;

use diffusion::pipeline::ModelSource;
use model_store::{Progress, StoreArgs, Wanted};
use operations_contract::{ApiError, DEFAULT_IMAGE_MODEL, ErrorCode, ModelEntry, ModelKind, same_model};
use tokio::runtime::Handle;
use worker_engine::{DownloadProgress, LoadReporter};

use crate::backend::{SDVersion, api_error};
use crate::embedded;

/// A model, and the names by which requests may mean it.
#[derive(Debug)]
pub(crate) struct Model {
    pub origin: Origin,
    pub name: String,
    pub names: Vec<String>,
}

/// Where the files of a model are.
#[derive(Debug)]
pub(crate) enum Origin {
    /// Where `--model` says, or in the program.
    Given(ModelSource),
    /// In the store, or on their way there; `turbo` is the word of [`ModelSource::open`].
    Stored { wanted: Box<Wanted>, turbo: bool },
}

/// Why a model cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ModelError {
    /// The store cannot be used, or may not download.
    #[error(transparent)]
    Store(#[from] model_store::Error),
    /// Nothing is called so.
    #[error(
        "there is no model {0:?}; give --model a well-known name, a hub repository (owner/name) or the path of a diffusers folder (the one with model_index.json) or of a single .safetensors file, or leave it out for the embedded {DEFAULT_IMAGE_MODEL}"
    )]
    Unknown(String),
    /// It writes.
    #[error("{0} does not paint pictures; a language model is served by llm-worker-cpu")]
    NoImageModel(String),
    /// Its files are no model.
    #[error(transparent)]
    Files(#[from] diffusion::Error),
}

impl From<&ModelError> for ApiError {
    fn from(error: &ModelError) -> Self {
        match error {
            ModelError::Store(model_store::Error::Cancelled) => {
                ApiError::new(ErrorCode::ShuttingDown, "the worker stopped while its model was downloaded")
            }
            ModelError::Store(error) => error.into(),
            ModelError::Files(error) => api_error(error),
            ModelError::Unknown(_) => ApiError::new(ErrorCode::ModelNotFound, error.to_string()).with_param("model"),
            ModelError::NoImageModel(_) => ApiError::invalid("model", error.to_string()),
        }
    }
}

/// The model that `--model` or `--sd-version` names, or the embedded one. A path that exists comes before a name.
pub(crate) fn find(model: Option<&str>, sd_version: Option<SDVersion>, store: &StoreArgs) -> Result<Model, ModelError> {
    let turbo = sd_version == Some(SDVersion::Turbo);
    let Some(given) = model.or(sd_version.map(SDVersion::name)) else { return Ok(embedded_model()) };
    if same_model(given, embedded::NAME) {
        return Ok(embedded_model());
    }
    let path = Path::new(given);
    if model.is_some() && (path.exists() || path.is_absolute()) {
        let source = ModelSource::open(path, turbo)?;
        let mut names = vec![given.to_owned()];
        names.extend(path.canonicalize().ok().and_then(|path| path.to_str().map(str::to_owned)));
        names.extend(path.file_name().and_then(|name| name.to_str()).map(str::to_owned));
        names.dedup();
        return Ok(Model { origin: Origin::Given(source), name: given.to_owned(), names });
    }
    let wanted = store.open()?.want(given).map_err(|error| match error {
        model_store::Error::BuiltIn(name) => ModelError::NoImageModel(name),
        model_store::Error::Unknown(name) => ModelError::Unknown(name),
        error => ModelError::Store(error),
    })?;
    // What is here and is no model is told at once.
    wanted.entry().map(|entry| open(entry, turbo)).transpose()?;
    let names = wanted.names().to_vec();
    Ok(Model { origin: Origin::Stored { wanted: Box::new(wanted), turbo }, name: given.to_owned(), names })
}

impl Origin {
    /// The files of the model, which are downloaded first where they are not here. It blocks, and so is for the engine's
    /// thread.
    pub(crate) fn obtain(&mut self, runtime: &Handle, reporter: &LoadReporter) -> Result<ModelSource, ModelError> {
        match self {
            Self::Given(source) => Ok(source.clone()),
            Self::Stored { wanted, turbo } => {
                let telling = reporter.clone();
                let tell = move |progress: Progress| {
                    let eta_ms = progress.eta_ms();
                    let Progress { bytes, total, bytes_per_second, .. } = progress;
                    telling.downloading(DownloadProgress { bytes, total, bytes_per_second, eta_ms });
                };
                let source = open(wanted.obtain(runtime, tell)?, *turbo)?;
                reporter.loading();
                Ok(source)
            }
        }
    }
}

/// A model of the catalogue or of the Hugging Face cache.
fn open(entry: &ModelEntry, turbo: bool) -> Result<ModelSource, ModelError> {
    if entry.kind == ModelKind::Language {
        return Err(ModelError::NoImageModel(entry.source.clone()));
    }
    Ok(ModelSource::open(Path::new(&entry.path), turbo)?)
}

fn embedded_model() -> Model {
    let origin = Origin::Given(embedded::tiny_scenes());
    Model { origin, name: embedded::NAME.to_owned(), names: vec![embedded::NAME.to_owned()] }
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
        for given in [None, Some("tiny-scenes")] {
            assert_eq!(find(given, None, &offline(&folder)).unwrap().name, "tiny-scenes");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "that needs no folder");
    }

    #[test]
    fn offline_what_is_not_on_disk_is_not_found() {
        let folder = tempfile::tempdir().unwrap();
        for (model, version) in
            [(Some("someone/something-that-no-cache-has"), None), (Some("https://a.b/c.safetensors"), None)]
        {
            let error = find(model, version, &offline(&folder)).unwrap_err();
            assert_eq!(ApiError::from(&error).code, ErrorCode::ModelNotFound, "{error}");
            assert!(error.to_string().contains("--offline"), "{error}");
        }
        for (given, said) in
            [("/nowhere/model", "no such folder"), ("nonsense", "--model"), ("tiny-words", "does not paint")]
        {
            let error = find(Some(given), None, &offline(&folder)).unwrap_err().to_string();
            assert!(error.contains(given) && error.contains(said), "{error}");
        }
    }

    #[test]
    fn a_model_elsewhere_is_known_by_all_its_names() {
        let folder = tempfile::tempdir().unwrap();
        let args = StoreArgs { offline: false, ..offline(&folder) };
        let model = find(Some("someone/something-that-no-cache-has"), None, &args).unwrap();
        assert!(matches!(model.origin, Origin::Stored { wanted, .. } if wanted.entry().is_none()));
        let source = model_store::Source::parse("someone/something-that-no-cache-has").unwrap();
        assert!(model.names.contains(&source.id()), "{:?}", model.names);
    }
}
