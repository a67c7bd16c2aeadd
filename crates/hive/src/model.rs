use crate::HiveError;
use crate::agent::Reporter;
use crate::hive::Hive;
use broker::WorkKind;
use model_store::{Download, Lease, ModelStore, Progress, Resolution, Source};
use operations_contract::{
    ApiError, DEFAULT_IMAGE_MODEL, DEFAULT_TEXT_MODEL, ErrorCode, JobEvent, ModelEntry, ModelKind, Phase, same_model,
    well_known,
};
use std::fmt;
use std::path::{Path, PathBuf};

/// A model, under the one name by which jobs ask for it, and where its files are.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    name: String,
    place: Place,
}

#[derive(Debug, Clone, PartialEq)]
enum Place {
    /// Inside the program of its worker.
    BuiltIn,
    /// On this machine; with its id, where the catalogue has it.
    Here { files: PathBuf, id: String },
    /// To be downloaded first.
    Missing(Source),
}

impl Model {
    /// What `given` means on the machine of `store`; nothing is downloaded.
    ///
    /// # Errors
    /// 404 `model_not_found` for what is not here and cannot be had, 422 for what is here and is no model of this kind;
    /// both say what to give instead.
    pub fn find(store: &ModelStore, kind: WorkKind, given: &str) -> Result<Self, ApiError> {
        let not_found = |message: String| ApiError::new(ErrorCode::ModelNotFound, message).with_param("model");
        let instead = instead(kind);
        let path = Path::new(given);
        if path.is_absolute() && !path.exists() {
            return Err(not_found(format!("there is nothing at {given}; {instead}")));
        }
        let resolved = store.resolve(given).map_err(|error| {
            let error = ApiError::from(error);
            ApiError { message: format!("{}; {instead}", error.message), ..error }.with_param("model")
        })?;
        let model = match resolved {
            Resolution::BuiltIn(model) => {
                let writes = same_model(model.name, DEFAULT_TEXT_MODEL);
                check_kind(kind, writes, given)?;
                Self { name: model.name.to_owned(), place: Place::BuiltIn }
            }
            Resolution::Found(entry) => {
                check_kind(kind, entry.kind == ModelKind::Language, given)?;
                let ModelEntry { id, path, source, .. } = *entry;
                Self { name: named(&source), place: Place::Here { files: path.into(), id } }
            }
            Resolution::Downloadable(_) if store.is_offline() => {
                return Err(not_found(format!(
                    "{given} is not on this machine, and nothing is downloaded (--offline); {instead}"
                )));
            }
            Resolution::Downloadable(source) => {
                Self { name: named(&source.to_string()), place: Place::Missing(source) }
            }
            Resolution::Unknown => return Err(not_found(format!("there is no model {given:?}; {instead}"))),
        };
        Ok(model)
    }

    /// Its name; its path, where it has none.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// Whether other machines cannot have it: it is known by where it lies.
    pub fn is_only_here(&self) -> bool {
        Path::new(&self.name).is_absolute()
    }

    /// Whether it has to be downloaded first.
    pub fn is_missing(&self) -> bool {
        matches!(self.place, Place::Missing(_))
    }

    /// Where its files are, which is the flag for its worker; one that is embedded needs none.
    pub fn files(&self) -> Option<&Path> {
        match &self.place {
            Place::Here { files, .. } => Some(files),
            Place::BuiltIn | Place::Missing(_) => None,
        }
    }

    /// Keeps it from being deleted, where the catalogue has it.
    pub(crate) fn lease(&self, store: &ModelStore) -> Option<Lease> {
        match &self.place {
            Place::Here { id, .. } => store.lease(id).ok(),
            Place::BuiltIn | Place::Missing(_) => None,
        }
    }
}

impl Hive {
    /// What a name means on this machine.
    ///
    /// # Errors
    /// As [`Model::find`].
    pub fn model(&self, kind: WorkKind, given: &str) -> Result<Model, ApiError> {
        Model::find(&self.shared.config.store, kind, given)
    }

    /// The models on this machine, as the catalogue has them.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn catalogue(&self) -> Result<Vec<ModelEntry>, ApiError> {
        Ok(self.shared.config.store.list()?)
    }

    /// The model by its name, brought here first where it is missing; `job` hears how that goes. Several who ask for one
    /// wait for the same download.
    ///
    /// # Errors
    /// It is not here and cannot be had.
    pub(crate) async fn obtain(&self, kind: WorkKind, name: &str, job: &dyn Reporter) -> Result<Model, ApiError> {
        let model = self.model(kind, name)?;
        let Place::Missing(source) = &model.place else { return Ok(model) };
        follow(self.shared.config.store.download(source.clone()), job).await?;
        self.model(kind, name)
    }

    pub(crate) async fn download(&self, given: &str, job: &dyn Reporter) -> Result<ModelEntry, ApiError> {
        let source = Source::parse(given).map_err(ApiError::from)?;
        follow(self.shared.config.store.download(source), job).await
    }

    /// Refuses the model of a worker that runs.
    pub(crate) fn delete_model(&self, id: &str) -> Result<ModelEntry, ApiError> {
        Ok(self.shared.config.store.delete(id)?)
    }

    pub(crate) fn catalogued(&self, id: &str) -> Result<ModelEntry, ApiError> {
        Ok(self.shared.config.store.get(id)?)
    }
}

async fn follow(download: Download, job: &dyn Reporter) -> Result<ModelEntry, ApiError> {
    let tell = |progress: Progress| {
        let (phase, eta_ms) = (Some(Phase::Downloading), progress.eta_ms());
        let Progress { bytes, total, bytes_per_second, .. } = progress;
        job.tell(JobEvent::Progress { step: bytes, total, phase, eta_ms, bytes_per_second });
    };
    Ok(download.finish(tell).await?)
}

/// The name by which jobs ask for a model of the catalogue.
pub(crate) fn name_of(entry: &ModelEntry) -> String {
    named(&entry.source)
}

/// One name for one model: its short name, its repository, or where it lies.
fn named(source: &str) -> String {
    well_known(source).map_or(source, |model| model.name).to_owned()
}

fn check_kind(kind: WorkKind, writes: bool, given: &str) -> Result<(), ApiError> {
    let fits = match kind {
        WorkKind::Image => !writes,
        WorkKind::Infer => writes,
        WorkKind::Hive => true,
    };
    if fits {
        return Ok(());
    }
    let what = if writes { "writes text and does not paint" } else { "paints pictures and does not write" };
    Err(ApiError::invalid("model", format!("{given} {what}; {}", instead(kind))))
}

fn instead(kind: WorkKind) -> String {
    match kind {
        WorkKind::Infer => {
            format!("give a hub repository, the absolute path of a .gguf file, or no model for {DEFAULT_TEXT_MODEL}")
        }
        WorkKind::Image | WorkKind::Hive => format!(
            "give a hub repository, the absolute path of a folder in diffusers' layout or of a .safetensors checkpoint, or no model for {DEFAULT_IMAGE_MODEL}"
        ),
    }
}

impl From<model_store::Error> for HiveError {
    fn from(error: model_store::Error) -> Self {
        HiveError::Store(error)
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model_store::StoreOptions;
    use std::fs;

    fn store(folder: &Path) -> ModelStore {
        let options = StoreOptions { offline: true, cache: None, ..StoreOptions::from_env().unwrap() };
        ModelStore::open_with(folder.join("models"), options).unwrap()
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_is_one_model_by_whatever_path() {
        let folder = tempfile::tempdir().unwrap();
        let (store, model) = (store(folder.path()), folder.path().join("model"));
        fs::create_dir(&model).unwrap();
        fs::write(model.join("model_index.json"), "{}").unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&model, &link).unwrap();
        let find = |path: &Path| Model::find(&store, WorkKind::Image, path.to_str().unwrap()).unwrap();
        assert_eq!(find(&link).as_str(), find(&model).as_str());
        assert!(find(&link).is_only_here() && !find(&link).is_missing());
        assert_eq!(find(&link).files(), Some(&*model.canonicalize().unwrap()));
    }

    #[test]
    fn what_ships_inside_the_worker_needs_no_files() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let model = Model::find(&store, WorkKind::Image, "Tiny-Scenes").unwrap();
        assert_eq!((model.as_str(), model.files()), ("tiny-scenes", None));
    }

    #[test]
    fn what_cannot_be_loaded_says_what_to_give_instead() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        for name in ["one.ckpt", "one.txt"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let inside = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let check = |given: &str, code: ErrorCode, text: &str| {
            let error = Model::find(&store, WorkKind::Image, given).unwrap_err();
            assert_eq!((error.code, error.param.as_deref()), (code, Some("model")), "{error}");
            assert!(error.message.contains(text), "{error}");
            assert!(error.message.contains("diffusers' layout"), "{error}");
        };
        check("sd-1.5", ErrorCode::ModelNotFound, "--offline");
        check("someone/something", ErrorCode::ModelNotFound, "--offline");
        check("nonsense", ErrorCode::ModelNotFound, "no model \"nonsense\"");
        check("tiny-words", ErrorCode::InvalidRequest, "does not paint");
        check(&inside("nothing"), ErrorCode::ModelNotFound, "nothing at");
        check(&inside(""), ErrorCode::InvalidRequest, "model_index.json");
        check(&inside("one.ckpt"), ErrorCode::InvalidRequest, "pickle");
        check(&inside("one.txt"), ErrorCode::InvalidRequest, "neither");
    }
}
