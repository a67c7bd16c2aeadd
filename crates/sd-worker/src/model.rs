//! Which model a worker serves, by its flags.

use std::path::Path;

use diffusion::pipeline::ModelSource;
use operations_contract::{DEFAULT_IMAGE_MODEL, repository_of, same_model, well_known};

use crate::backend::SDVersion;
use crate::embedded;

/// A model that can be loaded, and the names by which requests may mean it.
pub(crate) struct Model {
    pub source: ModelSource,
    pub name: String,
    pub names: Vec<String>,
}

/// Why a model cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ModelError {
    /// It would have to be downloaded.
    #[error(
        "{0} would have to be downloaded, which is not possible yet; give --model the path of its diffusers folder (the one with model_index.json) or of a single .safetensors file, or leave it out for the embedded {DEFAULT_IMAGE_MODEL}"
    )]
    NotOnDisk(String),
    /// Its files are no model.
    #[error(transparent)]
    Files(#[from] diffusion::Error),
}

/// The model that `--model` or `--sd-version` names, or the embedded one. A path that exists comes before a name.
pub(crate) fn find(model: Option<&str>, sd_version: Option<SDVersion>) -> Result<Model, ModelError> {
    let Some(given) = model.or(sd_version.map(SDVersion::name)) else { return Ok(embedded_model()) };
    if same_model(given, embedded::NAME) {
        return Ok(embedded_model());
    }
    let path = Path::new(given);
    let is_name = well_known(given).is_some() || repository_of(given).is_some();
    if model.is_none() || (is_name && !path.exists()) {
        return Err(ModelError::NotOnDisk(given.to_owned()));
    }
    let source = ModelSource::open(path, sd_version == Some(SDVersion::Turbo))?;
    let mut names = vec![given.to_owned()];
    names.extend(path.canonicalize().ok().and_then(|path| path.to_str().map(str::to_owned)));
    names.extend(path.file_name().and_then(|name| name.to_str()).map(str::to_owned));
    names.dedup();
    Ok(Model { source, name: given.to_owned(), names })
}

fn embedded_model() -> Model {
    Model { source: embedded::tiny_scenes(), name: embedded::NAME.to_owned(), names: vec![embedded::NAME.to_owned()] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_name_it_is_the_embedded_model() {
        assert_eq!(find(None, None).map(|model| model.name).unwrap_or_default(), "tiny-scenes");
        assert_eq!(find(Some("tiny-scenes"), None).map(|model| model.name).unwrap_or_default(), "tiny-scenes");
    }

    #[test]
    fn what_is_not_on_disk_is_refused_with_what_to_give_instead() {
        for (model, version) in
            [(Some("sd-1.5"), None), (Some("someone/something"), None), (None, Some(SDVersion::V1_5))]
        {
            let error = find(model, version).err().unwrap().to_string();
            assert!(error.contains("--model") && error.contains("diffusers folder"), "{error}");
        }
        let error = find(Some("/nowhere/model"), None).err().unwrap().to_string();
        assert!(error.contains("/nowhere/model") && error.contains("no such folder"), "{error}");
    }
}
