//! Which model a worker serves, by its flags, and how it gets here.

use std::path::Path;

use diffusion::pipeline::ModelSource;
use model_store::{Lease, ModelStore, Resolution, Source, StoreArgs};
use operations_contract::{ApiError, DEFAULT_IMAGE_MODEL, ErrorCode, ModelEntry, ModelKind, same_model};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
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
    /// On this machine; the lease keeps a model of the catalogue from being deleted.
    Here { source: ModelSource, _lease: Option<Lease> },
    /// Elsewhere; `turbo` is the word of [`ModelSource::open`].
    Away { store: ModelStore, source: Source, turbo: bool },
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
        return Ok(Model { origin: Origin::Here { source, _lease: None }, name: given.to_owned(), names });
    }
    let store = store.open()?;
    let (origin, known) = match store.resolve(given)? {
        Resolution::BuiltIn(_) => return Err(ModelError::NoImageModel(given.to_owned())),
        Resolution::Unknown => return Err(ModelError::Unknown(given.to_owned())),
        Resolution::Found(entry) => {
            let names = vec![entry.id.clone(), entry.name.clone(), entry.source.clone(), entry.path.clone()];
            (here(&store, &entry, turbo)?, names)
        }
        Resolution::Downloadable(source) if store.is_offline() => {
            return Err(model_store::Error::Offline(source.to_string()).into());
        }
        Resolution::Downloadable(source) => {
            let names = vec![source.id(), source.name(), source.to_string()];
            (Origin::Away { store, source, turbo }, names)
        }
    };
    let mut names = vec![given.to_owned()];
    names.extend(known.into_iter().filter(|name| !same_model(name, given)));
    Ok(Model { origin, name: given.to_owned(), names })
}

impl Origin {
    /// The files of the model, which are downloaded first where they are not here. It blocks, and so is for the engine's
    /// thread.
    pub(crate) fn obtain(&mut self, runtime: &Handle, reporter: &LoadReporter) -> Result<ModelSource, ApiError> {
        if let Self::Away { store, source, turbo } = self {
            reporter.downloading(DownloadProgress::default());
            let entry = download(store, source.clone(), runtime, reporter)?;
            *self = here(store, &entry, *turbo).map_err(|error| ApiError::from(&error))?;
            reporter.loading();
        }
        match self {
            Self::Here { source, .. } => Ok(source.clone()),
            Self::Away { source, .. } => Err(ApiError::internal(format!("{source} was downloaded and is not here"))),
        }
    }
}

fn download(
    store: &ModelStore,
    source: Source,
    runtime: &Handle,
    reporter: &LoadReporter,
) -> Result<ModelEntry, ApiError> {
    let (done, waiting) = oneshot::channel();
    let (store, reporter) = (store.clone(), reporter.clone());
    runtime.spawn(async move {
        let coming = store.download(source);
        let tell = |progress: model_store::Progress| {
            reporter.downloading(DownloadProgress {
                bytes: progress.bytes,
                total: progress.total,
                bytes_per_second: progress.bytes_per_second,
                eta_ms: progress.eta.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
            });
        };
        let _ = done.send(coming.finish(tell).await);
    });
    match waiting.blocking_recv() {
        Ok(Ok(entry)) => Ok(entry),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(ApiError::new(ErrorCode::ShuttingDown, "the worker stopped while its model was downloaded")),
    }
}

/// A model of the catalogue or of the Hugging Face cache.
fn here(store: &ModelStore, entry: &ModelEntry, turbo: bool) -> Result<Origin, ModelError> {
    if entry.kind == ModelKind::Language {
        return Err(ModelError::NoImageModel(entry.source.clone()));
    }
    // What lies in the cache and was never asked for has no entry that could be deleted.
    let lease = match store.lease(&entry.id) {
        Ok(lease) => Some(lease),
        Err(model_store::Error::NoEntry(_)) => None,
        Err(error) => return Err(error.into()),
    };
    Ok(Origin::Here { source: ModelSource::open(Path::new(&entry.path), turbo)?, _lease: lease })
}

fn embedded_model() -> Model {
    let origin = Origin::Here { source: embedded::tiny_scenes(), _lease: None };
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
        assert!(matches!(model.origin, Origin::Away { .. }));
        let source = Source::parse("someone/something-that-no-cache-has").unwrap();
        assert!(model.names.contains(&source.id()), "{:?}", model.names);
    }
}
